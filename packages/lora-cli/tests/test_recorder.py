"""The recorder without screen and model: takes in turn, what is on the disk, going on another day, and what is refused."""

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lora_cli.recorder import command
from lora_cli.recorder.progress import Outlook, commands, outlook
from lora_cli.recorder.prompts import Prompt
from lora_cli.recorder.sitting import PREROLL, Capture, Phase, Sitting
from lora_cli.recorder.store import Folder, Heading, rows
from scripted import Script

from lora.audio.loading import AudioSettings, Waveform, read_file
from lora.dataset.manifest import Row, Rules, read
from lora.errors import ConfigError, LoraError, ManifestError, PromptsError, RunFolderError
from lora.units import SAMPLE_RATE_HZ

PROMPTS = (
    Prompt(text="The first sentence to read.", set="train"),
    Prompt(text="A second one for the test.", set="test"),
    Prompt(text="And the third goes with the first.", set="train"),
)
CHUNK = SAMPLE_RATE_HZ // 50


@pytest.fixture(scope="module")
def speech_in_a_room(clip: Path) -> Waveform:
    speech = read_file(clip, AudioSettings())
    moment = np.zeros(SAMPLE_RATE_HZ // 2, dtype=np.float32)
    whole = np.concatenate([moment, speech, moment])
    return (whole + np.random.default_rng(0).normal(0, 0.001, len(whole))).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    opened = Folder(tmp_path / "voice", "en")
    yield opened
    opened.close()


class Reader:
    """Reads sentences: presses keys, makes sound, and plays the model's part."""

    def __init__(self, folder: Folder, speech: Waveform, prompts: tuple[Prompt, ...] = PROMPTS) -> None:
        self.engine, self.speech, self.now = Script(), speech, 0.0
        self.sitting = Sitting(folder, prompts, self.engine, "headset")
        self.sounds(speech[:CHUNK])

    def press(self) -> None:
        self.now += 1
        self.sitting.press(self.now)

    def sounds(self, samples: Waveform) -> None:
        for start in range(0, len(samples), CHUNK):
            self.sitting.capture.hear(samples[start : start + CHUNK])

    def reads(self, samples: Waveform | None = None) -> None:
        """A take up to where the model is to listen."""
        self.press()
        self.sounds(self.speech if samples is None else samples)
        self.press()
        self.sounds(self.speech[-SAMPLE_RATE_HZ // 2 :])
        self.sitting.tick()

    def understood(self, text: str | None = None) -> None:
        """The model understands the sentence, or another one."""
        assert self.sitting.phase is Phase.LISTENING
        assert self.sitting.take is not None
        assert self.sitting.take.recording is not None
        self.sitting.heard(self.sitting.take.recording, self.sitting.take.prompt.text if text is None else text)


def test_a_take_without_a_fault_is_on_the_disk_before_the_next_sentence(folder: Folder, speech_in_a_room: Waveform) -> None:
    reader = Reader(folder, speech_in_a_room)
    for prompt in PROMPTS:
        assert reader.sitting.prompt == prompt
        reader.reads()
        assert reader.sitting.prompt == prompt
        reader.understood()
        assert prompt.id in rows(folder.path)[prompt.set]
    assert reader.sitting.phase is Phase.DONE
    for name, count in (("train", 2), ("test", 1)):
        manifest = read(folder.path / f"{name}.jsonl", Rules(language="en"))
        assert [one.text for one in manifest] == [prompt.text for prompt in PROMPTS if prompt.set == name]
        assert len(manifest) == count
    row = next(iter(folder.rows["test"].values()))
    kept = read_file(folder.sound(row), AudioSettings())
    assert row.duration == pytest.approx(len(kept) / SAMPLE_RATE_HZ, abs=0.001)
    assert row.meta is not None
    assert row.meta["heard"] == row.text
    assert "kept_despite" not in row.meta


def test_a_take_holds_the_moment_before_and_behind_the_presses() -> None:
    capture = Capture()
    sound = np.arange(10 * SAMPLE_RATE_HZ, dtype=np.float32)
    spoken = iter(np.split(sound, len(sound) // CHUNK))
    for _ in range(100):
        assert not capture.hear(next(spoken))
    capture.begin()
    for _ in range(50):
        assert capture.hear(next(spoken))
    capture.end()
    for chunk in spoken:
        capture.hear(chunk)
    assert capture.ended
    take = capture.take()
    assert take[0] == 100 * CHUNK - PREROLL
    assert len(take) == PREROLL + 50 * CHUNK + 15 * CHUNK
    assert (np.diff(take) == 1).all(), "a chunk is missing or stands twice"


def test_a_take_that_nobody_ends_ends_by_itself_and_is_too_long(folder: Folder, speech_in_a_room: Waveform) -> None:
    reader = Reader(folder, np.tile(speech_in_a_room, 30 * SAMPLE_RATE_HZ // len(speech_in_a_room) + 1))
    reader.press()
    reader.sounds(reader.speech)
    reader.sitting.tick()
    reader.understood()
    assert reader.sitting.phase is Phase.FAULTY
    assert "too long" in reader.sitting.take.faults[0].message  # type: ignore[union-attr]


def test_a_held_key_is_one_press(folder: Folder, speech_in_a_room: Waveform) -> None:
    reader = Reader(folder, speech_in_a_room)
    for repeat in range(20):
        reader.sitting.press(0.04 * repeat)
    assert reader.sitting.phase is Phase.RECORDING


def test_nothing_is_recorded_before_the_microphone_gives_sound(folder: Folder, speech_in_a_room: Waveform) -> None:
    sitting = Sitting(folder, PROMPTS, None, "headset")
    sitting.press(1.0)
    assert sitting.phase is Phase.READY
    assert "no sound comes from the microphone yet" in sitting.said
    sitting.capture.hear(speech_in_a_room[:CHUNK])
    sitting.press(2.0)
    assert sitting.phase is Phase.RECORDING
    sitting.lose()
    assert sitting.phase is Phase.READY
    sitting.press(3.0)
    assert sitting.phase is Phase.READY


def test_a_bad_take_is_not_kept_and_reading_again_replaces_it(folder: Folder, speech_in_a_room: Waveform) -> None:
    reader = Reader(folder, speech_in_a_room)
    reader.reads(np.clip(speech_in_a_room * 20, -1, 1))
    assert reader.sitting.take is not None
    assert reader.sitting.take.codes == ["clipped"], "said before the model has listened"
    reader.understood()
    assert reader.sitting.phase is Phase.FAULTY
    assert rows(folder.path)["train"] == {}
    reader.reads()
    reader.understood("The goat ate the ribbon off my hat.")
    assert reader.sitting.phase is Phase.FAULTY
    reader.reads()
    reader.understood()
    assert list(rows(folder.path)["train"]) == [PROMPTS[0].id]
    assert reader.sitting.prompt == PROMPTS[1]


def test_what_is_kept_though_something_is_wrong_says_so_in_its_row(folder: Folder, speech_in_a_room: Waveform) -> None:
    reader = Reader(folder, speech_in_a_room)
    reader.reads(np.clip(speech_in_a_room * 20, -1, 1))
    reader.understood("something else entirely was said here")
    reader.sitting.keep()
    (row,) = rows(folder.path)["train"].values()
    assert row.meta is not None
    assert row.meta["kept_despite"] == ["clipped", "words"]
    assert row.text == PROMPTS[0].text


def test_silence_is_never_kept(folder: Folder) -> None:
    reader = Reader(folder, np.zeros(SAMPLE_RATE_HZ, dtype=np.float32))
    reader.reads()
    assert reader.sitting.phase is Phase.FAULTY
    reader.sitting.keep()
    assert "without speech there is nothing to train on" in reader.sitting.said
    assert rows(folder.path)["train"] == {}


def test_a_sentence_read_once_more_takes_the_place_of_its_recording(folder: Folder, speech_in_a_room: Waveform) -> None:
    reader = Reader(folder, speech_in_a_room)
    reader.reads()
    reader.understood()
    (before,) = folder.rows["train"].values()
    reader.sitting.again()
    assert reader.sitting.prompt == PROMPTS[0]
    assert folder.sound(before).exists(), "until there is a new one"
    reader.reads(np.concatenate([speech_in_a_room, speech_in_a_room]))
    reader.understood()
    (after,) = rows(folder.path)["train"].values()
    assert (after.duration or 0) > (before.duration or 0)
    assert [file.name for file in (folder.path / "audio").iterdir()] == [folder.sound(after).name]
    assert reader.sitting.prompt == PROMPTS[1]


def test_a_skipped_sentence_comes_again_at_the_end(folder: Folder, speech_in_a_room: Waveform) -> None:
    reader = Reader(folder, speech_in_a_room)
    reader.sitting.skip()
    assert [reader.sitting.prompt, reader.sitting.left] == [PROMPTS[1], 3]
    for _ in range(2):
        reader.reads()
        reader.understood()
    assert reader.sitting.prompt == PROMPTS[0]


def test_a_discarded_take_leaves_the_sentence(folder: Folder, speech_in_a_room: Waveform) -> None:
    reader = Reader(folder, speech_in_a_room)
    reader.press()
    reader.sounds(speech_in_a_room)
    reader.sitting.discard()
    assert reader.sitting.phase is Phase.READY
    reader.reads()
    reader.understood()
    (row,) = folder.rows["train"].values()
    assert row.duration == pytest.approx(len(speech_in_a_room) / SAMPLE_RATE_HZ + 0.3, abs=0.05), "nothing of the take before"


def test_without_a_model_the_words_are_not_checked(folder: Folder, speech_in_a_room: Waveform) -> None:
    reader = Reader(folder, speech_in_a_room)
    reader.sitting.engine = None
    reader.reads()
    (row,) = rows(folder.path)["train"].values()
    assert row.meta is not None
    assert row.meta["heard"] is None


def test_a_disk_that_refuses_leaves_the_take_to_be_kept_later(folder: Folder, speech_in_a_room: Waveform) -> None:
    reader = Reader(folder, speech_in_a_room)
    (folder.path / "train.jsonl").mkdir()
    reader.reads()
    reader.understood()
    assert reader.sitting.phase is Phase.FAULTY
    assert "not kept: " in reader.sitting.said
    assert "train.jsonl" in reader.sitting.said
    (folder.path / "train.jsonl").rmdir()
    reader.sitting.keep()
    (row,) = rows(folder.path)["train"].values()
    assert "kept_despite" not in (row.meta or {})


def test_only_the_owner_can_read_the_recordings(folder: Folder, speech_in_a_room: Waveform) -> None:
    reader = Reader(folder, speech_in_a_room)
    folder.put(Heading(source="test", language="en", model_id=None), PROMPTS)
    for _ in PROMPTS:
        reader.reads()
        reader.understood()
    for path in (folder.path, *folder.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_another_day_continues_where_it_was_left_and_sweeps_what_a_kill_left(folder: Folder, speech_in_a_room: Waveform) -> None:
    reader = Reader(folder, speech_in_a_room)
    reader.reads()
    reader.understood()
    stray = folder.path / "audio" / f"{PROMPTS[1].id}-1.flac"
    stray.write_bytes(b"a row was to follow")
    folder.close()
    again = Folder(folder.path, "en")
    assert (again.swept, stray.exists()) == (1, False)
    assert Reader(again, speech_in_a_room).sitting.prompt == PROMPTS[1]
    again.close()


def test_two_cannot_record_into_one_folder(folder: Folder) -> None:
    with pytest.raises(RunFolderError, match="another moonshine records into it"):
        Folder(folder.path, "en")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not json\n", "line 1: is no row of a manifest"),
        (b'{"audio": "a.flac", "text": "Mine."}\n', "line 1: was not recorded by moonshine record"),
        (b'{"audio": "audio/x-1.flac", "text": "A.", "id": "x", "meta": {"heard": ""}}\n', "its sound audio/x-1.flac is gone"),
    ],
)
def test_a_folder_with_a_manifest_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(ManifestError, match=reason):
        Folder(tmp_path, "en")
    assert (tmp_path / "train.jsonl").read_bytes() == content


# -- how far it is -------------------------------------------------------------------------------------------------------------------------


def recorded(count: int, errors: int = 0, seconds: float = 4.0) -> dict[str, Row]:
    """Rows of ten words, of which the model misheard one in the first `errors` rows."""
    text = "one two three four five six seven eight nine ten"
    spelled = {number: text.replace("five", "alpha") if number < errors else text for number in range(count)}
    return {
        str(number): Row(audio=f"audio/{number}-1.flac", text=text, id=str(number), duration=seconds, meta={"heard": heard})
        for number, heard in spelled.items()
    }


def test_what_a_verdict_lacks_is_said_in_sentences() -> None:
    assert outlook({"train": {}, "test": {}}, "en").sentence == (
        "enough for a verdict: no, at least 10 more test sentences and 20 more training sentences"
    )
    few = outlook({"train": recorded(20), "test": recorded(10, errors=3)}, "en")
    assert few.test_missing is not None
    assert few.test_missing > 10
    assert few.sentence == f"enough for a verdict: no, {few.test_missing} more test sentences"
    assert outlook({"train": recorded(20, seconds=2), "test": recorded(200, errors=80)}, "en") == Outlook("20 s more to train on", 0)


def test_enough_is_enough() -> None:
    assert outlook({"train": recorded(150), "test": recorded(200, errors=80)}, "en").sentence == "enough for a verdict: yes"


def test_a_model_without_errors_has_nothing_to_gain_and_one_that_did_not_listen_tells_nothing() -> None:
    assert "nothing to gain yet" in outlook({"train": recorded(150), "test": recorded(60)}, "en").sentence
    deaf = {key: Row(audio=row.audio, text=row.text, id=key, duration=4.0, meta={"heard": None}) for key, row in recorded(60).items()}
    assert "no model listened" in outlook({"train": recorded(150), "test": deaf}, "en").sentence


def test_the_command_line_at_the_end_fits_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    heading = Heading(source="", language="en", model_id="packaged:moonshine-tiny")
    first, second = commands(Path("my voice"), heading)
    assert first == "moonshine-lora data"
    assert second.startswith("moonshine-lora experiment --config personal --train-manifest 'my voice/train.jsonl'")
    assert "--heldout-manifest data/quickstart/general/heldout.jsonl" in second
    for name in ("heldout", "replay"):
        file = tmp_path / "data/general" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (only,) = commands(Path("voice"), heading)
    assert "heldout" not in only, "the preset names them"
    note, german = commands(Path("voice"), Heading(source="", language="de", model_id="models/german"))
    assert note.startswith("# general speech in German")
    assert german.endswith("--model-id models/german --language de")


# -- the command line ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "--output-dir: is missing"),
        (["--output-dir", "voice", "--per-term", "3"], "--per-term: is for --terms"),
        (["--output-dir", "voice", "--language", "de"], "the built-in sentences are English"),
        (["--output-dir", "voice", "--language", "de", "--terms", "terms.txt"], "terms are put into English sentences"),
        (["--output-dir", "voice", "--no-listen", "--model-id", "x"], "leave --model-id out"),
        (["--output-dir", "voice", "--prompts", "none.txt"], "none.txt: cannot be read"),
        (["--output-dir", "voice", "--terms", "none.txt"], "none.txt"),
        (["--status", "voice"], "holds no recordings of moonshine record"),
    ],
)
def test_a_wrong_command_line_is_one_error_and_makes_nothing(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoraError, match=reason):
        command.main(arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pair", [("--prompts", "--terms")])
def test_one_kind_of_sentences_at_a_time(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--output-dir", "voice", pair[0], "a", pair[1], "b"])
    assert "not allowed with" in capsys.readouterr().err


def begun(folder: Path, prompts: tuple[Prompt, ...] = PROMPTS, language: str = "en") -> None:
    opened = Folder(folder, language)
    opened.put(Heading(source="mine.txt", language=language, model_id="packaged:moonshine-tiny"), prompts)
    opened.close()


def test_a_folder_of_another_language_is_refused(tmp_path: Path) -> None:
    begun(tmp_path, language="de")
    (tmp_path / "mine.txt").write_text("Open it.\n")
    with pytest.raises(PromptsError, match="holds speech in de, not en"):
        command.main(["--output-dir", str(tmp_path), "--prompts", str(tmp_path / "mine.txt"), "--language", "en"])


def test_a_damaged_list_of_sentences_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"source": "x"}\n')
    with pytest.raises(PromptsError, match="is no list of sentences of moonshine record"):
        command.main(["--status", str(tmp_path)])


def test_other_sentences_than_before_are_counted_and_recordings_stay(
    folder: Folder, speech_in_a_room: Waveform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.put(Heading(source="mine.txt", language="en", model_id=None), PROMPTS)
    reader = Reader(folder, speech_in_a_room)
    reader.reads()
    reader.understood()
    folder.close()
    file = tmp_path / "changed.txt"
    file.write_text("\n".join([PROMPTS[1].text, PROMPTS[2].text, "A new one for today.", "The goat ate my hat."]))
    with pytest.raises(ConfigError, match="stdin is not a terminal"):
        command.main(["--output-dir", str(folder.path), "--prompts", str(file), "--no-listen"])
    assert "other sentences than before: 2 new, 1 gone; 1 recordings of those stay" in capsys.readouterr().err
    assert list(rows(folder.path)["train"]) == [PROMPTS[0].id]
    assert command.main(["--status", str(folder.path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].split()[:5] == ["train", "0.1", "min", "1", "sentences,"]
    assert told[2].startswith("enough for a verdict: no")


def test_a_kill_in_mid_write_leaves_whole_manifests(tmp_path: Path, clip: Path) -> None:
    """A process that keeps takes as fast as it can is killed at some moment, many times."""
    script = (
        "import sys; from pathlib import Path; from lora_cli.recorder.prompts import Prompt; from lora_cli.recorder.store import Folder\n"
        "from lora.audio.loading import AudioSettings, read_file\n"
        "samples = read_file(Path(sys.argv[2]), AudioSettings()); folder = Folder(Path(sys.argv[1]), 'en')\n"
        "print('open', flush=True)\n"
        "for turn in range(100000): folder.keep(Prompt(text=f'Sentence {turn % 7}.', set='train'), samples, {'heard': '', 'turn': turn})\n"
    )
    for wait in (0.02, 0.1, 0.23):
        writer = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(clip)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(wait)
        writer.kill()
        writer.wait()
        writer.stdout.close()
        found = rows(tmp_path)["train"]  # it refuses half a row, and one without its sound
        Folder(tmp_path, "en").close()
        assert sorted(file.name for file in (tmp_path / "audio").iterdir()) == sorted(Path(str(row.audio)).name for row in found.values())
        assert not list(tmp_path.glob(".*.part"))
    assert found
