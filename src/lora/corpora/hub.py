"""Speech datasets of the Hugging Face hub, or a local folder in the same layout (parquet or audio folders; no loading scripts).

Audio is never decoded by `datasets`: its decoder needs a system FFmpeg, and its samples changed between versions. The bytes go
through `lora.audio.loading` like every other recording. A token in `HF_TOKEN`, or of `hf auth login`, is used as it is everywhere
on the hub.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lora.audio.loading import EncodedAudio
from lora.corpora.build import Item, field_of, require_columns
from lora.errors import ConfigError, FetchError
from lora.system.process_settings import mute

_log = logging.getLogger(__name__)

LIBRISPEECH: Final = "openslr/librispeech_asr"
_TIMEOUT_S = 20
_EMPTY_FILE: Final = "BatchSize must be greater than 0"
"""The error of reading a parquet file without rows."""

_PARTS = r"(?P<part>train|dev|validation|test)"
_HOURS = r"(?:[._-](?P<hours>100|360|500))?"
_SUBSET = r"(?P<subset>clean|other)"
# One split of LibriSpeech goes by many names: `test` of the config `clean`, `test.clean`, `test_clean`, `test-clean`, `clean.test`.
_LIBRISPEECH_NAMES: Final = (re.compile(f"{_PARTS}[._-]{_SUBSET}{_HOURS}"), re.compile(f"{_SUBSET}[._/-]{_PARTS}{_HOURS}"))


@dataclass(frozen=True, slots=True)
class HubSource:
    """A split of a dataset and the columns that are read. `dataset` is a hub id or a local folder."""

    dataset: str
    split: str
    config: str | None = None
    audio_column: str = "audio"
    text_column: str = "text"
    speaker_column: str | None = "speaker_id"
    """None when the dataset does not say who speaks."""
    id_column: str | None = "id"
    """None numbers the utterances in the dataset's order."""
    revision: str | None = None
    """A commit, tag or branch on the hub; None is the newest."""
    part: tuple[int, int] | None = None
    """Number and count: of the files that the split is made of, only this share is read. None reads all."""
    local: str = "--dataset FOLDER"
    """How a command takes a local copy, for messages."""

    @property
    def remedy(self) -> str:
        """What to do about a split that is not there, for commands that have a flag for it."""
        return "; set --split" if self.local.startswith("--dataset") else ""


@dataclass(frozen=True, slots=True)
class _Place:
    """A split as `datasets` names it. `data_dir` is a config of a local folder that does not declare its configs."""

    config: str | None
    split: str
    data_dir: str | None = None

    def __str__(self) -> str:
        return f"{self.config or self.data_dir or 'default'}/{self.split}"


def items(source: HubSource) -> Iterator[Item]:
    """Every recording of the split, in the dataset's order, with its audio still encoded. Read as a stream: nothing is kept.

    Raises:
        FetchError: the dataset is not there, not open to this account or token, or the hub cannot be reached.
        ConfigError: it has no such config, split, part or column.
    """
    with _hub_errors(source):
        rows, paths = _open(source)
        for number, row in enumerate(rows):
            if paths:
                row = {**row, source.audio_column: {"bytes": None, "path": row[source.audio_column]}}
            yield _item(source, number, row)


def candidates(config: str | None, split: str) -> list[tuple[str | None, str]]:
    """The (config, split) pairs that may be meant, the literal one first; more than one only for LibriSpeech's names."""
    found: list[tuple[str | None, str]] = [(config, split)]
    wanted = next((match for pattern in _LIBRISPEECH_NAMES if (match := pattern.fullmatch(split))), None)
    if wanted is not None:
        subset, part, hours = wanted["subset"], wanted["part"], wanted["hours"]
    elif config in ("clean", "other") and (plain := re.fullmatch(_PARTS + _HOURS, split)):
        subset, part, hours = config, plain["part"], plain["hours"]
    else:
        return found
    for name in (part, *({"dev": ("validation",), "validation": ("dev",)}.get(part, ()))):
        found.append((subset, f"{name}.{hours}" if hours else name))
        for dot in "._-":
            found += [(place, dot.join(filter(None, (name, subset, hours)))) for place in (config, "all", "default", None)]
    return list(dict.fromkeys(found))


