"""Inputs as they come in the worst case, drawn by seed: good ones with one thing wrong, for every kind of file that users give.

A case is a copy of good files, something done to one of them, and what the project does with it. Either that works, or it raises one of the
project's errors; `tests/test_campaign.py` judges.
"""

import io
import json
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from records import completed, with_adapter
from running import moonshine_lora

from lora import config
from lora.audio.loading import AudioSettings, duration, read_file
from lora.checkpoints.checkpoint import resolve
from lora.config import AdapterConfig
from lora.corpora.commands import build_domain_manifest, merge_manifests
from lora.dataset.checking import validate
from lora.dataset.manifest import Rules, read
from lora.errors import ConfigError
from lora.model.loading import LoadedModel, load_model, load_processor
from lora.model.transcript import DecodeSettings
from lora.runs.export_record import EXPORT_FILE, Exported, ExportedFile, TargetExport, read_exported, require_unchanged
from lora.runs.outcomes import Step
from lora.runs.record import read as read_record
from lora.runs.record import write as write_record
from lora.system.cache import Kept
from lora.system.files import sha256_bytes, write_json
from lora.training import checkpointing
from lora.training.adapter import Provenance, attach, read_provenance, save
from lora.training.adapter_files import check
from lora.training.checkpointing import Numbers, TrainState, Window
from lora.units import Seconds

HOSTILE: Sequence[Any] = (
    *(None, True, -1, 0, 2**31, 2**63, 2**64, 10**30, -1.5, 1e308, 5e-324, float("nan"), float("inf")),
    *("", " ", "\x1b[2J\x1b]0;x\x07", "\u202egpj", "\x00", "a\nb\nc", "=1+1", "../../etc/passwd", "/dev/zero", "~", "%s%n", "x" * 5000),
    *("<b>", "![x](http://tracker.example)", "é" * 300, "\ud800", [], {}, [[]], [1, "x"], {"": 0}, {"auto_map": {"AutoConfig": "x.Y"}}),
)

