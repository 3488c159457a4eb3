"""Keys of those who have no screen: lines that are typed, for screen readers and other programs."""

import threading
from collections.abc import Callable
from typing import TextIO

from lora.errors import ConfigError

QUIT = "q"


def read_keys(keys: TextIO | None, put: Callable[[str], None]) -> None:
    """Passes on each line that is typed, without spaces and in small letters, from a thread of its own; the end of the input is `QUIT`.

    Raises `ConfigError` where nothing can be typed.
    """
    if keys is None or keys.closed:
        raise ConfigError("stdin is closed, so there are no keys; give it a terminal or a pipe")
    threading.Thread(target=_read, args=(keys, put), name="keys", daemon=True).start()


def _read(keys: TextIO, put: Callable[[str], None]) -> None:
    try:
        for line in keys:
            put(line.strip().lower())
    finally:  # whatever ends the input, the app must not wait for it
        put(QUIT)
