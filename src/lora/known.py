"""What the base model says of a set of speech, kept for later runs: the same weights say the same of the same sound."""

import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import msgspec

from lora import shards
from lora.audio import AudioSettings, fingerprint
from lora.decode import DecodeSettings
from lora.errors import CacheError
from lora.evaluate import Example
from lora.features import LAYOUT
from lora.files import sha256_bytes, write_json
from lora.kept import kept_file
from lora.model_utils import Speech
from lora.reading import read_json
from lora.text import normaliser_version

Result = TypeVar("Result")

VERSIONS = ("moonshine-lora", "torch", "transformers")
"""Packages whose version is part of the key: another one may round differently."""


def known(
    kind: type[Result],
    speech: Speech,
    examples: Sequence[Example],
    audio: AudioSettings,
    settings: DecodeSettings,
    compute: Callable[[], Result],
    folder: Path | None = None,
) -> tuple[Result, bool]:
    """What `compute` gives for the base model in `speech` on these examples, and whether it was known.

    The key is all that decides it: weights, precision, device, sound, references, labels, decode settings, versions.
    Raises `CacheError` for a kept file that cannot be read.
    """
    key = sha256_bytes(
        msgspec.json.encode(
            [
                msgspec.json.schema(kind),  # results of another form are other results
                LAYOUT,
                [version(name) for name in VERSIONS],
                normaliser_version(speech.language),
                (speech.checkpoint.sha256, speech.precision, speech.device.type),
                settings,
                [(e.utterance.id, e.utterance.speaker_id, e.utterance.text, e.length_s, e.labels) for e in examples],
                [fingerprint(e.utterance.audio, audio) for e in examples],
            ]
        )
    )
    file = kept_file(key, ".json", folder)
    found = shards.from_main(lambda: _read(file, kind))  # the others may see another disk, and must not compute alone
    if found is not None:
        return found, True
    result = compute()
    if shards.is_main():
        write_json(file, result)
    return result, False


def _read(file: Path, kind: type[Result]) -> Result | None:
    if not file.is_file():
        return None
    os.utime(file)  # in use: the last to be pruned
    try:
        result: Result = read_json(file, kind, CacheError)
    except CacheError as error:
        raise CacheError(f"{error}; remove it with `moonshine-lora cache clear`") from error
    return result
