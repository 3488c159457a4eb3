"""What was heard, in the forms of OpenAI's transcription API."""

import math
import zlib
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from lora.language import LANGUAGES, code, traits
from lora.longform.captions import SENTENCE
from lora.longform.output import subtitles
from lora.longform.recording import Heard
from lora.passages import Passage, Word
from lora.serving.options import Asked


def answer(asked: Asked, heard: Heard) -> Response:
    """The response to a request."""
    if asked.format == "text":
        return PlainTextResponse(f"{heard.text}\n")
    if asked.format in ("srt", "vtt"):
        return PlainTextResponse(subtitles(f".{asked.format}", _words(heard), asked.served.language))
    if asked.format == "verbose_json":
        return JSONResponse(_verbose(asked, heard))
    return JSONResponse({"text": heard.text, "usage": _usage(heard)})


def _verbose(asked: Asked, heard: Heard) -> dict[str, Any]:
    language = asked.served.language
    found: dict[str, Any] = {
        "task": "transcribe",
        "language": traits(language).name.casefold() if language in LANGUAGES else code(language),
        "duration": round(heard.length_s, 3),
        "text": heard.text,
        "usage": _usage(heard),
    }
    if "segment" in asked.granularities:
        found["segments"] = _segments(heard, " " if traits(language).separates_words else "")
    if "word" in asked.granularities:
        found["words"] = [{"word": one.text, "start": round(one.start_s, 3), "end": round(one.end_s, 3)} for one in _words(heard)]
    return found


def _usage(heard: Heard) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(heard.length_s)}


def _words(heard: Heard) -> list[Word]:
    return [word for passage in heard.passages for word in passage.words or ()]


def _segments(heard: Heard, joint: str) -> list[dict[str, Any]]:
    sentences = [sentence for passage in heard.passages for sentence in _sentences(passage)]
    return [_segment(number, sentence, joint) for number, sentence in enumerate(sentences)]


def _sentences(passage: Passage) -> list[list[Word]]:
    """The words of a passage, sentence by sentence."""
    found: list[list[Word]] = [[]]
    for word in passage.words or ():
        found[-1].append(word)
        if word.text.endswith(SENTENCE):
            found.append([])
    return [sentence for sentence in found if sentence]


def _segment(number: int, words: Sequence[Word], joint: str) -> dict[str, Any]:
    """With all fields that typed clients want.

    `avg_logprob` is of the words' calibrated probabilities, and `compression_ratio` as Whisper computes it; Moonshine has no `seek`, and
    of passages without speech there is no segment.
    """
    text = joint.join(word.text for word in words)
    return {
        "id": number,
        "seek": 0,
        "start": round(words[0].start_s, 3),
        "end": round(words[-1].end_s, 3),
        "text": text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(sum(math.log(max(word.confidence, 1e-9)) for word in words) / len(words), 4),
        "compression_ratio": round(len(text.encode()) / len(zlib.compress(text.encode())), 4),
        "no_speech_prob": 0.0,
    }
