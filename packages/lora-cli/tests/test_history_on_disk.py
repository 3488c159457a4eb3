"""Utterances are on disk before the next one is, and corrections are training data."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from lora_cli.engine.events import Final, Segment
from lora_cli.history import History, subtitles
from lora_cli.session import SaveFormat

from lora.audio.loading import AudioSettings, FileAudio, duration, read_file, waveform_hash
from lora.dataset.checking import validate
from lora.dataset.manifest import Rules, Utterance, read
from lora.errors import AudioError, ManifestError, RunFolderError
from lora.main import _main as moonshine_lora
from lora.units import Seconds

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def final(utterance: Utterance, text: str = "ever tried", after_s: float = 0.0, **more: str) -> Final:
    assert isinstance(utterance.audio, FileAudio)
    samples = read_file(utterance.audio.path, AudioSettings())
    segments = (Segment(Seconds(0.5), Seconds(1.0), text), Segment(Seconds(1.7), Seconds(0.25), "again"))
    at = START + timedelta(seconds=after_s)
    length_s = duration(samples)
    return Final(1, at, "tuned", f"{text} again", segments, samples, length_s, Seconds(0.1), **more)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[History]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "saved").mkdir()
    found = History(saved_to=tmp_path / "saved")
    yield found
    found.close()


def test_an_utterance_is_on_disk_when_it_is_added(results: History, speech: Sequence[Utterance]) -> None:
    said = final(speech[0], other_voice="base", other_text="ever died again")
    results.add(said)
    (line,) = (results.folder / "history.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["text"], row["voice"], row["other_text"]) == ("ever tried again", "tuned", "ever died again")
    assert row["seconds"] == len(said.samples) / 16_000
    kept = read_file(results.folder / row["audio"], AudioSettings())
    assert waveform_hash(kept) == waveform_hash(said.samples)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_what_was_said_is_for_its_owner_only(
    speech: Sequence[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "saved").mkdir()
    before = os.umask(umask)
    try:
        for corrections in (None, tmp_path / "elsewhere" / "mine.jsonl"):
            results = History(corrections, tmp_path / "saved")
            said = final(speech[0])
            results.add(said)
            results.correct(said, "ever tried")
            for form in SaveFormat:
                results.save(form)
            results.close()
    finally:
        os.umask(before)
    made = [path for place in ("state", "elsewhere", "saved") for path in (tmp_path / place).rglob("*")]
    assert len(made) > 15
    open_to_others = {str(path): oct(path.stat().st_mode) for path in made if path.stat().st_mode & 0o077}
    assert not open_to_others
    assert not (tmp_path / "state").stat().st_mode & 0o077


def test_what_is_removed_is_gone_from_the_disk(results: History, speech: Sequence[Utterance]) -> None:
    first, second = final(speech[0], "one"), final(speech[1], "two", 60)
    results.add(first)
    results.add(second)
    results.remove(first)
    (line,) = (results.folder / "history.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == "two again"
    assert [file.name for file in (results.folder / "audio").iterdir()] == [Path(json.loads(line)["audio"]).name]
    with pytest.raises(AudioError, match="could not be stored"):
        results.correct(first, "something")


def test_corrections_are_a_manifest_that_an_experiment_takes(
    results: History, speech: Sequence[Utterance], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [final(utterance, after_s=60.0 * number) for number, utterance in enumerate(speech[:4])]
    for one in said:
        results.add(one)
        file = results.correct(one, "Ever tried, ever failed.").file
    corrected = list(read(file, Rules()))
    assert [row.text for row in corrected] == ["Ever tried, ever failed."] * 4
    assert waveform_hash(read_file(corrected[0].audio.path, AudioSettings())) == waveform_hash(said[0].samples)  # type: ignore[union-attr]
    sets = []
    for name, part in (("domain", speech[4:6]), ("heldout", speech[6:8])):
        rows = [{"audio": os.path.relpath(one.audio.path, tmp_path), "text": one.text} for one in part]  # type: ignore[union-attr]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        sets += [f"--{name}-manifest", str(tmp_path / name)]
    options = ["--split-by", "utterance", "--allow-outside-paths", "--device", "cpu", "--output-dir", str(tmp_path / "run"), "--dry-run"]
    assert moonshine_lora(["experiment", "--model-id", "packaged:moonshine-tiny", "--train-manifest", str(file), *sets, *options]) == 0
    assert "ready: 60 layers to adapt" in capsys.readouterr().out


def test_correcting_again_replaces_the_line(results: History, speech: Sequence[Utterance]) -> None:
    said = final(speech[0])
    results.add(said)
    results.correct(said, "first try")
    file = results.correct(said, "second try").file
    assert [row.text for row in read(file, Rules())] == ["second try"]
    assert json.loads((results.folder / "history.jsonl").read_text())["corrected"] == "second try"


def test_two_apps_may_correct_at_the_same_time(tmp_path: Path) -> None:
    program = """
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
import numpy as np
from lora_cli.engine.events import Final
from lora_cli.history import History
results = History(Path(sys.argv[1]), keep=False)
for number in range(20):
    at = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=number, milliseconds=int(sys.argv[2]))
    said = Final(1, at, "v", "text", (), np.full(1600, 0.1, dtype=np.float32), 0.1, 0.1)
    results.add(said)
    results.correct(said, f"{sys.argv[2]} {number}")
