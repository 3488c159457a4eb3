"""Asterisk's English telephone prompts: 8 kHz recordings of one speaker with the transcripts their publisher ships.

Copyright 2003-2010 Allison Smith, recorded with financial contributions by Digium; Creative Commons Attribution-ShareAlike 3.0.
"""

import gzip
import hashlib
import io
import logging
import os
import random
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal

from filelock import FileLock

from lora.audio.loading import AudioSettings, FileAudio, duration, load
from lora.dataset.manifest import Row, write
from lora.errors import ConfigError, FetchError
from lora.system.destination import writing_errors
from lora.system.documents import read_json
from lora.system.files import atomic_folder, cache_dir, write_json
from lora.units import Seconds

_log = logging.getLogger(__name__)

RELEASE: Final = "1.6.1"
DEBIAN_PACKAGES: Final = ("asterisk-core-sounds-en-wav", "asterisk-core-sounds-en")
UPSTREAM_URL: Final = f"https://downloads.asterisk.org/pub/telephony/sounds/releases/asterisk-core-sounds-en-wav-{RELEASE}.tar.gz"
ROUTE_VARIABLE: Final = "MOONSHINE_LORA_PROMPTS"
"""Environment variable that overrides the choice of route."""

CORPUS_SHA256: Final = "60b8ad3ab1e4b6e36f2dd1a22c1439aade47fad8f1f46706b792a33654a30cdd"
"""SHA-256 over the transcript file and every prompt that is used, by name: see `corpus_sha256`."""

TRANSCRIPTS: Final = "core-sounds-en.txt"
SPEAKER: Final = "allison"
MAX_S: Final = 30.0
"""Three prompts of 30.3, 31.1 and 73.3 s are over the longest clip a manifest may hold by default."""

UNRECORDED: Final = frozenset({"pls-try-call-later"})
"""Transcribed, but release 1.6.1 holds no recording of it."""

CORRECTIONS: Final[Mapping[str, tuple[str, str]]] = {
    # Symbols stand for the words that are spoken.
    "demo-enterkeywords": ("separated by *", "separated by star"),
    "dictate/both_help": (
        "press * to toggle pause, press # to enter",
        "press star to toggle pause, press pound to enter",
    ),
    "dictate/enter_filename": ("followed by # or just # to exit", "followed by pound or just pound to exit"),
    # Misspelt words.
    "conf-adminmenu-menu8": ("umute", "unmute"),
    "digits/h-40": ("fourtieth", "fortieth"),
    "letters/exclaimation-point": ("exclaimation-point", "exclamation point"),
    "queue-periodic-announce": ("represenatives", "representatives"),
    "unidentified-no-callback": ("Un-indentified or witheld", "Unidentified or withheld"),
}
"""Transcripts that are clearly wrong: the publisher's text and the correct one. The wording is otherwise unchanged."""

_ASIDE = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>")
_TIMEOUT_S = 60

Route = Literal["debian", "upstream"]


@dataclass(frozen=True, slots=True)
class Prompts:
    """The manifests of the prompts, with no transcript in two of them."""

    train: Path
    dev: Path
    test: Path


def fetch() -> Path:
    """Returns the folder with the prompts (`NAME.wav`, 8 kHz mono), their transcripts and `route.json`, verified on every call.

    Where apt-get and dpkg are installed the recordings come from Debian's packages, without root; elsewhere from upstream's
    release archive. `MOONSHINE_LORA_PROMPTS=debian` or `=upstream` decides otherwise. Both must give the same corpus.

    Raises:
        FetchError: the route cannot deliver, or what it delivers is not the expected corpus.
        ConfigError: the environment variable names no route.
    """
    folder = cache_dir() / "corpora" / f"asterisk-core-sounds-en-{RELEASE}"
    with writing_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):  # a second process waits instead of fetching the same files
            if not folder.exists():
                _fetch(choose_route(), folder)
            _verify(folder, f"{folder}: the cached prompts are damaged; delete the folder and run again")
    return folder


def choose_route() -> Route:
    """The route that `MOONSHINE_LORA_PROMPTS` names, else Debian's where apt-get and dpkg are installed, else upstream's."""
    match os.environ.get(ROUTE_VARIABLE):
        case None | "":
            return "debian" if shutil.which("apt-get") and shutil.which("dpkg") else "upstream"
        case "debian":
            return "debian"
        case "upstream":
            return "upstream"
        case other:
            raise ConfigError(f"{ROUTE_VARIABLE}={other}: must be debian or upstream")


