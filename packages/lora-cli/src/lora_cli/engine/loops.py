"""What is left of a text in which a phrase is repeated over and over: the model does that if a clip ends within a word."""

from lora.language import Language
from lora.longform.seams import plain
from lora.scoring.analysis import LOOP_PHRASE_WORDS, is_loop


def without_loop(text: str, language: Language) -> str:
    """The text up to the end of the first time that the repeated phrase is said; all of it where nothing is."""
    if not is_loop(text, language):
        return text
    words = text.split()
    told = [plain(word) for word in words]
    stop = next(count for count in range(1, len(words) + 1) if is_loop(" ".join(words[:count]), language))
    size = next((size for size in range(1, LOOP_PHRASE_WORDS + 1) if told[stop - size : stop] == told[stop - 2 * size : stop - size]), 1)
    first = stop - 1
    while first >= size and told[first] == told[first - size]:
        first -= 1
    return " ".join(words[: first + 1])
