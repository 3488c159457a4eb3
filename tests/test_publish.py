"""The model card, and the real hub client against a server on this machine."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from huggingface_hub import ModelCard, constants
from records import completed, with_adapter
from running import ANY_VERDICT, QUICK, Result, manifests, moonshine_lora, refusal, the_error

from lora.dataset.manifest import Utterance
from lora.model.loading import LoadedModel
from lora.report.card import render_card
from lora.runs.record import CheckpointInfo, read, write
from lora.scoring.counts import Counts

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "moonshine_lora.json",
    "report.html",
    "report.md",
    "tokenizer.json",
]
WORSE = (("press the pound key", "press the pound key", "press a town key"), ("please hold the line",) * 3)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with the least that is published."""
    folder = tmp_path / "run"
    record = with_adapter(completed(), folder)
    (folder / "lora_adapter" / "README.md").write_text("an older card")
    (folder / "processor").mkdir()
    (folder / "processor" / "tokenizer.json").write_text("{}")
    write(record, folder)
    return folder


class Hub(BaseHTTPRequestHandler):
    """Takes what the client uploads; repositories of `nobody` may not be written."""

    asked: list[str]
    created: list[dict[str, object]]
    files: dict[str, bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.path)
        if self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            if json.loads(body).get("organization") == "nobody":
                return self.answer(403, {"error": "You do not have the rights"})
            return self.answer(200, {"url": self.endpoint("/owner/name")})
        if self.path == "/api/models/owner/name/preupload/main":
            files = json.loads(body)["files"]
            return self.answer(200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        if self.path == "/api/models/owner/name/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer(200, {"commitUrl": self.endpoint(f"/owner/name/commit/{COMMIT}"), "commitOid": COMMIT})
        return self.answer(200, {"errors": [], "warnings": []})

    def do_GET(self) -> None:
        self.asked.append(self.path)
        known = self.path == "/api/whoami-v2" and self.headers["Authorization"] == "Bearer hf_secret"
        self.answer(200, {"name": "owner"}) if known else self.answer(401, {"error": "Invalid user token."})

    def endpoint(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}"

    def answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output to itself."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    handler = type("ThisHub", (Hub,), {"asked": [], "created": [], "files": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def push(hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command with the hub library set to that server: it reads its settings at import, which was long ago."""
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{hub.server_address[1]}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return lambda *arguments: moonshine_lora("push", *arguments)


@pytest.mark.parametrize("command", [("push", "--repo-id", "owner/name", "--dry-run"), ("report",)])
def test_counts_that_give_no_rate_are_refused_by_the_record_that_holds_them(run: Path, command: Sequence[str]) -> None:
    record = read(run)
    assert record.heldout is not None
    tuned = record.heldout.tuned
    changed = msgspec.structs.replace(tuned, score=msgspec.structs.replace(tuned.score, characters=Counts()))
    write(msgspec.structs.replace(record, heldout=msgspec.structs.replace(record.heldout, tuned=changed)), run)
    message = the_error(moonshine_lora(command[0], run, *command[1:]))
    assert message.startswith(f"error: {run / 'record.json'}: the references hold no words")
    assert message.endswith("the record was changed by hand: run the experiment again")


def test_the_card_holds_what_the_hub_reads() -> None:
    data = ModelCard(render_card(completed())).data
    assert (data.library_name, data.pipeline_tag, data.metrics) == ("peft", "automatic-speech-recognition", ["wer"])
    assert (data.base_model, data.license) == (None, "mit"), "a packaged model has no page there"
    found = [(result.dataset_name, result.metric_type, result.metric_value) for result in data.eval_results or []]
    assert found[0] == ("domain", "wer", 8.33)
    assert [name for name, metric, _ in found if metric == "wer"] == ["domain", "heldout"]


def of_the_hub(model_id: str) -> CheckpointInfo:
    return CheckpointInfo(model_id=model_id, kind="hub", revision=COMMIT, sha256="b" * 64)


def test_the_card_names_a_base_model_that_is_on_the_hub() -> None:
    card = render_card(completed(checkpoint=of_the_hub("owner/moonshine-tiny")))
    assert ModelCard(card).data.base_model == "owner/moonshine-tiny"
    assert "This card states no licence" in card


@pytest.mark.parametrize(
    ("model_id", "mit"),
    [
        ("moonshine-ai/moonshine-tiny", True),
        ("UsefulSensors/moonshine-base", True),
        ("moonshine-ai/moonshine-streaming-small-ja", True),
        ("moonshine-ai/moonshine-tiny-ja", False),
        ("UsefulSensors/moonshine-base-es", False),
    ],
)
def test_the_card_states_the_licence_of_a_published_base_model(model_id: str, mit: bool) -> None:
    card = render_card(completed(checkpoint=of_the_hub(model_id)))
    data = ModelCard(card).data
    assert (data.license, data.get("license_name")) == (("mit", None) if mit else ("other", "moonshine-community-license"))
    assert ("MIT License" if mit else "a non-commercial one") in card
    assert bool(data.get("license_link")) is not mit


def test_the_card_states_licence_and_datasets_that_the_settings_name() -> None:
    record = completed()
    output = msgspec.structs.replace(record.config.output, card_license="cc-by-4.0", card_datasets="owner/one, owner/two")
    card = ModelCard(render_card(msgspec.structs.replace(record, config=msgspec.structs.replace(record.config, output=output))))
    assert (card.data.license, card.data.datasets) == ("cc-by-4.0", ["owner/one", "owner/two"])
    assert "This card states no licence" not in card.text


def test_a_dry_run_lists_and_asks_nothing(run: Path, hub: ThreadingHTTPServer, push: Callable[..., Result]) -> None:
    done = push(run, "--repo-id", "owner/name", "--dry-run")
    assert done.code == 0, done.err
    assert sorted(line.split()[-1] for line in done.out.splitlines()) == NAMES
    assert hub.RequestHandlerClass.asked == []  # type: ignore[attr-defined]


def test_a_run_is_uploaded_in_one_commit(run: Path, hub: ThreadingHTTPServer, push: Callable[..., Result]) -> None:
    done = push(run, "--repo-id", "owner/name")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1].endswith(f"/owner/name/commit/{COMMIT}")
    seen: Any = hub.RequestHandlerClass
    assert sorted(seen.files) == NAMES
    assert seen.files["adapter_model.safetensors"] == (run / "lora_adapter/adapter_model.safetensors").read_bytes()
    assert seen.files["README.md"].decode() == render_card(completed())
    assert b"<audio" not in seen.files["report.html"]
    created = seen.created[0]
    assert created.get("visibility") == "private" or created["private"]  # the client's versions differ
    assert sum("/commit/" in path for path in seen.asked) == 1
    assert push(run, "--repo-id", "owner/name", "--public").code == 0
    assert seen.created[-1].get("visibility") == "public" or not seen.created[-1].get("private", False)


