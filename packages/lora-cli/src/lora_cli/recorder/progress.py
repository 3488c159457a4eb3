"""The progress of a folder: minutes, sentences, what a verdict needs, and the command that trains with it. Reads only file names."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lora.dataset.amount import LEAST_S, LEAST_UTTERANCES, is_little
from lora.dataset.manifest import Row
from lora.language import Language, traits
from lora.scoring.counts import UtteranceScore, score_utterance, total
from lora.scoring.outlook import utterances_needed
from lora.text.normaliser import normalise
from lora.units import Seconds
from lora_cli.recorder.prompts import Prompt, PromptSet
from lora_cli.recorder.store import SETS, Heading, counted
from lora_cli.voices import DEFAULT_MODEL

FEWEST: Final = 10
"""Test sentences before which nothing is said of how many it takes: the base model's errors on fewer tell too little."""

Rows = Mapping[PromptSet, Mapping[str, Row]]


@dataclass(frozen=True, slots=True)
class Outlook:
    """Whether what is recorded is enough for a verdict. `test_needed` is None if that is not known, `reason` says why."""

    train_missing: str
    """What the training set lacks, in words; empty for nothing."""
    test_missing: int | None
    reason: str = ""

    @property
    def enough(self) -> bool:
        return not self.train_missing and self.test_missing == 0

    @property
    def sentence(self) -> str:
        """`enough for a verdict: no, 60 more test sentences`."""
        if self.enough:
            return "enough for a verdict: yes"
        if self.test_missing is None:
            wants = [self.reason, self.train_missing]
        else:
            wants = [
                f"{self.test_missing} more test sentence{'s' * (self.test_missing != 1)}" * bool(self.test_missing),
                self.train_missing,
            ]
        return "enough for a verdict: no, " + " and ".join(want for want in wants if want)


def outlook(rows: Rows, language: Language) -> Outlook:
    """What a verdict lacks, by the errors that the base model makes on the test sentences so far."""
    train, test = (counted(rows[name]) for name in SETS)
    lacks = ""
    if is_little(train.sentences, train.length_s):
        more, length_s = max(0, LEAST_UTTERANCES - train.sentences), max(0.0, LEAST_S - train.length_s)
        lacks = f"{more} more training sentence{'s' * (more != 1)}" if more else f"{length_s:.0f} s more to train on"
    if test.sentences < FEWEST:
        return Outlook(lacks, None, f"at least {FEWEST - test.sentences} more test sentences")
    heard = [row for row in rows["test"].values() if row.meta is not None and row.meta["heard"] is not None]
    if len(heard) < FEWEST:
        return Outlook(lacks, None, "how many test sentences it takes is not known, for no model listened")
    needed = utterances_needed(total([_scored(row, language) for row in heard], language), seed=0)
    if needed is None:
        return Outlook(lacks, None, f"the model made no error on {len(heard)} test sentences, so there is nothing to gain yet")
    return Outlook(lacks, max(0, needed - test.sentences))


def _scored(row: Row, language: Language) -> UtteranceScore:
    assert row.meta is not None
    return score_utterance(
        id=str(row.id),
        speaker_id=None,
        seconds=Seconds(row.duration or 0.0),
        reference=row.text or "",
        hypothesis=row.meta["heard"],
        language=language,
    )


def lines(path: Path, rows: Rows, prompts: Sequence[Prompt], heading: Heading) -> Iterator[str]:
    """What `--status` says, and the end of a sitting."""
    for name in SETS:
        found, asked = counted(rows[name]), [prompt for prompt in prompts if prompt.set == name]
        left = sum(prompt.id not in rows[name] for prompt in asked)
        yield f"{name:6} {found.length_s / 60:5.1f} min  {found.sentences} sentences, {left} left to record"
    if doubted := sum("kept_despite" in (row.meta or {}) for one in rows.values() for row in one.values()):
        yield f"{doubted} kept though something was wrong; `kept_despite` in their rows says what"
    if both := shared(rows, heading.language):
        yield f"! {both} sentences are in both sets; remove their rows from one of the manifests"
    ahead = outlook(rows, heading.language)
    yield ahead.sentence
    if not ahead.enough and all(prompt.id in rows[prompt.set] for prompt in prompts):
        yield f"all sentences are recorded; add others: moonshine record --output-dir {shlex.quote(str(path))} --prompts FILE"
    if all(rows.values()):
        yield "train with it:"
        yield from commands(path, heading)


def shared(rows: Rows, language: Language) -> int:
    """Sentences that stand in both sets, which only an edit by hand can do."""
    train, test = ({normalise(row.text or "", language) for row in rows[name].values()} for name in SETS)
    return len(train & test)


def commands(path: Path, heading: Heading) -> Iterator[str]:
    """The command lines that train with a folder as it is, and judge what came of it."""
    words = ["moonshine-lora", "experiment", "--config", "personal", "--train-manifest", path / "train.jsonl"]
    words += ["--domain-manifest", path / "test.jsonl", "--output-dir", path / "run"]
    if heading.model_id not in (None, DEFAULT_MODEL):
        words += ["--model-id", heading.model_id]
    if heading.language != "en":
        yield f"# general speech in {traits(heading.language).name} has to be in data/general, see docs/languages.md"
        words += ["--language", heading.language]
    elif not _is_general(Path("data/general")):
        general = Path("data/quickstart/general")
        if not _is_general(general):
            yield "moonshine-lora data"
        words += ["--heldout-manifest", general / "heldout.jsonl", "--replay-manifest", general / "replay.jsonl"]
    yield shlex.join(map(str, words))


def _is_general(folder: Path) -> bool:
    return all((folder / f"{name}.jsonl").is_file() for name in ("heldout", "replay"))