results.close()
"""
    file = tmp_path / "corrections.jsonl"
    apps = [subprocess.Popen([sys.executable, "-c", program, str(file), str(number)]) for number in (1, 2)]
    assert [app.wait(120) for app in apps] == [0, 0]
    assert sorted(row.text or "" for row in read(file, Rules())) == sorted(f"{app} {number}" for app in (1, 2) for number in range(20))


def test_a_file_that_is_no_manifest_is_not_overwritten(speech: Sequence[Utterance], tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text("dear diary\n")
    results = History(tmp_path / "notes.jsonl", keep=False)
    said = final(speech[0])
    results.add(said)
    with pytest.raises(ManifestError, match="is no manifest"):
        results.correct(said, "text")
    assert (tmp_path / "notes.jsonl").read_text() == "dear diary\n"
    results.close()


def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state").write_text("a file")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with pytest.raises(RunFolderError, match="cannot be written"):
        History()


def test_what_is_not_to_be_kept_is_gone_in_the_end(speech: Sequence[Utterance], tmp_path: Path) -> None:
    results = History(tmp_path / "corrections.jsonl", keep=False)
    results.add(final(speech[0]))
    assert list(results.folder.rglob("*.flac"))
    results.close()
    assert not results.folder.exists()


def test_a_session_in_which_nothing_was_said_leaves_nothing(results: History) -> None:
    results.close()
    assert not results.folder.exists()
    results.folder.mkdir()  # for the fixture to close


def test_histories_are_saved_as_text_a_manifest_and_subtitles(results: History, speech: Sequence[Utterance]) -> None:
    first, second = final(speech[0], "one"), final(speech[1], "two", 3725.0)
    results.add(first)
    results.add(second)
    results.correct(second, "Too, again.")
    assert results.save(SaveFormat.TEXT).read_text() == "one again\nToo, again.\n"
    rows = [json.loads(line) for line in results.save(SaveFormat.MANIFEST).read_text().splitlines()]
    assert [row["text"] for row in rows] == ["one again", "Too, again."]
    end = 3725 + min(7.0, len(second.samples) / 16_000)
    clock = f"01:02:{end - 3720:06.3f}".replace(".", ",")
    assert results.save(SaveFormat.SRT).read_text() == (
        f"1\n00:00:00,500 --> 00:00:01,500\none\n\n2\n00:00:01,700 --> 00:00:02,700\nagain\n\n3\n01:02:05,000 --> {clock}\nToo, again.\n\n"
    )


def test_a_saved_manifest_can_be_moved_and_read_with_its_sound(results: History, speech: Sequence[Utterance], tmp_path: Path) -> None:
    results.add(final(speech[0], "one", heard="won again"))
    results.add(final(speech[1], "two", 5.0))
    file = results.save(SaveFormat.MANIFEST)
    (tmp_path / "elsewhere").mkdir()
    for path in (file, file.with_name(f"{file.stem}-audio")):
        path.rename(tmp_path / "elsewhere" / path.name)
    manifest = read(tmp_path / "elsewhere" / file.name, Rules())
    found = validate(manifest, Rules(), AudioSettings())
    assert [one.text for one in manifest] == ["one again", "two again"]
    assert [one.sha256 for one in found] == [waveform_hash(final(one).samples) for one in speech[:2]]
    assert (tmp_path / "elsewhere" / file.name).stat().st_mode & 0o777 == 0o600


def test_what_was_deleted_comes_back_where_it_stood(results: History, speech: Sequence[Utterance]) -> None:
    said = [final(speech[number], name, 5.0 * number) for number, name in enumerate(["one", "two", "three"])]
    for one in said:
        results.add(one)
    before = (results.folder / "history.jsonl").read_bytes()
    results.remove(said[1])
    assert len(list(results.folder.rglob("*.flac"))) == 2
    results.restore(said[1])
    assert (results.folder / "history.jsonl").read_bytes() == before
    assert len(list(results.folder.rglob("*.flac"))) == 3
    with pytest.raises(AudioError, match="deleted last"):
        results.restore(said[1])


def test_a_preference_is_kept(results: History, speech: Sequence[Utterance]) -> None:
    said = final(speech[0], other_voice="base", other_text="ever died again")
    results.add(said)
    results.prefer(said, "base")
    results.prefer(said, "tuned")
    assert json.loads((results.folder / "history.jsonl").read_text())["preferred"] == "tuned"


def test_an_empty_line_of_a_text_does_not_end_a_caption(results: History, speech: Sequence[Utterance]) -> None:
    results.add(final(speech[0], "first\n\nsecond"))
    assert "\nfirst second\n\n2\n" in results.save(SaveFormat.SRT).read_text()


def test_a_long_utterance_is_several_captions_of_two_lines_and_a_few_seconds(results: History, speech: Sequence[Utterance]) -> None:
    said = "It was not far, they said, and so we went on foot, along the river and past the mill, until it was dark. " * 3
    results.add(replace(final(speech[0]), segments=(Segment(Seconds(0.5), Seconds(15.0), said.strip()),)))
    captions = results.save(SaveFormat.SRT).read_text().rstrip("\n").split("\n\n")
    lines = [caption.split("\n")[2:] for caption in captions]
    assert max(map(len, lines)) <= 2
    assert max(len(line) for two in lines for line in two) <= 42
    assert " ".join(line for two in lines for line in two) == said.strip()
    assert len(captions) >= 4


def test_no_utterances_are_no_subtitles() -> None:
    assert subtitles(()) == ""


def test_memory_holds_no_sound(results: History) -> None:
    """An hour of speech is 230 MB as samples."""
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    results.add(Final(1, START, "v", "text", (), noise, Seconds(1.0), Seconds(0.1)))
    held = [value for kept in results._entries.values() for value in (getattr(kept, name) for name in kept.__struct_fields__)]
    assert not any(isinstance(value, np.ndarray) for value in held)
