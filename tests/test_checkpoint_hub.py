"""A checkpoint of the model hub, from a server on this machine that answers as the hub does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, HubAnswers, served

from lora.system.files import sha256_file


class Hub(HubAnswers):
    """Answers for the model in the folder `files`, at one commit; every other name is one kind of refusal."""

    gated = 401

    def answer_found(self, path: str) -> None:
        if path.startswith(("/api/models/owner/good/revision/v9", "/api/models/owner/good/tree/v9")):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if path.startswith("/api/models/owner/good/tree/"):
            return self.answer_json([self.entry(file) for file in sorted(self.files.rglob("*.*"))])
        if path.startswith("/api/models/owner/good"):
            return self.answer_json({"id": "owner/good", "sha": COMMIT, "siblings": [], "private": False})
        return self.answer_file(self.files / path.partition(f"/resolve/{COMMIT}/")[2])

    def entry(self, file: Path) -> dict[str, object]:
        path = file.relative_to(self.files).as_posix()
        return {"type": "file", "path": path, "size": file.stat().st_size, "oid": sha256_file(file)[:40]}

    def answer_file(self, file: Path) -> None:
        self.answer(200, file.read_bytes(), {"ETag": f'"{sha256_file(file)[:40]}"', "X-Repo-Commit": COMMIT})


@pytest.fixture
def hub(local: Path) -> Iterator[ThreadingHTTPServer]:
    with served(Hub, local) as server:
        yield server


@pytest.fixture
def resolve_elsewhere(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`resolve` in a process of its own, since the hub library reads its settings at import; gives the checkpoint or the refusal."""
    program = (
        "import dataclasses, json, sys\n"
        "from lora.checkpoints.checkpoint import resolve\n"
        "from lora.errors import CheckpointError\n"
        "try:\n"
        "    print(json.dumps(dataclasses.asdict(resolve(*json.loads(sys.argv[1]))), default=str))\n"
        "except CheckpointError as error:\n"
        "    print(json.dumps({'refusal': str(error)}))\n"
    )

    def call(model_id: str, endpoint: str, revision: str | None = None, **settings: str) -> dict[str, Any]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hub"), "NO_PROXY": "127.0.0.1", **settings}
        command = [sys.executable, "-c", program, json.dumps([model_id, revision])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert "\n" not in outcome.get("refusal", "")
        return outcome

    return call


def address(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


Resolve = Callable[..., dict[str, Any]]


def test_hub_checkpoint_is_downloaded_with_its_commit(hub: ThreadingHTTPServer, resolve_elsewhere: Resolve, local: Path) -> None:
    (local / "flax_model.msgpack").write_bytes(b"not wanted")
    (local / "onnx").mkdir()
    (local / "onnx" / "config.json").write_text("{}")
    checkpoint = resolve_elsewhere("owner/good", address(hub))
    assert checkpoint["kind"] == "hub"
    assert checkpoint["revision"] == COMMIT
    assert checkpoint["sha256"] == sha256_file(local / "model.safetensors")
    fetched = {path.name for path in Path(checkpoint["folder"]).iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= fetched
    assert not {"flax_model.msgpack", "onnx"} & fetched


def test_hub_checkpoint_in_the_cache_serves_offline(hub: ThreadingHTTPServer, resolve_elsewhere: Resolve) -> None:
    online = resolve_elsewhere("owner/good", address(hub))
    assert resolve_elsewhere("owner/good", address(hub), HF_HUB_OFFLINE="1") == online


def test_hub_model_of_another_kind_is_refused_before_its_weights_are_downloaded(
    hub: ThreadingHTTPServer, resolve_elsewhere: Resolve, local: Path
) -> None:
    settings = local / "config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_type": "whisper"}))
    assert "model_type is 'whisper'" in resolve_elsewhere("owner/good", address(hub))["refusal"]
    asked: list[str] = hub.RequestHandlerClass.asked  # type: ignore[attr-defined]
    assert any("config.json" in path for path in asked)
    assert not any("model.safetensors" in path for path in asked)


def test_gated_repository_names_the_terms_and_the_token(hub: ThreadingHTTPServer, resolve_elsewhere: Resolve) -> None:
    message = resolve_elsewhere("owner/gated", address(hub))["refusal"]
    assert message.startswith("owner/gated: gated; ")
    assert f"{address(hub)}/owner/gated" in message
    assert "HF_TOKEN" in message


def test_unknown_repository_is_refused(hub: ThreadingHTTPServer, resolve_elsewhere: Resolve) -> None:
    assert "owner/missing: not found at" in resolve_elsewhere("owner/missing", address(hub))["refusal"]


def test_unknown_revision_is_refused(hub: ThreadingHTTPServer, resolve_elsewhere: Resolve) -> None:
    assert "owner/good: no revision 'v9'" in resolve_elsewhere("owner/good", address(hub), "v9")["refusal"]


def test_failing_hub_names_its_answer_and_the_choice(hub: ThreadingHTTPServer, resolve_elsewhere: Resolve) -> None:
    message = resolve_elsewhere("owner/down", address(hub))["refusal"]
    assert "503" in message
    assert "packaged:moonshine-tiny" in message


def test_unreachable_hub_names_the_offline_choice(resolve_elsewhere: Resolve) -> None:
    message = resolve_elsewhere("owner/good", "http://127.0.0.1:9")["refusal"]
    assert "http://127.0.0.1:9 cannot be reached" in message
    assert "packaged:moonshine-tiny" in message


def test_offline_with_an_empty_cache_names_the_setting_and_the_choice(resolve_elsewhere: Resolve) -> None:
    message = resolve_elsewhere("owner/good", "http://127.0.0.1:9", HF_HUB_OFFLINE="1")["refusal"]
    assert "HF_HUB_OFFLINE is set" in message
    assert "packaged:moonshine-tiny" in message


def test_name_the_hub_does_not_allow_is_refused(resolve_elsewhere: Resolve) -> None:
    assert "not a name the model hub allows" in resolve_elsewhere("owner/na--me", "http://127.0.0.1:9")["refusal"]
