"""The engine hears real speech in its own process: what it says is what `transcribe` says, and no sample is lost."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from lora_cli.engine.events import Ended, Failed, Final, Loading, Partial, Ready, Switched, Voice
from lora_cli.engine.process import Engine
from talk import CHUNK, NOTHING, WAIT_S, Heard, Talk, silence, word_errors
from transformers import MoonshineStreamingConfig, MoonshineStreamingForConditionalGeneration, MoonshineStreamingProcessor

from lora.audio.loading import AudioSettings, Waveform
from lora.audio.segments import LEAD, TAIL
from lora.checkpoints.checkpoint import resolve
from lora.config import AdapterConfig
from lora.errors import ConfigError
from lora.live import Ear
from lora.model.loading import load_model, load_processor
from lora.model.transcript import DecodeSettings
from lora.text.normaliser import normaliser_version
from lora.training import adapter as adapters
from lora.transcribe import Request, open_transcriber
from lora.units import SAMPLE_RATE_HZ

MODEL = "packaged:moonshine-tiny"
BASE, TUNED = "base", "tuned"
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells processes and their memory by /proc")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved adapter whose weights are no longer those it starts with, so that it says something else than the base model."""
    speech = load_model(resolve(MODEL), torch.device("cpu"), "float32")
    adapted = adapters.attach(speech, AdapterConfig(lora_targets="decoder"))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("adapter") / "run" / "lora_adapter"
    folder.mkdir(parents=True)
    provenance = adapters.Provenance(
        base_model_id=MODEL,
        base_revision=None,
        base_sha256=speech.checkpoint.sha256,
        audio=AudioSettings(rms_dbfs=-26.0),
        decode=DecodeSettings(tokens_per_second=5.0),
        text_style="none",
        normaliser=normaliser_version(),
    )
    adapters.save(adapted, folder, provenance)
    return folder


@pytest.fixture(scope="module")
def talk(adapter: Path) -> Iterator[Talk]:
    talk = Talk([Voice(BASE, MODEL), Voice(TUNED, MODEL, adapter)])
    talk.heard.until(Ready)
    yield talk
    talk.engine.close()
    assert not [event for event in talk.heard.events if isinstance(event, Failed)]


def test_loading_is_reported_step_by_step_then_the_voices(talk: Talk) -> None:
    steps = [event for event in talk.heard.events if isinstance(event, Loading)]
    assert [event.step for event in steps] == list(range(1, steps[0].steps + 1))
    assert [voice.name for voice in talk.heard.until(Ready).voices] == [BASE, TUNED]


def test_a_clip_says_what_transcribe_says_within_a_word(talk: Talk, ear: Ear, said: Waveform) -> None:
    clip = said[: 4 * SAMPLE_RATE_HZ]
    (final,) = talk.finals(talk.say(clip))
    assert word_errors(ear(clip).text, final.text) <= 1
    assert np.array_equal(final.samples, clip)
    assert 0 < final.latency_s < WAIT_S


def test_a_final_is_exactly_what_its_segments_say_alone(talk: Talk, ear: Ear, said: Waveform) -> None:
    (final,) = talk.finals(talk.say(said, real_time=True))
    parts = [(round(part.start_s * SAMPLE_RATE_HZ), round(part.length_s * SAMPLE_RATE_HZ)) for part in final.segments]
    assert [part.text for part in final.segments] == [ear(said[start : start + length]).text for start, length in parts]
    assert final.text == " ".join(part.text for part in final.segments)


def test_partials_come_while_speech_continues_and_committed_text_only_grows(talk: Talk, said: Waveform) -> None:
    number = talk.say(said[: 6 * SAMPLE_RATE_HZ], real_time=True)
    talk.finals(number)
    partials = talk.heard.of(Partial, number)
    assert len(partials) > 3
    firm = [partial.committed.split() for partial in partials if partial.length_s < 3.5]
    assert all(after[: len(before)] == before for before, after in pairwise(firm))
    assert any(partial.committed for partial in partials)


@pytest.mark.parametrize("hands_free", [False, True])
def test_silence_is_not_decoded(talk: Talk, hands_free: bool) -> None:
    number = talk.say(silence(3.0), hands_free=hands_free)
    finals = talk.finals(number)
    assert [final.text for final in finals] == ([] if hands_free else [""])
    assert not talk.heard.of(Partial, number)
    (ended,) = talk.heard.of(Ended, number)
    assert (ended.speech, ended.silence) == (0, 3 * SAMPLE_RATE_HZ)


