"""`moonshine dictate`: the flags of the dictation service, and its life."""

import threading

from lora.console import ArgumentParser
from lora_cli.dictation.address import socket_path
from lora_cli.dictation.delivery import choose
from lora_cli.dictation.server import only_service
from lora_cli.settings import fill, read_user_settings


def main(arguments: list[str]) -> int:
    """Runs the service until a signal ends it."""
    options = parser().parse_args(arguments)
    fill(options, read_user_settings(), screen=False)
    way = choose(options.to, paste_key=options.paste_key, any_window=options.any_window)
    path = socket_path()
    with only_service(path):
        from lora_cli.dictation.service import Service
        from lora_cli.history import History
        from lora_cli.main import make_session
        from lora_cli.sessions import tidy

        results = History(keep=options.keep)
        try:
            tidy(options.keep_days, options.keep_mb)
            Service(make_session(options, results, threading.Event()), way).run(path)
        finally:
            results.close()
    return 0


def parser() -> ArgumentParser:
    """The flags of the service; those of `moonshine service install` too."""
    from lora_cli.main import add_keep_flag, add_post_roll_flag, add_voice_flags

    flags = ArgumentParser(
        prog="moonshine dictate",
        description="Run the dictation service: what you say between two `moonshine toggle` is written into the window that has the focus.",
    )
    add_voice_flags(flags)
    flags.add_argument("--microphone", metavar="INDEX|NAME", help="the microphone, by its index or part of its name")
    flags.add_argument(
        "--to",
        default="paste",
        metavar="WAY",
        help="where text goes: paste, type (into the window), clipboard, stdout, or a program: 'cmd {text}' (default: paste)",
    )
    flags.add_argument(
        "--paste-key", default="ctrl+v", metavar="KEY", help="the key that pastes (default: ctrl+v; most terminals need ctrl+shift+v)"
    )
    flags.add_argument(
        "--any-window",
        action="store_true",
        help="write into the window that then has the focus, even if it is another one than at the start",
    )
    add_post_roll_flag(flags)
    add_keep_flag(flags)
    flags.set_defaults(file=None, channel=None, track=None, compare=False, mode=None, in_background=None)
    return flags
