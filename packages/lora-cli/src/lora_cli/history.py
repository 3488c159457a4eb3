"""Finished utterances: written to disk at once, copied, saved, played, corrected into training data."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from filelock import FileLock

from lora.audio.loading import AudioSettings, encode_flac, read_file
from lora.dataset.manifest import Row
from lora.errors import AudioError, LoraError, ManifestError
from lora.passages import Word
from lora.system.destination import writing_errors
from lora.system.documents import ContentError, json_value, read_bytes
from lora.system.files import atomic_file, write_jsonl
from lora.units import Seconds
from lora_cli.engine.events import Final, Segment
from lora_cli.replacements import Applied
from lora_cli.session import Corrections, SaveFormat

SESSIONS = "sessions"
HISTORY_FILE = "history.jsonl"
CORRECTIONS_FILE = "corrections.jsonl"
AUDIO_FOLDER = "audio"
HOLDER_FILE = ".held"
"""Locked while the session goes on."""

MOST_RESTORED = 20
"""Utterances that were deleted and can be brought back: their sound is in memory, some 20 kB a second."""


def state_dir() -> Path:
    """Folder of the history: `$XDG_STATE_HOME/moonshine-lora`, else `~/.local/state/moonshine-lora`."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "moonshine-lora"


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One finished utterance: a line of `history.jsonl`, and of what is written for other programs."""

    id: str
    started_at: datetime
    voice: str
    text: str
    seconds: Seconds
    latency_s: Seconds
    segments: tuple[Segment, ...]
    audio: str | None = None
    """Path of its recording, relative to the file."""
    other_voice: str | None = None
    other_text: str | None = None
    corrected: str | None = None
    heard: str | None = None
    """Its text before the user's replacements, where they changed it."""
    applied: tuple[Applied, ...] = ()
    preferred: str | None = None
    """The voice whose text the user prefers, or `neither`."""
    looped: bool = False
    """Whether the model repeated a phrase over and over, which the text holds once."""


def entry(final: Final) -> Entry:
    """What is written of an utterance."""
    return Entry(
        id=f"{final.started_at:%Y%m%d-%H%M%S}-{final.started_at.microsecond // 1000:03}",
        started_at=final.started_at,
        voice=final.voice,
        text=final.text,
        seconds=final.length_s,
        latency_s=final.latency_s,
        segments=final.segments,
        other_voice=final.other_voice,
        other_text=final.other_text,
        heard=final.heard,
        applied=final.applied,
        looped=final.looped,
    )


