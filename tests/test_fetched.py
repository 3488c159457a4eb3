"""`--canary` and `--replay`: general speech comes from the hub or a local copy, once."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import COMMIT, served
from running import Result, the_error
from test_hub import Hub, ids

from lora.corpora import asterisk, fetched
from lora.dataset.manifest import Rules, read
from lora.errors import ConfigError
from lora.runners.experiment import add_arguments

MANY = 320


def asked(*flags: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(flag) for flag in flags])


def rows(names: Sequence[str], texts: dict[str, str], folder: Path) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"audio": {"bytes": (folder / f"{name}.wav").read_bytes(), "path": None}, "text": texts[name], "speaker_id": 7, "id": name}
            for name in names
        ]
    )


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts as LibriSpeech lies on the hub: a config, a split; and the same as the official replay corpus, an Arrow file without ids."""
    prompts = asterisk.fetch()
    texts = asterisk.read_transcripts(prompts)
    size = {name: (prompts / f"{name}.wav").stat().st_size for name in texts}
    names = sorted(name for name in texts if texts[name] and 1.1 < size[name] / 16_000 < 20)[:MANY]
    folder = tmp_path_factory.mktemp("librispeech")
    for part in ("clean", "yodas"):
        (folder / part).mkdir()
    pq.write_table(rows(names, texts, prompts), folder / "clean" / "test-00000-of-00001.parquet")
    few = rows(names[:5], texts, prompts).select(["audio", "text"])
    with pa.ipc.new_file(folder / "yodas" / "data-00000-of-00001.arrow", few.schema) as file:
        file.write_table(few)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOONSHINE_LORA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_canary_is_drawn_once_and_needs_its_source_no_more(librispeech: Path, cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "clean").mkdir(parents=True)
    for file in (librispeech / "clean").iterdir():
        copyfile(file, copy / "clean" / file.name)
    options = asked("--canary", copy)
    fetched.fetch(options)
    path = Path(getattr(options, "data.heldout_manifest"))
    assert path.is_relative_to(cache)
    assert len(read(path, Rules()).utterances) == fetched.CANARY.choice.samples
    assert not hasattr(options, "data.replay_manifest")
    before = path.stat().st_mtime_ns
    for file in (copy / "clean").iterdir():
        file.write_bytes(b"gone")
    again = asked("--canary", copy)
    fetched.fetch(again)
    assert getattr(again, "data.heldout_manifest") == str(path)
    assert path.stat().st_mtime_ns == before


@pytest.mark.usefixtures("cache")
def test_the_official_replay_corpus_is_read_as_it_is_published(librispeech: Path) -> None:
    options = asked("--replay", f"yodas={librispeech / 'yodas'}")
    fetched.fetch(options)
    manifest = read(Path(getattr(options, "data.replay_manifest")), Rules())
    assert ids(manifest) == [f"{number:07d}" for number in range(5)]
    assert all(one.text for one in manifest)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--replay", "radio"), "--replay radio: known are librispeech and yodas; a manifest is given with --replay-manifest"),
        (("--canary", "--heldout-manifest", "h.jsonl"), "--canary and --heldout-manifest name the same speech; leave one out"),
        (("--replay", "yodas", "--replay-manifest", "r.jsonl"), "--replay and --replay-manifest name the same speech; leave one out"),
        (("--canary", "owner/name@"), "owner/name@: name a revision behind the @"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_fetched(flags: tuple[str, ...], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        fetched.fetch(asked(*flags))
    assert str(refused.value) == says


def test_the_hub_is_asked_for_the_revision_and_a_refusal_leaves_nothing(librispeech: Path, tmp_path: Path) -> None:
    table = pq.read_table(librispeech / "clean" / "test-00000-of-00001.parquet").slice(0, 4)
    (tmp_path / "hub" / "data").mkdir(parents=True)
    pq.write_table(table, tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    with served(Hub, tmp_path / "hub") as hub:
        address = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "NO_PROXY": "127.0.0.1", "http_proxy": ""}
        environment = kept | address | {"HF_HOME": str(tmp_path / "home"), "MOONSHINE_LORA_CACHE": str(tmp_path / "cache")}

        def run(name: str) -> "subprocess.CompletedProcess[str]":
            command = [sys.executable, "-m", "lora.main", "experiment", "--replay", f"yodas={name}", "--train-manifest", "none.jsonl"]
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

        good = run(f"owner/good@{COMMIT}")
        assert "4 utterances" in good.stdout  # fetched; then the other settings are missing
        assert "error: " in good.stderr
        bad = run("owner/missing")
        assert the_error(Result(bad.returncode, bad.stdout, bad.stderr)).startswith("error: owner/missing: is not on the hub, or private")
        assert bad.stderr.endswith("or pass a local copy as --replay yodas=FOLDER\n")
        assert any(COMMIT in path for path in hub.RequestHandlerClass.asked)  # type: ignore[attr-defined]
    assert len(list((tmp_path / "cache" / "corpora").glob("*/manifest.jsonl"))) == 1
