"""`moonshine-lora serve`: flags, and checks before anything is loaded."""

import argparse
import importlib.util
import os
import re
import stat
from pathlib import Path
from socket import socket
from typing import Final

from lora.console import add_computing, language_code, positive_int, positive_number
from lora.errors import ConfigError, ServeError
from lora.serving.sockets import Address, bound, is_local, where

NEEDED: Final = ("starlette", "uvicorn", "python_multipart", "prometheus_client", "wyoming")
LOOPBACK: Final = "127.0.0.1"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_LEAST_KEY: Final = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `moonshine-lora serve`."""
    what = parser.add_argument_group("what is served")
    what.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="a run's folder, an adapter's folder, or a checkpoint (hub id, folder, packaged:moonshine-tiny), under the name that clients "
        "send; may be given several times. Wyoming's clients that name none get the first",
    )
    what.add_argument(
        "--run", dest="model", action="append", type=_run_by_its_name, metavar="RUN", help="--model with the name of the run's folder"
    )
    what.add_argument(
        "--language", type=language_code, metavar="LANG", help="language of checkpoints; runs and adapters have their own (default: en)"
    )
    add_computing(what)
    what.add_argument("--eval-batch-size", type=positive_int, default=32, metavar="N", help="largest batch in decoding (default: 32)")
    place = parser.add_argument_group("where, and for whom")
    place.add_argument("--host", default=LOOPBACK, metavar="HOST", help=f"address to listen on (default: {LOOPBACK}: this machine only)")
    place.add_argument(
        "--port", type=_port, default=8000, metavar="N", help="port of the OpenAI-compatible API; 0 takes a free one (default: 8000)"
    )
    place.add_argument("--wyoming", metavar="[HOST:]PORT", help="speak Wyoming, Home Assistant's protocol, there too; it knows no keys")
    place.add_argument("--api-key-file", type=Path, metavar="FILE", help="file with the key that clients have to send (default: no key)")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-upload-mb", type=positive_number, default=100.0, metavar="X", help="largest request (default: 100)")
    limits.add_argument("--max-minutes", type=positive_number, default=60.0, metavar="X", help="longest recording (default: 60)")
    limits.add_argument(
        "--queue",
        type=positive_int,
        default=64,
        metavar="N",
        help="most requests at once; others are refused and told when to retry (default: 64)",
    )
    limits.add_argument(
        "--read-timeout", type=positive_number, default=30.0, metavar="S", help="longest pause of a client while it sends (default: 30)"
    )


def execute(options: argparse.Namespace) -> int:
    """Serves until it is stopped."""
    _require_extra()
    if not options.model:
        raise ConfigError("nothing is served; give --run RUN, or --model NAME=SOURCE")
    named = [_named(text) for text in options.model]
    key = None if options.api_key_file is None else read_key(options.api_key_file)
    listening = bound(Address(options.host, options.port, "--port"))
    of_wyoming = None if options.wyoming is None else bound(_wyoming_address(options.wyoming))
    with listening:
        _require_no_key_around(of_wyoming, key)
        from lora.serving.running import run

        run(options, named, key, listening, of_wyoming)
    return 0


def read_key(path: Path) -> str:
    """The key in a file. Raises `ServeError` for one that others can read, or that holds no key."""
    try:
        mode, text = path.stat().st_mode, path.read_text("ascii").strip()
    except OSError as error:
        raise ServeError(f"--api-key-file {path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ServeError(f"--api-key-file {path}: a key is of ASCII characters") from error
    if os.name == "posix" and mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ServeError(f"--api-key-file {path}: other users can read or change it; chmod 600 {path}")
    if len(text) < _LEAST_KEY or len(text.split()) != 1:
        raise ServeError(
            f"--api-key-file {path}: put one key of at least {_LEAST_KEY} characters into it, such as `openssl rand -hex 32` gives"
        )
    return text


def _require_extra() -> None:
    if absent := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ServeError(f"serve needs {', '.join(absent)}, which is not installed: pip install 'moonshine-lora[serve]'")


def _require_no_key_around(of_wyoming: socket | None, key: str | None) -> None:
    """Raises `ConfigError` if clients could bypass the key."""
    if of_wyoming is not None and key is not None and not is_local(of_wyoming):
        raise ConfigError(
            f"--wyoming {where(of_wyoming)}: Wyoming knows no keys, so --api-key-file would not keep others out; listen on {LOOPBACK}, "
            "or start a second server without a key"
        )


def _named(text: str) -> tuple[str, str]:
    name, equals, source = text.partition("=")
    if not equals or not source or not _NAME.fullmatch(name):
        raise ConfigError(
            f"--model {text}: write NAME=SOURCE, such as tiny=packaged:moonshine-tiny; a name is of letters, digits, '.', '_', ':' and '-'"
        )
    return name, source


def _run_by_its_name(text: str) -> str:
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such run folder")
    name = folder.resolve().name
    if not _NAME.fullmatch(name):
        raise argparse.ArgumentTypeError(f"{text}: clients cannot send {name!r}; choose a name with --model NAME={text}")
    return f"{name}={text}"


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"must be a port, 0 to 65535, not {text!r}")
    return int(text)


def _wyoming_address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not (port.isdecimal() and int(port) < 1 << 16):
        raise ConfigError(f"--wyoming {text}: write PORT or HOST:PORT, such as 10300 or 0.0.0.0:10300")
    return Address(host.strip("[]") or LOOPBACK, int(port), "--wyoming")