def test_a_minute_with_pauses_is_one_final_or_one_for_each_utterance(talk: Talk, ear: Ear, said: Waveform) -> None:
    parts = [said[: 3 * SAMPLE_RATE_HZ], said[4 * SAMPLE_RATE_HZ : 7 * SAMPLE_RATE_HZ], said[8 * SAMPLE_RATE_HZ :]]
    gaps = [silence(1.0), silence(20.0), silence(27.5), silence(1.5)]
    sound = np.concatenate([gaps[0], *(piece for part, gap in zip(parts, gaps[1:], strict=True) for piece in (part, gap))])
    assert len(sound) == 60 * SAMPLE_RATE_HZ
    (whole,) = talk.finals(talk.say(sound))
    number = talk.say(sound, hands_free=True)
    each = talk.finals(number)
    assert word_errors(" ".join(final.text for final in each), whole.text) == 0
    assert len(each) >= len(whole.segments) >= 3
    for final in each:
        assert word_errors(ear(final.samples).text, final.text) == 0
        start = round(final.segments[0].start_s * SAMPLE_RATE_HZ)
        assert np.array_equal(final.samples, sound[start : start + len(final.samples)])
    (ended,) = talk.heard.of(Ended, number)
    assert ended.speech == sum(len(final.samples) for final in each)
    assert ended.speech + ended.silence == len(sound)


def test_what_came_before_the_press_is_heard_too(talk: Talk, said: Waveform) -> None:
    clip, cut = said[: 4 * SAMPLE_RATE_HZ], 4_800
    (final,) = talk.finals(talk.say(clip[cut:], preroll=clip[:cut]))
    assert np.array_equal(final.samples, clip)


def test_sound_outside_a_recording_is_ignored_and_a_cancelled_one_has_no_text(talk: Talk, said: Waveform) -> None:
    talk.engine.feed(said)
    number = talk.engine.begin(hands_free=False, preroll=said[:32_000])
    talk.engine.cancel()
    talk.engine.feed(said)
    talk.engine.end()
    assert talk.finals(number) == []
    (ended,) = talk.heard.of(Ended, number)
    assert ended.cancelled
    assert talk.finals(talk.say(silence(0.5)))[0].samples.shape == (8_000,)


def test_a_new_recording_ends_the_one_before(talk: Talk, said: Waveform) -> None:
    first = talk.engine.begin(hands_free=False, preroll=said[:32_000])
    second = talk.engine.begin(hands_free=False, preroll=NOTHING)
    assert talk.finals(first)[0].text
    talk.engine.end()
    assert talk.finals(second)[0].text == ""


def test_voices_are_switched_and_compared_on_the_same_speech(talk: Talk, said: Waveform, adapter: Path) -> None:
    clip = said[: 4 * SAMPLE_RATE_HZ]
    (base,) = talk.finals(talk.say(clip))
    talk.engine.compare(TUNED)
    talk.heard.until(Switched, lambda event: event == Switched(BASE, TUNED))
    (both,) = talk.finals(talk.say(clip))
    talk.engine.use(TUNED)
    talk.engine.compare(None)
    (tuned,) = talk.finals(talk.say(clip))
    talk.engine.use(BASE)
    assert (base.voice, base.other_voice, base.other_text) == (BASE, None, None)
    assert (both.voice, both.other_voice) == (BASE, TUNED)
    assert (tuned.voice, tuned.other_voice) == (TUNED, None)
    assert both.text == base.text
    assert both.other_text == tuned.text != base.text
    alone = Ear(open_transcriber(Request(MODEL, None, adapter, None, "cpu", "float32", 1, None)))
    start, length = (round(value * SAMPLE_RATE_HZ) for value in (tuned.segments[0].start_s, tuned.segments[0].length_s))
    assert tuned.segments[0].text == alone(clip[start : start + length]).text


def test_a_switch_waits_for_the_end_of_what_is_being_said(talk: Talk, said: Waveform) -> None:
    number = talk.engine.begin(hands_free=False, preroll=said[:32_000])
    talk.heard.until(Partial, lambda event: event.recording == number)
    talk.engine.use(TUNED)
    talk.engine.end()
    assert talk.finals(number)[0].voice == BASE
    assert talk.finals(talk.say(said[:32_000]))[0].voice == TUNED
    talk.engine.use(BASE)


