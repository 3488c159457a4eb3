"""The model's process: hears recordings, segment by segment, and sends events. The only module of the app that computes with a model."""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING
from typing import Final as Constant

import numpy as np

from lora.audio.loading import Waveform, duration
from lora.audio.segments import Cuts, Segmenter, Speech
from lora.audio.voice_activity import LevelledActivity, VoiceActivity, holds_speech
from lora.errors import LoraError
from lora.live import Growing, Hearer
from lora.system.process import give_back_memory
from lora.units import SAMPLE_RATE_HZ, Samples, Seconds, seconds
from lora_cli.engine.commands import Begin, Cancel, Command, Compare, End, Feed, Inbox, Sent, Use
from lora_cli.engine.events import Ended, Event, Failed, Final, Loading, Partial, Ready, Segment, Switched, Voice
from lora_cli.engine.listening import Listener, Told

if TYPE_CHECKING:
    from lora.system.device import Device, Precision

INTERVAL_S: Constant = 0.3
"""Time between two decodings of an open segment for live text, if the machine is fast enough."""

WARM_UP_S: Constant = 2.0

HELD: Constant = Cuts(
    longest=Samples(20 * SAMPLE_RATE_HZ),
    window=Samples(10 * SAMPLE_RATE_HZ),
    enough=Samples(12 * SAMPLE_RATE_HZ),
    apart=Samples(round(1.2 * SAMPLE_RATE_HZ)),
    lead=Samples(SAMPLE_RATE_HZ),
)
"""Cuts while the user holds a key, as `transcribe` cuts recordings: a pause between two phrases is none, and the words come out better."""

PASSED_OVER_S: Constant = 0.25
"""Sound of a held recording that was judged no speech is judged again, at its own level, where there is so much of it."""

UNDERWAY: Constant = Samples(round(0.15 * SAMPLE_RATE_HZ))
"""Heard after a release in any case: sound that the device had not given yet."""

GRACE_S: Constant = 0.5
"""How long after the post-roll its sound is waited for: a device gives it late, and one that is gone gives none."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The text of a segment that ended at `end`."""

    start: Samples
    end: Samples
    told: Told


@dataclass
class Take:
    """A recording that is on."""

    begin: Begin
    voice: str
    other: str | None
    """The voice compared with."""
    segmenter: Segmenter
    chunks: list[Waveform] = field(default_factory=list)
    """All of it; where each utterance stands for itself, its sound."""
    passed: list[Waveform] = field(default_factory=list)
    """Sound behind `heard_to`; empty where each utterance stands for itself."""
    heard_to: int = 0
    """After the last segment, and what was skipped after it."""
    divided: Waveform | None = None
    """The last segment, where it was cut although nobody paused."""
    looped: bool = False
    released: End | None = None
    after_release: int = 0
    """Samples of the post-roll so far."""
    repeated: int = 0
    """Samples still to come that the recording before has heard."""
    segments: list[Segment] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """What the voice compared with says to each segment."""
    growing: Growing = field(default_factory=Growing)
    hypothesis: Hypothesis | None = None
    fed: int = 0
    in_speech: int = 0
    waited_s: float = 0.0
    """Longest delay of audio since the last event."""


def work(pipe: Connection, inbox: Inbox, voices: Sequence[Voice], device: "Device", precision: "Precision") -> None:
    """Loads the voices, then does what comes in, until the app ends."""
    started = time.monotonic()
    try:
        steps = len(voices) + 2
        ears: dict[str, Listener] = {}
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


def _load(voice: Voice, device: "Device", precision: "Precision") -> Listener:
    return Listener(_ear(voice, device, precision))


