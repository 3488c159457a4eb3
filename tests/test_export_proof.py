"""What an export's transcripts prove: the rule on made-up transcripts, where every number can be counted by hand."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from lora.audio.loading import AudioSettings
from lora.corpora import general
from lora.dataset.checking import validate
from lora.dataset.manifest import Rules, read
from lora.errors import OnDeviceError
from lora.export.agreement import ThreeScores, compare_export
from lora.export.proof import chosen
from lora.runs.export_record import EXPORT_FILE, Exported, ExportedFile, Proof, TargetExport, read_exported, require_unchanged
from lora.scoring.counts import Score, score_utterance, total
from lora.system.files import sha256_bytes, write_json
from lora.training.sets import SpeechSet
from lora.units import Seconds

Row = tuple[str, str, str, str]
"""Reference, then what base, tuned model and export say."""

ALIKE = [(f"number {n} please hold", f"number {n} please hold", f"number {n} please hold", f"number {n} please hold") for n in range(40)]
TUNED_SIDE = ("the pound key", "the town key", "the pound key", "the pound key")
BASE_SIDE = ("the pound key", "the town key", "the pound key", "the town key")
NEARER_TUNED = ("the pound key now", "the town key no", "the pound key now", "the pound keys now")


def scored(rows: Sequence[Row], side: int) -> Score:
    return total(
        [
            score_utterance(id=f"u{n}", speaker_id=None, seconds=Seconds(2.0), reference=row[0], hypothesis=row[side])
            for n, row in enumerate(rows)
        ]
    )


def proof(*rows: Row, bound: float = 0.5, adapted: bool = True) -> Proof:
    scores = ThreeScores(*(scored(rows, side) for side in (1, 2, 3)))
    return compare_export({"domain": scores}, adapted=adapted, max_drift_points=bound)


def test_an_export_that_says_what_the_tuned_model_says_is_proven() -> None:
    found = proof(*ALIKE, TUNED_SIDE)
    assert found.failures == ()
    (part,) = found.sets.values()
    assert (part.utterances, part.words, part.seconds) == (41, 163, 82)
    assert (part.like_tuned.normalised, part.like_base.normalised, part.drift_points) == (41, 40, 0)
    assert part.export.interval.low <= part.export.wer <= part.export.interval.high


def test_weights_of_the_base_are_caught_where_only_one_clip_tells() -> None:
    found = proof(*ALIKE, BASE_SIDE, bound=100)
    assert found.sides is not None
    assert (found.sides.clips, found.sides.tuned, found.sides.base) == (1, 0, 1)
    assert len(found.failures) == 1
    assert "it takes the base model's side on 1 and the tuned model's on 0: the tuned weights are not in it" in found.failures[0]


def test_clips_on_which_both_models_agree_take_no_side() -> None:
    """However many they are, and whatever the export says there: they do not tell which weights it has."""
    wrong_everywhere = [(*row[:3], "something else") for row in ALIKE]
    found = proof(*wrong_everywhere, TUNED_SIDE, bound=200)
    assert found.failures == ()
    assert found.sides is not None
    assert found.sides.clips == 1


def test_a_side_is_the_nearer_text_and_not_only_the_same_one() -> None:
    found = proof(*ALIKE, NEARER_TUNED, bound=100)
    assert found.sides is not None
    assert (found.sides.tuned, found.sides.base, found.sides.edits_to_tuned) == (1, 0, 1)
    assert found.failures == ()


def test_case_and_punctuation_tell_too() -> None:
    written = ("hold the line", "Hold the line.", "hold the line", "Hold the line.")
    found = proof(*ALIKE, written)
    assert found.sides is not None
    assert (found.sides.clips, found.sides.base) == (1, 1)
    assert found.sets["domain"].like_tuned.normalised == 41
    assert found.sets["domain"].like_tuned.written == 40
    assert found.failures


def test_most_sides_decide_and_edits_where_they_are_level() -> None:
    assert proof(*ALIKE, TUNED_SIDE, TUNED_SIDE, BASE_SIDE, bound=100).failures == ()
    assert "takes the base model's side" in proof(*ALIKE, TUNED_SIDE, BASE_SIDE, BASE_SIDE, bound=100).failures[0]
    far = ("a b", "entirely other words", "a b", "a b")
    assert proof(*ALIKE, far, BASE_SIDE, bound=100).failures == ()
    assert "takes each one's side as often" in proof(*ALIKE, TUNED_SIDE, BASE_SIDE, bound=100).failures[0]


def test_models_that_say_the_same_everywhere_prove_nothing() -> None:
    assert "the same on every clip, so that nothing shows which was exported" in proof(*ALIKE).failures[0]


def test_the_base_model_itself_has_no_sides() -> None:
    found = proof(*ALIKE, adapted=False)
    assert found.sides is None
    assert found.failures == ()


def test_drift_is_reported_in_both_directions_and_one_word_is_allowed() -> None:
    """In 163 words one word is 0.61 points, above the bound of 0.5."""
    worse = ("the pound key", "the town key", "the pound key", "the pound keys")
    better = ("the pound key", "the pound key", "the town key", "the pound key")
    assert proof(*ALIKE, TUNED_SIDE, bound=0.5).failures == ()
    assert proof(*ALIKE[1:], TUNED_SIDE, worse, bound=0.5).failures == ()
    failed = proof(*ALIKE[1:], TUNED_SIDE, TUNED_SIDE, worse, worse, bound=0.5).failures
    assert failed[0].startswith("domain: error rate 1.19 % in the runtime and 0.00 % in PyTorch, +1.19 points; at most 0.5 is allowed")
    lucky = proof(*ALIKE, TUNED_SIDE, TUNED_SIDE, better, better, bound=0.5).failures
    assert "-1.16 points" in lucky[0]


def test_a_bound_of_nought_allows_no_word() -> None:
    worse = ("the pound key", "the town key", "the pound key", "the pound keys")
    assert proof(*ALIKE, TUNED_SIDE, bound=0).failures == ()
    assert len(proof(*ALIKE, TUNED_SIDE, worse, bound=0).failures) == 1


def test_the_clips_that_differ_are_listed() -> None:
    (part,) = proof(*ALIKE, BASE_SIDE).sets.values()
    assert [(one.id, one.reference, one.tuned, one.export) for one in part.differing] == [
        ("u40", "the pound key", "the pound key", "the town key")
    ]


def test_chosen_clips_are_spread_over_the_manifest_and_always_the_same(tmp_path: Path) -> None:
    manifest = read(general.prepare(tmp_path).heldout, Rules())
    part = SpeechSet(manifest, validate(manifest, Rules(), AudioSettings()))
    ids = [utterance.id for utterance in manifest]
    for count in (1, 2, 3, len(part)):
        few = chosen(part, count)
        assert [utterance.id for utterance in few.manifest] == [ids[number * len(ids) // count] for number in range(count)]
        assert [recording.sha256 for recording in few.recordings] == [
            part.recordings[number * len(ids) // count].sha256 for number in range(count)
        ]
    assert chosen(part, None) is chosen(part, 10_000) is part


# --- export.json -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export of one file, which no runtime is asked to load."""
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "graph").write_bytes(b"weights")
    target = TargetExport(
        precision="u8", files=(ExportedFile(name="graph", bytes=7, sha256=sha256_bytes(b"weights")),), seconds=Seconds(1.0)
    )
    write_json(
        tmp_path / EXPORT_FILE,
        Exported(
            made_at="2025-01-01T00:00:00+00:00",
            command=("moonshine-lora", "export"),
            folder=str(tmp_path),
            run=None,
            gate=None,
            gate_accepted=None,
            model_id="packaged:moonshine-tiny",
            base_sha256="a" * 64,
            adapter_sha256=None,
            architecture="tiny",
            tokens_per_second=6.5,
            audio=AudioSettings(),
            language="en",
            targets={"onnx": target},
            speech={},
            seconds={},
            peak_bytes=1,
            versions={},
        ),
    )
    return tmp_path


def test_what_is_written_is_read_and_its_files_are_known(folder: Path) -> None:
    exported = read_exported(folder)
    assert exported.targets["onnx"].bytes == 7
    require_unchanged(folder, "onnx", exported)
    with pytest.raises(OnDeviceError, match="holds onnx and not sherpa-onnx; export it with --to sherpa-onnx"):
        require_unchanged(folder, "sherpa-onnx", exported)
    (folder / "onnx" / "graph").write_bytes(b"others!")
    with pytest.raises(OnDeviceError, match="graph is not the file that was exported; export it again"):
        require_unchanged(folder, "onnx", exported)


def test_another_version_and_no_export_at_all_are_refused(folder: Path, tmp_path: Path) -> None:
    plain = msgspec.json.decode((folder / EXPORT_FILE).read_bytes())
    (folder / EXPORT_FILE).write_bytes(msgspec.json.encode(plain | {"schema": 99}))
    with pytest.raises(OnDeviceError, match="was written by another version, this one reads schema 1; export it again"):
        read_exported(folder)
    with pytest.raises(OnDeviceError, match=r"holds no export \(no export.json\)"):
        read_exported(tmp_path / "elsewhere")
