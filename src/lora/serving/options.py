"""The fields of a transcription request: each is honoured or refused, and none is ignored."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeGuard, get_args

from lora.audio.channels import Channel
from lora.errors import RequestError
from lora.serving.forms import Form
from lora.serving.models import Served, found, require_language

ResponseFormat = Literal["json", "text", "srt", "vtt", "verbose_json"]
FORMATS: Final = get_args(ResponseFormat)
GRANULARITIES: Final = ("segment", "word")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wants."""

    served: Served
    format: ResponseFormat = "json"
    granularities: frozenset[str] = frozenset({"segment"})
    channel: Channel | None = None
    track: int | None = None

    @property
    def timed(self) -> bool:
        """Whether the times of words are needed."""
        return self.format in ("srt", "vtt", "verbose_json")


def asked(form: Form, models: Mapping[str, Served]) -> tuple[Asked, bytes]:
    """What a form asks for, and its file. Raises `RequestError` for a field that is missing, wrong, or means nothing here."""
    fields = {name.removesuffix("[]"): values for name, values in form.fields.items()}
    served = found(models, _one(fields, "model", f"the name of a model: {', '.join(models)}"))
    if form.file is None:
        raise RequestError(400, "the field `file` is missing: the recording to transcribe", param="file")
    for name in fields.keys() - _KNOWN.keys() - {"model", "timestamp_granularities", "file"}:
        raise RequestError(400, f"the field {name!r} is not known here; leave it out", param=name, code="unknown_parameter")
    given = {name: _one(fields, name, "a value") for name in _KNOWN if name in fields}
    for name, value in given.items():
        _KNOWN[name](served, value)
    chosen = given.get("response_format", "json")
    assert _is_format(chosen)
    granularities = _granularities(fields.get("timestamp_granularities", []), chosen)
    channel, track = _number(given.get("channel")), given.get("track")
    return Asked(served, chosen, granularities, channel, None if track is None else int(track)), form.file


def _one(fields: Mapping[str, list[str]], name: str, what: str) -> str:
    values = fields.get(name, [])
    if len(values) != 1:
        reason = "is missing" if not values else f"is given {len(values)} times"
        raise RequestError(400, f"the field `{name}` {reason}; give {what}", param=name)
    return values[0]


def _number(text: str | None) -> Channel | None:
    return "mix" if text == "mix" else None if text is None else int(text)


def _is_format(text: str) -> TypeGuard[ResponseFormat]:
    return text in FORMATS


def _granularities(values: list[str], chosen: ResponseFormat) -> frozenset[str]:
    if values and chosen != "verbose_json":
        raise RequestError(400, "`timestamp_granularities` needs `response_format` verbose_json", param="timestamp_granularities")
    for value in values:
        if value not in GRANULARITIES:
            raise RequestError(400, f"`timestamp_granularities` is segment or word, not {value!r}", param="timestamp_granularities")
    return frozenset(values or ["segment"])


def _response_format(_: Served, value: str) -> None:
    if not _is_format(value):
        raise RequestError(400, f"`response_format` is {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, not {value!r}", param="response_format")


def _temperature(_: Served, value: str) -> None:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if number != 0:
        raise RequestError(
            400, f"`temperature` is 0 here, not {value!r}: the likeliest text is given, and no other is drawn", param="temperature"
        )


def _prompt(_: Served, value: str) -> None:
    if value:
        raise RequestError(400, "`prompt` cannot be taken: Moonshine hears no text before the sound; leave it out", param="prompt")


def _stream(_: Served, value: str) -> None:
    if value.casefold() not in ("false", "0", ""):
        raise RequestError(400, "`stream` is false here: the text comes whole; leave it out", param="stream")


def _chunking(_: Served, value: str) -> None:
    if value not in ("auto", '"auto"'):
        raise RequestError(400, "`chunking_strategy` is auto here: recordings are cut at pauses", param="chunking_strategy")


def _channel(_: Served, value: str) -> None:
    if value != "mix" and not (value.isdecimal() and int(value) >= 1):
        raise RequestError(400, f"`channel` is a number, counted from 1, or mix, not {value!r}", param="channel")


def _track(_: Served, value: str) -> None:
    if not (value.isdecimal() and int(value) >= 1):
        raise RequestError(400, f"`track` is a number, counted from 1, not {value!r}", param="track")


_KNOWN: Final[dict[str, Callable[[Served, str], None]]] = {
    "language": require_language,
    "response_format": _response_format,
    "temperature": _temperature,
    "prompt": _prompt,
    "stream": _stream,
    "chunking_strategy": _chunking,
    "channel": _channel,
    "track": _track,
}
