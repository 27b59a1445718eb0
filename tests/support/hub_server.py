"""A Hub on loopback: the routes huggingface_hub uses for one file of one repository, and a log of what was asked."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Files by ``org/name`` and what was requested, as (method, path)."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.broken: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.tokens: list[str | None] = []
        self.endpoint = ""

    @property
    def paths(self) -> set[str]:
        """Paths that were asked for, whatever the method."""
        return {path for _, path in self.asked}


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """Runs the server in a thread for the length of the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            hub.asked.append((self.command, path))
            hub.tokens.append(self.headers.get("Authorization"))
            parts = path.strip("/").split("/")
            repo = "/".join(parts[:2])
            if repo in hub.broken:
                self.refuse(500, "")
            elif repo in hub.gated:
                self.refuse(401 if hub.tokens[-1] is None else 403, "GatedRepo")
            elif repo not in hub.repos or len(parts) < 5 or parts[2] != "resolve":
                self.refuse(404, "RepoNotFound")
            elif parts[3] not in ("main", COMMIT):
                self.refuse(404, "RevisionNotFound")
            elif "/".join(parts[4:]) not in hub.repos[repo]:
                self.refuse(404, "EntryNotFound")
            else:
                self.give(hub.repos[repo]["/".join(parts[4:])], body)

        def give(self, data: bytes, body: bool) -> None:
            whole = len(data)
            wanted = self.headers.get("Range", "")
            if body and wanted.startswith("bytes="):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                data = data[int(first) : int(last) + 1 if last else None]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(data) - 1}/{whole}")
            else:
                self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(data, usedforsecurity=False).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