class History:
    """The utterances of one session, in a folder of its own, and the manifest that corrections go to: for their owner's eyes only.

    Every utterance is on disk, with its sound, before the next one is; memory holds only text. Without `keep` the folder is a temporary
    one, and gone after `close`.
    """

    def __init__(self, corrections: Path | None = None, saved_to: Path | None = None, *, keep: bool = True) -> None:
        """Raises `RunFolderError` when the folder cannot be made."""
        self._started_at = datetime.now().astimezone()
        self._keep = keep
        self._corrections = corrections or default_corrections()
        self._saved_to = saved_to or Path()
        self._entries: dict[str, Entry] = {}
        self._removed: dict[str, tuple[int, Entry, bytes]] = {}
        """What was removed, with its place and sound: in memory only, because it must be gone from the disk."""
        parent = state_dir() / SESSIONS if keep else Path(tempfile.gettempdir())
        with writing_errors(parent):
            _make_private(parent)
            self.folder = Path(tempfile.mkdtemp(dir=parent, prefix=f"{self._started_at:%Y%m%d-%H%M%S}-"))
            _make_private(self.folder / AUDIO_FOLDER)
            self._held = FileLock(self.folder / HOLDER_FILE, mode=0o600)
            self._held.acquire()

    def add(self, final: Final) -> None:
        """Writes sound and text. Raises `RunFolderError` when the disk refuses."""
        new = entry(final)
        new = msgspec.structs.replace(new, audio=f"{AUDIO_FOLDER}/{new.id}.flac")
        with atomic_file(self.folder / new.audio, durable=True, private=True) as stream:  # type: ignore[operator]  # set in the line above
            stream.write(encode_flac(final.samples))
        self._write({**self._entries, new.id: new})

    def remove(self, final: Final) -> None:
        """Removes sound and text of an utterance from the disk; what was corrected stays in the manifest.

        Until the app ends `restore` brings back the latest `MOST_RESTORED`.
        """
        gone = self._entry(final)
        place, sound = list(self._entries).index(gone.id), self._audio(gone).read_bytes()
        self._write({key: kept for key, kept in self._entries.items() if key != gone.id})
        self._audio(gone).unlink(missing_ok=True)
        self._removed[gone.id] = (place, gone, sound)
        if len(self._removed) > MOST_RESTORED:
            del self._removed[next(iter(self._removed))]

    def restore(self, final: Final) -> None:
        """Writes an utterance that was removed again, where it stood. Raises `AudioError` when that was too long ago."""
        name = entry(final).id
        if name not in self._removed:
            raise AudioError(f"only the {MOST_RESTORED} utterances that were deleted last can be brought back")
        place, gone, sound = self._removed[name]
        with atomic_file(self._audio(gone), durable=True, private=True) as stream:
            stream.write(sound)
        entries = list(self._entries.items())
        self._write(dict([*entries[:place], (name, gone), *entries[place:]]))
        del self._removed[name]

    def prefer(self, final: Final, voice: str) -> None:
        """Keeps which voice's text is the better one. Raises `RunFolderError` when the disk refuses."""
        one = self._entry(final)
        self._write({**self._entries, one.id: msgspec.structs.replace(one, preferred=voice)})

    def copy(self, text: str) -> None:
        """Into the system's clipboard. Raises `LoraError` if the system has none: the terminal's own may have taken it."""
        import pyperclip

        try:
            pyperclip.copy(text)
        except pyperclip.PyperclipException as error:
            raise LoraError(f"copied through the terminal, if it allows that; {_no_clipboard()}") from error

    def save(self, form: SaveFormat) -> Path:
        """Writes all utterances as text, a manifest or subtitles into the folder for saved files; returns the file."""
        file = self._saved_to / f"moonshine-{self._started_at:%Y%m%d-%H%M%S}.{form}"
        save_entries(file, form, [(one, self._audio(one)) for one in self._entries.values()])
        return file

    def correct(self, final: Final, text: str) -> Corrections:
        """Puts sound and corrected text into the manifest, on disk when this returns; correcting again replaces the line.

        Apps may correct into the same manifest at the same time. Raises `RunFolderError` when the disk refuses.
        """
        one = self._entry(final)
        file = self._corrections
        with writing_errors(file):
            folder = file.parent / f"{file.stem}-audio"
            _make_private(folder)
            name = f"{one.id}-{self.folder.name.rpartition('-')[2]}"  # of two apps that hear at the same moment too
            sound = folder / f"{name}.flac"
            with FileLock(file.with_name(f".{file.name}.lock"), mode=0o600):
                with atomic_file(sound, durable=True, private=True) as stream:
                    stream.write(self._audio(one).read_bytes())
                row = Row(audio=f"{folder.name}/{sound.name}", text=text, id=name, duration=one.seconds)
                rows = {other.id: other for other in _rows(file)} | {name: row}
                write_jsonl(file, rows.values(), durable=True, private=True)
        self._write({**self._entries, one.id: msgspec.structs.replace(one, corrected=text)})
        return _amount(file, rows.values())

    def replay(self, final: Final) -> None:
        """Plays an utterance on the default output, and returns when it was played. Raises `AudioError` without an output."""
        from lora_cli.sound.microphone import play

        play(read_file(self._audio(self._entry(final)), AudioSettings()))

    def close(self) -> None:
        """Removes what is not to be kept: everything, or the folder of a session without speech."""
        self._held.release()
        if not self._keep or not self._entries:
            shutil.rmtree(self.folder)

    def _entry(self, final: Final) -> Entry:
        found = self._entries.get(entry(final).id)
        if found is None:
            raise AudioError("this utterance could not be stored, so it cannot be played, corrected or deleted")
        return found

    def _audio(self, one: Entry) -> Path:
        assert one.audio is not None  # every kept entry has its recording
        return self.folder / one.audio

    def _write(self, entries: dict[str, Entry]) -> None:
        write_jsonl(self.folder / HISTORY_FILE, entries.values(), durable=True, private=True)
        self._entries = entries


