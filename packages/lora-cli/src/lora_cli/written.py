"""Applies replacements to every finished utterance, between the engine and whatever shows, keeps or types it."""

from collections.abc import Callable
from dataclasses import replace

from lora_cli.engine.events import Event, Final
from lora_cli.replacements import Table
from lora_cli.replacements import replace as replace_words


def as_written(emit: Callable[[Event], None], table: Callable[[], Table]) -> Callable[[Event], None]:
    """Passes events on; the texts of a `Final` are those that the user's table, as it is then, writes for what was heard."""

    def passed(event: Event) -> None:
        emit(written(event, table()) if isinstance(event, Final) else event)

    return passed


def written(final: Final, table: Table) -> Final:
    """The utterance with the table applied to its text, to that of the voice compared with, and to each segment by itself."""
    replaced = replace_words(final.text, table)
    return replace(
        final,
        text=replaced.text,
        heard=final.text if replaced.applied else None,
        applied=replaced.applied,
        segments=tuple(replace(one, text=replace_words(one.text, table).text) for one in final.segments),
        other_text=None if final.other_text is None else replace_words(final.other_text, table).text,
    )
