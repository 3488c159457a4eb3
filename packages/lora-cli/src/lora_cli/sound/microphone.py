"""The microphone: opened at its own rate, heard at 16 kHz mono.

The stream stays open while the app runs: a device takes a moment to start, and the first word would be lost.
"""

import difflib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lora.audio.loading import Waveform, resample
from lora.errors import AudioError
from lora.system.process import signals_wait
from lora.system.process_settings import environment
from lora.units import SAMPLE_RATE_HZ
from lora_cli.engine.events import Problem

LOST_S: Final = 2.0
"""Without a block for this long the device is gone: blocks come every 20 ms, on a busy machine some of them together."""

OPENING_S: Final = 10.0
"""How long the first block may take: a sound server or a wireless headset wakes up first."""

MUTED_S: Final = 1.5
"""Digital silence for this long is a switch, not a pause: a microphone that is on always has noise."""

CLIPPING: Final = 0.999
"""Peak of full scale from which sound is cut off."""

QUIET: Final = 0.03
"""Peak of speech below which it is too quiet: that of a usual voice is 0.1 and more."""

SPOKEN_S: Final = 3.0
"""Sound in which the loudest is looked for."""

_VOICED: Final = 25
_ABOVE: Final = 4.0
_LEAST: Final = 0.001
"""Speech comes and goes: half a second of `SPOKEN_S`, in blocks, is so many times as loud as its quietest tenth, and more than -60 dB."""

SAME_WARNING_S: Final = 10.0
"""Time before a warning is repeated."""

_BLOCK_S: Final = 0.02
_LATENCY_S: Final = 0.1
"""How late sound may come, at least: with less, PortAudio looks for it so often that an idle microphone costs 4 % of a core through
PulseAudio; with this, 0.7 %."""

_IN_USE: Final = threading.Lock()
"""Held while something is played, and while PortAudio starts again, which would end that."""

_NO_PORTAUDIO: Final = (
    "PortAudio is not installed, so no microphone can be opened; install it (Debian, Ubuntu: apt install libportaudio2; "
    "Fedora: dnf install portaudio)"
)


@dataclass(frozen=True, slots=True)
class Device:
    """An input of this machine."""

    port: int
    """PortAudio's number of it."""
    name: str
    channels: int
    rate_hz: int
    default: bool
    source: str | None = None
    """The sound server's own name of it. PortAudio has one port for all that a sound server has."""

    @property
    def index(self) -> str:
        """What `--microphone` takes beside the name."""
        return str(self.port) if self.source is None else self.source

    @property
    def label(self) -> str:
        """A line in a list of inputs."""
        mark = "*" if self.default else " "
        if self.source is not None:
            return f"{mark}   -  {self.name}  ({self.channels} channels)"
        return f"{mark} {self.port:3}  {self.name}  ({self.channels} channels, {self.rate_hz} Hz)"


_SERVER_PORT: Final = "pulse"
"""PortAudio's name of the port behind which a sound server (PulseAudio, or PipeWire in its place) keeps its microphones."""


def devices() -> tuple[Device, ...]:
    """The inputs there are, with those of a sound server by their names. Raises `AudioError` when PortAudio is not installed."""
    sounddevice = _sounddevice()
    default = sounddevice.default.device[0]
    found: list[Device] = []
    for port, info in enumerate(sounddevice.query_devices()):
        if info["name"] == _SERVER_PORT:
            found += _of_server(port, round(info["default_samplerate"]))
        elif info["max_input_channels"] > 0:
            found.append(Device(port, info["name"], info["max_input_channels"], round(info["default_samplerate"]), port == default))
    return tuple(found)


def _of_server(port: int, rate_hz: int) -> Iterator[Device]:
    """The microphones of the sound server; none without a server, whose port is there all the same. It gives sound at any rate."""
    import pulsectl

    try:
        with pulsectl.Pulse("moonshine") as server:
            default = server.server_info().default_source_name
            sources = server.source_list()
    except pulsectl.PulseError:
        return
    for source in sources:
        if source.monitor_of_sink_name is None or source.name == default:  # else it is what a loudspeaker plays
            yield Device(port, source.description, source.channel_count, rate_hz, default=False, source=source.name)


def look_again() -> None:
    """Makes PortAudio search for inputs again: it only knows those of its start. No input may be open."""
    sounddevice = _sounddevice()
    with _IN_USE:
        sounddevice._terminate()
        sounddevice._initialize()


