"""`moonshine config`: shows and changes the settings that the app starts with."""

import json
import re
from pathlib import Path
from typing import Any

from filelock import FileLock

from lora.console import ArgumentParser
from lora.errors import ConfigError
from lora.system.destination import writing_errors
from lora.system.documents import ContentError, toml_value
from lora.system.files import atomic_file
from lora.system.terminal import say
from lora_cli.settings import KEYS, Settings, as_folder, read_user_settings, read_values, require, user_file


def main(arguments: list[str]) -> int:
    """Runs `moonshine config`; returns the exit code, which is 1 for `get` of a key that is not set."""
    options = _parser().parse_args(arguments)
    file = user_file()
    if options.action == "path":
        say(file)
    elif options.action == "set":
        value = set_value(options.key, options.value)
        say(f"{file}: {options.key} = {json.dumps(value, ensure_ascii=False)}")
    elif options.action == "unset":
        unset(options.key)
        say(f"{file}: {options.key} is left open")
    elif options.action == "get":
        return _get(options.key)
    else:
        _list()
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="moonshine config", description="The settings that moonshine starts with; flags override them.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="show all keys and their values")
    actions.add_parser("path", help="show where the file is")
    for name, help_text in (("get", "show one value"), ("set", "set a value"), ("unset", "remove a value")):
        action = actions.add_parser(name, help=help_text)
        action.add_argument("key", help=", ".join(KEYS))
        if name == "set":
            action.add_argument("value", help="moonshine config list says what each may be")
    return parser


def _list() -> None:
    """Raises `ConfigError` for a file that the app would not start with."""
    settings, given = read_user_settings(), read_values(user_file())
    for name, key in KEYS.items():
        value = getattr(settings, name)
        said = "not set" if value is None else json.dumps(value, ensure_ascii=False)
        say(f"{name:{max(map(len, KEYS))}} {said}{'' if name in given or value is None else ' (default)'}  - {key.help}")


def _get(key: str) -> int:
    if key not in KEYS:
        require(user_file(), key, None)
    value = getattr(read_user_settings(), key)
    if value is None:
        return 1
    say(value if isinstance(value, str) else json.dumps(value))
    return 0


def set_value(key: str, text: str) -> Any:
    """Writes a key's value, from the words of a command line; folders are written with their whole path. Returns the value.

    Raises `ConfigError`, with the file as it was, if key or value is none, and `RunFolderError` if the disk refuses.
    """
    file = user_file()
    value: Any = text
    if key == "model" and (folder := as_folder(text)).is_dir():
        value = str(folder.resolve())
    elif isinstance(getattr(Settings(), key, None), bool) and text in ("true", "false"):
        value = text == "true"
    elif isinstance(getattr(Settings(), key, None), int) and text.isascii() and text.isdigit():
        value = int(text)
    require(file, key, value)
    _change(file, key, f"{key} = {json.dumps(value, ensure_ascii=False)}\n", value)
    return value


def unset(key: str) -> None:
    """Removes a key from the file, even an unknown one. Raises as `set_value`."""
    file = user_file()
    if key in read_values(file):
        _change(file, key, "", None)
    elif key not in KEYS:
        require(file, key, None)


def _change(file: Path, key: str, line: str, value: Any) -> None:
    """Writes a changed text after checking that it says what it should. Comments on their own lines stay."""
    with writing_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(file.with_name(f".{file.name}.lock"), mode=0o600):
            expected = {name: held for name, held in read_values(file).items() if name != key}
            expected |= {} if value is None else {key: value}
            content = _with(file.read_text(encoding="utf-8") if file.exists() else "", key, line)
            _require_says(content, expected, file)
            with atomic_file(file, durable=True, private=True) as stream:
                stream.write(content.encode())


def _with(content: str, key: str, line: str) -> str:
    """The text with a key's line in the place of its old one, or behind all keys that are in no table."""
    lines = content.splitlines(keepends=True)
    end = next((number for number, one in enumerate(lines) if one.lstrip().startswith("[")), len(lines))
    at = next((number for number in range(end) if re.match(rf"\s*{re.escape(key)}\s*=", lines[number])), None)
    if at is None:
        return _ended("".join(lines[:end])) + line + "".join(lines[end:])
    return "".join([*lines[:at], line, *lines[at + 1 :]])


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _require_says(content: str, expected: dict[str, Any], file: Path) -> None:
    try:
        says = toml_value(content.encode())
    except ContentError:
        says = None
    if says != expected:
        raise ConfigError(f"{file}: is written in a way that no command can change; edit it yourself")
