"""Caches the base model's scores and transcripts: the same weights give the same text for the same audio."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from lora.audio.loading import AudioSettings, fingerprint
from lora.evaluation.evaluate import Evaluator, Example
from lora.system import distributed
from lora.system.cache import Kept, key
from lora.text.normaliser import normaliser_version

Result = TypeVar("Result")


class BaseScores:
    """The base model's scores and transcripts that earlier runs have kept."""

    def __init__(self, audio: AudioSettings, kept: Kept | None = None) -> None:
        """`audio` is what makes the waveforms; `kept` the folder, that of the cache unless given."""
        self._audio, self._kept = audio, kept or Kept()

    def known(
        self, kind: type[Result], evaluator: Evaluator, examples: Sequence[Example], compute: Callable[[], Result]
    ) -> tuple[Result, bool]:
        """What `compute` gives for the base model in `evaluator` on these examples, and whether it came from the cache.

        The key is all that decides it: weights, arithmetic, sound, references, labels, decode settings, code and versions. A kept file that
        is damaged is made again.
        """
        name = key(
            __name__,
            msgspec.json.schema(kind),  # results of another form are other results
            evaluator.speech.arithmetic,
            normaliser_version(evaluator.speech.language),
            evaluator.settings,
            [(e.utterance.id, e.utterance.speaker_id, e.utterance.text, e.length_s, e.labels) for e in examples],
            [fingerprint(e.utterance.audio, self._audio) for e in examples],
        )
        file = self._kept.file(name, ".json")
        found = distributed.from_main(lambda: _read(self._kept, name, kind))  # the others may see another disk, and must not compute alone
        if found is not None:
            return found, True
        result = compute()
        if distributed.is_main():
            self._kept.write(file, msgspec.json.encode(result))
        return result, False


def _read(kept: Kept, name: str, kind: type[Result]) -> Result | None:
    file = kept.file(name, ".json")
    content = kept.read(file) if kept.has(file) else None
    return None if content is None else msgspec.json.decode(content, type=kind)
