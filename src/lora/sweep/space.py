"""What a sweep tries: ranges and choices of settings, the usual ones or a user's. No torch, no Optuna."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from lora.config import RunConfig, changed, dotted, flat, kind_of
from lora.errors import ConfigError
from lora.system.documents import read_toml

SECTIONS: Final = ("adapter", "train", "augment")
"""Sections whose settings may vary. All others decide what is trained on, what is compared, or how."""

FIXED: Final = frozenset(
    {
        *("adapter.method", "adapter.from_adapter", "train.seed", "train.replay_targets", "train.strength_sweep"),
        *("train.checkpoint_interval", "train.gradient_checkpointing"),
    }
)
"""Settings of these sections that decide what is compared, too, or change no number."""

DECODER_PARTS: Final = frozenset({"decoder", "self", "cross", "mlp"})
"""Names of `--lora-targets` that leave the encoder alone."""

ENCODER_RATE: Final = "train.encoder_learning_rate"
LARGEST_RANK: Final = 64
"""No usual choice is above it, unless it is given: layers of the smallest model have 288 inputs, and 32 did what 2 did on AN4."""

AS_GIVEN: Final = "as given"
_DIGITS: Final = 3


class Range(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Numbers from `low` to `high`, drawn evenly, or evenly by their logarithm."""

    name: str
    low: float
    high: float
    log: bool = False
    whole: bool = False

    def value(self, drawn: float) -> float:
        """A drawn number as it is set: whole, or with three digits."""
        return int(drawn) if self.whole else float(f"{drawn:.{_DIGITS}g}")


