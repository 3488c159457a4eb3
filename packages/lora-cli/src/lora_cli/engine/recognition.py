"""The model's process: hears recordings, segment by segment, and sends events. The only module of the app that computes with a model."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING
from typing import Final as Constant

import numpy as np

from lora.audio.loading import Waveform, duration
from lora.audio.segments import Segmenter, Speech
from lora.audio.voice_activity import VoiceActivity
from lora.errors import LoraError
from lora.live import Growing, Hearer
from lora.model.transcript import Transcript
from lora.system.process import give_back_memory
from lora.units import SAMPLE_RATE_HZ, Samples, Seconds, seconds
from lora_cli.engine.commands import Begin, Cancel, Command, Compare, End, Feed, Inbox, Sent, Use
from lora_cli.engine.events import Ended, Event, Failed, Final, Loading, Partial, Ready, Segment, Switched, Voice

if TYPE_CHECKING:
    from lora.system.device import Device, Precision

INTERVAL_S: Constant = 0.3
"""From the start of one look at a segment that goes on to the start of the next, where the machine is fast enough."""

WARM_UP_S: Constant = 2.0


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What a segment was heard to say when it ended at `end`."""

    start: Samples
    end: Samples
    transcript: Transcript


@dataclass
class Take:
    """A recording that is on."""

    begin: Begin
    voice: str
    other: str | None
    """The voice compared with."""
    segmenter: Segmenter
    chunks: list[Waveform] = field(default_factory=list)
    """All of it; empty if each utterance stands for itself."""
    segments: list[Segment] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """What the voice compared with says to each segment."""
    growing: Growing = field(default_factory=Growing)
    hypothesis: Hypothesis | None = None
    fed: int = 0
    in_speech: int = 0
    waited_s: float = 0.0
    """The longest that sound has waited to be heard, since the last event."""


def work(pipe: Connection, inbox: Inbox, voices: Sequence[Voice], device: "Device", precision: "Precision") -> None:
    """Loads the voices, then does what comes in, until the app ends."""
    started = time.monotonic()
    try:
        steps = len(voices) + 2
        ears: dict[str, Hearer] = {}
        for number, voice in enumerate(voices, start=2):
            pipe.send(Sent(Loading(f"loading {voice.name}", number, steps)))
            ears[voice.name] = _load(voice, device, precision)
        pipe.send(Sent(Loading("warming up", steps, steps)))
        for ear in ears.values():
            ear(np.zeros(round(WARM_UP_S * SAMPLE_RATE_HZ), dtype=np.float32))
        hearing = Hearing(ears, pipe, inbox)
        pipe.send(Sent(Ready(tuple(voices), Seconds(time.monotonic() - started))))
        hearing.run()
    except LoraError as error:
        pipe.send(Sent(Failed(str(error))))
        sys.exit(error.exit_code)


def _load(voice: Voice, device: "Device", precision: "Precision") -> Hearer:
    if voice.export_folder is not None:
        from lora.runtimes.ear import OnnxEar

        return OnnxEar(voice.export_folder)
    from lora.live import Ear
    from lora.transcribe import Request, open_transcriber

    request = Request(
        model_id=voice.model_id,
        revision=voice.revision,
        adapter_folder=voice.adapter_folder,
        processor_folder=voice.processor_folder,
        device=device,
        precision=precision,
        batch_size=1,
        tokens_per_second=None,
        language=voice.language,
    )
    return Ear(open_transcriber(request))