AUDIO_FORMATS = (
    *(("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("wav", "ULAW"), ("wav", "GSM610"), ("wav", "IMA_ADPCM")),
    *(("flac", "PCM_16"), ("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III"), ("aiff", "PCM_16"), ("au", "PCM_16")),
)


@dataclass(frozen=True)
class Case:
    """Something to be done with files in `place`; `output` is what appears whole or not at all."""

    kind: str
    seed: int
    place: Path
    run: Callable[[], object]
    output: Path | None = None


class Maker:
    """Good files of every kind, made once, and cases drawn from them."""

    def __init__(self, place: Path, speech: LoadedModel) -> None:
        self.place, self.speech = place, speech
        self.good = place / "good"
        _audio(self.good / "audio")
        _manifest(self.good / "manifest")
        _adapter(self.good / "adapter", speech)
        _record(self.good / "record")
        _state(self.good / "state")
        _export(self.good / "export")
        _settings(self.good / "settings")
        _kept(self.good / "kept")
        shutil.copytree(speech.checkpoint.folder, self.good / "model")
        (self.good / "table").mkdir()
        shutil.copytree(self.good / "manifest" / "audio", self.good / "table" / "audio")
        (self.good / "table" / "t.csv").write_text("file,text,speaker\n" + "".join(f"audio/{n}.wav,word {n},s{n}\n" for n in range(4)))
        self.kinds: dict[str, tuple[int, Callable[[random.Random, Path], tuple[Callable[[], object], Path | None]]]] = {
            "manifest": (25, self._manifest),
            "merge": (8, self._merge),
            "toml": (20, self._toml),
            "flags": (12, self._flags),
            "audio": (30, self._audio),
            "adapter": (20, self._adapter),
            "plain adapter": (20, self._plain),
            "processor": (1, self._processor),
            "model": (2, self._model),
            "state": (20, self._state),
            "record": (8, self._record),
            "report": (4, self._report),
            "export": (15, self._export),
            "table": (12, self._table),
            "cache": (10, self._kept),
        }

    def case(self, seed: int) -> Case:
        """The case of that number: always the same."""
        rng = random.Random(seed)
        kind = rng.choices(list(self.kinds), [weight for weight, _ in self.kinds.values()])[0]
        place = self.place / "case"
        if place.exists():
            shutil.rmtree(place)
        run, output = self.kinds[kind][1](rng, place)
        return Case(kind, seed, place, run, output)

    def _copy(self, name: str, place: Path) -> Path:
        return Path(shutil.copytree(self.good / name, place))

    def _manifest(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], None]:
        file = self._copy("manifest", place) / "m.jsonl"
        _damage_lines(rng, file) if rng.random() < 0.7 else _damage_bytes(rng, file)
        rules = Rules(allow_empty_text=rng.random() < 0.5, require_text=rng.random() < 0.7)
        return lambda: validate(read(file, rules), rules, AudioSettings()), None

    def _merge(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], Path]:
        file = self._copy("manifest", place) / "m.jsonl"
        other, output = place / "n.jsonl", place / "merged.jsonl"
        shutil.copy(file, other)
        _damage_lines(rng, file) if rng.random() < 0.7 else _damage_bytes(rng, file)
        command = [str(file), str(other), "--output", str(output), *rng.choice(((), ("--audio", "inline"), ("--skip-bad",)))]
        return lambda: _script(merge_manifests, command), output

    def _toml(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], None]:
        file = self._copy("settings", place) / "run.toml"
        _damage_toml(rng, file) if rng.random() < 0.7 else _damage_bytes(rng, file)
        return lambda: config.build({}, file), None

    def _flags(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], Path]:
        file = self._copy("settings", place) / "run.toml"
        names = [
            f"{section}.{name}" for section, values in json.loads(place.joinpath("settings.json").read_text()).items() for name in values
        ]
        flags = [part for name in rng.sample(names, rng.randint(1, 3)) for part in (config.flag(name), _word(rng))]
        command = ("experiment", "--config", file, *flags, "--output-dir", place / "run", "--dry-run")
        return lambda: _command(command), place / "run"

    def _audio(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], None]:
        file = rng.choice(sorted(self._copy("audio", place).iterdir()))
        if rng.random() < 0.9:
            _damage_bytes(rng, file)
        if rng.random() < 0.1:
            file = file.rename(file.with_suffix(rng.choice((".wav", ".mp3", ".flac", ".ogg", ".m4a"))))
        return lambda: (file, duration(read_file(file, AudioSettings()))), None

    def _adapter(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], None]:
        folder = self._copy("adapter", place)
        _damage_any(rng, folder)

        def use() -> object:
            provenance = read_provenance(folder)
            return provenance, check(self.speech, folder)

        return use, None

    def _plain(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], None]:
        folder = self._copy("adapter", place)
        (folder / "moonshine_lora.json").unlink()
        _damage_any(rng, folder)
        return lambda: check(self.speech, folder), None

    def _processor(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], None]:
        folder = self._copy("model", place)
        (folder / "model.safetensors").unlink()
        _damage_any(rng, folder)
        return lambda: load_processor(folder), None

    def _model(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], None]:
        folder = self._copy("model", place)
        _damage_any(rng, folder)
        return lambda: load_model(resolve(str(folder)), torch.device("cpu"), "float32"), None

    def _state(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], None]:
        folder = checkpointing.newest(self._copy("state", place))
        assert folder is not None
        _damage_any(rng, folder)
        return lambda: checkpointing.read(folder), None

    def _record(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], Path]:
        folder = self._copy("record", place)
        _damage_any(rng, folder, "record.json")
        output = folder / rng.choice(("out.md", "out.csv", "out.html", "out.txt"))
        return lambda: (read_record(folder), _command(("compare", folder, "--output", output))), output

    def _report(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], None]:
        folder = self._copy("record", place)
        _damage_any(rng, folder, "record.json")
        command: tuple[object, ...] = ("report", folder, "--audio-mb", 0)
        if rng.random() < 0.5:
            command = ("push", folder, "--repo-id", "owner/name", "--dry-run")
        return lambda: _command(command), None

    def _export(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], None]:
        folder = self._copy("export", place)
        _damage_any(rng, folder, EXPORT_FILE)
        return lambda: require_unchanged(folder, "onnx", read_exported(folder)), None

    def _table(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], Path]:
        file = self._copy("table", place) / "t.csv"
        _damage_table(rng, file) if rng.random() < 0.6 else _damage_bytes(rng, file)
        output = place / "made.jsonl"
        command = ["--csv", str(file), "--output", str(output), *rng.choice(((), ("--audio", "inline"), ("--skip-bad",)))]
        return lambda: _script(build_domain_manifest, command), output

    def _kept(self, rng: random.Random, place: Path) -> tuple[Callable[[], object], None]:
        folder = self._copy("kept", place)
        file = next(path for path in folder.rglob("*") if path.is_file())
        before = file.read_bytes()
        _damage_bytes(rng, file)
        same = file.read_bytes() == before

        def use() -> None:
            kept = Kept(folder)
            found = kept.read(file)
            assert (found == b"payload" * 20) if same else (found is None and kept.damaged == [file] and not file.exists())

        return use, None


