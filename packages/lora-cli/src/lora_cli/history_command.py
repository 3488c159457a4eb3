"""`moonshine history`: what was said in earlier sessions, and how much of it stays on the disk."""

import shlex
from argparse import Namespace
from pathlib import Path

from lora.console import ArgumentParser, number_from_zero
from lora.errors import ConfigError
from lora.system.terminal import say
from lora_cli.history import corrections_of, default_corrections, save_entries, spoken
from lora_cli.screen.standing import amount
from lora_cli.session import SaveFormat
from lora_cli.sessions import DAY_S, MEGABYTE, Session, named, remove, sessions
from lora_cli.settings import read_user_settings


def main(arguments: list[str]) -> int:
    """What `moonshine history` is told; returns the exit code: 1 for a search that finds nothing."""
    options = _parser().parse_args(arguments)
    if options.action == "list":
        _list()
    elif options.action == "show":
        _show(*named([options.session]))
    elif options.action == "search":
        return _search(options.text)
    elif options.action == "export":
        _export(options)
    elif options.action == "corrections":
        _corrections(options.file or default_corrections())
    else:
        _clear(options)
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="moonshine history", description="What was said in earlier sessions, which are kept on this machine only.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="show all sessions with their length and size")
    showing = actions.add_parser("show", help="show what was said in a session")
    showing.add_argument("session", metavar="SESSION", help="its name or the start of it, or last")
    searching = actions.add_parser("search", help="find words in all sessions")
    searching.add_argument("text", metavar="TEXT", help="words, in small letters or capitals")
    exporting = actions.add_parser("export", help="write sessions as text, a manifest with its audio, or subtitles")
    exporting.add_argument("session", nargs="*", metavar="SESSION", help="default: all")
    exporting.add_argument("--output", type=Path, required=True, metavar="FILE", help=f"the file: {_suffixes()}")
    clearing = actions.add_parser("clear", help="remove sessions from the disk")
    clearing.add_argument("session", nargs="*", metavar="SESSION", help="name or the start of it, or last")
    clearing.add_argument("--all", action="store_true", help="all sessions")
    clearing.add_argument("--older-than", type=number_from_zero, metavar="DAYS", help="sessions not used for so many days")
    counting = actions.add_parser("corrections", help="how many corrections there are, and how to train on them")
    counting.add_argument("--file", type=Path, metavar="FILE", help="the manifest (default: that of the app)")
    return parser


def _suffixes() -> str:
    return ", ".join(f".{form}" for form in SaveFormat)


def _list() -> None:
    there = sessions()
    for one in there:
        entries = one.entries()
        minutes = sum(entry.seconds for entry in entries) / 60
        say(f"{one.name}  {len(entries):5} utterances  {minutes:6.1f} min  {one.size / MEGABYTE:6.1f} MB")
    settings = read_user_settings()
    total = sum(one.size for one in there) / MEGABYTE
    say(
        f"{len(there)} sessions, {total:.1f} MB; kept for {settings.keep_days} days after their last use, up to {settings.keep_mb} MB "
        "(moonshine config set keep_days or keep_mb)"
    )


def _show(session: Session) -> None:
    for one in session.entries():
        say(f"{one.started_at.astimezone():%Y-%m-%d %H:%M:%S}  {spoken(one)}")


def _search(text: str) -> int:
    found = [(session, one) for session in sessions() for one in session.entries() if text.casefold() in spoken(one).casefold()]
    for session, one in found:
        say(f"{session.name}  {one.started_at.astimezone():%H:%M:%S}  {spoken(one)}")
    return 0 if found else 1


def _export(options: Namespace) -> None:
    suffix = options.output.suffix.removeprefix(".")
    if suffix not in list(SaveFormat):
        raise ConfigError(f"--output {options.output}: the name must end in {_suffixes()}, which says what is written")
    entries = [(one, session.audio(one)) for session in (named(options.session) or sessions()) for one in session.entries()]
    if not entries:
        raise ConfigError("nothing was said in these sessions; moonshine history list shows them")
    save_entries(options.output, SaveFormat(suffix), entries)
    say(f"{options.output}: {len(entries)} utterances")


def _clear(options: Namespace) -> None:
    if not options.session and not options.all and options.older_than is None:
        raise ConfigError("which sessions? Name them, or give --older-than DAYS or --all")
    wanted = sessions() if options.all else named(options.session)
    if options.older_than is not None:
        import time

        old = time.time() - options.older_than * DAY_S
        wanted = [one for one in (wanted or sessions()) if one.used_at < old]
    gone = remove(wanted)
    size = sum(one.size for one in gone) / MEGABYTE
    kept = f"; {len(wanted) - len(gone)} still go on and stay" if len(gone) < len(wanted) else ""
    say(f"removed {len(gone)} sessions, {size:.1f} MB{kept}")


def _corrections(file: Path) -> None:
    held = corrections_of(file)
    say(f"{file}: {amount(held, where=None)}")
    if held.count:
        say("To train on them you also need test speech of your own and general speech; docs/voice.md, Training on corrections:")
        say(f"  moonshine-lora experiment --config personal --train-manifest {shlex.quote(str(file))} --domain-manifest TEST {_GENERAL}")


_GENERAL = "--heldout-manifest GENERAL --replay-manifest REPLAY --output-dir outputs/personal"
