"""Whether the token cap is high enough for the references: a transcript that the cap cuts counts as errors of the model."""

from collections.abc import Iterator

from lora.errors import ConfigError
from lora.model.loading import LoadedModel
from lora.model.transcript import EXTRA_TOKENS, DecodeSettings
from lora.training.sets import SpeechSet, SpeechSets

TOO_MANY = 0.05
"""Share of a set's references that may exceed the cap: single ones are mostly texts of another recording."""


def require_room(sets: SpeechSets, speech: LoadedModel, decode: DecodeSettings, *, chosen: bool) -> Iterator[str]:
    """A line for each scored set with references that the cap would cut.

    Raises `ConfigError` if more than `TOO_MANY` of a set are, unless the user has `chosen` the cap.
    """
    for name, part in sets.named().items():
        if name in ("train", "replay"):
            continue
        rates = list(_too_fast(part, speech, decode))
        if not rates:
            continue
        line = (
            f"{name}: {len(rates)} of {len(part)} references need more tokens than --tokens-per-second {decode.tokens_per_second:g} "
            f"allows, up to {max(rates):.1f} a second"
        )
        if len(rates) > TOO_MANY * len(part) and not chosen:
            raise ConfigError(
                f"{line}; if the tokenizer is the model's own, it spells the language in short pieces: give --tokens-per-second "
                f"{max(rates) + 1:.0f}"
            )
        yield line


def _too_fast(part: SpeechSet, speech: LoadedModel, decode: DecodeSettings) -> Iterator[float]:
    """Tokens per second of the references that the cap would cut.

    A reference in capitals is spelled in more tokens than the model's transcript of the same words, so lower case counts too.
    """
    for utterance, recording in zip(part.manifest, part.recordings, strict=True):
        text = utterance.text or ""
        tokens = min(len(speech.labels(text)), len(speech.labels(text.lower()))) if text else 0
        if tokens > decode.cap(recording.length_s):
            yield (tokens - EXTRA_TOKENS) / recording.length_s