def _no_clipboard() -> str:
    """Why the system's clipboard cannot be had."""
    found = [tool for tool in ("wl-copy", "xclip", "xsel", "pbcopy") if shutil.which(tool)]
    if found and not (os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY")):
        return f"the system's clipboard is that of a desktop, and {found[0]} finds none: DISPLAY and WAYLAND_DISPLAY are not set"
    return "for the system's clipboard install wl-clipboard (Wayland) or xclip (X11)"


def _make_private(folder: Path) -> None:
    """Makes a folder, and those above it that are missing, for its owner only."""
    for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def default_corrections() -> Path:
    """The manifest of corrections of those who name no other."""
    return state_dir() / CORRECTIONS_FILE


def corrections_of(file: Path) -> Corrections:
    """What a manifest of corrections holds; nothing where there is none. Raises `ManifestError` when something else stands there."""
    return _amount(file, _rows(file))


def _amount(file: Path, rows: Collection[Row]) -> Corrections:
    return Corrections(file, len(rows), Seconds(sum(row.duration or 0.0 for row in rows)))


def _rows(file: Path) -> list[Row]:
    """The lines of a manifest of corrections. Raises `ManifestError` for a file of another kind."""
    if not file.exists():
        return []
    rows = []
    for number, line in enumerate(read_bytes(file, ManifestError).split(b"\n"), start=1):
        try:
            if line.strip():
                rows.append(json_value(line, _ROW.decode))
        except (ContentError, msgspec.ValidationError) as error:
            raise ManifestError(f"{file} line {number}: is no manifest ({error}); give another file with --corrections") from error
    return rows


_ROW = msgspec.json.Decoder(Row)


def save_entries(file: Path, form: SaveFormat, entries: Sequence[tuple[Entry, Path]]) -> None:
    """Writes utterances, each with the path of its sound, as text, a manifest or subtitles. Raises `RunFolderError`."""
    if form is SaveFormat.MANIFEST:
        with writing_errors(file):
            _save_manifest(file, entries)
        return
    told = tuple(one for one, _ in entries)
    text = subtitles(told) if form is SaveFormat.SRT else "".join(f"{spoken(one)}\n" for one in told)
    with atomic_file(file, private=True) as stream:
        stream.write(text.encode())


def _save_manifest(file: Path, entries: Sequence[tuple[Entry, Path]]) -> None:
    """The sound goes beside it: a manifest that is moved takes its folder along."""
    folder = file.with_name(f"{file.stem}-audio")
    _make_private(folder)
    rows = []
    for one, sound in entries:
        if not spoken(one):
            continue
        name = f"{one.id}-{sound.parents[1].name.rpartition('-')[2]}"  # of two apps that hear at the same moment too
        with atomic_file(folder / f"{name}.flac", private=True) as stream:
            stream.write(sound.read_bytes())
        meta = msgspec.to_builtins(one)
        told = {key: meta[key] for key in ("started_at", "voice", "latency_s", "heard", "other_voice", "other_text") if key in meta}
        rows.append(Row(audio=f"{folder.name}/{name}.flac", text=spoken(one), id=name, duration=one.seconds, meta=told))
    write_jsonl(file, rows, private=True)


def spoken(one: Entry) -> str:
    """Its text, as corrected where it was."""
    return one.text if one.corrected is None else one.corrected


def subtitles(entries: tuple[Entry, ...]) -> str:
    """The utterances as SubRip, the first starting at zero: at most two lines of 42 characters, 7 s, broken at phrases.

    Words within a segment are taken to be as long as they are written. A corrected utterance is one segment.
    """
    from lora.longform.captions import captions
    from lora.longform.output import srt

    found = []
    for one in entries:
        offset_s = (one.started_at - entries[0].started_at).total_seconds()
        parts = one.segments if one.corrected is None else (Segment(Seconds(0.0), one.seconds, one.corrected),)
        for part in parts:
            found += captions(_words(part, offset_s))
    return srt(found, word_times=False)


def _words(part: Segment, offset_s: float) -> list[Word]:
    words = part.text.split()
    ends = list(itertools.accumulate(len(word) + 1 for word in words))
    if not words:
        return []
    step_s, start_s = part.length_s / ends[-1], offset_s + part.start_s
    times = [Seconds(start_s + step_s * place) for place in (0, *ends)]
    # Nobody measured how sure the model is, and subtitles do not show it.
    return [Word(text=word, start_s=times[n], end_s=times[n + 1], confidence=0.0) for n, word in enumerate(words)]
