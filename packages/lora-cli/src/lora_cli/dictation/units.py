"""`moonshine service`: the dictation service started with the desktop session, by systemd."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lora.console import ArgumentParser
from lora.errors import DictationError
from lora.system.files import atomic_file
from lora.system.terminal import say, shown_lines
from lora_cli.dictation.command import parser as dictate_parser

NAME: Final = "moonshine-dictate.service"

_UNIT: Final = """\
[Unit]
Description=Dictation with Moonshine
PartOf=graphical-session.target
After=graphical-session.target

[Service]
WorkingDirectory={folder}
ExecStart={command}
Restart=on-failure
RestartSec=5
# How a service ends that is told to by SIGTERM.
SuccessExitStatus=143

[Install]
WantedBy=graphical-session.target
"""


def main(arguments: list[str]) -> int:
    """Runs `moonshine service`; returns the exit code."""
    options, flags = _parser().parse_known_args(arguments)
    if options.action == "uninstall":
        if flags:
            raise DictationError(f"uninstall: takes no {flags[0]}")
        return _uninstall()
    dictate_parser().parse_args(flags)  # refuses here what the service would refuse at every login
    unit = unit_file(flags)
    if options.action == "show":
        print(shown_lines(unit), end="")
    else:
        _install(unit)
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="moonshine service",
        description="Start the dictation service with the desktop session, by a unit file of systemd.",
        epilog="After install and show, give the flags for moonshine dictate.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("install", help="write the unit file", add_help=False)
    actions.add_parser("show", help="print it", add_help=False)
    actions.add_parser("uninstall", help="remove it")
    return parser


def unit_file(flags: Sequence[str]) -> str:
    """A unit that runs `moonshine dictate` of this environment with these flags, in the current folder, for paths among them."""
    words = [sys.executable, "-m", "lora_cli.main", "dictate", *flags]
    return _UNIT.format(folder=_escaped(str(Path.cwd())), command=" ".join(_quoted(word) for word in words))


def _escaped(text: str) -> str:
    """Without specifiers. Raises `DictationError` for what no line of a unit can hold."""
    if not text.isprintable():
        raise DictationError(f"{text!r}: holds a character that a unit file cannot hold")
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    """A word of `ExecStart`, without variables."""
    escaped = _escaped(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"'


def unit_path() -> Path:
    """`$XDG_CONFIG_HOME/systemd/user/moonshine-dictate.service`, else in `~/.config`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user" / NAME


def _install(unit: str) -> None:
    if shutil.which("systemctl") is None:
        raise DictationError("systemctl is not installed, so nothing would start the unit; start moonshine dictate with your desktop")
    file = unit_path()
    with atomic_file(file) as stream:
        stream.write(unit.encode())
    say(f"{file} is written; start it now and at every login: systemctl --user daemon-reload && systemctl --user enable --now {NAME}")


def _uninstall() -> int:
    file = unit_path()
    if not file.exists():
        raise DictationError(f"{file}: is not there, so there is nothing to remove")
    file.unlink()
    say(f"{file} is removed; end what still runs: systemctl --user stop {NAME} && systemctl --user daemon-reload")
    return 0