def test_a_switch_in_a_pause_waits_for_the_end_of_the_recording(talk: Talk, said: Waveform) -> None:
    """All of a recording is by one voice, and compared with one or none, however many segments it has."""
    part = said[: 2 * SAMPLE_RATE_HZ]
    number = talk.engine.begin(hands_free=False, preroll=np.concatenate([part, silence(1.5)]))
    talk.engine.use(TUNED)
    talk.engine.compare(BASE)
    talk.engine.feed(part)
    talk.engine.end()
    (whole,) = talk.finals(number)
    assert len(whole.segments) >= 2
    assert (whole.voice, whole.other_voice, whole.other_text) == (BASE, None, None)
    (later,) = talk.finals(talk.say(part))
    assert (later.voice, later.other_voice) == (TUNED, BASE)
    assert later.other_text is not None
    assert word_errors(later.other_text, whole.segments[0].text) == 0 < word_errors(later.other_text, later.text)
    talk.engine.use(BASE)
    talk.engine.compare(None)


def test_a_switch_before_anything_was_said_takes_effect_at_once(talk: Talk, said: Waveform) -> None:
    number = talk.engine.begin(hands_free=False, preroll=silence(1.0))
    talk.engine.use(TUNED)
    talk.engine.feed(said[: 2 * SAMPLE_RATE_HZ])
    talk.engine.end()
    talk.engine.use(BASE)
    assert talk.finals(number)[0].voice == TUNED


def test_hands_free_a_switch_waits_for_the_end_of_the_utterance(talk: Talk, said: Waveform) -> None:
    part = said[: 2 * SAMPLE_RATE_HZ]
    number = talk.engine.begin(hands_free=True, preroll=part)
    talk.engine.use(TUNED)
    talk.engine.feed(np.concatenate([silence(1.0), part, silence(1.0)]))
    talk.engine.end()
    talk.engine.use(BASE)
    first, *_, last = talk.finals(number)
    assert (first.voice, last.voice) == (BASE, TUNED)


def test_an_unknown_voice_is_refused(talk: Talk) -> None:
    with pytest.raises(ConfigError, match="nobody: no such voice; there are base, tuned"):
        talk.engine.use("nobody")
    with pytest.raises(ConfigError, match="no such voice"):
        talk.engine.compare("nobody")


def test_feeding_never_waits_for_the_model(talk: Talk, said: Waveform) -> None:
    number = talk.engine.begin(hands_free=False, preroll=NOTHING)
    slowest = 0.0
    for at in range(0, len(said), CHUNK):
        before = time.monotonic()
        talk.engine.feed(said[at : at + CHUNK])
        slowest = max(slowest, time.monotonic() - before)
    talk.engine.end()
    assert slowest < 0.05
    assert len(talk.finals(number)[0].samples) == len(said)


def test_speech_before_the_model_is_there_is_kept(said: Waveform) -> None:
    talk = Talk([Voice(BASE, MODEL)])
    number = talk.say(said[: 3 * SAMPLE_RATE_HZ])
    (final,) = talk.finals(number)
    assert final.text
    order = [type(event) for event in talk.heard.events if not isinstance(event, Loading | Partial)]
    assert order == [Ready, Final, Ended]
    talk.engine.close()


def test_a_process_that_dies_is_reported_in_one_line_and_the_app_continues(said: Waveform) -> None:
    talk = Talk([Voice(BASE, MODEL)])
    talk.heard.until(Loading)
    assert talk.engine.pid is not None
    os.kill(talk.engine.pid, signal.SIGKILL)
    failed = talk.heard.until(Failed)
    assert failed.message == "the speech engine ended with exit code -9; start moonshine again"
    assert talk.engine.begin(hands_free=False, preroll=said) == 1
    talk.engine.feed(said)
    talk.engine.end()
    talk.engine.close()
    assert talk.heard.events[-1] == failed


