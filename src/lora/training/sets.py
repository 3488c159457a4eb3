"""The sets of a run: read, checked, split and kept apart, then turned into examples. Test sets never mix with the others."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora.config import DataConfig, RunConfig
from lora.dataset.checking import as_checked, require_one_text, validate
from lora.dataset.manifest import Manifest, Recording, Rules, Utterance, read
from lora.dataset.splits import require_disjoint, require_no_near_copies, split
from lora.dataset.synthetic import require_real
from lora.errors import ManifestError
from lora.evaluation.evaluate import Example
from lora.model.loading import LoadedModel
from lora.system import distributed
from lora.system.cache import Kept
from lora.system.files import sha256_bytes
from lora.text.style import ResolvedStyle, Styled, apply_style, resolve_style
from lora.training.augment import Augmenter, Copies, plan
from lora.units import Seconds

WILDCARDS = "*?["

_WORD = re.compile(r"[^\W_]+")

GUARD_FRACTION = 0.2
"""Share of the replay speech kept out of training to monitor forgetting."""


@dataclass(frozen=True, slots=True)
class SpeechSet:
    """A manifest's utterances with what decoding them showed, in the same order."""

    manifest: Manifest
    recordings: tuple[Recording, ...]

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def seconds(self) -> Seconds:
        return Seconds(sum(recording.length_s for recording in self.recordings))


@dataclass(frozen=True, slots=True)
class SpeechSets:
    """All sets of a run. `guard` is general speech for choosing the best step; `heldout` and `domain` are for reporting."""

    train: SpeechSet
    dev: SpeechSet
    domain: SpeechSet
    heldout: SpeechSet
    replay: SpeechSet | None
    guard: SpeechSet | None
    styled: Styled

    @property
    def style(self) -> ResolvedStyle:
        return self.styled.style

    def named(self) -> dict[str, SpeechSet]:
        """The sets that exist, by name."""
        every = {
            "train": self.train,
            "dev": self.dev,
            "domain": self.domain,
            "heldout": self.heldout,
            "replay": self.replay,
            "guard": self.guard,
        }
        return {name: part for name, part in every.items() if part is not None}


def read_set(path: str, rules: Rules, config: DataConfig, kept: Kept) -> SpeechSet:
    """Reads and checks a manifest with all its audio: a file, or a pattern such as `data/train-*.jsonl` that names its parts.

    Ids of parts begin with their file's name. Several processes share the decoding and get the whole; an error names the lines of one.
    """
    if Path(path).is_file() or not any(mark in path for mark in WILDCARDS):
        manifest = read(Path(path), rules)
        return checked_set(manifest, _checked(manifest, rules, config, kept))
    pattern = Path(path)
    files = sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
    if not files:
        raise ManifestError(f"{path}: no file matches; a pattern names the parts of one manifest")
    if len({file.stem for file in files}) < len(files):
        raise ManifestError(f"{path}: two of the parts have the same name; their ids would be the same too, rename one")
    parts = [read(file, rules) for file in files]
    recordings = [recording for part in parts for recording in _checked(part, rules, config, kept)]
    utterances = [replace(one, id=f"{part.path.stem}/{one.id}") for part in parts for one in part]
    sha256 = sha256_bytes(*(f"{part.path.name} {part.sha256}\n".encode() for part in parts))
    tags = "; ".join(f"{part.path.name}: {part.tags}" for part in parts if part.tags)
    manifest = Manifest(pattern, sha256, tuple(utterances), tags)
    require_one_text(manifest, recordings)
    return checked_set(manifest, tuple(recordings))


def checked_set(manifest: Manifest, recordings: tuple[Recording, ...]) -> SpeechSet:
    """A manifest and what its check found, each recording known by its hash from now on."""
    return SpeechSet(as_checked(manifest, recordings), recordings)


def _checked(manifest: Manifest, rules: Rules, config: DataConfig, kept: Kept) -> tuple[Recording, ...]:
    own = manifest.subset(distributed.part(manifest.utterances))
    found = [iter(part) for part in distributed.gathered(lambda: validate(own, rules, config.audio(), prints=True, kept=kept))]
    recordings = tuple(next(found[place % len(found)]) for place in range(len(manifest)))
    require_one_text(manifest, recordings)  # of several processes, each has checked its own part
    return recordings


