"""A run opens a recording's file once to check it and at most once more for its samples; a file that changes in between is refused."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from running import QUICK, Manifests, moonshine_lora, rows_of, write_rows

from lora.audio.loading import AudioSettings, FileAudio, load
from lora.config import DataConfig
from lora.dataset.manifest import Rules, Utterance, read
from lora.errors import AudioError
from lora.model.encoder_outputs import StoredFeatures
from lora.model.loading import LoadedModel
from lora.system.cache import Kept
from lora.training.sets import SpeechSet, read_set

_opened: Counter[Path] | None = None


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    """Called by Python for whatever it audits. A hook cannot be removed."""
    if _opened is not None and event == "open" and isinstance(arguments[0], str | os.PathLike):
        _opened[Path(arguments[0])] += 1


sys.addaudithook(_count)


@contextmanager
def opened() -> Iterator[Counter[Path]]:
    """How often each file is opened in the block."""
    global _opened
    _opened = Counter()
    try:
        yield _opened
    finally:
        _opened = None


def files_of(sets: Manifests) -> dict[str, set[Path]]:
    """The recordings of each manifest."""
    named = {name: read(Path(getattr(sets, name)), Rules()) for name in sets.__dataclass_fields__}
    return {name: {one.audio.path for one in part if isinstance(one.audio, FileAudio)} for name, part in named.items()}


def test_a_run_opens_each_recording_once_for_its_check_and_once_for_its_samples(
    random_v1: LoadedModel, sets: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the test sets once more, for the page that plays them. A second run reads them for the check alone, and for the page."""
    monkeypatch.setenv("MOONSHINE_LORA_CACHE", str(tmp_path / "cache"))
    for run, reads in (("first", 2), ("second", 1)):
        with opened() as counted:
            moonshine_lora("experiment", "--model-id", random_v1.checkpoint.folder, *sets.flags(), *QUICK, "--output-dir", tmp_path / run)
        assert (tmp_path / run / "report.html").is_file()
        for name, files in files_of(sets).items():
            played = name in ("domain", "heldout")
            assert {counted[file] for file in files} == {reads + played}, (run, name)


@pytest.fixture
def checked(clips: list[Utterance], tmp_path: Path) -> SpeechSet:
    """Two recordings that have been checked."""
    manifest = write_rows(tmp_path / "data" / "m.jsonl", rows_of(clips[:2], tmp_path / "data"))
    return read_set(str(manifest), Rules(), DataConfig(train_manifest="", domain_manifest="", heldout_manifest=""), Kept(tmp_path / "kept"))


def test_a_recording_that_changes_after_its_check_is_refused_by_name(random_v1: LoadedModel, checked: SpeechSet, tmp_path: Path) -> None:
    second = checked.manifest.utterances[1].audio
    assert isinstance(second, FileAudio)
    second.path.write_bytes(second.path.read_bytes() + b"\0")
    with pytest.raises(AudioError, match=f"^{second.path}: has changed since it was checked; "):
        StoredFeatures(random_v1, AudioSettings(), Kept(tmp_path / "features")).prepare(checked.manifest)


def test_what_is_stored_of_a_checked_recording_is_found_without_reading_it(
    random_v1: LoadedModel, checked: SpeechSet, tmp_path: Path
) -> None:
    features = StoredFeatures(random_v1, AudioSettings(), Kept(tmp_path / "features"))
    features.prepare(checked.manifest)
    with opened() as counted:
        features.batch(checked.manifest.utterances)
    assert [counted[one.audio.path] for one in checked.manifest if isinstance(one.audio, FileAudio)] == [0, 0]


def test_a_checked_part_of_a_recording_is_loaded_as_before(checked: SpeechSet, tmp_path: Path) -> None:
    row = {"audio": str(checked.manifest.utterances[0].audio), "text": "Hello.", "offset": 0.25, "duration": 1.0}
    part = read_set(
        str(write_rows(tmp_path / "parts.jsonl", [row, {**row, "offset": 0.5}])),
        Rules(allow_outside=True),
        DataConfig(train_manifest="", domain_manifest="", heldout_manifest=""),
        Kept(tmp_path / "kept"),
    )
    for one, plain in zip(part.manifest, read(tmp_path / "parts.jsonl", Rules(allow_outside=True)), strict=True):
        assert one.audio.stored_sha256 is not None
        assert load(one.audio, AudioSettings()).tolist() == load(plain.audio, AudioSettings()).tolist()