@pytest.mark.parametrize(
    ("repo_id", "endpoint", "message"),
    [
        ("nobody/name", None, "set HF_TOKEN to a token that may write there"),
        ("owner/na me", None, "give --repo-id owner/name"),
        ("owner/name", "http://127.0.0.1:9", "cannot be reached"),
    ],
)
def test_each_refusal_is_one_line(
    run: Path, push: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, repo_id: str, endpoint: str | None, message: str
) -> None:
    if endpoint is not None:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    done = push(run, "--repo-id", repo_id)
    assert done.code == 2, done
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert "hf_secret" not in line


def test_offline_is_reported(run: Path) -> None:
    """In a process of its own: the hub library is offline from its import on."""
    command = [sys.executable, "-m", "lora.main", "push", str(run), "--repo-id", "owner/name"]
    done = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (2, "error: owner/name: HF_HUB_OFFLINE is set; unset it to upload, or pass --dry-run\n")


def test_an_adapter_that_is_damaged_or_another_one_is_not_published(run: Path) -> None:
    command = ("push", run, "--repo-id", "owner/name", "--dry-run")
    write(completed(), run)
    assert "adapter_model.safetensors: is not what the run trained and scored" in the_error(moonshine_lora(*command))
    (run / "lora_adapter/adapter_config.json").write_text("{ }")
    assert "adapter_config.json: is damaged or another one" in the_error(moonshine_lora(*command))
    (run / "lora_adapter/adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors: is missing" in the_error(moonshine_lora(*command))


def test_a_run_that_was_not_accepted_needs_a_word_more(run: Path) -> None:
    write(with_adapter(completed(domain=WORSE), run), run)
    assert "pass --allow-rejected" in the_error(moonshine_lora("push", run, "--repo-id", "owner/name", "--dry-run"))
    result = moonshine_lora("push", run, "--repo-id", "owner/name", "--dry-run", "--allow-rejected")
    assert result.code == 0, result.err


def test_a_run_that_is_not_complete_is_refused(run: Path) -> None:
    write(completed(status="failed", verdict=None), run)
    assert "not complete (failed)" in the_error(moonshine_lora("push", run, "--repo-id", "owner/name", "--dry-run"))


def test_an_accepted_run_is_published_when_its_settings_say_so(
    random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path: Path, hub: ThreadingHTTPServer, push: Callable[..., Result]
) -> None:
    del push  # only its settings are needed
    model, sets = random_v1.checkpoint.folder, manifests(tmp_path / "sets", clips)
    options = ("--model-id", model, *sets.flags(), *QUICK, *ANY_VERDICT, "--push-to-hub", "owner/name")
    done = moonshine_lora("experiment", *options, "--output-dir", tmp_path / "run")
    assert done.code == 0, done.err
    seen: Any = hub.RequestHandlerClass
    asked = [path for path in seen.asked if path != "/api/agent-harnesses"]  # the client's own question, where an agent calls it
    assert asked[0] == "/api/whoami-v2", "access is checked before the work"
    assert seen.files["adapter_model.safetensors"] == (tmp_path / "run/lora_adapter/adapter_model.safetensors").read_bytes()
    log = (tmp_path / "run/log.jsonl").read_text()
    assert json.loads(log.splitlines()[-1])["address"].endswith(COMMIT)


def test_a_rejected_run_is_not_published(
    random_v1: LoadedModel, clips: Sequence[Utterance], tmp_path: Path, hub: ThreadingHTTPServer, push: Callable[..., Result]
) -> None:
    del push
    model, sets = random_v1.checkpoint.folder, manifests(tmp_path / "sets", clips)
    options = ("--model-id", model, *sets.flags(), *QUICK, "--rule", "point", "--min-domain-gain-points", 10000)
    done = moonshine_lora("experiment", *options, "--push-to-hub", "owner/name", "--output-dir", tmp_path / "run")
    assert done.code == 3, done.err
    assert "not published in owner/name" in done.err
    seen: Any = hub.RequestHandlerClass
    assert seen.asked == ["/api/whoami-v2"]


def test_access_to_the_hub_is_checked_before_anything_else(
    tmp_path: Path, push: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    del push
    absent = [part for flag in ("train", "domain", "heldout") for part in (f"--{flag}-manifest", tmp_path / "absent.jsonl")]
    options = ("--model-id", tmp_path, *absent, "--output-dir", tmp_path / "run")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "set HF_TOKEN to a token that may write there" in refusal("experiment", *options, "--push-to-hub", "owner/name")
    assert "owner/name" in refusal("experiment", *options, "--push-to-hub", "owner/na me")
    assert not (tmp_path / "run").exists()
