"""The data of the default run: telephone prompts as the domain, general English as the guardrail and for rehearsal. No account."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from lora.checkpoints.wheels import MOONSHINE_VOICE
from lora.corpora import asterisk, general
from lora.dataset.manifest import Rules, read
from lora.errors import ManifestError, RunFolderError
from lora.system.documents import read_json
from lora.system.files import atomic_folder, sha256_file, write_json, write_text

_log = logging.getLogger(__name__)

VERSION: Final = 1
"""Raised whenever the same sources would give other manifests."""

STAMP: Final = "quickstart.json"

_SOURCES = """# Where this speech comes from

`telephone/`: Asterisk core sounds {release}, English. Copyright 2003-2010 Allison Smith (voice; theivrvoice.com), recorded with
financial contributions by Digium, Inc. Licence: Creative Commons Attribution-ShareAlike 3.0
(https://creativecommons.org/licenses/by-sa/3.0/). The recordings are unchanged. Some transcripts are corrected: notes in brackets are
removed, symbols and misspelt words are written out (`CORRECTIONS` in `lora.corpora.asterisk`). If you share these files, share them
under the same licence and keep this notice.
Fetched from: {prompts}

`general/`: recordings in the Python wheel {wheel}, MIT licence, copyright 2025 Moonshine AI; cut into utterances
and resampled to 16 kHz. Held-out: a reading of the opening of "A Tale of Two Cities" (Charles Dickens, public domain) and a line of
Samuel Beckett's "Worstward Ho". Replay: a dialogue after Samuel Beckett's "Endgame". The short quotations remain their authors'.
"""


class _Stamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    sha256: dict[str, str]


@dataclass(frozen=True, slots=True)
class QuickstartManifests:
    """The five manifests of the default run; no recording and no telephone transcript is in two of them."""

    train: Path
    dev: Path
    test: Path
    heldout: Path
    replay: Path

    def paths(self) -> tuple[Path, ...]:
        return (self.train, self.dev, self.test, self.heldout, self.replay)


def manifests(folder: Path) -> QuickstartManifests:
    """Where the manifests lie, whether they are there yet or not."""
    telephone, clips = folder / "telephone", folder / "general"
    return QuickstartManifests(
        telephone / "train.jsonl", telephone / "dev.jsonl", telephone / "test.jsonl", clips / "heldout.jsonl", clips / "replay.jsonl"
    )


def prepare(folder: Path) -> QuickstartManifests:
    """Makes everything under `folder`, or checks that it is there already and whole.

    Data of an earlier version of the package is made again.

    Raises:
        FetchError: a source cannot be had.
        RunFolderError: `folder` holds something else, or a file of it was changed or is missing.
    """
    found = manifests(folder)
    if folder.is_dir() and any(folder.iterdir()):
        if _check(folder, found):
            return found
        _log.info("%s was made by another version; making it anew", folder)
    with atomic_folder(folder) as temporary:
        asterisk.prepare(temporary)
        general.prepare(temporary)
        prompts = asterisk.route_taken(asterisk.fetch())
        write_text(temporary / "SOURCES.md", _SOURCES.format(release=asterisk.RELEASE, prompts=prompts, wheel=MOONSHINE_VOICE.requirement))
        made = {path.relative_to(temporary).as_posix(): sha256_file(path) for path in manifests(temporary).paths()}
        write_json(temporary / STAMP, _Stamp(VERSION, made))
    return found


def _check(folder: Path, found: QuickstartManifests) -> bool:
    """Whether `folder` is whole and of this version; False when another version made it."""
    advice = "delete the folder and run again, or choose another one"
    if not (folder / STAMP).is_file():
        raise RunFolderError(f"{folder}: holds files, but no quickstart data ({STAMP} is missing); {advice}")
    stamp: _Stamp = read_json(folder / STAMP, _Stamp, RunFolderError)
    if stamp.version != VERSION:
        return False
    for path in found.paths():
        name = path.relative_to(folder).as_posix()
        if not path.is_file():
            raise RunFolderError(f"{folder}: {name} is missing; {advice}")
        if sha256_file(path) != stamp.sha256.get(name):
            raise RunFolderError(f"{folder}: {name} was changed after it was made; {advice}")
        try:
            read(path, Rules())  # names recordings that are gone
        except ManifestError as error:
            raise RunFolderError(f"{error}; {advice}") from error
    return True
