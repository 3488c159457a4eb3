"""Encoder outputs of utterances: computed once and kept on disk while the encoder is frozen, or anew where it trains."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from lora import shards
from lora.audio import AudioSettings, AudioSource, Waveform, fingerprint, load
from lora.cores import spread
from lora.encoder import Encoder
from lora.errors import CacheError
from lora.files import atomic_file, sha256_bytes
from lora.kept import kept_file
from lora.manifest import Utterance
from lora.model_utils import Encoded, Speech, join
from lora.units import SAMPLE_RATE_HZ, Samples

LAYOUT = "3"
"""Part of every key; raised when what is stored, or how it is computed, changes."""

NAME = "frames"
"""Of the tensor in a stored file. Safetensors, for numpy's files are read with Python's parser, which fails at times in two threads."""

BATCH_SAMPLES = Samples(10 * SAMPLE_RATE_HZ)
"""Sound that is encoded together: short clips alone leave a core idle between small products. More gains nothing."""


class Features(Protocol):
    """Encoder outputs on demand, on the model's device."""

    def batch(self, utterances: Sequence[Utterance]) -> Encoded:
        """Encoder output of the utterances, padded to the longest."""
        ...


class LiveFeatures:
    """Runs the encoder in every call; gradients flow into it where they are asked for, checkpointed or not."""

    def __init__(self, speech: Speech, audio: AudioSettings, *, gradient_checkpointing: bool = False) -> None:
        self._encoder = Encoder(speech, gradient_checkpointing=gradient_checkpointing)
        self._audio = audio

    def batch(self, utterances: Sequence[Utterance]) -> Encoded:
        return self._encoder([load(utterance.audio, self._audio) for utterance in utterances])


class StoredFeatures:
    """Runs the frozen encoder once for each recording; what it gave is shared by all stages, and by later runs.

    A file's key is the hash of the recording, the checkpoint, precision, device and audio settings.
    """

    def __init__(self, speech: Speech, audio: AudioSettings, folder: Path | None = None) -> None:
        self._speech = speech
        self._encoder = Encoder(speech)
        self._audio = audio
        self._folder = folder
        self._keys: dict[AudioSource, str] = {}

    def encoded_by(self, speech: Speech) -> "StoredFeatures":
        """The same outputs, where another copy of the same frozen encoder computes what is no longer stored."""
        other = copy(self)
        other._encoder = Encoder(speech)
        return other

    def prepare(self, utterances: Iterable[Utterance], advance: Callable[[], None] = lambda: None) -> None:
        """Encodes those that are not stored yet; `advance` is called after each. Of several processes each encodes a part."""
        own = shards.part(list(utterances))
        shards.gathered(lambda: self._prepare(own, advance))

    def _prepare(self, utterances: Iterable[Utterance], advance: Callable[[], None]) -> None:
        sharing: dict[Path, list[Utterance]] = {}
        for utterance in utterances:
            sharing.setdefault(self._file(utterance), []).append(utterance)

        def stored(batch: Iterable[Path]) -> None:
            for file in batch:
                for _ in sharing[file]:
                    advance()

        def absent() -> Iterator[dict[Path, Waveform]]:
            batch: dict[Path, Waveform] = {}
            for file, (utterance, *_) in sharing.items():
                if file.is_file():
                    os.utime(file)  # in use: the last to be pruned
                    stored([file])
                    continue
                batch[file] = load(utterance.audio, self._audio)
                if sum(map(len, batch.values())) >= BATCH_SAMPLES:
                    yield batch
                    batch = {}
            if batch:
                yield batch

        spread(absent(), self._encode, self._speech.device, stored)

    def batch(self, utterances: Sequence[Utterance]) -> Encoded:
        return join([self._read(utterance).to(self._speech.device, non_blocking=True) for utterance in utterances])

    def _file(self, utterance: Utterance) -> Path:
        if utterance.audio not in self._keys:
            speech = self._speech
            options = f"{LAYOUT} {speech.checkpoint.sha256} {speech.precision} {speech.device.type}"
            self._keys[utterance.audio] = sha256_bytes(fingerprint(utterance.audio, self._audio).encode(), options.encode())
        return kept_file(self._keys[utterance.audio], ".safetensors", self._folder)

    def _read(self, utterance: Utterance) -> Tensor:
        file = self._file(utterance)
        if not file.is_file():
            self._encode({file: load(utterance.audio, self._audio)})
        try:
            return load_file(file)[NAME]
        except (SafetensorError, KeyError) as error:
            raise CacheError(f"{file}: is not a stored encoder output ({error}); remove it with `moonshine-lora cache clear`") from error

    @torch.inference_mode()
    def _encode(self, clips: Mapping[Path, Waveform]) -> None:
        for file, hidden in zip(clips, self._encoder.each(list(clips.values())), strict=True):
            self._write(file, hidden.cpu())

    @staticmethod
    def _write(file: Path, hidden: Tensor) -> None:
        with atomic_file(file) as stream:
            stream.write(serialise({NAME: hidden.contiguous()}))
