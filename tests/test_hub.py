"""The real hub client against a server on this machine: streams are read as far as needed, and refusals are one line each."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import COMMIT, HubAnswers, served
from running import Result

from lora.corpora import asterisk
from lora.corpora.hub import HubSource, items
from lora.dataset.manifest import Manifest, Rules, read
from lora.errors import FetchError

ROOT = Path(__file__).parents[1]
ROWS = 12
FILES = 4


class Hub(HubAnswers):
    """Answers for the dataset in the folder `files`, at one commit; other names are kinds of refusals."""

    gated = 403
    broken: str = "/"
    """Files with this in their name cannot be read."""

    def answer_found(self, path: str) -> None:
        if "/revision/v9" in path:
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if "/tree/" in path:
            place = self.files / path.partition(f"/tree/{COMMIT}")[2].strip("/")
            if not place.exists():
                return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return self.answer_json([self.entry(file) for file in sorted(place.rglob("*")) if place.is_dir()])
        if "/resolve/" in path:
            return self.answer_file(self.files / path.partition(f"/resolve/{COMMIT}/")[2])
        if path.startswith("/api/datasets/owner/good"):
            siblings = [{"rfilename": self.entry(file)["path"]} for file in self.files.rglob("*.parquet")]
            return self.answer_json({"id": "owner/good", "sha": COMMIT, "siblings": siblings, "private": False})
        return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def do_POST(self) -> None:  # noqa: N802
        """What is asked of single paths."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        names = json.loads(body)["paths"] if body.startswith("{") else re.findall(r"paths=([^&]*)", body)
        found = [self.files / name.replace("%2F", "/") for name in names]
        self.answer_json([self.entry(file) for file in found if file.exists()])

    def entry(self, file: Path) -> dict[str, Any]:
        path = file.relative_to(self.files).as_posix()
        if file.is_dir():
            return {"type": "directory", "path": path, "oid": "0" * 40}
        return {"type": "file", "path": path, "size": file.stat().st_size, "oid": "1" * 40}

    def answer_file(self, file: Path) -> None:
        if not file.is_file():
            return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        content = file.read_bytes()
        headers = {"ETag": '"1"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if self.broken in file.name and self.command == "GET":
            return self.answer(503, b"{}", {})
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            return self.answer(206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"})
        return self.answer(200, content, headers)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve prompts in four parquet files, as on the hub."""
    prompts = asterisk.fetch()
    texts = {name: text for name, text in sorted(asterisk.read_transcripts(prompts).items()) if 10 < len(text) < 80}
    names = list(texts)[:ROWS]
    folder = tmp_path_factory.mktemp("dataset")
    (folder / "data").mkdir()
    for file in range(FILES):
        rows = [
            {
                "audio": {"bytes": (prompts / f"{name}.wav").read_bytes(), "path": f"{Path(name).name}.wav"},
                "text": texts[name],
                "speaker_id": "7",
                "id": name,
            }
            for name in names[file * ROWS // FILES : (file + 1) * ROWS // FILES]
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"train-0000{file}-of-0000{FILES}.parquet")
    return folder


@pytest.fixture
def hub(dataset: Path) -> Iterator[ThreadingHTTPServer]:
    with served(Hub, dataset) as server:
        yield server


def build(hub: ThreadingHTTPServer, folder: Path, *arguments: object, name: str = "owner/good") -> Result:
    """The script in a process of its own, since the hub's library reads its settings at import."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    address = f"http://127.0.0.1:{hub.server_port}"
    environment = {**kept, "HF_ENDPOINT": address, "HF_HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1", "http_proxy": ""}
    command = [sys.executable, str(ROOT / "scripts" / "build_manifest.py"), "--dataset", name, "--split", "train"]
    done = subprocess.run(
        [*command, *map(str, arguments), "--output", str(folder / "m.jsonl")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def data_files_asked(hub: ThreadingHTTPServer) -> set[str]:
    asked: list[str] = hub.RequestHandlerClass.asked  # type: ignore[attr-defined]
    return {Path(path).name[:11] for path in asked if path.endswith(".parquet")}


def ids(manifest: Manifest) -> list[str]:
    return [one.id for one in manifest]


def test_a_stream_is_written_as_a_manifest_and_read_no_further_than_asked(hub: ThreadingHTTPServer, dataset: Path, tmp_path: Path) -> None:
    every = [item.id for item in items(HubSource(str(dataset), "train"))]
    done = build(hub, tmp_path, "--limit", 2)
    assert done.code == 0, done.err
    assert ids(read(tmp_path / "m.jsonl", Rules())) == every[:2]
    assert data_files_asked(hub) == {"train-00000"}
    assert not list((tmp_path / "home").rglob("*.parquet")), "a stream leaves no copy"
    done = build(hub, tmp_path, "--overwrite")
    assert done.code == 0, done.err
    assert ids(read(tmp_path / "m.jsonl", Rules())) == every
    assert len(every) == ROWS


def test_a_stream_that_is_left_early_lets_the_process_end(dataset: Path, tmp_path: Path) -> None:
    """Row groups large enough that Arrow is still reading ahead when the command is done."""
    row = pq.read_table(dataset / "data" / f"train-00000-of-0000{FILES}.parquet").to_pylist()[0]
    row["audio"]["bytes"] += bytes(300_000)  # behind the sound, where no decoder looks
    (tmp_path / "large").mkdir()
    writer = None
    for group in range(12):
        table = pa.Table.from_pylist([row | {"id": f"{group}-{number}"} for number in range(40)])
        writer = writer or pq.ParquetWriter(tmp_path / "large" / "train.parquet", table.schema, compression="none", use_dictionary=False)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    command = [sys.executable, ROOT / "scripts" / "build_manifest.py", "--dataset", tmp_path / "large", "--split", "train", "--limit", "2"]
    done = subprocess.run([*command, "--output", tmp_path / "m.jsonl"], capture_output=True, text=True, timeout=120, check=True)
    assert "m.jsonl: 2 utterances" in done.stdout
    assert len(read(tmp_path / "m.jsonl", Rules())) == 2


def test_parts_read_their_own_files_and_are_the_whole(hub: ThreadingHTTPServer, dataset: Path, tmp_path: Path) -> None:
    every = [item.id for item in items(HubSource(str(dataset), "train"))]
    parts = [[item.id for item in items(HubSource(str(dataset), "train", part=(number, 3)))] for number in (1, 2, 3)]
    assert [name for part in parts for name in part] == every
    assert all(parts)
    done = build(hub, tmp_path, "--part", f"{FILES}/{FILES}")
    assert done.code == 0, done.err
    assert ids(read(tmp_path / "m.jsonl", Rules())) == every[-3:]
    assert data_files_asked(hub) <= {"train-00000", "train-00003"}, "the first file tells the columns"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("owner/gated", (), "owner/gated: is gated; accept its terms on its page and set HF_TOKEN"),
        ("owner/missing", (), "owner/missing: is not on the hub, or private; check its name and set HF_TOKEN"),
        ("owner/down", (), "owner/down: the hub refuses (Server error '503"),
        ("owner/good", ("--revision", "v9"), "owner/good: has no such revision on the hub; check --revision"),
        ("owner/good", ("--split", "nix"), "owner/good: has no split 'nix'; tried default/nix; available are default: train; set --split"),
        ("owner/good", ("--text-column", "words"), "owner/good (default/train): has no column 'words', only audio, text, speaker_id, id"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line_and_leaves_nothing(
    hub: ThreadingHTTPServer, tmp_path: Path, name: str, arguments: tuple[str, ...], message: str
) -> None:
    done = build(hub, tmp_path, *arguments, name=name)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: {message}")
    assert done.err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}


def test_a_dataset_without_rows_is_refused(tmp_path: Path) -> None:
    nothing: pa.Table = pa.Table.from_pylist([{"audio": b"", "text": "", "speaker_id": "", "id": ""}]).slice(0, 0)
    for name in ("parquet", "jsonl"):
        (tmp_path / name).mkdir()
    pq.write_table(nothing, tmp_path / "parquet" / "train.parquet")
    (tmp_path / "jsonl" / "train.jsonl").write_text("")
    for name in ("parquet", "jsonl"):
        with pytest.raises(FetchError, match=r"cannot be read \(a file of it holds no rows\); take that file out"):
            list(items(HubSource(str(tmp_path / name), "train")))


@pytest.mark.slow
def test_a_stream_that_breaks_off_is_one_line_and_leaves_nothing(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    """After the client has tried again for a while; a part that was written before stays."""
    first = tmp_path / "first"
    first.mkdir()
    assert build(hub, first, "--part", "1/2").code == 0
    hub.RequestHandlerClass.broken = "00002"  # type: ignore[attr-defined]
    done = build(hub, tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith("error: owner/good: the hub refuses (Server error '503")
    assert "Traceback" not in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"home", "first"}
    assert len(read(first / "m.jsonl", Rules())) == ROWS // 2