class Hearing:
    """Voices at work on one recording after the other."""

    def __init__(self, ears: dict[str, Hearer], pipe: Connection, inbox: Inbox) -> None:
        self._ears = ears
        self._pipe = pipe
        self._inbox = inbox
        self._voice = next(iter(ears))
        self._other: str | None = None
        self._activity = VoiceActivity()
        self._take: Take | None = None
        self._looked = 0.0
        """When the last look at a segment that goes on began."""

    def run(self) -> None:
        """Does commands as they come, and looks at what is being said whenever there is time."""
        while True:
            command = self._next()
            if command is not None:
                self._do(command)
            elif self._take is not None:
                self._look(self._take)

    def _next(self) -> Command | None:
        """The next command; None when it is time to look at what is being said instead."""
        wait = None
        if self._take is not None and self._unseen(self._take) is not None:
            wait = max(0.0, self._looked + INTERVAL_S - time.monotonic())
        return self._inbox.next(wait)

    def _do(self, command: Command) -> None:
        take = self._take
        if isinstance(command, Begin):
            self._take = Take(command, self._voice, self._other, Segmenter(self._activity))
        elif isinstance(command, Use | Compare):
            self._switch(command)
        elif take is None:
            return
        elif isinstance(command, Feed):
            take.fed += len(command.samples)
            take.waited_s = max(take.waited_s, time.monotonic() - command.at)
            if not take.begin.hands_free:
                take.chunks.append(command.samples)
            for speech in take.segmenter.hear(command.samples):
                self._finish(take, speech, command.at)
        elif isinstance(command, End):
            for speech in take.segmenter.finish():
                self._finish(take, speech, command.at)
            if not take.begin.hands_free:
                self._send_final(take, command.at)
            self._close(take, cancelled=False)
        elif isinstance(command, Cancel):
            self._close(take, cancelled=True)

    def _switch(self, command: Use | Compare) -> None:
        """Takes effect at once where nothing was said yet; an utterance that goes on is finished by the voices it began with."""
        if isinstance(command, Use):
            self._voice = command.name
        else:
            self._other = command.name
        if self._take is not None and self._take.segmenter.open is None and not self._take.segments:
            self._take.voice, self._take.other = self._voice, self._other
        self._send(Switched(self._voice, self._other))

    def _unseen(self, take: Take) -> Speech | None:
        """The segment that goes on, where it holds sound that no hypothesis has heard."""
        speech = take.segmenter.open
        if speech is None:
            return None
        last = take.hypothesis
        heard = last is not None and (last.start, last.end) == (speech.start, speech.end)
        return None if heard else speech

    def _look(self, take: Take) -> None:
        speech = self._unseen(take)
        if speech is None:
            return
        self._looked = time.monotonic()
        ear = self._ears[take.voice]
        encoded = ear.encode(speech.samples)
        if self._inbox.released.is_set():  # the final text has to hear more sound than this
            return
        transcript = ear.decode(encoded, speech.samples, _draft(take, speech))
        take.hypothesis = Hypothesis(speech.start, speech.end, transcript)
        take.growing = take.growing.heard(transcript.text)
        before = [segment.text for segment in take.segments]
        self._send(
            Partial(
                recording=take.begin.recording,
                committed=_joined([*before, *take.growing.committed]),
                tentative=" ".join(take.growing.tentative),
                length_s=seconds(take.fed),
                behind_s=Seconds(take.waited_s),
            )
        )
        take.waited_s = 0.0

    def _finish(self, take: Take, speech: Speech, at: float) -> None:
        """A segment has ended: its final text. Where each utterance stands for itself that is a `Final`."""
        last = take.hypothesis
        if last is not None and (last.start, last.end) == (speech.start, speech.end):
            transcript = last.transcript  # the pause gave time for it
        else:
            transcript = self._ears[take.voice](speech.samples, _draft(take, speech))
        take.segments.append(Segment(speech.start_s, speech.length_s, transcript.text))
        if take.other is not None:
            take.others.append(self._ears[take.other](speech.samples, transcript.tokens).text)
        take.in_speech += len(speech.samples)
        take.growing, take.hypothesis = Growing(), None
        if take.begin.hands_free:
            take.chunks = [speech.samples]
            self._send_final(take, at)
            take.segments, take.others, take.chunks, take.voice, take.other = [], [], [], self._voice, self._other

    def _send_final(self, take: Take, at: float) -> None:
        offset_s = take.segments[0].start_s if take.begin.hands_free else 0.0
        samples = np.concatenate(take.chunks) if take.chunks else np.zeros(0, dtype=np.float32)
        final = Final(
            recording=take.begin.recording,
            started_at=take.begin.started_at + timedelta(seconds=offset_s),
            voice=take.voice,
            text=_joined([segment.text for segment in take.segments]),
            segments=tuple(take.segments),
            samples=samples,
            length_s=duration(samples),
            latency_s=Seconds(0.0),
            other_voice=take.other,
            other_text=None if take.other is None else _joined(take.others),
        )
        self._send(final, at)
        give_back_memory()  # each look takes blocks of other sizes

    def _close(self, take: Take, *, cancelled: bool) -> None:
        silence = Samples(take.fed - take.in_speech)
        self._send(Ended(take.begin.recording, cancelled, Samples(take.in_speech), silence))
        self._take = None
        self._inbox.released.clear()

    def _send(self, event: Event, since: float | None = None) -> None:
        self._pipe.send(Sent(event, since))


def _draft(take: Take, speech: Speech) -> Sequence[int]:
    """What the last look at the segment gave."""
    last = take.hypothesis
    return last.transcript.tokens if last is not None and last.start == speech.start else ()


def _joined(texts: Sequence[str]) -> str:
    return " ".join(text for text in texts if text)
