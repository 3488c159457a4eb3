"""Encoder outputs of utterances: computed once and cached on disk while the encoder is frozen, or in each call while it trains."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors.torch import load as deserialise
from safetensors.torch import save as serialise
from torch import Tensor

from lora.audio.loading import AudioSettings, Waveform, fingerprint, load
from lora.dataset.manifest import Utterance
from lora.errors import NotFiniteError
from lora.model.encoder import Encoder
from lora.model.loading import Encoded, LoadedModel, join
from lora.system import distributed
from lora.system.cache import Kept, key
from lora.system.parallel import spread
from lora.units import SAMPLE_RATE_HZ, Samples

NAME = "frames"
"""Name of the tensor in a stored file. Safetensors, because numpy reads its files with Python's parser, which may fail in two threads."""

BATCH_SAMPLES = Samples(10 * SAMPLE_RATE_HZ)
"""Samples that are encoded together: short clips alone leave a core idle between small products. More gains nothing."""


class Features(Protocol):
    """Encoder outputs on demand, on the model's device."""

    def batch(self, utterances: Sequence[Utterance]) -> Encoded:
        """Encoder output of the utterances, padded to the longest."""
        ...

    def encoded_by(self, speech: LoadedModel) -> "Features":
        """The same recordings as another model's encoder hears them, or another copy of the same encoder where it is frozen."""
        ...


class LiveFeatures:
    """Runs the encoder in every call; gradients flow into it if they are asked for, checkpointed or not."""

    def __init__(self, speech: LoadedModel, audio: AudioSettings, *, gradient_checkpointing: bool = False) -> None:
        self._encoder = Encoder(speech, gradient_checkpointing=gradient_checkpointing)
        self._audio = audio

    def batch(self, utterances: Sequence[Utterance]) -> Encoded:
        return self._encoder([load(utterance.audio, self._audio) for utterance in utterances])

    def encoded_by(self, speech: LoadedModel) -> "LiveFeatures":
        """As `speech` hears the recordings."""
        return LiveFeatures(speech, self._audio)


class StoredFeatures:
    """Runs the frozen encoder once for each recording; all stages and later runs share its output.

    A file's key is the hash of all that decides it: recording, audio settings, checkpoint, arithmetic, code and versions. A recording that
    has been checked is read only to be encoded, and refused with `AudioError` if it has changed. Damaged files are made again; `kept` says
    which were. Outputs that are not finite raise `NotFiniteError` and are not stored.
    """

    def __init__(self, speech: LoadedModel, audio: AudioSettings, kept: Kept | None = None) -> None:
        self._speech = speech
        self._encoder = Encoder(speech)
        self._audio = audio
        self._kept = kept or Kept()

    def encoded_by(self, speech: LoadedModel) -> "StoredFeatures":
        """The same outputs; another copy of the same frozen encoder computes what is no longer stored."""
        other = copy(self)
        other._encoder = Encoder(speech)
        return other

    def prepare(self, utterances: Iterable[Utterance], advance: Callable[[], None] = lambda: None) -> None:
        """Encodes those that are not stored yet; `advance` is called after each. Of several processes each encodes a part."""
        own = distributed.part(list(utterances))
        distributed.gathered(lambda: self._prepare(own, advance))

    def _prepare(self, utterances: Iterable[Utterance], advance: Callable[[], None]) -> None:
        sharing: dict[Path, list[Utterance]] = {}
        for utterance in utterances:
            sharing.setdefault(self._file(utterance), []).append(utterance)

        def stored(batch: Iterable[_Unstored]) -> None:
            for clip in batch:
                for _ in sharing[clip.file]:
                    advance()

        def absent() -> Iterator[list[_Unstored]]:
            batch: list[_Unstored] = []
            for file, (utterance, *others) in sharing.items():
                if self._kept.has(file):
                    for _ in (utterance, *others):
                        advance()
                    continue
                batch.append(_Unstored(file, utterance.id, load(utterance.audio, self._audio)))
                if sum(len(clip.samples) for clip in batch) >= BATCH_SAMPLES:
                    yield batch
                    batch = []
            if batch:
                yield batch

        spread(absent(), self._encode, self._speech.device, stored)

    def batch(self, utterances: Sequence[Utterance]) -> Encoded:
        return join([self._read(utterance).to(self._speech.device, non_blocking=True) for utterance in utterances])

    def _file(self, utterance: Utterance) -> Path:
        name = key(__name__, fingerprint(utterance.audio, self._audio), self._speech.arithmetic)
        return self._kept.file(name, ".safetensors")

    def _read(self, utterance: Utterance) -> Tensor:
        file = self._file(utterance)
        content = self._kept.read(file)
        if content is None:
            (hidden,) = self._encode([_Unstored(file, utterance.id, load(utterance.audio, self._audio))])
        else:
            hidden = deserialise(content)[NAME]
            self._require_finite(utterance.id, hidden)
        return hidden

    @torch.inference_mode()
    def _encode(self, clips: Sequence["_Unstored"]) -> list[Tensor]:
        outputs = [hidden.cpu().contiguous() for hidden in self._encoder.each([clip.samples for clip in clips])]
        for clip, hidden in zip(clips, outputs, strict=True):
            self._require_finite(clip.id, hidden)
            self._kept.write(clip.file, serialise({NAME: hidden}))
        return outputs

    def _require_finite(self, name: str, hidden: Tensor) -> None:
        if not hidden.isfinite().all():
            raise NotFiniteError(f"{name}: the encoder's output is not finite ({self._speech.computing})", self._speech.when_not_finite)


class _Unstored(NamedTuple):
    """A recording whose encoder output is not there yet: where it belongs, the name of an utterance of it, and its samples."""

    file: Path
    id: str
    samples: Waveform
