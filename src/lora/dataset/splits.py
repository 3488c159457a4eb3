"""Sets of utterances: what two may not share, dividing one, drawing from one. No torch."""

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any, Literal

from lora.audio.loading import AudioSettings, load
from lora.dataset.manifest import Manifest, Recording, Utterance
from lora.dataset.near_copies import correlation, near_copies
from lora.errors import ManifestError

COPY_CORRELATION = 0.85
"""Correlation from which two waveforms count as one recording. Copies reach 0.95 to 1.00 (MP3 of 32 to 128 kbit/s, AAC, Opus of 16 kbit/s,
12 dB louder until it clips, telephone), different recordings 0.41, single vowels of one voice of 0.4 s 0.72."""

COPIES_COUNTED = 200
"""Limit on the pairs that are counted: more would not change the message."""


def require_disjoint(sets: dict[str, tuple[Manifest, tuple[Recording, ...]]], *, speakers: bool) -> None:
    """Raises `ManifestError` when two of the named sets share a recording, or a speaker where `speakers` is set."""
    hashes = {
        name: {recording.sha256: utterance for utterance, recording in zip(manifest, recordings, strict=True)}
        for name, (manifest, recordings) in sets.items()
    }
    for first, second in itertools.combinations(sets, 2):
        here, there = sets[first][0], sets[second][0]
        if common := hashes[first].keys() & hashes[second].keys():
            example = min(common)
            raise ManifestError(
                f"{here.path} line {hashes[first][example].line} and {there.path} line {hashes[second][example].line}: "
                f"the same recording is in {first} and {second} ({len(common)} shared); "
                "scores on it would be meaningless, remove it from one of them"
            )
        if speakers and (both := here.speakers() & there.speakers()):
            raise ManifestError(
                f"{here.path} and {there.path}: {first} and {second} share {len(both)} speakers, among them {min(both)}; keep a speaker "
                "in one of them, or pass --split-by utterance when the goal is to adapt to these very speakers"
            )


def require_no_near_copies(sets: dict[str, tuple[Manifest, tuple[Recording, ...]]], settings: AudioSettings) -> None:
    """Raises `ManifestError` when two of the named sets share a recording in another form: codec, level, sampling rate, cut at its ends.

    Prints lead to the pairs, waveforms decide. Of recordings without a print nothing is known.
    """
    manifests, names = [manifest for manifest, _ in sets.values()], list(sets)
    found: dict[tuple[int, int], dict[tuple[int, int], bool]] = {}
    for pair in near_copies([[recording.sound for recording in recordings] for _, recordings in sets.values()]):
        looked = found.setdefault((pair.first_set, pair.second_set), {})
        if (pair.first, pair.second) not in looked:
            both = manifests[pair.first_set].utterances[pair.first], manifests[pair.second_set].utterances[pair.second]
            alike = correlation(*(load(one.audio, settings) for one in both)) >= COPY_CORRELATION
            looked[pair.first, pair.second] = alike
        if sum(looked.values()) == COPIES_COUNTED:
            break
    for (one, other), looked in found.items():
        if pairs := sorted(places for places, alike in looked.items() if alike):
            first, second = manifests[one].utterances[pairs[0][0]], manifests[other].utterances[pairs[0][1]]
            count = f"{len(pairs)}{' or more' if len(pairs) == COPIES_COUNTED else ''} pair{'s' if len(pairs) > 1 else ''}"
            raise ManifestError(
                f"{manifests[one].path} line {first.line} ({first.id}) and {manifests[other].path} line {second.line} ({second.id}): the "
                f"same recording, in another form or cut, is in {names[one]} and {names[other]} ({count}); scores on it would be "
                "meaningless, remove it from one of them"
            )


SplitBy = Literal["speaker", "utterance"]


def split(manifest: Manifest, fraction: float, by: SplitBy, seed: int) -> tuple[Manifest, Manifest]:
    """Divides a manifest into (kept, held out), with about `fraction` of the utterances held out.

    By speaker, whole speakers are held out. Raises `ManifestError` when utterances lack a `speaker_id`, or when there are too
    few speakers or utterances to leave some on both sides.
    """
    key = _speaker_of(manifest) if by == "speaker" else _id_of
    groups: dict[str, list[Utterance]] = {}
    for utterance in manifest:
        groups.setdefault(key(utterance), []).append(utterance)
    if len(groups) < 2:
        what = "speaker" if by == "speaker" else "utterance"
        raise ManifestError(
            f"{manifest.path}: only {len(groups)} {what}, so none can be held out by {what}; "
            "give --dev-manifest" + (", or pass --split-by utterance" if by == "speaker" else "")
        )
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    wanted = max(1, round(fraction * len(manifest)))
    held: set[str] = set()
    count = 0
    for name in order:
        if count >= wanted or len(held) == len(order) - 1:
            break
        held.add(name)
        count += len(groups[name])
    return (
        manifest.subset(u for u in manifest if key(u) not in held),
        manifest.subset(u for u in manifest if key(u) in held),
    )


def sample(items: Sequence[Any], count: int, seed: int) -> list[Any]:
    """`count` of the items, chosen by `seed`, in their own order."""
    chosen = sorted(random.Random(seed).sample(range(len(items)), min(count, len(items))))
    return [items[i] for i in chosen]


def _speaker_of(manifest: Manifest) -> Callable[[Utterance], str]:
    missing = [u.line for u in manifest if u.speaker_id is None]
    if missing:
        raise ManifestError(
            f"{manifest.path}: {len(missing)} of {len(manifest)} utterances have no `speaker_id` (first on line {missing[0]}), "
            "so it cannot be split by speaker; add it, give --dev-manifest, or pass --split-by utterance"
        )
    return lambda utterance: str(utterance.speaker_id)


def _id_of(utterance: Utterance) -> str:
    return utterance.id