def read_transcripts(folder: Path) -> dict[str, str]:
    """Prompt name to spoken text, in the file's order, without the prompts that hold no speech.

    Sounds described only in brackets, parentheses or angle brackets (silence, tones, monkeys) are left out; such asides within a
    transcript are removed, white space is made single, and `CORRECTIONS` are applied.
    """
    found: dict[str, str] = {}
    for line in (folder / TRANSCRIPTS).read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith(";"):
            continue
        name, _, text = line.partition(":")
        spoken = " ".join(_ASIDE.sub(" ", text).split())
        if spoken and name not in UNRECORDED:
            found[name] = _corrected(name, spoken)
    return found


def same_text_key(text: str) -> str:
    """Transcripts with the same key say the same words: lower case, letters and digits only."""
    return " ".join(re.sub(r"[^a-z0-9]+", " ", text.lower()).split())


def corpus_sha256(folder: Path) -> str:
    """SHA-256 over the transcript file, then name, size and content of every prompt in use, sorted by name."""
    digest = hashlib.sha256((folder / TRANSCRIPTS).read_bytes())
    for name in sorted(read_transcripts(folder)):
        content = (folder / f"{name}.wav").read_bytes()
        digest.update(f"\n{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def prepare(folder: Path, seed: int = 0) -> Prompts:
    """Fetches the prompts and writes `folder/telephone/`: `audio/NAME.wav` as published, `train.jsonl`, `dev.jsonl`, `test.jsonl`.

    About 60, 10 and 30 % of the utterances, chosen by `seed`; the same words are never in two of them. The speaker is the same in
    all three: the domain is this voice on this line.
    """
    source = fetch()
    target = folder / "telephone"
    with atomic_folder(target) as temporary:
        durations: dict[str, Seconds] = {}
        texts = read_transcripts(source)
        for name in texts:
            length_s = duration(load(FileAudio(source / f"{name}.wav"), AudioSettings()))
            if length_s <= MAX_S:
                durations[name] = length_s
                copy = temporary / "audio" / f"{name}.wav"
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / f"{name}.wav", copy)
        for split, names in _split({name: texts[name] for name in durations}, seed).items():
            rows = [_row(name, texts[name], durations[name]) for name in names]
            write(temporary / f"{split}.jsonl", rows)
    return Prompts(target / "train.jsonl", target / "dev.jsonl", target / "test.jsonl")


def route_taken(folder: Path) -> str:
    """Where the prompts in `folder` were fetched from, in words."""
    return str(read_json(folder / "route.json", dict[str, str], FetchError)["from"])


def _row(name: str, text: str, length_s: Seconds) -> Row:
    return Row(audio=f"audio/{name}.wav", text=text, speaker_id=SPEAKER, id=name, duration=round(length_s, 3))


def _split(texts: Mapping[str, str], seed: int) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in sorted(texts):
        groups.setdefault(same_text_key(texts[name]), []).append(name)
    keys = sorted(groups)
    random.Random(seed).shuffle(keys)
    splits: dict[str, list[str]] = {"test": [], "dev": [], "train": []}
    for key in keys:
        if len(splits["test"]) < round(0.3 * len(texts)):
            splits["test"] += groups[key]
        elif len(splits["dev"]) < round(0.1 * len(texts)):
            splits["dev"] += groups[key]
        else:
            splits["train"] += groups[key]
    return {split: sorted(names) for split, names in splits.items()}


def _corrected(name: str, text: str) -> str:
    if name not in CORRECTIONS:
        return text
    wrong, right = CORRECTIONS[name]
    return text.replace(wrong, right)


def _fetch(route: Route, folder: Path) -> None:
    with atomic_folder(folder) as temporary:
        came_from = _from_debian(temporary) if route == "debian" else _from_upstream(temporary)
        _verify(
            temporary,
            f"{came_from}: these are not the prompts of release {RELEASE} that this version was made with; "
            f"choose the other route with {ROUTE_VARIABLE}=debian or {ROUTE_VARIABLE}=upstream",
        )
        write_json(temporary / "route.json", {"route": route, "from": came_from})


def _verify(folder: Path, message: str) -> None:
    try:
        actual = corpus_sha256(folder)
    except FileNotFoundError as error:
        raise FetchError(f"{message} ({Path(error.filename).relative_to(folder)} is missing)") from error
    except UnicodeDecodeError as error:
        raise FetchError(f"{message} ({TRANSCRIPTS} is not text)") from error
    if actual != CORPUS_SHA256:
        raise FetchError(f"{message} (SHA-256 {actual}, expected {CORPUS_SHA256})")


