"""The scripts as processes, on real speech in a local folder laid out as LibriSpeech is on the hub."""

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from lora.audio.loading import AudioSettings, load, waveform_hash
from lora.console import run
from lora.corpora import asterisk, commands
from lora.corpora.hub import HubSource, items
from lora.dataset.manifest import Manifest, Rules, read
from lora.errors import FetchError
from lora.system.files import sha256_file

ROOT = Path(__file__).parents[1]
NAMES = ("build_manifest", "build_domain_manifest", "merge_manifests")


@dataclass(frozen=True)
class Result:
    returncode: int
    stdout: str
    stderr: str


def process(name: str, *arguments: object, **environment: str) -> Result:
    """Runs a script as a user does."""
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=120)
    return Result(done.returncode, done.stdout, done.stderr)


def script(name: str, *arguments: object) -> Result:
    """Runs a script's command in this process, which has `datasets` imported already."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = run(lambda: int(getattr(commands, name)(list(map(str, arguments)))))
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def refusal(name: str, *arguments: object, **environment: str) -> str:
    """The one line with which a script refuses."""
    result = process(name, *arguments, **environment) if environment else script(name, *arguments)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 prompts in the config `clean`, 8 in `other`; the audio column as on the hub, a struct of bytes and path."""
    prompts = asterisk.fetch()
    texts = read_texts(prompts)
    names = sorted(texts)[:32]
    folder = tmp_path_factory.mktemp("librispeech")
    for config, part in (("clean", names[:24]), ("other", names[24:])):
        rows = [
            {
                "file": f"{name}.wav",
                "audio": {"bytes": (prompts / f"{name}.wav").read_bytes(), "path": f"{name.replace('/', '-')}.wav"},
                "text": texts[name].upper(),
                "speaker_id": 100 + number % 4,
                "chapter_id": 7,
                "id": f"{100 + number % 4}-7-{number:04d}",
            }
            for number, name in enumerate(part)
        ]
        (folder / config / "test").mkdir(parents=True)
        for shard in (0, 1):
            pq.write_table(pa.Table.from_pylist(rows[shard::2]), folder / config / "test" / f"000{shard}.parquet")
    return folder


def read_texts(prompts: Path) -> dict[str, str]:
    return {name: text for name, text in asterisk.read_transcripts(prompts).items() if 10 < len(text) < 80}


def hashes(manifest: Manifest) -> dict[str, str]:
    return {u.id: waveform_hash(load(u.audio, AudioSettings())) for u in manifest}


@pytest.mark.parametrize("name", NAMES)
def test_help_is_quick_and_imports_nothing_heavy(name: str) -> None:
    code = (
        f"import sys, runpy; sys.argv = ['{name}', '--help']\n"
        f"try: runpy.run_path(r'{ROOT / 'scripts' / name}.py', run_name='__main__')\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'datasets', 'transformers', 'pyarrow'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--output FILE" in result.stdout


def test_inline_and_path_hold_the_same_speech_and_repeat_byte_for_byte(librispeech: Path, tmp_path: Path) -> None:
    common = ("--dataset", librispeech, "--split", "test.clean", "--samples", 10)
    first = process("build_manifest", *common, "--output", tmp_path / "a" / "m.jsonl")
    assert first.returncode == 0, first.stderr
    assert re.search(r"m\.jsonl: 10 utterances, 0\.\d min, 4 speakers", first.stdout)
    assert "every transcript is in upper case" in first.stdout
    assert script("build_manifest", *common, "--output", tmp_path / "b" / "m.jsonl").returncode == 0
    assert script("build_manifest", *common, "--output", tmp_path / "i.jsonl", "--audio", "inline").returncode == 0
    files = {path.relative_to(tmp_path / "a"): sha256_file(path) for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path / "b"): sha256_file(path) for path in (tmp_path / "b").rglob("*") if path.is_file()}
    assert len(files) == 11
    by_path, inline = read(tmp_path / "a" / "m.jsonl", Rules()), read(tmp_path / "i.jsonl", Rules())
    assert hashes(by_path) == hashes(inline)
    assert [(u.id, u.text, u.speaker_id, u.declared_s) for u in by_path] == [(u.id, u.text, u.speaker_id, u.declared_s) for u in inline]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "i.jsonl"]


def test_encoded_audio_is_stored_unchanged(librispeech: Path, tmp_path: Path) -> None:
    assert script("build_domain_manifest", "--dataset", librispeech, "--output", tmp_path / "m.jsonl").returncode == 0
    stored = {path.read_bytes() for path in (tmp_path / "m_audio").iterdir()}
    tables = [pq.read_table(path) for path in (librispeech / "other").rglob("*.parquet")]
    assert stored == {row["audio"]["bytes"] for table in tables for row in table.to_pylist()}


