"""Whether an export transcribes as the tuned model does. Pure: it compares transcripts, whoever made them.

Three things speak against an export:

- its WER on a set is further from the tuned model's than a bound, or than one word where a set is too short to show less;
- on the clips where base and tuned model differ it takes the base model's side;
- base and tuned model differ on no clip, or it takes neither side: nothing shows then that the adapter is in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lora.runs.export_record import Agreement, Differing, Proof, Rate, SetProof, Sides, Speed
from lora.scoring.counts import Score, count_edits
from lora.scoring.significance import interval
from lora.text.normaliser import normalise
from lora.units import Seconds

_ROUNDING_POINTS = 1e-9
"""A bound that is met exactly must pass."""


@dataclass(frozen=True, slots=True)
class ThreeScores:
    """A set's scores, of the same utterances in the same order."""

    base: Score
    tuned: Score
    export: Score


def compare_export(
    sets: Mapping[str, ThreeScores], *, adapted: bool, max_drift_points: float, speed: Speed | None = None, seed: int = 0
) -> Proof:
    """Compares an export with both models. `adapted` is false if the base model itself was exported: there are no sides then."""
    proofs = {name: _set_proof(scores, seed) for name, scores in sets.items()}
    sides = _sides(list(sets.values())) if adapted else None
    failures = [
        f"{name}: error rate {100 * proof.export.wer:.2f} % in the runtime and {100 * proof.tuned.wer:.2f} % in PyTorch, "
        f"{proof.drift_points:+.2f} points; at most {max_drift_points:g} is allowed"
        for name, proof in proofs.items()
        if abs(proof.drift_points) > _allowed_points(max_drift_points, proof.words) + _ROUNDING_POINTS
    ]
    if sides is not None and (against := _against(sides)) is not None:
        failures.append(against)
    return Proof(sets=proofs, sides=sides, speed=speed, max_drift_points=max_drift_points, failures=tuple(failures))


def _allowed_points(bound: float, words: int) -> float:
    """A bound of 0 means equal."""
    return max(bound, 100 / words) if bound > 0 else 0.0


def _against(sides: Sides) -> str | None:
    if sides.clips == 0:
        return "base and tuned model say the same on every clip, so that nothing shows which was exported; give more speech of the domain"
    for_tuned, for_base = (sides.tuned, -sides.edits_to_tuned), (sides.base, -sides.edits_to_base)
    if for_base > for_tuned:
        return (
            f"of {sides.clips} clips on which base and tuned model differ it takes the base model's side on {sides.base} "
            f"and the tuned model's on {sides.tuned}: the tuned weights are not in it"
        )
    if for_base == for_tuned:
        return (
            f"of {sides.clips} clips on which base and tuned model differ it takes each one's side as often; give more speech of the domain"
        )
    return None


def _set_proof(scores: ThreeScores, seed: int) -> SetProof:
    base_rate, tuned_rate, export_rate = (
        Rate(wer=score.wer, interval=interval(score, seed)) for score in (scores.base, scores.tuned, scores.export)
    )
    return SetProof(
        utterances=len(scores.tuned.utterances),
        words=scores.tuned.standard.reference_length,
        seconds=Seconds(sum(row.seconds for row in scores.tuned.utterances)),
        base=base_rate,
        tuned=tuned_rate,
        export=export_rate,
        drift_points=100 * (export_rate.wer - tuned_rate.wer),
        like_tuned=_agreement(scores.export, scores.tuned),
        like_base=_agreement(scores.export, scores.base),
        differing=tuple(
            Differing(id=tuned.id, reference=tuned.reference, tuned=tuned.hypothesis, export=export.hypothesis)
            for tuned, export in zip(scores.tuned.utterances, scores.export.utterances, strict=True)
            if normalise(tuned.hypothesis, scores.tuned.language) != normalise(export.hypothesis, scores.tuned.language)
        ),
    )


def _agreement(one: Score, other: Score) -> Agreement:
    pairs = [(a.hypothesis, b.hypothesis) for a, b in zip(one.utterances, other.utterances, strict=True)]
    same = sum(normalise(a, one.language) == normalise(b, one.language) for a, b in pairs)
    return Agreement(normalised=same, written=sum(a == b for a, b in pairs))


def _sides(sets: list[ThreeScores]) -> Sides:
    clips = tuned_side = base_side = edits_to_tuned = edits_to_base = 0
    for scores in sets:
        for base, tuned, export in zip(scores.base.utterances, scores.tuned.utterances, scores.export.utterances, strict=True):
            if base.hypothesis == tuned.hypothesis:
                continue
            to_tuned, to_base = (count_edits(list(one.hypothesis), list(export.hypothesis)).errors for one in (tuned, base))
            clips += 1
            tuned_side += to_tuned < to_base
            base_side += to_base < to_tuned
            edits_to_tuned += to_tuned
            edits_to_base += to_base
    return Sides(clips=clips, tuned=tuned_side, base=base_side, edits_to_tuned=edits_to_tuned, edits_to_base=edits_to_base)
