"""The service's socket: its owner, and incoming commands."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from lora.errors import DictationError, LoraError
from lora_cli.dictation.address import COMMANDS, MOST_BYTES

_ASKING_S: Final = 1.0
"""How long a client may take to send its command; ours send it at once."""

Answer = dict[str, Any]


@contextmanager
def only_service(path: Path) -> Iterator[None]:
    """Holds the place of the one service. Raises `DictationError` with the process id of another that holds it."""
    with os.fdopen(os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600), "r+") as stream:
        _claim(stream)
        try:
            yield
        finally:
            stream.truncate(0)


def _claim(stream: IO[str]) -> None:
    import fcntl  # Windows has none

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        stream.seek(0)
        raise DictationError(f"a dictation service is running already (process {stream.read().strip() or 'unknown'})") from error
    stream.truncate(0)
    stream.write(f"{os.getpid()}\n")
    stream.flush()


@contextmanager
def listening(path: Path, answer: Callable[[str], Answer]) -> Iterator[None]:
    """Answers clients in a thread of its own while the block runs. Only the owner can connect."""
    path.unlink(missing_ok=True)  # of a service that was killed; the lock says that none runs
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        before = os.umask(0o177)
        try:
            server.bind(str(path))
        except OSError as error:
            raise DictationError(f"{path}: {error.strerror or error}; give XDG_RUNTIME_DIR another folder") from error
        finally:
            os.umask(before)
        server.listen(16)
        threading.Thread(target=_serve, args=(server, answer), name="socket", daemon=True).start()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _serve(server: socket.socket, answer: Callable[[str], Answer]) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # closed: the service ends
            return
        with connection, contextlib.suppress(OSError):  # a client that went away gets no answer
            connection.settimeout(_ASKING_S)
            with connection.makefile("rb") as stream:
                line = stream.readline(MOST_BYTES)
            connection.sendall(json.dumps(_answered(line, answer)).encode() + b"\n")


def _answered(line: bytes, answer: Callable[[str], Answer]) -> Answer:
    try:
        command = json.loads(line)["do"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {"error": 'is no command: send {"do": "toggle"} and a line end'}
    if command not in COMMANDS:
        return {"error": f"{command!r}: there is no such command; there are {', '.join(COMMANDS)}"}
    try:
        return answer(command)
    except TimeoutError:
        return {"error": "the dictation service is busy; try again"}
    except LoraError as error:
        return {"error": str(error)}
