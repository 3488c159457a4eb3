"""The user's settings: the config file of `moonshine`, which flags override. No numpy, no torch."""

import argparse
import difflib
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from lora.errors import ConfigError
from lora.language import is_language, known_languages
from lora.system.artifacts import ADAPTER_FOLDER, CHECKPOINT_FOLDER
from lora.system.documents import ContentError, read_bytes, toml_value

FILE_NAME: Final = "config.toml"

LONGEST_POST_ROLL_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Settings:
    """The keys of the file. None for what the system or the model decides."""

    model: str | None = None
    """A hub id, `packaged:NAME`, or the folder of a model, an adapter, a run or an export."""
    language: str | None = None
    """Of `model`, where that does not say it itself."""
    microphone: str | None = None
    mode: str = "auto"
    in_background: str = "listen"
    theme: str = "dark"
    keep: bool = True
    post_roll: int = 250
    """Milliseconds."""
    keep_days: int = 90
    keep_mb: int = 2000


class Key(NamedTuple):
    """What is said of a key, and what its value may be: `check` gives what it must be instead, or None."""

    help: str
    check: Callable[[Any], str | None]
    example: str


def _one_of(*choices: str) -> Callable[[Any], str | None]:
    return lambda value: None if value in choices else f"{', '.join(choices[:-1])} or {choices[-1]}"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value.strip() and value.isprintable() else "text in one line, not empty"


def _language(value: Any) -> str | None:
    return None if isinstance(value, str) and is_language(value) else known_languages()


def _switch(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _milliseconds(value: Any) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return None if whole and 0 <= value <= LONGEST_POST_ROLL_MS else f"a whole number from 0 to {LONGEST_POST_ROLL_MS}, in milliseconds"


def _count(value: Any) -> str | None:
    return None if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000 else "a whole number from 1"


def _model(value: Any) -> str | None:
    if unfit := _text(value):
        return unfit
    folder = as_folder(value)
    place = value.startswith((".", "~")) or folder.is_absolute()
    return "the whole path of a folder that there is" if place and not (folder.is_absolute() and folder.is_dir()) else None


KEYS: Final[dict[str, Key]] = {
    "model": Key("hub id, packaged:NAME, or the folder of a run, an export, an adapter or a model", _model, "packaged:moonshine-tiny"),
    "language": Key("language of model, where it is named by its hub id", _language, "en"),
    "microphone": Key("index or part of the name of the microphone", _text, "USB"),
    "mode": Key("how to talk", _one_of("auto", "hold", "toggle", "vad"), "auto"),
    "in_background": Key("what hands-free does while another window has the focus", _one_of("listen", "pause"), "pause"),
    "theme": Key("colours of the screen", _one_of("dark", "light"), "dark"),
    "keep": Key("whether sound and text of each session are kept on this machine", _switch, "true"),
    "post_roll": Key("how long is listened after the release, in milliseconds", _milliseconds, "250"),
    "keep_days": Key("days after which a session that was not used goes", _count, "30"),
    "keep_mb": Key("megabytes that all sessions may take; the oldest go first", _count, "500"),
}


def as_folder(text: str) -> Path:
    """The folder that a text names, if it does: `~` is the user's own."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~NAME, and there is nobody of that name
        return Path(text)


def user_file() -> Path:
    """`$XDG_CONFIG_HOME/moonshine-lora/config.toml`, else in `~/.config`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "moonshine-lora" / FILE_NAME


def read_user_settings() -> Settings:
    """The user's settings, those of a fresh install if there is no file. Raises `ConfigError` with file, key and remedy."""
    file = user_file()
    values = read_values(file)
    for key, value in values.items():
        require(file, key, value, f"; moonshine config unset {shlex.quote(key)} removes it")
    return Settings(**values)


def read_values(file: Path) -> dict[str, Any]:
    """The keys of a file as they stand there, none if there is no file. Raises `ConfigError` when it is no TOML."""
    if not file.exists():
        return {}
    try:
        return toml_value(read_bytes(file, ConfigError))
    except ContentError as broken:
        raise ConfigError(f"{file}: {broken}; correct it, or remove it to start anew") from broken


def require(file: Path, key: str, value: Any, remedy: str = "") -> None:
    """Raises `ConfigError` for a key that there is not, where `remedy` ends the sentence, or a value that it cannot have."""
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"{file}: {key}: there is no such key{hint}, only {', '.join(KEYS)}{remedy}")
    if must := KEYS[key].check(value):
        shown = repr(value)[:80]
        raise ConfigError(f"{file}: {key}: must be {must}, not {shown}; for example: moonshine config set {key} {KEYS[key].example}")


def fill(options: argparse.Namespace, settings: Settings, *, screen: bool) -> None:
    """Puts the settings where no flag was given; `settled_in` becomes the file where the model is its own.

    A flag that names a model leaves the model and language of the file aside. Without a screen, or with `--file`, nobody presses keys.
    """
    options.theme, options.settled_in = settings.theme, None
    options.keep_days, options.keep_mb = settings.keep_days, settings.keep_mb
    options.keep = settings.keep if options.keep is None else options.keep
    options.in_background = options.in_background or settings.in_background
    options.post_roll = settings.post_roll if options.post_roll is None else options.post_roll
    options.mode = options.mode or (settings.mode if screen and options.file is None else "auto")
    if options.file is None:
        options.microphone = options.microphone or settings.microphone
    if options.model_id is not None or options.run is not None or options.adapter_dir or options.export_dir or settings.model is None:
        return
    options.settled_in = user_file()
    for name, value in as_flags(settings.model).items():
        setattr(options, name, value)
    options.language = options.language or settings.language


def as_flags(model: str) -> dict[str, Any]:
    """The flag of the app that names a model: by what its folder holds, else it is a model's id."""
    from lora.checkpoints.provenance import ADAPTER_SETTINGS
    from lora.runs.export_record import EXPORT_FILE

    folder = as_folder(model)
    if (folder / EXPORT_FILE).is_file():
        return {"export_dir": [folder]}
    if (folder / ADAPTER_SETTINGS).is_file():
        return {"adapter_dir": [folder]}
    if (folder / ADAPTER_FOLDER).is_dir() or (folder / CHECKPOINT_FOLDER).is_dir():
        return {"run": folder}
    return {"model_id": str(folder) if folder.is_dir() else model}
