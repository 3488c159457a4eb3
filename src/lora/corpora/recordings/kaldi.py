"""A Kaldi data directory: wav.scp and text, with segments and utt2spk if there are any. Nothing that it names is executed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lora.audio.decoding import stored_format
from lora.corpora.build import Bad
from lora.corpora.recordings.nist import SIDES
from lora.corpora.recordings.segments import Segment, read_text
from lora.errors import ManifestError
from lora.system.files import is_regular


@dataclass(frozen=True, slots=True)
class _Entry:
    place: str
    rest: str


def is_kaldi(folder: Path) -> bool:
    """Whether a folder is laid out as Kaldi does."""
    return (folder / "wav.scp").is_file()


def kaldi_segments(folder: Path, audio_dir: Path | None = None) -> Iterator[Segment | Bad]:
    """The utterances of a data directory, in the order of `segments`, or of `wav.scp` where recordings are utterances.

    A recording's path is relative to `audio_dir`, else to the directory or to where the command runs, as in Kaldi.

    Raises:
        ManifestError: `wav.scp` or `text` are missing, or a file cannot be read.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder")
    for name in ("wav.scp", "text"):
        if not (folder / name).is_file():
            raise ManifestError(f"{folder}: has no {name}; a Kaldi data directory has wav.scp and text")
    bad = list[Bad]()
    tables = {name: _table(folder / name, bad) for name in ("wav.scp", "text", "segments", "utt2spk", "reco2file_and_channel")}
    recordings = _recordings(folder, audio_dir, tables["wav.scp"], bad)
    sides = _sides(recordings, tables["reco2file_and_channel"], bad)
    yield from bad
    yield from _Utterances(recordings, tables["wav.scp"], tables["text"], _speakers(tables["utt2spk"]), sides)(tables["segments"])


@dataclass(frozen=True, slots=True)
class _Utterances:
    recordings: dict[str, Path]
    listed: dict[str, _Entry]
    """All of wav.scp: a recording that cannot be taken was named already."""
    texts: dict[str, _Entry]
    speakers: dict[str, str] | None
    sides: dict[str, int]
    """The channel of recordings that have several."""

    def __call__(self, segments: dict[str, _Entry]) -> Iterator[Segment | Bad]:
        named = segments or {name: _Entry(entry.place, name) for name, entry in self.listed.items()}
        for name, entry in named.items():
            if (found := self._one(name, entry, whole=not segments)) is not None:
                yield found
        where = "segments" if segments else "wav.scp"
        yield from (Bad(entry.place, f"{name}: is not in {where}") for name, entry in self.texts.items() if name not in named)

    def _one(self, name: str, entry: _Entry, *, whole: bool) -> Segment | Bad | None:
        recording, *times = entry.rest.split()
        if recording not in self.listed:
            return Bad(entry.place, f"{name}: its recording {recording} is not in wav.scp")
        if name not in self.texts:
            return Bad(entry.place, f"{name}: has no line in text")
        if self.speakers is not None and name not in self.speakers:
            return Bad(entry.place, f"{name}: has no line in utt2spk")
        if recording not in self.recordings:
            return None
        file, text, speaker, side = (
            self.recordings[recording],
            self.texts[name].rest,
            (self.speakers or {}).get(name),
            self.sides.get(recording),
        )
        segment = Segment(name, file, text, entry.place, speaker, whole=whole and side is None, channel=side)
        return segment if whole else _at(segment, times)


def _at(segment: Segment, times: list[str]) -> Segment | Bad:
    """The segment with its start and end, of which -1 is the recording's end."""
    if len(times) != 2:
        hint = "; leave the channel out and pass --channel" if len(times) == 3 else ""
        return segment.bad(f"needs its recording, a start and an end{hint}")
    try:
        start_s, end_s = map(float, times)
    except ValueError:
        return segment.bad(f"its times are no numbers ({' '.join(times)[:60]})")
    end = None if end_s == -1 else end_s
    return replace(segment, start_s=start_s, end_s=end)


def _table(path: Path, bad: list[Bad]) -> dict[str, _Entry]:
    """Name and rest of each line; nothing for a missing file. A duplicate name is reported to `bad`."""
    found: dict[str, _Entry] = {}
    if not path.exists():
        return found
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        name, *rest = line.split(maxsplit=1) or [""]
        place = f"{path.name} line {number}"
        if not name:
            continue
        if name in found:
            bad.append(Bad(place, f"{name}: is there twice"))
        elif not rest and path.name != "text":
            bad.append(Bad(place, f"{name}: nothing follows it"))
        found.setdefault(name, _Entry(place, rest[0].strip() if rest else ""))
    return {name: entry for name, entry in found.items() if entry.rest or path.name == "text"}


def _recordings(folder: Path, audio_dir: Path | None, table: dict[str, _Entry], bad: list[Bad]) -> dict[str, Path]:
    """The files of wav.scp; other entries are reported to `bad`."""
    files: dict[str, Path] = {}
    for name, entry in table.items():
        if entry.rest.startswith("|") or entry.rest.endswith("|"):
            reason = "is a command, and nothing is executed; run it yourself and write the path of its output there"
            bad.append(Bad(entry.place, f"{name}: {reason} ({entry.rest[:60]})"))
            continue
        places = [audio_dir] if audio_dir is not None else [folder, Path()]
        found = list(dict.fromkeys((place / entry.rest).resolve() for place in places if is_regular(place / entry.rest)))
        if len(found) == 1:
            files[name] = found[0]
        else:
            reason = "no such file; --audio-dir says where they lie" if not found else "two files have this name; choose with --audio-dir"
            bad.append(Bad(entry.place, f"{name}: {entry.rest}: {reason}"))
    return files


def _sides(recordings: dict[str, Path], table: dict[str, _Entry], bad: list[Bad]) -> dict[str, int]:
    """The channel of each recording whose file has several, by reco2file_and_channel; an invalid side is reported to `bad`."""
    found = dict[str, int]()
    for name, entry in table.items():
        side = SIDES.get(entry.rest.split()[-1].lower())
        if side is None:
            bad.append(Bad(entry.place, f"{name}: its channel is {entry.rest.split()[-1]!r}; channels are A and B"))
        elif name in recordings and stored_format(recordings[name]).channels > 1:
            found[name] = side
    return found


def _speakers(table: dict[str, _Entry]) -> dict[str, str] | None:
    """Who speaks; None if nobody knows: then Kaldi wants every utterance to be its own speaker."""
    if not table or all(entry.rest == name for name, entry in table.items()):
        return None
    return {name: entry.rest for name, entry in table.items()}