def _command(command: Sequence[object]) -> object:
    """A command in this process; a refusal is raised, as the functions do."""
    result = moonshine_lora(*command)
    if result.code == 2:
        lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, result
        raise ConfigError(lines[0].removeprefix("error: "))
    assert result.code in (0, 3, 4), result
    assert "\x1b" not in result.out + result.err
    return result


def _script(main: Callable[[Sequence[str]], int], command: Sequence[str]) -> object:
    """A script of `scripts/`; what it prints steers no terminal."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main(command)
    assert "\x1b" not in said.getvalue()
    return code


# --- damage ----------------------------------------------------------------------------------------------------------------------------


def _damage_any(rng: random.Random, folder: Path, name: str | None = None) -> None:
    """One file, chosen by chance unless named: other values, other bytes, or gone."""
    file = folder / name if name else rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    if rng.random() < 0.05:
        file.unlink()
    elif rng.random() < 0.05:
        file.unlink()
        file.mkdir()
    elif file.suffix == ".json" and file.stat().st_size < 100_000 and rng.random() < 0.7:
        _damage_json(rng, file)
    else:
        _damage_bytes(rng, file)


def _damage_bytes(rng: random.Random, file: Path) -> None:
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 4))):
        at = rng.randrange(min(len(content), 200) if rng.random() < 0.5 else len(content)) if content else 0
        how = rng.randrange(7)
        if how == 0 and content:
            content[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            del content[at:]
        elif how == 2:
            content[at:at] = rng.randbytes(rng.choice((1, 8, 300)))
        elif how == 3:
            content[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"))
        elif how == 4:
            content = bytearray(rng.choice((b"", b"\xef\xbb\xbf" + content, content.decode("latin-1").encode("utf-16"), b"\0" * 1000)))
        elif how == 5:
            content = bytearray(
                rng.choice((b"[" * 5000, b'{"a":' * 3000, b"PK\x03\x04" + content, b"version https://git-lfs.github.com/spec"))
            )
        else:
            del content[at : at + rng.choice((1, 16, 500))]
    file.write_bytes(content)


def _damage_json(rng: random.Random, file: Path) -> None:
    value = json.loads(file.read_text())
    _damage_value(rng, value)
    text = json.dumps(value)
    if rng.random() < 0.05:
        text = text[:-1] + ', "a": 1, "a": 2}'
    file.write_bytes(text.encode("utf-8", "surrogatepass"))


def _damage_value(rng: random.Random, value: Any) -> None:
    """One value somewhere inside, another one in its place, a name gone or a name more."""
    places: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        inner = pending.pop()
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        places += [(inner, key) for key in keys]
        pending += [inner[key] for key in keys if isinstance(inner[key], (dict, list))]
    place, key = rng.choice(places)
    how = rng.random()
    if how < 0.15:
        del place[key]
    elif how < 0.25 and isinstance(place, dict):
        place[rng.choice(("auto_map", "unknown", "", "\x1b[2J"))] = rng.choice(HOSTILE)
    else:
        place[key] = rng.choice(HOSTILE)


def _damage_lines(rng: random.Random, file: Path) -> None:
    lines = file.read_text().splitlines()
    at = rng.randrange(len(lines))
    row = json.loads(lines[at])
    name = rng.choice((*row, "meta", "language", "sampling_rate", "channel", "speakr_id"))
    row[name] = rng.choice(HOSTILE) if rng.random() < 0.8 else rng.choice(list(row.values()))
    lines[at] = json.dumps(row, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1:
        lines = lines * 2
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))


def _word(rng: random.Random) -> str:
    value = rng.choice(HOSTILE)
    return str(value).replace("\x00", "").encode("utf-8", "replace").decode()


def _damage_toml(rng: random.Random, file: Path) -> None:
    lines = file.read_text().splitlines()
    at = rng.choice([number for number, line in enumerate(lines) if "=" in line])
    name = lines[at].partition("=")[0]
    values = (
        "-1",
        "nan",
        "inf",
        "1e308",
        '"x"',
        '""',
        "[]",
        "{}",
        "true",
        "0x" + "f" * 40,
        "9" * 5000,
        '"\\u001b[2J"',
        "1979-05-27",
        "'''",
        "",
    )
    lines[at] = rng.choice(
        (f"{name}= {rng.choice(values)}", f"{name}x = 1", "[unknown]", lines[at] + "\n" + lines[at], "a." * 2000 + "b = 1")
    )
    file.write_text("\n".join(lines))


def _damage_table(rng: random.Random, file: Path) -> None:
    lines = file.read_text().splitlines()
    at = rng.randrange(len(lines))
    cells = lines[at].split(",")
    words = ('"', '"a', "a\tb", "=1+1", "", "x" * 200_000, "../up.wav", "\x1b[2J", "audio/0.wav,", "\r", "/dev/zero", "é", "a\nb")
    cells[rng.randrange(len(cells))] = rng.choice(words)
    lines[at] = ",".join(cells)
    file.write_text("\n".join(lines))


# --- good files ------------------------------------------------------------------------------------------------------------------------


def _sound(seconds: float, seed: int) -> Any:
    """Noise that swells and fades, which every codec keeps."""
    generator = np.random.default_rng(seed)
    count = int(16_000 * seconds)
    return (0.2 * generator.standard_normal(count) * np.sin(np.linspace(0, 3.1, count))).astype(np.float32)


def _audio(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, (container, subtype) in enumerate(AUDIO_FORMATS):
        soundfile.write(folder / f"{subtype.lower()}.{container}", _sound(1.0, number), 16_000, format=container.upper(), subtype=subtype)


def _manifest(folder: Path) -> None:
    (folder / "audio").mkdir(parents=True)
    rows = []
    for number in range(4):
        soundfile.write(folder / "audio" / f"{number}.wav", _sound(1.0, number), 16_000)
        rows.append(
            {"audio": f"audio/{number}.wav", "text": f"word {number}", "speaker_id": f"s{number}", "id": f"u{number}", "duration": 1.0}
        )
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _adapter(folder: Path, speech: LoadedModel) -> None:
    folder.mkdir()
    adapted = attach(load_model(speech.checkpoint, speech.device, speech.precision), AdapterConfig(lora_r=2))
    provenance = Provenance(
        base_model_id=speech.checkpoint.model_id,
        base_revision=None,
        base_sha256=speech.checkpoint.sha256,
        audio=AudioSettings(),
        decode=DecodeSettings(tokens_per_second=6.5),
        text_style="none",
        normaliser="test",
    )
    save(adapted, folder, provenance)


def _record(folder: Path) -> None:
    folder.mkdir()
    (folder / "processor").mkdir()
    write_record(with_adapter(completed(), folder), folder)


def _state(folder: Path) -> None:
    folder.mkdir()
    step = Step(step=2, epoch=1.0, train_loss=1.0, dev_loss=1.0, dev_wer=0.5)
    numbers = Numbers(
        step=2,
        data_sha256="a" * 64,
        total=Window(1.0, 2, 3.0, 4.0),
        window=Window(),
        history=(step,),
        misses=0,
        guard_words=3,
        said={"dev": ["a"]},
    )
    weights = {"a.lora_A.default.weight": torch.ones(2, 3)}
    best = {name: weight.clone() for name, weight in weights.items()}
    checkpointing.write(TrainState(numbers, weights, {"0/exp_avg": torch.ones(2, 3)}, {2: best}), folder)


def _export(folder: Path) -> None:
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "graph").write_bytes(b"weights")
    listed = ExportedFile(name="graph", bytes=7, sha256=sha256_bytes(b"weights"))
    exported = Exported(
        made_at="2025-01-01T00:00:00+00:00",
        command=("moonshine-lora", "export"),
        folder=str(folder),
        run=None,
        gate=None,
        gate_accepted=None,
        model_id="packaged:moonshine-tiny",
        base_sha256="a" * 64,
        adapter_sha256=None,
        architecture="tiny",
        tokens_per_second=6.5,
        audio=AudioSettings(),
        language="en",
        targets={"onnx": TargetExport(precision="u8", files=(listed,), seconds=Seconds(1.0))},
        speech={},
        seconds={},
        peak_bytes=1,
        versions={},
    )
    write_json(folder / EXPORT_FILE, exported)


def _settings(folder: Path) -> None:
    import msgspec
    import tomli_w

    folder.mkdir()
    values = msgspec.to_builtins(completed().config)
    for section in values.values():
        for name in [name for name, value in section.items() if value is None]:
            del section[name]
    (folder / "run.toml").write_text(tomli_w.dumps(values))
    (folder / "settings.json").write_text(json.dumps(values))


def _kept(folder: Path) -> None:
    kept = Kept(folder)
    kept.write(kept.file("ab" * 16, ".json"), b"payload" * 20)
