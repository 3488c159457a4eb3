"""A server on this machine that answers as the model hub does, for tests that drive the real client."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubAnswers(BaseHTTPRequestHandler):
    """What models and datasets have in common: refusals by the owner's name, and how answers are sent."""

    files: Path
    asked: list[str]
    gated: int
    """The status of a repository that wants a login."""

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.split("?")[0]
        for name, (status, code) in {"gated": (self.gated, "GatedRepo"), "missing": (404, "RepoNotFound"), "down": (503, "")}.items():
            if f"/owner/{name}" in path:
                return self.answer(status, b"{}", {"X-Error-Code": code} if code else {})
        return self.answer_found(path)

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer_found(self, path: str) -> None:
        """Answers for a path that is not refused by its owner's name."""
        raise NotImplementedError

    def answer_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output to itself."""


@contextmanager
def served(kind: type[HubAnswers], files: Path) -> Iterator[ThreadingHTTPServer]:
    """A server for the folder; its handler keeps the paths asked for."""
    handler = type("ThisHub", (kind,), {"files": files, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
