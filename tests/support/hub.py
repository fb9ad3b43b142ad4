"""A hub of models on this machine, for the hub's client to ask."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar


class RefusingHub(BaseHTTPRequestHandler):
    """Refuses as the hub does: by the status and the headers that its client reads."""

    answers: ClassVar = {
        "gated": (403, "GatedRepo"),
        "private": (401, "RepoNotFound"),
        "expired": (401, ""),
        "old": (404, "RevisionNotFound"),
        "plain": (404, "EntryNotFound"),
    }

    def do_HEAD(self) -> None:
        status, code = self.answers.get(self.path.split("/")[1], (404, ""))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(hub: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a hub that answers until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