def find(wanted: str | None) -> Device:
    """The input of that index or (part of a) name; the default one for None.

    Raises `AudioError` when there is none, or more than one of that name.
    """
    there = devices()
    if not there:
        raise AudioError("there is no microphone; connect one (moonshine --list-devices lists what is there)")
    if wanted is None:
        default = [device for device in there if device.default]
        return default[0] if default else there[0]
    matching = [device for device in there if wanted in (device.index, device.name)]
    matching = matching or [device for device in there if wanted.casefold() in device.name.casefold()]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise AudioError(f"--microphone {wanted}: names {len(matching)} inputs ({', '.join(d.name for d in matching)}); give its index")
    near = difflib.get_close_matches(wanted, [device.name for device in there], n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise AudioError(f"--microphone {wanted}: there is no such input{hint} (moonshine --list-devices lists them)")


class Microphone:
    """An open input. Chunks of 16 kHz mono go to `on_samples`, peaks to `on_level`, problems to `on_problem`.

    `on_samples` says whether they are being recorded: problems of audio that is not recorded need no warning. All three are
    called from a thread of the microphone's own. PortAudio's callback only puts the block away: it must never wait.
    """

    def __init__(
        self,
        device: Device,
        on_samples: Callable[[Waveform], bool],
        on_level: Callable[[float], None],
        on_problem: Callable[[Problem], None],
    ) -> None:
        """Opens the device. Raises `AudioError` when it cannot be opened."""
        sounddevice = _sounddevice()
        self.device = device
        self.overflows = 0
        self._on_samples, self._on_level, self._on_problem = on_samples, on_level, on_problem
        self._blocks: queue.SimpleQueue[Waveform | None] = queue.SimpleQueue()
        self._health = _Health()
        self._closed = threading.Event()
        with _asking_for(device):
            self._open(sounddevice, device)
        self._thread = threading.Thread(target=self._run, name="microphone", daemon=True)
        self._thread.start()

    def _open(self, sounddevice: Any, device: Device) -> None:
        rate_hz, channels = _format(sounddevice, device)
        self._to_model = _Resampler(rate_hz)
        try:
            self._stream = sounddevice.InputStream(
                device=device.port,
                samplerate=rate_hz,
                channels=channels,
                dtype="float32",
                blocksize=round(rate_hz * _BLOCK_S),
                latency=max(_LATENCY_S, sounddevice.query_devices(device.port)["default_high_input_latency"]),
                callback=self._take,
            )
            self._stream.start()
        except sounddevice.PortAudioError as error:
            raise AudioError(f"{device.name}: cannot be opened ({_reason(error)}); choose another with --microphone") from error

    def close(self) -> None:
        """Closes the device; nothing is called any more when this returns."""
        self._closed.set()
        self._blocks.put(None)
        self._thread.join()
        self._stream.close()

    def _take(self, block: Any, _frames: int, _time: Any, status: Any) -> None:
        if status.input_overflow:
            self.overflows += 1
        self._blocks.put(block.copy())

    def _run(self) -> None:
        recorded = False
        patience_s = OPENING_S
        while not self._closed.is_set():
            try:
                block = self._blocks.get(timeout=patience_s)
            except queue.Empty:
                gone = f"{self.device.name}: gives no sound any more; was it unplugged? Connect it again"
                self._on_problem(Problem(gone, lost=True))
                block = self._blocks.get()  # until it is back, or the app ends
            if block is None:
                return
            patience_s = LOST_S
            samples = self._to_model(block)
            peak = float(np.abs(block).max(initial=0.0))
            if len(samples):
                recorded = self._on_samples(samples)
            self._on_level(peak)
            if warning := self._health.after(peak, self.overflows, time.monotonic(), recorded=recorded):
                self._on_problem(Problem(f"{self.device.name}: {warning}"))


def _asking_for(device: Device) -> AbstractContextManager[None]:
    """While it is opened the sound server is asked for this one: its library takes the name from the environment, and from nowhere else."""
    return nullcontext() if device.source is None else environment("PULSE_SOURCE", device.source)


def _format(sounddevice: Any, device: Device) -> tuple[int, int]:
    """Rate and channels to open with: what the model takes where the device gives it, else the device's own, which many insist on.

    Raises `AudioError` with what the device says to each when it takes none.
    """
    refused = []
    for rate_hz, channels in dict.fromkeys(((SAMPLE_RATE_HZ, 1), (device.rate_hz, 1), (device.rate_hz, device.channels))):
        reason = _refusal(sounddevice, device, rate_hz, channels)
        if reason is None:
            return rate_hz, channels
        refused.append(f"{rate_hz} Hz {channels} channels: {reason}")
    raise AudioError(f"{device.name}: takes no format that it was asked for ({'; '.join(refused)}); choose another with --microphone")


def _refusal(sounddevice: Any, device: Device, rate_hz: int, channels: int) -> str | None:
    """Why a device cannot be opened so; None if it can."""
    try:
        sounddevice.check_input_settings(device=device.port, samplerate=rate_hz, channels=channels, dtype="float32")
    except sounddevice.PortAudioError as error:
        return _reason(error)
    return None


def play(samples: Waveform) -> None:
    """Plays 16 kHz mono on the default output, at that one's own rate, and returns when it was played.

    Raises `AudioError` when there is no output.
    """
    sounddevice = _sounddevice()
    try:
        rate_hz = round(sounddevice.query_devices(kind="output")["default_samplerate"])
        with _IN_USE:
            sounddevice.play(resample(samples, SAMPLE_RATE_HZ, rate_hz), rate_hz, blocking=True)
    except (sounddevice.PortAudioError, ValueError) as error:  # the second if there is no output at all
        raise AudioError(f"nothing to play on ({_reason(error)}); connect a loudspeaker or headphones") from error


class _Resampler:
    """Blocks `[frames, channels]` at a device's rate to `[samples]` at 16 kHz, without a seam between blocks."""

    def __init__(self, rate_hz: int) -> None:
        with signals_wait():
            import soxr

        self._stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32") if rate_hz != SAMPLE_RATE_HZ else None

    def __call__(self, block: Waveform) -> Waveform:
        mono: Waveform = block.mean(axis=1, dtype=np.float32)
        if self._stream is None:
            return mono
        resampled: Waveform = self._stream.resample_chunk(mono)
        return resampled


class _Health:
    """What is worth a warning: digital silence, clipping, lost blocks, speech that is too quiet."""

    def __init__(self) -> None:
        self._silent_since: float | None = None
        self._lost = 0
        self._peaks: deque[float] = deque(maxlen=round(SPOKEN_S / _BLOCK_S))
        self._said: dict[str, float] = {}

    def after(self, peak: float, lost: int, now: float, *, recorded: bool) -> str | None:
        """The warning that a block's `peak`, and the blocks `lost` so far, call for, if any: only what is recorded does."""
        newly_lost, self._lost = lost - self._lost, lost
        if not recorded:
            self._silent_since = None
            self._peaks.clear()
            return None
        self._peaks.append(peak)
        if peak > 0.0:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        if newly_lost:
            return self._once("sound was lost because the machine is too busy; close other programs", now)
        if peak >= CLIPPING:
            return self._once("too loud, the sound is cut off; turn the microphone down", now)
        if self._silent_since is not None and now - self._silent_since > MUTED_S:
            return self._once("complete silence; is the microphone muted?", now)
        if len(self._peaks) == self._peaks.maxlen and self._too_quiet():
            return self._once("too quiet; come closer, or turn the microphone up", now)
        return None

    def _too_quiet(self) -> bool:
        """Whether somebody seems to speak, at a low level. What was checked is not checked again."""
        ordered = sorted(self._peaks)
        self._peaks.clear()
        voiced = ordered[-_VOICED] > max(_LEAST, _ABOVE * ordered[len(ordered) // 10])
        return voiced and ordered[-1] < QUIET

    def _once(self, warning: str, now: float) -> str | None:
        if now - self._said.get(warning, -SAME_WARNING_S) < SAME_WARNING_S:
            return None
        self._said[warning] = now
        return warning


def _reason(error: Exception) -> str:
    return " ".join(str(part) for part in error.args[:1]) or "PortAudio gives no reason"


def _sounddevice() -> Any:
    """The library; importing it starts PortAudio. Raises `AudioError` when the system has none."""
    try:
        import sounddevice
    except OSError as error:
        raise AudioError(_NO_PORTAUDIO) from error
    return sounddevice
