"""The sets of a run: a manifest may come in parts."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import structs
from running import rows_of, write_rows

from lora.config import DataConfig, ModelConfig, OutputConfig, RunConfig
from lora.dataset.manifest import Rules, Utterance
from lora.errors import ManifestError
from lora.model.loading import LoadedModel
from lora.system.cache import Kept
from lora.text.style import resolve_style
from lora.training.sets import SpeechSet, examples, read_set, read_sets, trained_sentences

CONFIG = DataConfig(train_manifest="t", domain_manifest="d", heldout_manifest="h")


@pytest.fixture
def rows(clips: Sequence[Utterance], tmp_path: Path) -> list[dict[str, object]]:
    return rows_of(list(clips)[:5], tmp_path)


def read(path: Path | str) -> SpeechSet:
    return read_set(str(path), Rules(), CONFIG, Kept())


def test_parts_of_a_manifest_are_one_set_in_the_order_of_their_names(rows: list[dict[str, object]], tmp_path: Path) -> None:
    whole = read(write_rows(tmp_path / "all.jsonl", rows))
    write_rows(tmp_path / "part-b.jsonl", rows[3:])
    write_rows(tmp_path / "part-a.jsonl", rows[:3])
    parts = read(tmp_path / "part-*.jsonl")
    assert parts.recordings == whole.recordings
    assert [one.audio for one in parts.manifest] == [one.audio for one in whole.manifest]
    names = [f"part-a/{row['id']}" for row in rows[:3]] + [f"part-b/{row['id']}" for row in rows[3:]]
    assert [one.id for one in parts.manifest] == names
    assert parts.manifest.sha256 == read(tmp_path / "part-?.jsonl").manifest.sha256
    write_rows(tmp_path / "part-b.jsonl", [*rows[3:], rows[0] | {"id": "more"}])
    assert parts.manifest.sha256 != read(tmp_path / "part-*.jsonl").manifest.sha256


def test_lines_without_an_id_do_not_collide(rows: list[dict[str, object]], tmp_path: Path) -> None:
    for name, part in (("a", rows[:2]), ("b", rows[2:4])):
        write_rows(tmp_path / f"part-{name}.jsonl", [{key: value for key, value in row.items() if key != "id"} for row in part])
    assert [one.id for one in read(tmp_path / "part-*.jsonl").manifest] == [
        "part-a/line-1",
        "part-a/line-2",
        "part-b/line-1",
        "part-b/line-2",
    ]


def test_a_bad_line_is_named_in_its_part(rows: list[dict[str, object]], tmp_path: Path) -> None:
    write_rows(tmp_path / "part-a.jsonl", rows[:2])
    write_rows(tmp_path / "part-b.jsonl", [rows[2], rows[3] | {"audio": "absent.flac"}])
    with pytest.raises(ManifestError, match=r"part-b\.jsonl: 1 problem: line 2: audio: absent\.flac: no such file"):
        read(tmp_path / "part-*.jsonl")


def test_a_pattern_that_matches_nothing_or_two_of_a_name_is_refused(rows: list[dict[str, object]], tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"part-\*\.jsonl: no file matches; a pattern names the parts"):
        read(tmp_path / "part-*.jsonl")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(ManifestError, match=r"two of the parts have the same name"):
        read(tmp_path / "*" / "part.jsonl")


def test_equal_tokens_are_held_once(tiny: LoadedModel, rows: list[dict[str, object]], tmp_path: Path) -> None:
    part = read(write_rows(tmp_path / "all.jsonl", rows))
    made = examples(tiny, part, resolve_style("none", [], "en").style)
    assert [list(one.labels) for one in made] == [tiny.labels(utterance.text or "") for utterance in part.manifest]
    tokens = [token for one in made for token in one.labels]
    assert len({id(token) for token in tokens}) == len(set(tokens)) < len(tokens)


def test_a_name_with_a_bracket_is_a_file_where_there_is_one(rows: list[dict[str, object]], tmp_path: Path) -> None:
    assert len(read(write_rows(tmp_path / "take[1].jsonl", rows))) == 5


def by_speakers(clips: Sequence[Utterance], folder: Path, **speakers: Sequence[str]) -> DataConfig:
    """Manifests in which each name is the speaker of an utterance of its own."""
    rest = iter(rows_of(clips, folder))
    paths = {
        name: str(write_rows(folder / f"{name}.jsonl", [next(rest) | {"speaker_id": speaker} for speaker in spoken]))
        for name, spoken in speakers.items()
    }
    return DataConfig(**{f"{name}_manifest": path for name, path in paths.items()})


def run_of(data: DataConfig) -> RunConfig:
    return RunConfig(model=ModelConfig(model_id="m"), data=data, output=OutputConfig(output_dir="o"))


APART = {"train": "aab", "dev": "cc", "domain": "dee", "heldout": "ff"}


def test_a_speaker_may_be_in_one_of_training_dev_and_domain_only(clips: Sequence[Utterance], tmp_path: Path) -> None:
    def sets(split_by: str = "speaker", **changed: str) -> dict[str, SpeechSet]:
        config = by_speakers(clips, tmp_path, **(APART | changed))
        return read_sets(run_of(structs.replace(config, split_by=split_by)), Kept()).named()

    assert {name: len(part) for name, part in sets().items()} == {"train": 3, "dev": 2, "domain": 3, "heldout": 2}
    for changed, pair in (({"dev": "ca"}, "train and dev"), ({"domain": "dea"}, "train and domain"), ({"domain": "dec"}, "dev and domain")):
        with pytest.raises(ManifestError, match=f"{pair} share 1 speakers, among them [ac]; keep a speaker in one of them"):
            sets(**changed)
        assert sets("utterance", **changed)
    assert sets(heldout="aa"), "general speech may be by whom it likes"


def test_dev_and_guard_are_split_off_and_nothing_is_lost(clips: Sequence[Utterance], tmp_path: Path) -> None:
    """A fifth of the replay speech guards; whole speakers make the dev set where the split is by speaker."""
    spoken = {"train": "aabbcc", "domain": "de", "heldout": "ff", "replay": "gggggggggg"}
    config = structs.replace(by_speakers(clips, tmp_path, **spoken), dev_fraction=1 / 3)
    named = read_sets(run_of(config), Kept()).named()
    assert {name: len(part) for name, part in named.items()} == {"train": 4, "dev": 2, "domain": 2, "heldout": 2, "replay": 8, "guard": 2}
    assert not named["train"].manifest.speakers() & named["dev"].manifest.speakers()
    for whole, parts in (("train", ("train", "dev")), ("replay", ("replay", "guard"))):
        ids = sorted(one.id for part in parts for one in named[part].manifest)
        assert ids == sorted(one.id for one in read(tmp_path / f"{whole}.jsonl").manifest)


def test_sentences_that_stand_in_training_are_counted(clips: Sequence[Utterance], tmp_path: Path) -> None:
    def texts(name: str, start: int, *given: str) -> str:
        rows = rows_of(clips[start : start + len(given)], tmp_path)
        return str(write_rows(tmp_path / f"{name}.jsonl", [row | {"text": text} for row, text in zip(rows, given, strict=True)]))

    config = DataConfig(
        train_manifest=texts("train", 0, "Stop now!", "Go home.", "One, two."),
        dev_manifest=texts("dev", 3, "go -- HOME", "Something else."),
        domain_manifest=texts("domain", 5, "STOP NOW", "stop, now?", "Stop.", "New words."),
        heldout_manifest=texts("heldout", 9, "Quite other.", "And another."),
        split_by="utterance",
    )
    sets = read_sets(run_of(config), Kept())
    assert trained_sentences(sets) == {"dev": 1, "domain": 2, "heldout": 0}


def test_tags_are_reported_for_each_part_of_a_manifest(rows: list[dict[str, object]], tmp_path: Path) -> None:
    write_rows(tmp_path / "part-a.jsonl", [rows[0] | {"text": f"{rows[0]['text']} <COMMA>"}, rows[1]])
    write_rows(tmp_path / "part-b.jsonl", rows[2:4])
    manifest = read_set(str(tmp_path / "part-*.jsonl"), Rules(tags="drop"), CONFIG, Kept()).manifest
    assert manifest.tags == "part-a.jsonl: tags in 1 of 2 transcripts (<COMMA> 1): dropped"
    assert manifest.utterances[0].text == rows[0]["text"]