def test_another_seed_gives_another_sample(librispeech: Path, tmp_path: Path) -> None:
    chosen = []
    for seed in (1, 2):
        output = tmp_path / f"{seed}.jsonl"
        options = ("--config", "clean", "--split", "test", "--samples", 8, "--seed", seed, "--audio", "inline")
        assert script("build_domain_manifest", "--dataset", librispeech, *options, "--output", output).returncode == 0
        chosen.append([u.id for u in read(output, Rules())])
    assert chosen[0] != chosen[1]


def test_declared_configs_and_folders_agree(librispeech: Path, tmp_path: Path) -> None:
    copy = tmp_path / "declared"
    for file in librispeech.rglob("*.parquet"):
        target = copy / "data" / file.relative_to(librispeech)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    configs = [f"- config_name: {c}\n  data_files:\n  - split: test\n    path: data/{c}/test/*.parquet\n" for c in ("clean", "other")]
    (copy / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    streamed = list(items(HubSource(str(copy), "test.other")))
    assert streamed == list(items(HubSource(str(librispeech), "test", config="other")))
    assert len(streamed) == 8


def test_audio_folders_work_with_their_own_column_names(tmp_path: Path) -> None:
    prompts = asterisk.fetch()
    texts = read_texts(prompts)
    folder = tmp_path / "folder"
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file_name", "sentence"])
        for name in sorted(texts)[:4]:
            (folder / f"{name}.wav").write_bytes((prompts / f"{name}.wav").read_bytes())
            table.writerow([f"{name}.wav", texts[name]])
    options = ("--text-column", "sentence", "--speaker-column", "none", "--id-column", "none", "--split", "train")
    result = script("build_manifest", "--dataset", folder, *options, "--output", tmp_path / "m.jsonl")
    assert result.returncode == 0, result.stderr
    made = read(tmp_path / "m.jsonl", Rules())
    assert {u.text for u in made} == {texts[name] for name in sorted(texts)[:4]}
    assert [u.id for u in made] == [f"{n:07d}" for n in range(4)]
    assert made.speakers() == frozenset()


def test_refusals_say_what_to_do(librispeech: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.jsonl"
    common = ("--dataset", librispeech, "--output", output)
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((*common, "--split", "test.clean", "--samples", 99), "--samples 99: only 24 are available; ask for fewer"),
        ((*common, "--split", "test.clean", "--min-seconds", 99, "--max-seconds", 100), "nothing to put in"),
        ((*common, "--split", "test.clean", "--min-seconds", 9, "--max-seconds", 1), "--min-seconds 9 is over --max-seconds 1"),
        ((*common, "--split", "dev.clean"), "has no split 'dev.clean'; tried"),
        ((*common, "--split", "test", "--config", "nix"), "has no config 'nix', only default; set --config"),
        ((*common, "--split", "test.clean", "--text-column", "txt"), "no column 'txt', only file, audio, text,"),
        ((*common, "--split", "test.clean", "--speaker-column", "speaker"), "closest is 'speaker_id'; set --speaker-column, or"),
        ((*common, "--split", "test.clean", "--audio-column", "file"), "column 'file' holds no encoded audio; set --audio-column"),
        ((*common, "--split", "test.clean", "--id-column", "speaker_id"), "names several recordings; choose another --id-column"),
        ((*common, "--split", "test.clean", "--text-column", "chapter_id"), "column 'chapter_id' holds int; set --text-column"),
        ((*common, "--split", "test.clean", "--samples", 3, "--limit", 3), "--samples draws from all recordings, --limit and --hours take"),
        ((*common, "--split", "test.clean", "--samples", 3, "--hours", 1), "--samples draws from all recordings, --limit and --hours take"),
        ((*common, "--split", "test.clean", "--samples", 3, "--seed", "a"), "--seed: must be a whole number, not 'a'"),
        ((*common, "--split", "test.clean", "--min-seconds", "b"), "--min-seconds: must be a number, not 'b'"),
        ((*common, "--split", "test.clean", "--limit", 0), "--limit: must be at least 1, not 0"),
        ((*common, "--split", "test.clean", "--hours", -1), "--hours: must be a number above 0, not -1"),
        ((*common, "--split", "test.clean", "--part", "3/2"), "--part: must be a part's number and how many there are, such as 3/10"),
        ((*common, "--split", "test.clean", "--part", "2"), "--part: must be a part's number and how many there are, such as 3/10"),
        ((*common, "--split", "test.clean", "--part", "1/3"), "--part 1/3: it is made of 2 files, so there are at most that many parts"),
        (("--dataset", tmp_path / "none", "--output", output), "none: no such folder"),
        (("--dataset", tmp_path / "empty", "--output", output), "empty: cannot be read"),
        ((*common, "--sampels", 3), "unknown flag --sampels (did you mean --samples?); see --help"),
    ):
        assert message in refusal("build_manifest", *arguments), message
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_damaged_parquet_and_audio_are_named(librispeech: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "test.parquet").write_bytes(b"no parquet")
    assert "broken: cannot be read" in refusal("build_manifest", "--dataset", broken, "--split", "test", "--output", tmp_path / "m.jsonl")
    table = pq.read_table(librispeech / "clean" / "test" / "0000.parquet").to_pylist()
    table[3]["audio"]["bytes"] = b"no audio"
    pq.write_table(pa.Table.from_pylist(table), broken / "test.parquet")
    message = refusal("build_manifest", "--dataset", broken, "--split", "test", "--output", tmp_path / "m.jsonl")
    assert f"{table[3]['audio']['path']}: not readable as wav" in message
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_an_unreachable_hub_is_one_line_that_names_the_way_out(tmp_path: Path) -> None:
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "http_proxy": "", "no_proxy": "127.0.0.1"}
    message = refusal("build_manifest", "--output", tmp_path / "m.jsonl", **closed)
    assert "openslr/librispeech_asr: is on the hub, which cannot be reached" in message
    assert "or pass a local copy as --dataset FOLDER" in message
    assert "stay offline" in refusal("build_manifest", "--output", tmp_path / "m.jsonl", HF_HUB_OFFLINE="1")