def _open(source: HubSource) -> tuple[Any, bool]:
    """The rows of the split, and whether their audio column holds paths instead of the bytes."""
    import datasets
    from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder

    mute("datasets")
    _require_reachable(source)
    place = _find(source)
    _log.info("reading %s of %s", place, source.dataset)
    builder = datasets.load_dataset_builder(source.dataset, place.config, data_dir=place.data_dir, revision=source.revision)
    folder = isinstance(builder, FolderBasedBuilder)
    rows = builder.as_streaming_dataset(split=place.split)
    if source.part is not None:
        rows = _part(rows, source.part, f"{source.dataset} ({place})")
    names = rows.column_names if rows.column_names is not None else list(next(iter(rows.decode(False).take(1)), ()))
    if not names:
        raise FetchError(f"{source.dataset} ({place}): holds no recording; choose another --config, --split or --part")
    require_columns(
        f"{source.dataset} ({place})",
        names,
        {
            "--audio-column": source.audio_column,
            "--text-column": source.text_column,
            "--speaker-column": source.speaker_column,
            "--id-column": source.id_column,
        },
    )
    if rows.features is not None and isinstance(rows.features[source.audio_column], datasets.Audio):
        # An audio folder gives paths, and `datasets` wants a codec installed even to hand on a path as `Audio`.
        rows = rows.cast_column(source.audio_column, datasets.Value("string") if folder else datasets.Audio(decode=False))
    return rows, folder


def _part(rows: Any, part: tuple[int, int], name: str) -> Any:
    number, count = part
    if count > rows.num_shards:
        raise ConfigError(f"{name}: --part {number}/{count}: it is made of {rows.num_shards} files, so there are at most that many parts")
    return rows.shard(count, number - 1)


def _require_reachable(source: HubSource) -> None:
    """One request without retries, so that a missing network or dataset is reported at once, not after half a minute."""
    if _is_local(source):
        return
    import huggingface_hub

    mute("huggingface_hub")
    huggingface_hub.HfApi().dataset_info(source.dataset, revision=source.revision, timeout=_TIMEOUT_S)


def _is_local(source: HubSource) -> bool:
    if Path(source.dataset).is_dir():
        return True
    if source.dataset.startswith((".", "/", "~")) or source.dataset.count("/") > 1:
        raise FetchError(f"{source.dataset}: no such folder")
    return False


def _find(source: HubSource) -> _Place:
    """The first candidate that the dataset has."""
    import datasets

    configs: list[str] = datasets.get_dataset_config_names(source.dataset, revision=source.revision)
    known: dict[str, list[str]] = {}
    tried: list[str] = []
    for config, split in candidates(source.config, source.split):
        place = _place(source, configs, config, split)
        if place is None:
            continue
        if str(place) in tried:
            continue
        tried.append(str(place))
        name = place.config or place.data_dir or "default"
        if name not in known:
            known[name] = datasets.get_dataset_split_names(source.dataset, place.config, data_dir=place.data_dir, revision=source.revision)
        if split in known[name]:
            return place
    if source.config is not None and source.config not in {*configs, *known}:
        raise ConfigError(f"{source.dataset}: has no config {source.config!r}, only {', '.join(configs[:20])}; set --config")
    if not tried:
        raise ConfigError(f"{source.dataset}: has several configs, {', '.join(configs[:20])}; name one with --config")
    there = "; ".join(f"{name}: {', '.join(splits)}" for name, splits in known.items())
    raise ConfigError(f"{source.dataset}: has no split {source.split!r}; tried {', '.join(tried)}; available are {there}{source.remedy}")


