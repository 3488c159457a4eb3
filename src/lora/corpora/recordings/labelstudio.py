"""Label Studio's JSON export: regions of a recording, each with a text area and perhaps a label, the speaker's. Nothing is fetched."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from lora.audio.decoding import AUDIO_SUFFIXES
from lora.corpora.build import Bad
from lora.corpora.recordings.segments import Segment
from lora.errors import ManifestError
from lora.system.documents import read_json
from lora.system.files import is_regular

_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that was uploaded."""

_TEXT: Final = "textarea"
_LABELS: Final = ("labels", "choices")


@dataclass(slots=True)
class _Region:
    """A region, or a whole task where it has no times: what its results say."""

    start_s: float | None = None
    end_s: float | None = None
    channel: int = 0
    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


def label_studio_segments(path: Path, audio_dir: Path | None = None) -> Iterator[Segment | Bad]:
    """The regions with a text, task by task. Recordings lie in `audio_dir`, else beside the export.

    Raises `ManifestError` if it cannot be read, or is another export than "JSON".
    """
    tasks = read_json(path, Any, ManifestError)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ManifestError(f"{path}: is no list of tasks; choose JSON in Label Studio's export")
    if not tasks:
        raise ManifestError(f"{path}: holds no task")
    for number, task in enumerate(tasks, start=1):
        if "annotations" not in task:
            raise ManifestError(f"{path}: task {number} has no `annotations`; choose JSON in Label Studio's export, not JSON-MIN")
        yield from _task(f"{path.name} task {task.get('id', number)}", task, audio_dir or path.parent)


def _task(place: str, task: Mapping[str, Any], folder: Path) -> Iterator[Segment | Bad]:
    try:
        results = _results(task)
        recording = _recording(task, folder)
        regions = _regions(results)
    except _TaskError as error:
        yield Bad(place, str(error), error.expected)
        return
    two_sided = any(region.channel for region in regions.values())
    for name, region in regions.items():
        if text := " ".join(" ".join(region.texts).split()):
            speaker = region.labels[0].strip() if len(set(region.labels)) == 1 else None
            whole = region.start_s is None
            channel = region.channel + 1 if two_sided else None
            start_s, end_s = region.start_s or 0.0, region.end_s
            yield Segment(f"{recording.stem}-{name}", recording, text, f"{place} region {name}", speaker, start_s, end_s, whole, channel)
        elif not _whole_only(regions):
            yield Bad(f"{place} region {name}", "has no text; left out", True)


def _whole_only(regions: Mapping[str, _Region]) -> bool:
    """Whether nothing in a task has times."""
    return all(region.start_s is None for region in regions.values())


class _TaskError(ManifestError):
    """A task gives nothing; `expected` where every project has such ones."""

    def __init__(self, reason: str, *, expected: bool = False) -> None:
        super().__init__(reason)
        self.expected = expected


def _results(task: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What the one annotation says that counts: of several the one that is marked as ground truth."""
    annotations = task["annotations"]
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise _TaskError("its `annotations` are no list of objects; export it again as JSON")
    done = [one for one in annotations if not one.get("was_cancelled")]
    if len(done) > 1:
        done = [one for one in done if one.get("ground_truth")]
        if len(done) != 1:
            raise _TaskError(f"has {len(annotations)} annotations; mark one as ground truth in Label Studio, or delete the others")
    if not done:
        raise _TaskError("nobody has annotated it; left out", expected=True)
    results = done[0].get("result")
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise _TaskError("its annotation has no list `result`; export it again as JSON")
    return results


def _regions(results: Sequence[Mapping[str, Any]]) -> dict[str, _Region]:
    """Results of one region share an id; each names its times again."""
    found: dict[str, _Region] = {}
    for result in results:
        value, kind = result.get("value"), result.get("type")
        if not isinstance(value, dict) or kind not in (_TEXT, *_LABELS):
            continue
        region = found.setdefault(str(result.get("parentID") or result.get("id") or "whole"), _Region())
        start, end = value.get("start"), value.get("end")
        if isinstance(start, int | float) and isinstance(end, int | float):
            region.start_s, region.end_s = float(start), float(end)
            region.channel = int(value.get("channel") or 0)
        said = value.get("text" if kind == _TEXT else str(kind)) or []
        (region.texts if kind == _TEXT else region.labels).extend([said] if isinstance(said, str) else map(str, said))
    return found


def _recording(task: Mapping[str, Any], folder: Path) -> Path:
    """The file in `folder` that a task's data names, by its path there, by its name, or by its name before it was uploaded."""
    data = task.get("data")
    named = [value for value in data.values() if isinstance(value, str) and _is_sound(value)] if isinstance(data, dict) else []
    if len(set(named)) != 1:
        raise _TaskError(
            f"its data names {'several recordings' if named else 'no recording'} ({', '.join(named)[:100]})".replace(" ()", "")
        )
    parts = urlsplit(named[0])
    path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0].lstrip("/")
    name = Path(path).name
    for one in dict.fromkeys((path, name, _UPLOADED.sub("", name))):
        if ".." not in Path(one).parts and is_regular(folder / one):
            return folder / one
    raise _TaskError(f"no {name} in {folder}; --audio-dir says where the recordings lie")


def _is_sound(value: str) -> bool:
    parts = urlsplit(value)
    path = parse_qs(parts.query).get("d", [parts.path])[0]
    return Path(path).suffix.lower() in AUDIO_SUFFIXES