class Choice(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Options by their labels, each with the settings that it makes."""

    name: str
    options: dict[str, dict[str, Any]]


Dimension = Range | Choice
Space = tuple[Dimension, ...]
Values = dict[str, float | str]
"""Of some dimensions, by name: a number, or an option's label."""


class _RangeTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    low: float
    high: float
    log: bool = False


def usual_space(config: RunConfig) -> Space:
    """Ranges around the settings as they are given, of what usually matters; settings that do nothing in this run are left out."""
    adapter, train = config.adapter, config.train
    found: list[Dimension] = []
    if adapter.method == "lora" and adapter.from_adapter is None:
        targets = dict.fromkeys((adapter.lora_targets, *(() if train.gradient_checkpointing else ("decoder",)), "all"))
        found.append(_choice("lora_targets", *({"lora_targets": one} for one in targets)))
        if adapter.lora_ranks is None:
            ranks = {max(1, adapter.lora_r // 2), *(adapter.lora_r * factor for factor in (1, 2, 4))}
            able = sorted(rank for rank in ranks if rank <= max(adapter.lora_r, LARGEST_RANK))
            found.append(_choice("lora_r", *({"lora_r": rank} for rank in able)))
        found.append(Range(name="adapter.lora_dropout", low=0.0, high=max(0.2, adapter.lora_dropout)))
    if adapter.method == "full":
        found.append(_around("train.full_learning_rate", train.full_learning_rate, 1 / 4, 20))
    else:
        found.append(_around("train.learning_rate", train.learning_rate, 1 / 4, 4))
        found.append(_around(ENCODER_RATE, train.encoder_learning_rate, 1 / 4, 8))
    if train.max_steps is None:
        found.append(_around("train.epochs", train.epochs, 1 / 2, 2))
    if config.data.replay_manifest is not None and train.replay_ratio > 0:
        found.append(_around("train.replay_ratio", train.replay_ratio, 1 / 2, min(4.0, 4.0 / train.replay_ratio)))
    if config.augment.augment_copies == 0:
        faster = {"augment_copies": 1, "speed_min": 0.9, "speed_max": 1.1}
        found.append(_choice("copies", {}, faster))
    return tuple(found)


def _around(name: str, value: float, down: float, up: float) -> Range:
    return Range(name=name, low=value * down, high=value * up, log=True)


def _choice(name: str, *options: Mapping[str, Any]) -> Choice:
    """Options as settings without their sections. The label of one that sets what the choice is named after is the value alone."""
    labelled: dict[str, dict[str, Any]] = {}
    for settings in options:
        alone = list(settings) == [name]
        told = str(settings[name]) if alone else ", ".join(f"{key} {_told(value)}" for key, value in settings.items()) or AS_GIVEN
        labelled[told] = {dotted(key): value for key, value in settings.items()}
    return Choice(name=dotted(name) if all(list(settings) == [name] for settings in options) else name, options=labelled)


def _told(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_space(file: Path, config: RunConfig) -> Space:
    """The ranges and choices of a user's file, a table each.

    A range has `low` and `high`, and `log`; its table has the setting's name. A choice has `choices`: values of the setting that the table
    is named after, or tables of several settings each, under any name. Raises `ConfigError`, with file and table, for what is none of
    these, for a setting that does not exist or is not to vary, for a value of another type or outside what the setting allows, for a range
    without numbers in it, for a single choice, for a setting in two places, and where the settings as given are not in the space.
    """
    tables = read_toml(file, ConfigError)
    if not tables:
        raise ConfigError(f"{file}: holds no setting to try; write a table for each, such as [learning_rate] with low and high")
    space = tuple(_dimension(file, name, table) for name, table in tables.items())
    _require_apart(file, space)
    for one in space:
        for settings in _ends(one):
            try:
                changed(config, settings, str(file))
            except ConfigError as error:
                raise ConfigError(f"{file}: [{_short(one.name)}]: {str(error).removeprefix(f'{file}: ')}") from error
    if config.train.max_steps is not None and any("train.epochs" in settings for one in space for settings in _ends(one)):
        raise ConfigError(f"{file}: epochs changes nothing where max_steps is set; leave one of them out")
    given_values(space, config, str(file))
    return space


def _dimension(file: Path, name: str, table: Any) -> Dimension:
    place = f"{file}: [{name}]"
    if not isinstance(table, dict):
        raise ConfigError(f"{file}: {name} must be a table, written [{name}], with low and high, or with choices")
    if "choices" in table:
        return _read_choice(place, name, table)
    setting = _setting(place, name)
    try:
        given = msgspec.convert(table, _RangeTable)
    except msgspec.ValidationError as error:
        told = str(error).replace("`", "").replace("Object ", "").replace("Expected", "must be").replace(" - at $.", ": ")
        raise ConfigError(f"{place}: {told}; a range has low, high and perhaps log, anything else has choices") from error
    return _range(place, setting, given)


def _range(place: str, setting: str, given: _RangeTable) -> Range:
    kind = kind_of(setting)
    if kind not in (int, float):
        raise ConfigError(f"{place}: is no number, so it has no range; give choices = [...]")
    if not (math.isfinite(given.low) and math.isfinite(given.high) and given.low < given.high):
        raise ConfigError(f"{place}: low {given.low:g} is not below high {given.high:g}, so there is nothing to try")
    if given.log and given.low <= 0:
        raise ConfigError(f"{place}: log needs a low above 0, not {given.low:g}")
    if kind is int and not (given.low.is_integer() and given.high.is_integer()):
        raise ConfigError(f"{place}: low and high must be whole numbers")
    return Range(name=setting, low=given.low, high=given.high, log=given.log, whole=kind is int)


def _read_choice(place: str, name: str, table: dict[str, Any]) -> Choice:
    options = table["choices"]
    if set(table) != {"choices"} or not isinstance(options, list):
        raise ConfigError(f"{place}: choices = [...] stands alone, with a list of values, or of tables of settings")
    if len(options) < 2:
        raise ConfigError(f"{place}: has {len(options)} choices, so there is nothing to try; give two or more")
    several = [option if isinstance(option, dict) else {name: option} for option in options]
    for setting in dict.fromkeys(key for option in several for key in option):
        _setting(place, setting)
    choice = _choice(name, *several)
    if len(choice.options) < len(options):
        raise ConfigError(f"{place}: has a choice twice; leave one of them out")
    return choice


def _setting(place: str, name: str) -> str:
    try:
        setting = dotted(name)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    if setting.split(".")[0] not in SECTIONS or setting in FIXED:
        raise ConfigError(f"{place}: {name} is the same for all trials, or they could not be compared; set it in the config or by its flag")
    return setting


def _require_apart(file: Path, space: Space) -> None:
    seen: dict[str, str] = {}
    for one in space:
        for setting in dict.fromkeys(key for settings in _ends(one) for key in settings):
            if setting in seen:
                raise ConfigError(
                    f"{file}: {_short(setting)} is in [{_short(seen[setting])}] and in [{_short(one.name)}]; keep one of them"
                )
            seen[setting] = one.name


def _ends(one: Dimension) -> Iterator[dict[str, Any]]:
    """The settings at both ends of a range, or of every option."""
    if isinstance(one, Choice):
        yield from one.options.values()
    else:
        yield from ({one.name: one.value(end)} for end in (one.low, one.high))


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def given_values(space: Space, config: RunConfig, origin: str) -> Values:
    """Where the settings as given lie in the space. Raises `ConfigError` if they do not: their own trial is what others are held to."""
    held, values = flat(config), Values()
    for one in varied(space, config):
        if isinstance(one, Range):
            value = float(held[one.name])
            if not one.low <= value <= one.high:
                raise ConfigError(
                    f"{origin}: [{_short(one.name)}]: the config has {value:g}, outside {one.low:g} to {one.high:g}; widen the range, "
                    f"or set another value in the config or by its flag"
                )
            values[one.name] = int(value) if one.whole else value
        else:
            fitting = [label for label, settings in one.options.items() if all(held[name] == value for name, value in settings.items())]
            if not fitting:
                raise ConfigError(
                    f"{origin}: [{_short(one.name)}]: the settings as given are none of the choices ({'; '.join(one.options)}); add them"
                )
            values[one.name] = max(fitting, key=lambda label: len(one.options[label]))
    return values


def varied(space: Space, config: RunConfig) -> Iterator[Dimension]:
    """The dimensions that change something where the layers are those of `config`: without an adapted encoder it has no rate."""
    for one in space:
        if one.name != ENCODER_RATE or adapts_encoder(config):
            yield one


def adapts_encoder(config: RunConfig) -> bool:
    return not DECODER_PARTS.issuperset(config.adapter.lora_targets.split(","))


def in_order(space: Space) -> tuple[Dimension, ...]:
    """Choices before ranges: which layers train decides whether the encoder has a rate."""
    return tuple(sorted(space, key=lambda one: isinstance(one, Range)))


def settings_of(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that drawn values stand for, by their dotted names."""
    found: dict[str, Any] = {}
    for one in space:
        if one.name in values:
            drawn = values[one.name]
            found |= one.options[drawn] if isinstance(one, Choice) else {one.name: one.value(drawn)}
    return found


def with_values(config: RunConfig, settings: Mapping[str, Any], origin: str) -> RunConfig:
    """The config with a trial's settings. Alpha follows the rank, so that the scale of the update stays, unless it is set itself.

    Raises `ConfigError` for settings that contradict each other.
    """
    wanted = dict(settings)
    if "adapter.lora_r" in wanted and "adapter.lora_alpha" not in wanted:
        wanted["adapter.lora_alpha"] = config.adapter.lora_alpha * wanted["adapter.lora_r"] / config.adapter.lora_r
    return changed(config, wanted, origin)


def corners(space: Space, config: RunConfig, origin: str) -> Iterator[RunConfig]:
    """The config with each end of each range, and each option, in turn: what can be checked before any trial."""
    for one in space:
        for settings in _ends(one):
            yield with_values(config, settings, origin)
