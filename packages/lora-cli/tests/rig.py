"""A microphone on a machine without sound hardware: a private PulseAudio server whose monitor is the default input.

`make rig` installs what it takes on Debian and Ubuntu. Without it these tests are skipped, and in CI they fail.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lora.audio.loading import AudioSettings, read_file
from lora.units import SAMPLE_RATE_HZ

SINK = "vmic"
JACK = "interface"
"""Name of the input that takes no other rate than its own."""


def require(*programs: str) -> None:
    """Skips the test, or fails it in CI, where a program of the rig is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        reason = f"{', '.join(missing)} not installed: run `make rig`"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@dataclass
class VirtualMicrophone:
    """`environment` makes a process hear what `play` plays; `settings` is what it adds to the test's own."""

    settings: Mapping[str, str]
    _server: subprocess.Popen[bytes]
    _speakers: ThreadPoolExecutor

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | self.settings

    @property
    def format(self) -> str:
        """Of its samples, with channels and rate, as the sound server tells it."""
        command = ["pactl", "list", "short", "sources"]
        told = subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout
        return told.split("\t")[3]

    def play(self, clip: Path) -> None:
        """Speaks a recording into the microphone, and returns when it was spoken."""
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            soundfile.write(file.name, read_file(clip, AudioSettings()), SAMPLE_RATE_HZ, subtype="PCM_16")
            subprocess.run(["paplay", "-d", SINK, "--latency-msec=50", file.name], env=self.environment, check=True)

    def speak(self, clip: Path) -> Future[None]:
        """The same while the test goes on."""
        return self._speakers.submit(self.play, clip)

    def unplug(self) -> None:
        """The microphone is gone, in the middle of whatever is said."""
        self._server.kill()
        self._server.wait()


@contextmanager
def virtual_microphone(
    *, noise: bool = False, rate_hz: int = SAMPLE_RATE_HZ, channels: int = 1, jack: bool = False, clock_ms: int = 20
) -> Iterator[VirtualMicrophone]:
    """A microphone of that rate and so many channels, each of which hears all that is played. `noise` is that of a room.

    The sound server gives the default input in every format. With `jack` there is also the input `JACK`, an interface's, which gives none
    but its own.

    Silence plays all the time, at the microphone's own rate: without it the monitor has no clock, the first second would be lost, and the
    server would change the rate to that of the first sound. The monitor wakes its readers up every `clock_ms`.
    """
    require("pulseaudio", "pactl", "pacat", "paplay", *(("jackd",) if jack else ()))
    with tempfile.TemporaryDirectory(prefix="mic", dir="/tmp") as name:  # a socket's path has at most 108 characters
        folder = Path(name)
        settings = {
            "PULSE_SERVER": f"unix:{folder}/s",
            "PULSE_RUNTIME_PATH": name,
            "PULSE_STATE_PATH": name,
            "PULSE_COOKIE": f"{folder}/c",
            "XDG_STATE_HOME": f"{folder}/state",
        } | ({"JACK_DEFAULT_SERVER": folder.name, "JACK_NO_AUDIO_RESERVATION": "1"} if jack else {})
        environment = os.environ | settings
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", f"--log-target=file:{folder}/log"]
        command += ["-L", f"module-native-protocol-unix socket={folder}/s auth-anonymous=1"]
        if jack:
            command += ["-L", f"module-jack-sink sink_name={SINK} channels={channels} client_name={JACK} connect=no"]
        else:
            command += ["-L", f"module-null-sink sink_name={SINK} rate={rate_hz} channels={channels} format=s16le"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        deadline = time.monotonic() + 20
        interface = _interface(folder, environment, rate_hz) if jack else None
        server = subprocess.Popen(command, env=environment, **quiet)  # type: ignore[call-overload]
        while subprocess.run(["pactl", "info"], env=environment, check=False, **quiet).returncode:  # type: ignore[call-overload]
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        subprocess.run(["pactl", "set-default-source", f"{SINK}.monitor"], env=environment, check=True)
        clock = ["pacat", "-p", "-d", SINK, f"--latency-msec={clock_ms}", f"--rate={rate_hz}", "--channels=1", "--format=s16le", "--raw"]
        silence = subprocess.Popen([*clock, _room(folder) if noise else "/dev/zero"], env=environment, **quiet)  # type: ignore[call-overload]
        try:
            with ThreadPoolExecutor(1) as speakers:
                yield VirtualMicrophone(settings, server, speakers)
        finally:
            for process in (silence, server):
                process.kill()
                process.wait()
            if interface is not None:
                interface.terminate()  # it removes its shared memory
                interface.wait()


def _interface(folder: Path, environment: Mapping[str, str], rate_hz: int) -> subprocess.Popen[bytes]:
    """A JACK server without hardware, ready for clients."""
    command = ["jackd", "--no-realtime", "-d", "dummy", "-r", str(rate_hz), "-p", "1024", "-C", "0", "-P", "0"]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not list(Path("/dev/shm").glob(f"jack_{folder.name}_*")):
        assert time.monotonic() < deadline, "jackd does not start"
        time.sleep(0.05)
    return server


def _room(folder: Path) -> Path:
    """Some minutes of what a microphone hears in a quiet room."""
    file = folder / "room"
    file.write_bytes(np.random.default_rng(0).integers(-8, 9, 300 * SAMPLE_RATE_HZ, dtype=np.int16).tobytes())
    return file