def _from_debian(folder: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="moonshine-lora-apt-") as name:
        work = Path(name)
        packages = _download_packages(work)
        for package in packages:
            _command(["dpkg", "-x", str(package), str(work / "root")], work)
        sounds = work / "root/usr/share/asterisk/sounds/en_US_f_Allison"
        text = work / f"root/usr/share/doc/{DEBIAN_PACKAGES[1]}/{TRANSCRIPTS}.gz"
        for expected in (sounds, text):
            if not expected.exists():
                raise FetchError(f"{', '.join(p.name for p in packages)}: holds no /{expected.relative_to(work / 'root')}")
        shutil.copytree(sounds, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        (folder / TRANSCRIPTS).write_bytes(gzip.decompress(text.read_bytes()))
        return f"Debian packages {' and '.join(sorted(p.name for p in packages))}"


def _download_packages(work: Path) -> list[Path]:
    """Downloads with the system's package lists, or, where those do not know the packages or are stale, with private ones."""
    download = ["apt-get", "download", *DEBIAN_PACKAGES]
    first = _try_command(download, work)
    if first is not None:
        _log.info("the system's package lists do not do (%s); fetching private ones", first)
        for part in ("state/lists/partial", "cache/archives/partial"):
            (work / part).mkdir(parents=True)
        places = {"State": "state", "State::lists": "state/lists", "Cache": "cache", "Cache::archives": "cache/archives"}
        private = [argument for name, place in places.items() for argument in ("-o", f"Dir::{name}={work / place}")]
        _command(["apt-get", "update", *private], work)
        _command([*download, *private], work)
    packages = sorted(work.glob("*.deb"))
    if len(packages) != len(DEBIAN_PACKAGES):
        raise FetchError(f"apt-get download gave {[p.name for p in packages]}, expected {' and '.join(DEBIAN_PACKAGES)}")
    return packages


def _command(command: list[str], folder: Path) -> None:
    problem = _try_command(command, folder)
    if problem is not None:
        raise FetchError(
            f"telephone prompts: `{' '.join(command[:2])}` failed: {problem}; check the network and the system's package sources, "
            f"or take upstream's archive with {ROUTE_VARIABLE}=upstream"
        )


def _try_command(command: list[str], folder: Path) -> str | None:
    """None if the command succeeded, otherwise the line that says why not."""
    environment = {**os.environ, "LC_ALL": "C"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode == 0:
        return None
    lines = [line.strip() for line in (result.stderr or result.stdout).splitlines() if line.strip()]
    reasons = [line.removeprefix("E: ") for line in lines if line.startswith("E: ")]
    return (reasons or lines or [f"exit code {result.returncode}"])[0]


def _from_upstream(folder: Path) -> str:
    try:
        with closing(urllib.request.urlopen(UPSTREAM_URL, timeout=_TIMEOUT_S)) as response:
            content = response.read()
    except OSError as error:
        raise FetchError(
            f"{UPSTREAM_URL}: cannot be downloaded ({getattr(error, 'reason', error)}); check the network, "
            f"or on a system with apt-get take Debian's packages with {ROUTE_VARIABLE}=debian"
        ) from error
    unpack_release(io.BytesIO(content), folder)
    return f"{UPSTREAM_URL} (SHA-256 {hashlib.sha256(content).hexdigest()})"


def unpack_release(archive: IO[bytes], folder: Path) -> None:
    """Writes the wav files and the transcript file of an upstream release archive into `folder`, whatever folder they lie in there.

    Raises:
        FetchError: it is no such archive, or holds no transcript file.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r:*") as release:
            files = {member.name.removeprefix("./"): member for member in release if member.isfile()}
            root = _root_of(files)
            for name, member in files.items():
                relative = Path(name.removeprefix(root))
                wanted = relative.suffix == ".wav" or relative.name == TRANSCRIPTS
                if wanted and name.startswith(root) and not relative.is_absolute() and ".." not in relative.parts:
                    target = folder / relative
                    target.parent.mkdir(parents=True, exist_ok=True)
                    stream = release.extractfile(member)
                    assert stream is not None  # a plain file always has one
                    target.write_bytes(stream.read())
    except tarfile.TarError as error:
        raise FetchError(f"{UPSTREAM_URL}: not a readable archive ({error})") from error


def _root_of(names: Iterable[str]) -> str:
    for name in names:
        if name.rsplit("/", 1)[-1] == TRANSCRIPTS:
            return name.removesuffix(TRANSCRIPTS)
    raise FetchError(f"{UPSTREAM_URL}: holds no {TRANSCRIPTS}")
