"""What answers in the hub's place may be no hub, and its address may hold a password."""

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from hub_server import HubAnswers, served

from lora.errors import CheckpointError, LoraError

RESOLVE = "from lora.checkpoints.checkpoint import resolve; resolve('owner/model')"
DATASET = "from lora.corpora.commands import build_manifest; build_manifest(['--dataset', 'owner/set', '--output', 'm.jsonl'])"
PUSH = "from lora.publish import require_access; require_access('owner/model')"


class SignInPage(HubAnswers):
    """A network that wants a login first answers everything with a page."""

    def do_GET(self) -> None:  # noqa: N802
        self.answer(200, b"<!DOCTYPE html><html><body>Sign in</body></html>", {"Content-Type": "text/html"})

    do_POST = do_PUT = do_GET  # noqa: N815


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadingHTTPServer]:
    with served(SignInPage, tmp_path_factory.mktemp("files")) as server:
        yield server


def refusal(body: str, endpoint: str, folder: Path) -> str:
    code = f"import sys\nfrom lora.console import run\ndef main():\n    {body}\n    return 0\nsys.exit(run(main))"
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hub"), "HF_TOKEN": "hf_x", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("body", [RESOLVE, DATASET, PUSH], ids=["model", "dataset", "push"])
def test_a_page_in_the_place_of_the_hub_is_named_as_that(body: str, page: ThreadingHTTPServer, tmp_path: Path) -> None:
    message = refusal(body, f"http://127.0.0.1:{page.server_port}", tmp_path)
    assert "HF_ENDPOINT" in message
    assert "answers" in message


@pytest.mark.parametrize("body", [RESOLVE, DATASET, PUSH], ids=["model", "dataset", "push"])
@pytest.mark.parametrize("there", [True, False])
def test_a_password_in_the_address_is_never_shown(body: str, there: bool, page: ThreadingHTTPServer, tmp_path: Path) -> None:
    port = page.server_port if there else 9
    assert "s3cret" not in refusal(body, f"http://me:s3cret@127.0.0.1:{port}", tmp_path)


def test_no_error_shows_a_password() -> None:
    for address in ("https://me:s3cret@host/x", "ftp://s3cret@host", "git+ssh://a:s3cret@h:22/y"):
        assert "s3cret" not in str(LoraError(f"a {address}: b"))
        assert "s3cret" not in f"{CheckpointError(address)}"
    assert str(LoraError("https://host/a@b and me@host")) == "https://host/a@b and me@host"
