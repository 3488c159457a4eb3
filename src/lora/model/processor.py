"""Tokens and input values of a checkpoint, read without transformers where its files are of the usual form."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import msgspec
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer

from lora.audio.loading import Waveform
from lora.errors import CheckpointError
from lora.system.documents import read_json

_EXTRACTOR_FILES: Final = ("processor_config.json", "preprocessor_config.json")
_NAMED: Final = ("bos_token", "eos_token", "unk_token", "pad_token")
_WITHOUT_EFFECT: Final = frozenset({"backend", "is_local", "local_files_only", "model_max_length", "processor_class", "tokenizer_class"})
"""Settings of a tokenizer that change neither tokens nor text here."""


class FeatureExtractor(msgspec.Struct, frozen=True):
    """Preprocessing of samples, as in `Wav2Vec2FeatureExtractor`."""

    feature_extractor_type: Literal["Wav2Vec2FeatureExtractor"]
    sampling_rate: int
    do_normalize: bool

    def __call__(self, samples: Waveform, **_usual: object) -> SimpleNamespace:
        """`input_values` with the values of one clip. Other outputs of transformers are constant here."""
        values = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7) if self.do_normalize else samples
        return SimpleNamespace(input_values=[torch.tensor(values)])


class TextTokens:
    """A tokenizer of the library tokenizers under the names that transformers gives its functions."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def __call__(self, text: str, *, add_special_tokens: bool, return_offsets_mapping: bool = False) -> dict[str, Any]:
        """Token ids of a text, and where each stands in it."""
        found = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": found.ids} | ({"offset_mapping": found.offsets} if return_offsets_mapping else {})

    def convert_ids_to_tokens(self, token: int) -> str | None:
        return self._tokenizer.id_to_token(token)

    def convert_tokens_to_ids(self, piece: str) -> int | None:
        return self._tokenizer.token_to_id(piece)

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens)


@dataclass(frozen=True, slots=True)
class Processor:
    """The two halves of a checkpoint's processor."""

    feature_extractor: FeatureExtractor
    tokenizer: TextTokens


def read(folder: Path) -> Processor | None:
    """The processor in a folder; None if it is not of the usual form. Raises what tokenizers raises for a damaged file."""
    extractor = _extractor(folder)
    said = _read(folder / "tokenizer_config.json")
    if extractor is None or said is None or (folder / "added_tokens.json").exists():
        return None
    if said.get("tokenizer_class") not in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        return None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    as_it_is = tokenizer.truncation is None and tokenizer.padding is None
    names = said | (_read(folder / "special_tokens_map.json") or {})
    return Processor(extractor, TextTokens(tokenizer)) if as_it_is and _adds_nothing(tokenizer, names) else None


def _extractor(folder: Path) -> FeatureExtractor | None:
    """The settings that the files of a folder agree on."""
    found = set[FeatureExtractor]()
    for said in filter(None, map(_read, (folder / name for name in _EXTRACTOR_FILES))):
        try:
            found.add(msgspec.convert(said.get("feature_extractor", said), FeatureExtractor))
        except msgspec.ValidationError:
            return None
    return found.pop() if len(found) == 1 else None


def _adds_nothing(tokenizer: Tokenizer, said: dict[str, Any]) -> bool:
    """Whether all that settings say of tokens is in the tokenizer's own file already."""
    known = tokenizer.get_added_tokens_decoder()
    special = {token.content for token in known.values() if token.special}
    for key, value in said.items():
        if key in _NAMED:
            holds = (value["content"] if isinstance(value, dict) else value) in special
        elif key == "added_tokens_decoder":
            holds = all(known.get(number) == token for number, token in _added(value))
        else:
            holds = key in _WITHOUT_EFFECT or not value
        if not holds:
            return False
    return True


def _added(said: dict[str, Any]) -> Iterator[tuple[int, AddedToken]]:
    for number, token in said.items():
        yield int(number), AddedToken(**token)


def _read(file: Path) -> dict[str, Any] | None:
    return read_json(file, dict[str, Any], CheckpointError) if file.is_file() else None