def _ear(voice: Voice, device: "Device", precision: "Precision") -> Hearer:
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

    def __init__(self, ears: dict[str, Listener], pipe: Connection, inbox: Inbox) -> None:
        self._ears = ears
        self._pipe = pipe
        self._inbox = inbox
        self._voice = next(iter(ears))
        self._other: str | None = None
        self._activity = VoiceActivity()
        self._held_activity = LevelledActivity()
        self._missed = 0
        """Samples that came for the last recording when it was over already."""
        self._take: Take | None = None
        self._looked = 0.0
        """When the last decoding of an open segment began."""

    def run(self) -> None:
        """Handles commands as they come, and decodes the open segment whenever there is time."""
        while True:
            take = self._take
            command = self._inbox.next(None if take is None else self._wait_s(take))
            if command is not None:
                self._do(command)
            elif take is not None and self._overdue_s(take) >= 0:
                self._end(take)
            elif take is not None:
                self._look(take)

    def _wait_s(self, take: Take) -> float | None:
        """How long a command may be waited for; None where there is nothing else to do."""
        due = [] if take.released is None else [-self._overdue_s(take)]
        if self._unseen(take) is not None and (take.released is None or take.segmenter.settled):
            due.append(self._looked + INTERVAL_S - time.monotonic() if take.released is None else 0.0)
        return max(0.0, min(due)) if due else None

    def _overdue_s(self, take: Take) -> float:
        """How long the sound behind a release is missing; negative while it may come."""
        if take.released is None:
            return -math.inf
        return time.monotonic() - take.released.at - seconds(take.released.postroll) - GRACE_S

    def _do(self, command: Command) -> None:
        take = self._take
        if isinstance(command, Begin):
            self._begin(command)
        elif isinstance(command, Use | Compare):
            self._switch(command)
        elif isinstance(command, Feed):
            self._hear(take, command)
        elif take is None:  # cancelled when it was over already
            self._inbox.released.clear()
        elif isinstance(command, Cancel):
            self._close(take, cancelled=True)
        elif command.postroll:
            take.released = command
        else:
            self._end(take, command)

    def _begin(self, begin: Begin) -> None:
        if self._take is not None:  # within the post-roll of the one before
            self._end(self._take)
        segmenter = Segmenter(self._activity) if begin.hands_free else Segmenter(self._held_activity, HELD)
        self._take = Take(begin, self._voice, self._other, segmenter, repeated=max(0, begin.repeated - self._missed))

    def _hear(self, take: Take | None, feed: Feed) -> None:
        if take is None:
            self._missed += len(feed.samples)
            return
        samples = feed.samples[take.repeated :]
        take.repeated -= len(feed.samples) - len(samples)
        take.fed += len(samples)
        take.waited_s = max(take.waited_s, time.monotonic() - feed.at)
        if not take.begin.hands_free:
            take.chunks.append(samples)
            take.passed.append(samples)
        for speech in take.segmenter.hear(samples):
            self._finish(take, speech, feed.at)
        if take.released is not None:
            take.after_release += len(samples)
            if self._said(take, take.released):
                self._end(take)

    def _said(self, take: Take, released: End) -> bool:
        """Whether nothing more belongs to a recording that was released: its post-roll is through, or it ended in silence before."""
        silent = take.segmenter.settled or (take.segmenter.idle and len(take.segments) > 0)
        return take.after_release >= (UNDERWAY if silent else released.postroll)

    def _end(self, take: Take, end: End | None = None) -> None:
        """Ends a recording, by `end` or by its release."""
        at = (end or take.released or End(time.monotonic())).at
        for speech in take.segmenter.finish():
            self._finish(take, speech, at)
        self._hear_passed_over(take, take.fed)
        if not take.begin.hands_free:
            self._send_final(take, at)
        self._close(take, cancelled=False)

    def _switch(self, command: Use | Compare) -> None:
        """Takes effect at once if there is no speech yet; an utterance in progress is finished by the voices it began with."""
        if isinstance(command, Use):
            self._voice = command.name
        else:
            self._other = command.name
        if self._take is not None and self._take.segmenter.open is None and not self._take.segments:
            self._take.voice, self._take.other = self._voice, self._other
        self._send(Switched(self._voice, self._other))

    def _unseen(self, take: Take) -> Speech | None:
        """The open segment, if it holds audio that no hypothesis covers."""
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
        if self._inbox.released.is_set() and not take.segmenter.settled:  # the final text has to hear more sound than this
            return
        told = ear.decode(encoded, speech.samples, _draft(take, speech))
        take.hypothesis = Hypothesis(speech.start, speech.end, told)
        take.growing = take.growing.heard(told.text)
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
        self._hear_passed_over(take, speech.start)
        last = take.hypothesis
        heard = last is not None and (last.start, last.end) == (speech.start, speech.end)
        self._take_down(take, speech, last.told if heard and last is not None else None)
        if take.begin.hands_free:
            take.chunks = [speech.samples]
            self._send_final(take, at)
            take.segments, take.others, take.chunks, take.looped = [], [], [], False
            take.voice, take.other = self._voice, self._other

    def _hear_passed_over(self, take: Take, until: int) -> None:
        """While a key is held, sound that was judged no speech is heard all the same where it may be some, judged at its own level."""
        if take.begin.hands_free:
            return
        passed = _taken(take, until)
        for at in range(0, len(passed), HELD.longest):
            part = passed[at : at + HELD.longest]
            if seconds(len(part)) >= PASSED_OVER_S and holds_speech(part):
                self._take_down(take, Speech(Samples(until - len(passed) + at), part), None)

    def _take_down(self, take: Take, speech: Speech, told: Told | None) -> None:
        """The final text of a segment; `told` is what a look has heard in all of it."""
        ear = self._ears[take.voice]
        told = ear.settled(speech.samples, told or ear(speech.samples, _draft(take, speech)))
        text = told.text
        if take.divided is not None and not take.begin.hands_free:
            before, text = ear.joined((take.segments[-1].text, take.divided), (text, speech.samples))
            take.segments[-1] = replace(take.segments[-1], text=before)
        take.segments.append(Segment(speech.start_s, speech.length_s, text))
        if take.other is not None:
            other = self._ears[take.other]
            take.others.append(other.settled(speech.samples, other(speech.samples, told.tokens)).text)
        take.in_speech += len(speech.samples)
        take.divided = speech.samples if speech.divided else None
        take.looped = take.looped or told.looped
        take.growing, take.hypothesis = Growing(), None
        if not take.begin.hands_free:
            _taken(take, speech.end)

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
            looped=take.looped,
        )
        self._send(final, at)
        give_back_memory()  # each look takes blocks of other sizes

    def _close(self, take: Take, *, cancelled: bool) -> None:
        silence = Samples(take.fed - take.in_speech)
        self._send(Ended(take.begin.recording, cancelled, Samples(take.in_speech), silence))
        self._take, self._missed = None, 0
        self._inbox.released.clear()

    def _send(self, event: Event, since: float | None = None) -> None:
        self._pipe.send(Sent(event, since))


def _draft(take: Take, speech: Speech) -> Sequence[int]:
    """The last hypothesis of the segment."""
    last = take.hypothesis
    return last.told.tokens if last is not None and last.start == speech.start else ()


def _taken(take: Take, until: int) -> Waveform:
    """The sound from what was heard last up to `until`, which is heard now."""
    sound = np.concatenate(take.passed) if take.passed else np.zeros(0, dtype=np.float32)
    count = max(0, until - take.heard_to)
    take.passed, take.heard_to = [sound[count:]], take.heard_to + count
    return sound[:count]


def _joined(texts: Sequence[str]) -> str:
    return " ".join(text for text in texts if text)
