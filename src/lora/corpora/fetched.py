"""General speech that fetches itself from the hub, once, into the cache: a test set for forgetting (`--canary`), and speech to rehearse."""

import argparse
import re
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from filelock import FileLock

from lora.corpora.build import Choice, build, describe
from lora.corpora.hub import LIBRISPEECH, HubSource, items
from lora.errors import ConfigError
from lora.system.destination import writing_errors
from lora.system.files import cache_dir
from lora.system.terminal import say

YODAS: Final = "moonshine-ai/yodas-en-replay"
"""The replay corpus of moonshine-voice's trainer: Arrow files with audio, text and duration."""

_SHORTEST_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Corpus:
    """A split on the hub, and what is taken of it."""

    source: HubSource
    choice: Choice


CANARY: Final = Corpus(HubSource(LIBRISPEECH, "test.clean", local="--canary FOLDER"), Choice(samples=300, min_s=_SHORTEST_S))
"""LibriSpeech's test speakers: none of them is in its dev part."""

REPLAY: Final[dict[str, Corpus]] = {
    "librispeech": Corpus(HubSource(LIBRISPEECH, "dev.clean", local="--replay librispeech=FOLDER"), Choice(samples=500, min_s=_SHORTEST_S)),
    "yodas": Corpus(
        HubSource(YODAS, "train", speaker_column=None, id_column=None, local="--replay yodas=FOLDER"),
        Choice(hours=1.0, min_s=_SHORTEST_S, skip_bad=True),
    ),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that fetch general speech."""
    group = parser.add_argument_group("general speech from the hub", "Fetched once and kept in the cache; needs a network.")
    group.add_argument(
        "--canary",
        nargs="?",
        const="",
        metavar="DATASET",
        help=f"--heldout-manifest of {CANARY.choice.samples} clips of LibriSpeech's test.clean; DATASET is a local copy, or a hub id with "
        "@REVISION",
    )
    group.add_argument(
        "--replay",
        metavar="NAME[=DATASET]",
        help=f"--replay-manifest: librispeech for {REPLAY['librispeech'].choice.samples} clips of LibriSpeech's dev.clean, or yodas for an "
        f"hour of {YODAS}; DATASET as above",
    )


def fetch(arguments: argparse.Namespace) -> None:
    """Sets the manifests that the flags ask for. Raises `ConfigError`, and what reading and writing a corpus raises."""
    wanted = {}
    if arguments.canary is not None:
        wanted["heldout_manifest"] = ("--canary", _of(CANARY, arguments.canary))
    if arguments.replay is not None:
        name, _, dataset = arguments.replay.partition("=")
        if name not in REPLAY:
            raise ConfigError(f"--replay {arguments.replay}: known are {' and '.join(REPLAY)}; a manifest is given with --replay-manifest")
        wanted["replay_manifest"] = ("--replay", _of(REPLAY[name], dataset))
    for setting, (flag, _) in wanted.items():
        if f"data.{setting}" in vars(arguments):
            raise ConfigError(f"{flag} and --{setting.replace('_', '-')} name the same speech; leave one out")
    for setting, (_, corpus) in wanted.items():
        setattr(arguments, f"data.{setting}", str(manifest_of(corpus)))


def manifest_of(corpus: Corpus) -> Path:
    """The manifest of a corpus in the cache, fetched if it is not there. A second process waits for the first."""
    name = re.sub(r"\W+", "-", f"{Path(corpus.source.dataset).name}-{corpus.source.split}")
    folder = cache_dir() / "corpora" / f"{name}-{sha256(repr(corpus).encode()).hexdigest()[:12]}"
    manifest = folder / "manifest.jsonl"
    with writing_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not manifest.is_file():
            summary = build(items(corpus.source), corpus.choice, manifest, "path", overwrite=True)
            for line in describe(manifest, summary):
                say(line)
    return manifest


def _of(corpus: Corpus, given: str) -> Corpus:
    """The corpus, from another place where one is given: a folder, or a hub id and its revision."""
    if not given:
        return corpus
    if Path(given).expanduser().is_dir():
        return replace(corpus, source=replace(corpus.source, dataset=str(Path(given).expanduser().resolve())))
    dataset, at, revision = given.partition("@")
    if at and not revision:
        raise ConfigError(f"{given}: name a revision behind the @")
    return replace(corpus, source=replace(corpus.source, dataset=dataset, revision=revision or None))
