"""An hour of talking through the whole app: a real engine, a real history on disk, and the screen, faster than it is spoken."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lora_cli.engine.events import Ended, Event, Final, Partial, Voice
from lora_cli.engine.process import Engine
from lora_cli.history import History
from lora_cli.screen.app import MoonshineApp
from lora_cli.session import PREROLL_SAMPLES, OnLevel, OnProblem, OnSamples, Session

from lora.audio.loading import Waveform
from lora.corpora import general
from lora.units import SAMPLE_RATE_HZ

UTTERANCES = 600
SENTENCE_S, PAUSE_S = 4, 2
CHUNK = SAMPLE_RATE_HZ // 10
PATIENCE_S = 1200
GROWTH = 16_000_000
"""Bytes. The sound of the utterances behind which it is counted takes ten times as much."""


class Speaker:
    """Says a sentence as soon as the one before has its text."""

    def __init__(self, sentence: Waveform, said: Callable[[], int], on_samples: OnSamples, on_level: OnLevel) -> None:
        self._sound = np.concatenate([sentence, np.zeros(PAUSE_S * SAMPLE_RATE_HZ, dtype=np.float32)])
        self._said, self._on_samples, self._on_level = said, on_samples, on_level
        self._closed = threading.Event()
        self.recorded = 0
        self.preroll = 0
        """Samples said just before somebody listened. How many depends on the moment, and they are part of the recording."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._on_samples(np.zeros(CHUNK, dtype=np.float32)):  # until somebody listens
            self.preroll = min(self.preroll + CHUNK, PREROLL_SAMPLES)
            if self._closed.wait(0.01):
                return
        self.recorded = CHUNK
        for number in range(UTTERANCES):
            while self._said() < number:
                if self._closed.wait(0.01):
                    return
            for chunk in np.split(self._sound, len(self._sound) // CHUNK):
                self.recorded += len(chunk) if self._on_samples(chunk) else 0
                self._on_level(float(np.abs(chunk).max()))


def resident(pid: int) -> int:
    """Memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells memory by /proc")
def test_an_hour_grows_neither_process_and_loses_no_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    sentence = general.waveform(general.HELDOUT[0])[14_400 : 14_400 + SENTENCE_S * SAMPLE_RATE_HZ]
    voices = (Voice("tiny", "packaged:moonshine-tiny"),)
    engines: list[Engine] = []
    speakers: list[Speaker] = []
    finals: list[tuple[str, int]] = []
    ended: list[Ended] = []
    partials: list[int] = []

    def open_engine(emit: Callable[[Event], None]) -> Engine:
        def hear(event: Event) -> None:
            if isinstance(event, Final):
                finals.append((event.text, len(event.samples)))
            elif isinstance(event, Ended):
                ended.append(event)
            elif isinstance(event, Partial):
                partials.append(event.recording)
            emit(event)

        engines.append(Engine(voices, hear, device="cpu"))
        return engines[0]

    def open_source(on_samples: OnSamples, on_level: OnLevel, _on_problem: OnProblem) -> Speaker:
        speakers.append(Speaker(sentence, lambda: len(finals), on_samples, on_level))
        return speakers[0]

    results = History(tmp_path / "corrections.jsonl", tmp_path)
    app = MoonshineApp(Session(voices, open_engine, open_source, "speaker", results), mode="vad", environment={})
    screen: list[int] = []
    engine: list[int] = []

    async def act() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            end = time.monotonic() + PATIENCE_S
            while len(finals) < UTTERANCES:
                assert time.monotonic() < end, len(finals)
                await asyncio.sleep(0.2)
                if len(finals) >= 10 * (len(screen) + 1):
                    assert engines[0].pid is not None
                    screen.append(resident(os.getpid()))
                    engine.append(resident(engines[0].pid))
            await pilot.press("space")  # listening ends
            while not ended or len(list(results.folder.glob("audio/*.flac"))) < UTTERANCES:
                assert time.monotonic() < end
                await asyncio.sleep(0.1)
            await pilot.pause()

    resource_tracker.ensure_running()  # as `run_app` does, before Textual takes stderr
    try:
        asyncio.run(act())
    finally:
        app.close()
    half = len(screen) // 2
    for name, bytes_ in (("screen", screen), ("engine", engine)):
        assert max(bytes_[half:]) - max(bytes_[half // 3 : half]) < GROWTH, (name, bytes_)
    assert {text for text, _ in finals} == {finals[0][0]}
    assert partials
    assert speakers[0].recorded == UTTERANCES * (SENTENCE_S + PAUSE_S) * SAMPLE_RATE_HZ + CHUNK
    assert ended[0].speech + ended[0].silence == speakers[0].preroll + speakers[0].recorded
    assert ended[0].speech == sum(length for _, length in finals)
    kept = [soundfile.info(file).frames for file in results.folder.glob("audio/*.flac")]
    assert (len(kept), sum(kept)) == (UTTERANCES, ended[0].speech), "what is on disk"
    assert len((results.folder / "history.jsonl").read_text().splitlines()) == UTTERANCES