def _place(source: HubSource, configs: list[str], config: str | None, split: str) -> _Place | None:
    if config is None:
        only = configs[0] if len(configs) == 1 else "default"
        return _Place(only, split) if only in configs else None
    if config in configs:
        return _Place(config, split)
    if Path(source.dataset, config).is_dir():
        return _Place(None, split, data_dir=config)
    return None


def _item(source: HubSource, number: int, row: Mapping[str, Any]) -> Item:
    identity = str(row[source.id_column]) if source.id_column is not None else f"{number:07d}"
    text = row[source.text_column]
    if not isinstance(text, str):
        raise ConfigError(f"{source.dataset}: {identity}: column {source.text_column!r} holds {type(text).__name__}; set --text-column")
    return Item(identity, _encoded(source, identity, row[source.audio_column]), text, field_of(dict(row), source.speaker_column))


def _encoded(source: HubSource, identity: str, value: Any) -> EncodedAudio:
    if not isinstance(value, Mapping) or not {"bytes", "path"} <= value.keys():
        raise ConfigError(f"{source.dataset}: {identity}: column {source.audio_column!r} holds no encoded audio; set --audio-column")
    name = value["path"] or identity
    if value["bytes"] is not None:
        return EncodedAudio(value["bytes"], name)
    import fsspec  # type: ignore[import-untyped]

    with fsspec.open(name, "rb") as stream:  # audio folders give the file's place, on this machine or on the hub
        return EncodedAudio(stream.read(), name)


@contextmanager
def _hub_errors(source: HubSource) -> Iterator[None]:
    """Turns what the hub's libraries raise into one line that names the local folder as the way out."""
    try:
        yield
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        advice = "" if Path(source.dataset).is_dir() else f", or pass a local copy as {source.local}"
        raise FetchError(f"{source.dataset}: {reason}{advice}") from error


def _reason(error: Exception) -> str | None:
    """The message for an error of the hub's libraries; None for any other error."""
    import datasets
    from huggingface_hub import errors

    if isinstance(error, datasets.exceptions.DatasetsError) and isinstance(error.__cause__, errors.HfHubHTTPError):
        return _reason(error.__cause__)
    if isinstance(error, errors.GatedRepoError):
        return "is gated; accept its terms on its page and set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return "has no such revision on the hub; check --revision"
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError | datasets.exceptions.DatasetNotFoundError):
        return "is not on the hub, or private; check its name and set HF_TOKEN if it is private"
    if isinstance(error, json.JSONDecodeError):
        return "is on the hub, and what answers there is something else, such as a page to sign in; check HF_ENDPOINT and the network"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "is on the hub, and the hub's libraries are told to stay offline; unset HF_HUB_OFFLINE"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub refuses ({_first_line(error)}); check HF_TOKEN"
    # Which HTTP client the hub's library uses depends on its version.
    unreachable = type(error).__module__.partition(".")[0] in ("httpx", "httpx2")
    if unreachable or isinstance(error, ConnectionError | errors.LocalEntryNotFoundError):
        return f"is on the hub, which cannot be reached ({_first_line(error)}); check the network"
    if isinstance(error.__cause__ or error, StopIteration) or _EMPTY_FILE in str(error):
        return "cannot be read (a file of it holds no rows); take that file out"
    broken = type(error).__module__.partition(".")[0] == "pyarrow"
    kinds = datasets.exceptions.DatasetsError | datasets.data_files.EmptyDatasetError | datasets.inspect.SplitsNotFoundError
    if broken or isinstance(error, kinds):
        return f"cannot be read ({_first_line(error.__cause__ or error)}); it must hold parquet files or an audio folder"
    if isinstance(error, RuntimeError) and "scripts are no longer supported" in str(error):
        return "comes as a loading script, which `datasets` no longer runs; look for a parquet version"
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