def test_a_process_that_cannot_be_started_is_reported_in_one_line(tmp_path: Path, said: Waveform, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder that is gone stands for all that the system may refuse."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    talk = Talk([Voice(BASE, MODEL)])
    message = talk.heard.until(Failed).message
    assert message.startswith("the speech engine cannot be started: [Errno 2] No such file or directory")
    assert talk.engine.begin(hands_free=False, preroll=said) == 1
    talk.engine.end()
    talk.engine.close()


def test_a_model_that_cannot_be_had_is_reported_in_one_line(tmp_path: Path) -> None:
    talk = Talk([Voice(BASE, MODEL), Voice(TUNED, MODEL, tmp_path)])
    message = talk.heard.until(Failed).message
    assert message == f"{tmp_path}: holds no adapter (no adapter_config.json); give a run's lora_adapter/ folder"
    talk.engine.close()


def test_closing_while_the_model_loads_ends_the_process_at_once() -> None:
    talk = Talk([Voice(BASE, MODEL)])
    talk.heard.until(Loading)
    pid, before = talk.engine.pid, time.monotonic()
    talk.engine.close()
    assert time.monotonic() - before < 5.0
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


APP = """
import time
from lora_cli.engine.process import Engine
from lora_cli.engine.events import Voice
if __name__ == "__main__":
    engine = Engine([Voice("base", "packaged:moonshine-tiny")], lambda event: print(engine.pid, flush=True))
    engine.start()
    time.sleep(600)
"""


@needs_proc
def test_the_process_ends_with_an_app_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(APP)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None
        pid = int(app.stdout.readline())
        os.kill(pid, 0)
        app.kill()
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until, "the engine outlives the app"
        time.sleep(0.1)


@pytest.mark.slow
def test_an_adapter_leaves_no_warning_when_the_app_ends(adapter: Path, clip: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lora_cli.main", "--plain", "--adapter-dir", str(adapter), "--file", str(clip)]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert done.returncode == 0
    steps = ["loading PyTorch", "loading run", "loading moonshine-tiny", "warming up", "listening with run"]
    assert done.stderr.splitlines() == steps


def test_the_app_side_does_not_load_torch() -> None:
    code = "import sys, lora_cli.engine.process; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_engine_that_was_never_started_closes() -> None:
    heard = Heard()
    engine = Engine([Voice(BASE, MODEL)], heard)
    engine.close()
    assert engine.pid is None
    assert heard.events == []


def test_a_streaming_checkpoint_is_heard_too(said: Waveform, tmp_path: Path) -> None:
    """Of random weights, which speak to the cap."""
    torch.manual_seed(2)
    config = MoonshineStreamingConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, decoder_start_token_id=1
    )
    MoonshineStreamingForConditionalGeneration(config).save_pretrained(tmp_path)
    processor = load_processor(resolve(MODEL).folder)
    MoonshineStreamingProcessor(processor.feature_extractor, processor.tokenizer).save_pretrained(tmp_path)
    talk = Talk([Voice("v2", str(tmp_path))])
    number = talk.say(said[: 3 * SAMPLE_RATE_HZ], real_time=True)
    (final,) = talk.finals(number)
    segment = final.segments[0]
    ear = Ear(open_transcriber(Request(str(tmp_path), None, None, None, "cpu", "float32", 1, None)))
    start, length = (round(value * SAMPLE_RATE_HZ) for value in (segment.start_s, segment.length_s))
    assert segment.text == ear(said[start : start + length]).text
    talk.engine.close()


@pytest.mark.slow
@needs_proc
def test_an_hour_grows_no_memory_and_loses_no_sample(talk: Talk, said: Waveform) -> None:
    """Hands-free, a sentence every minute, as fast as the engine hears it."""
    minute = np.concatenate([said[: 4 * SAMPLE_RATE_HZ], silence(56.0)])
    number = talk.engine.begin(hands_free=True, preroll=NOTHING)
    resident: list[int] = []
    for count in range(1, 61):
        for at in range(0, len(minute), SAMPLE_RATE_HZ):
            talk.engine.feed(minute[at : at + SAMPLE_RATE_HZ])
        with talk.heard.news:
            assert talk.heard.news.wait_for(lambda: len(talk.heard.of(Final, number)) >= count, WAIT_S)  # noqa: B023 - called at once
        resident.append(int(Path(f"/proc/{talk.engine.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    talk.engine.end()
    finals = talk.finals(number)
    (ended,) = talk.heard.of(Ended, number)
    assert ended.speech + ended.silence == 60 * len(minute)
    assert ended.speech == sum(len(final.samples) for final in finals)
    assert {final.text for final in finals} == {finals[0].text}
    assert max(resident[30:]) - max(resident[5:30]) < 8_000_000


def test_segments_keep_what_is_around_speech(talk: Talk, said: Waveform) -> None:
    """Whoever replays an utterance hears its first sound and its last."""
    sound = np.concatenate([silence(2.0), said[: 2 * SAMPLE_RATE_HZ], silence(2.0)])
    final = talk.finals(talk.say(sound, hands_free=True))[0]
    start = round(final.segments[0].start_s * SAMPLE_RATE_HZ)
    assert 2 * SAMPLE_RATE_HZ - LEAD <= start <= 2 * SAMPLE_RATE_HZ + LEAD
    assert start + len(final.samples) <= 4 * SAMPLE_RATE_HZ + 2 * TAIL
