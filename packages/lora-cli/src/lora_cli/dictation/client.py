"""`moonshine toggle`, `start`, `stop`, `cancel`, `status`: send the command to the service and print its answer.

A hotkey starts them, so nothing is imported that takes time.
"""

import json
import socket
from typing import Any, Final

from lora.console import ArgumentParser
from lora.errors import DictationError
from lora.system.terminal import say, shown_json
from lora_cli.dictation.address import MOST_BYTES, socket_path

ANSWER_S: Final = 10.0
"""How long to wait for an answer; the service answers at once."""

_HELP: Final = {
    "toggle": "start a recording, or end the one that is on",
    "start": "start a recording",
    "stop": "end the recording; its text goes where the service was told to put it",
    "cancel": "discard the recording, and text that is not written yet",
    "status": "say what the service does, what it heard last, and what is wrong",
}


def toggle(arguments: list[str]) -> int:
    return _tell("toggle", arguments)


def start(arguments: list[str]) -> int:
    return _tell("start", arguments)


def stop(arguments: list[str]) -> int:
    return _tell("stop", arguments)


def cancel(arguments: list[str]) -> int:
    return _tell("cancel", arguments)


def status(arguments: list[str]) -> int:
    return _tell("status", arguments)


def _tell(command: str, arguments: list[str]) -> int:
    parser = ArgumentParser(prog=f"moonshine {command}", description=f"{_HELP[command].capitalize()}.")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    options = parser.parse_args(arguments)
    answer = ask(command)
    if options.json:
        print(shown_json(json.dumps(answer["status"], ensure_ascii=False).encode()).decode())
    else:
        for line in answer["lines"]:
            say(line)
    return 0


def ask(command: str) -> Any:
    """The service's answer. Raises `DictationError` if there is none, and for what it refuses."""
    path = socket_path()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(str(path))
            connection.sendall(json.dumps({"do": command}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline(MOST_BYTES)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise DictationError("no dictation service is running; start it: moonshine dictate") from error
    except TimeoutError as error:
        raise DictationError(f"{path}: the dictation service does not answer; end it and start it again: moonshine dictate") from error
    except OSError as error:
        raise DictationError(f"{path}: {error.strerror or error}") from error
    if not line.endswith(b"\n"):
        raise DictationError("the dictation service ended before it answered; start it again: moonshine dictate")
    answer = json.loads(line)
    if "error" in answer:
        raise DictationError(answer["error"])
    return answer