def read_sets(config: RunConfig, kept: Kept) -> SpeechSets:
    """Reads all manifests, splits dev off if it is not given, and makes sure that no recording is in two sets.

    Raises `ManifestError` with every problem of the first manifest that has one, when a test set holds a single utterance or synthesised
    speech, when sets share recordings, and when training, dev and domain share speakers although the split is by speaker.
    """
    data, rules, seed = config.data, config.rules(), config.train.seed
    train = read_set(data.train_manifest, rules, data, kept)
    domain = read_set(data.domain_manifest, rules, data, kept)
    heldout = read_set(data.heldout_manifest, config.heldout_rules(), data, kept)
    if not data.synthetic_domain:
        require_real(domain.manifest, "domain", "record some, or pass --synthetic-domain and say so with every number")
    require_real(heldout.manifest, "held-out", "give recordings of people")
    for test_set in (domain, heldout):
        if len(test_set) < 2:
            raise ManifestError(f"{test_set.manifest.path}: one utterance cannot tell a change from chance; add more, better a hundred")
    if data.dev_manifest is not None:
        dev = read_set(data.dev_manifest, rules, data, kept)
    else:
        train, dev = _divide(train, data.dev_fraction, data.split_by == "speaker", seed)
    replay = guard = None
    if data.replay_manifest is not None:
        replay = read_set(data.replay_manifest, config.replay_rules(), data, kept)
        replay, guard = _divide(replay, GUARD_FRACTION, False, seed)
    _require_words({"dev": dev, "domain": domain} | ({"held-out": heldout} if config.gate.guardrail == "wer" else {}))
    styled = resolve_style(data.text_style, [utterance.text or "" for utterance in train.manifest], config.model.language)
    sets = SpeechSets(train, dev, domain, heldout, replay, guard, styled)
    require_disjoint({name: (part.manifest, part.recordings) for name, part in sets.named().items()}, speakers=False)
    own = {"train": train, "dev": dev, "domain": domain}
    require_disjoint({name: (part.manifest, part.recordings) for name, part in own.items()}, speakers=data.split_by == "speaker")
    require_no_near_copies({name: (part.manifest, part.recordings) for name, part in sets.named().items()}, data.audio())
    return sets


def trained_sentences(sets: SpeechSets) -> dict[str, int]:
    """How many utterances of each set that is scored say a sentence that the training set says too, whatever its case and punctuation.

    That is expected for voice commands, but such utterances say less about unseen speech.
    """
    trained = {_sentence(utterance) for utterance in sets.train.manifest}
    others = {name: part for name, part in sets.named().items() if name not in ("train", "replay")}
    return {name: sum(bool(said := _sentence(one)) and said in trained for one in part.manifest) for name, part in others.items()}


def _sentence(utterance: Utterance) -> str:
    """Letters and digits of its text, without case. Cheaper than the scorer's normaliser, which takes 0.1 ms for a sentence."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", utterance.text or "").casefold()))


def _require_words(sets: dict[str, SpeechSet]) -> None:
    """A set of silence alone has no error rate."""
    for name, part in sets.items():
        if not any(character.isalnum() for utterance in part.manifest for character in utterance.text or ""):
            raise ManifestError(
                f"{part.manifest.path}: nobody says a word in the {name} set, so it has no error rate; add clips with speech"
            )


def plan_copies(sets: SpeechSets, config: RunConfig) -> Augmenter | None:
    """What makes varied copies of the training set, after it was split; None if none are asked for. Writes nothing."""
    if config.augment.augment_copies == 0:
        return None
    others = {name: part.recordings for name, part in sets.named().items() if name != "train"}
    train = (sets.train.manifest, sets.train.recordings)
    return plan(config.augment, config.train.seed, config.rules(), train, others, config.data.audio())


def with_copies(sets: SpeechSets, copies: Copies) -> SpeechSets:
    """The sets with the copies added to the training utterances. Raises `ManifestError` when a copy equals a recording of another set."""
    train = sets.train
    manifest = train.manifest.subset((*train.manifest, *copies.manifest))
    grown = replace(sets, train=SpeechSet(manifest, train.recordings + copies.recordings))
    others = {name: (part.manifest, part.recordings) for name, part in sets.named().items() if name != "train"}
    for name, other in others.items():
        require_disjoint({"train": (copies.manifest, copies.recordings), name: other}, speakers=False)
    return grown


def examples(speech: LoadedModel, part: SpeechSet, style: ResolvedStyle, texts: Sequence[str] | None = None) -> list[Example]:
    """Examples of a set; `texts`, one for each utterance, take the place of the manifest's transcripts."""
    given = texts if texts is not None else [utterance.text or "" for utterance in part.manifest]
    shared: dict[int, int] = {}  # one object for each token id in use: millions of labels take eight bytes each, not forty
    return [
        Example(utterance, recording.length_s, tuple(shared.setdefault(token, token) for token in speech.labels(apply_style(style, text))))
        for utterance, recording, text in zip(part.manifest, part.recordings, given, strict=True)
    ]


def _divide(part: SpeechSet, fraction: float, by_speaker: bool, seed: int) -> tuple[SpeechSet, SpeechSet]:
    kept, held = split(part.manifest, fraction, "speaker" if by_speaker else "utterance", seed)
    found = dict(zip((utterance.id for utterance in part.manifest), part.recordings, strict=True))
    first, second = (SpeechSet(side, tuple(found[utterance.id] for utterance in side)) for side in (kept, held))
    return first, second