def test_hub_answers_are_explained() -> None:
    from huggingface_hub.errors import HFValidationError

    with pytest.raises(FetchError, match="is not on the hub, or private") as caught:
        list(items(HubSource("not a name", "test")))
    assert isinstance(caught.value.__cause__, HFValidationError)


def test_existing_output_is_kept_unless_told_otherwise(librispeech: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.jsonl"
    common = ("--dataset", librispeech, "--output", output)
    assert script("build_domain_manifest", *common).returncode == 0
    before = output.read_bytes()
    assert "m.jsonl: exists already; pass --overwrite" in refusal("build_domain_manifest", *common, "--config", "clean")
    output.unlink()
    assert "m_audio: exists already; pass --overwrite" in refusal("build_domain_manifest", *common)
    assert script("build_domain_manifest", *common, "--overwrite").returncode == 0
    assert output.read_bytes() == before


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace with `recordings/` and `recordings.csv` as docs/manifests.md describes them."""
    prompts = asterisk.fetch()
    texts = read_texts(prompts)
    place = tmp_path_factory.mktemp("place")
    names = sorted(texts)
    for number, name in enumerate(names[:6]):
        folder = place / "recordings" / ("anna" if number % 2 else "ben")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.wav").write_bytes((prompts / f"{name}.wav").read_bytes())
        (folder / f"{name}.txt").write_text(f"{texts[name]}\n")
    with (place / "recordings.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "sentence", "speaker"])
        for name in names[4:10]:
            found = next((place / "recordings").rglob(f"{name}.wav"), place / "more" / f"{name}.wav")
            found.parent.mkdir(exist_ok=True)
            found.write_bytes((prompts / f"{name}.wav").read_bytes())
            table.writerow([found.relative_to(place), texts[name], "cleo"])
    return place


def documented_commands(mark: str) -> Iterator[str]:
    text = (ROOT / "docs" / "manifests.md").read_text()
    for block in re.findall(rf"<!-- needs: {mark} -->\n```bash\n(.*?)```", text, re.S):
        yield from block.strip().splitlines()


def test_documented_commands_work_on_own_recordings(recordings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recordings)
    documented = list(documented_commands("recordings"))
    assert len(documented) == 3
    outputs = []
    for command in documented:
        runner, name, *arguments = shlex.split(command.removeprefix("uv run "))
        assert (runner, Path(name).parent.name) == ("python", "scripts")
        result = script(Path(name).stem, *arguments)
        assert result.returncode == 0, result.stderr
        outputs.append(result.stdout)
    own = read(recordings / "data" / "own.jsonl", Rules())
    merged = read(recordings / "data" / "merged.jsonl", Rules())
    assert own.speakers() == {"anna", "ben"}
    assert {u.id.split("/")[0] for u in own} == {"anna", "ben"}
    assert len(merged) == 10
    assert "dropped 2 recordings that were there already" in outputs[2]
    assert len(set(hashes(merged).values())) == 10


def test_every_documented_flag_exists() -> None:
    for command in [*documented_commands("hub"), *documented_commands("recordings")]:
        words = shlex.split(command)
        shown = script(Path(words[3]).stem, "--help").stdout
        assert all(word in shown for word in words if word.startswith("--")), command


def test_own_recordings_are_checked(recordings: Path, tmp_path: Path) -> None:
    output = ("--output", tmp_path / "m.jsonl")
    (tmp_path / "in").mkdir()
    assert "holds no audio" in refusal("build_domain_manifest", "--from-folder", tmp_path / "in", *output)
    (tmp_path / "in" / "a.txt").write_text("hello")
    wav = next((recordings / "recordings").rglob("*.wav"))
    (tmp_path / "in" / "b.wav").write_bytes(wav.read_bytes())
    message = refusal("build_domain_manifest", "--from-folder", tmp_path / "in", *output)
    assert "for 2 bad rows (--skip-bad leaves them out): a.txt: lacks its recording" in message
    assert "; b.wav: lacks its transcript" in message
    (tmp_path / "in" / "a.txt").rename(tmp_path / "in" / "b.txt")
    assert script("build_domain_manifest", "--from-folder", tmp_path / "in", *output).returncode == 0
    table = tmp_path / "t.tsv"
    table.write_text("file\ttext\nin/b.wav\thello\nin/c.wav\thello\n")
    assert "has no column 'speaker', only file, text" in refusal("build_domain_manifest", "--csv", table, *output, "--overwrite")
    message = refusal("build_domain_manifest", "--csv", table, "--speaker-column", "none", *output, "--overwrite")
    assert "t.tsv line 3: in/c.wav: no such file" in message
    table.write_text("file\ttext\nin/b.wav\t \n")
    message = refusal("build_domain_manifest", "--csv", table, "--speaker-column", "none", *output, "--overwrite")
    assert "t.tsv line 2: in/b: has no text" in message
    message = refusal("build_domain_manifest", "--from-folder", tmp_path / "in", "--text-column", "x", *output, "--overwrite")
    assert "--text-column: a folder has no columns" in message
    assert "not allowed with argument" in refusal("build_domain_manifest", "--from-folder", "a", "--csv", "b", *output)


def test_merging_keeps_ids_unique_and_paths_inside(librispeech: Path, tmp_path: Path) -> None:
    for name, config in (("a", "clean"), ("b", "other")):
        options = ("--config", config, "--split", "test", "--id-column", "none", "--audio", "path" if name == "a" else "inline")
        assert script("build_domain_manifest", "--dataset", librispeech, *options, "--output", tmp_path / f"{name}.jsonl").returncode == 0
    sources = (tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "a.jsonl")
    by_path = script("merge_manifests", *sources, "--output", tmp_path / "out" / "m.jsonl")
    assert "32 utterances" in by_path.stdout
    assert "dropped 24 recordings" in by_path.stdout
    assert "renamed id 0000000 to b-0000000" in by_path.stdout
    assert script("merge_manifests", *sources, "--output", tmp_path / "i.jsonl", "--audio", "inline").returncode == 0
    merged, inline = read(tmp_path / "out" / "m.jsonl", Rules()), read(tmp_path / "i.jsonl", Rules())
    assert hashes(merged) == hashes(inline)
    stored = {path.name: path.suffix for path in (tmp_path / "out" / "m_audio").iterdir()}
    assert sorted(stored.values()) == [".flac"] * 8 + [".wav"] * 24
    assert (tmp_path / "out" / "m_audio" / "0000000.wav").read_bytes() == (tmp_path / "a_audio" / "0000000.wav").read_bytes()


def test_merging_refuses_two_transcripts_of_one_recording(librispeech: Path, tmp_path: Path) -> None:
    first = tmp_path / "a.jsonl"
    assert script("build_domain_manifest", "--dataset", librispeech, "--output", first, "--audio", "inline").returncode == 0
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    rows[2]["text"] = "something else"
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    message = refusal("merge_manifests", first, tmp_path / "b.jsonl", "--output", tmp_path / "m.jsonl")
    assert "a.jsonl line 3 and" in message
    assert "the same recording with different transcripts" in message
    assert not list(tmp_path.glob("*m_audio*"))
    assert not (tmp_path / "m.jsonl").exists()


@pytest.mark.parametrize("mode", ["path", "inline"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_nothing_half_written(tmp_path: Path, mode: str, number: signal.Signals) -> None:
    source = tmp_path / "in"
    source.mkdir()
    soundfile.write(tmp_path / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal(48_000 * 20), 48_000)
    for index in range(40):
        os.link(tmp_path / "noise.wav", source / f"{index}.wav")
        (source / f"{index}.txt").write_text("x")
    place = tmp_path / "out"
    command = [sys.executable, str(ROOT / "scripts/build_domain_manifest.py"), "--from-folder", str(source), "--audio", mode]
    child = subprocess.Popen([*command, "--output", str(place / "m.jsonl")], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (place.exists() and any(place.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert child.poll() is None
    assert any(place.iterdir())
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == ((130, "interrupted\n") if number == signal.SIGINT else (143, "terminated\n"))
    assert not list(place.iterdir())
