"""A Hub on loopback: what `huggingface_hub` asks of one repository, with files that can be cut off in the middle."""

import hashlib
import json
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """One repository under `url`, with a commit and a branch `main`."""

    name: str
    files: dict[str, bytes]
    url: str = ""
    cut: dict[str, int] = field(default_factory=dict[str, int])
    """Files that end after so many bytes; whoever goes on is refused while they are in here."""
    asked: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    """What was asked for: verb, file, range."""

    def tree(self) -> list[dict[str, object]]:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in self.files.items()
        ]


@contextmanager
def fake_hub(name: str, files: Mapping[str, bytes]) -> Generator[FakeHub]:
    """A Hub that serves one repository until the block ends."""
    hub = FakeHub(name, dict(files))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            api, resolve = f"/api/models/{hub.name}", f"/{hub.name}/resolve/{COMMIT}/"
            if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
                self._json({"id": hub.name, "sha": COMMIT, "siblings": []})
            elif path == f"{api}/tree/{COMMIT}":
                self._json(hub.tree())
            elif path.startswith(resolve) and path.removeprefix(resolve) in hub.files:
                self._file(path.removeprefix(resolve), with_body)
            elif path.startswith((api, f"/{hub.name}/")):
                self._json({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
            else:
                self._json({"error": "no such repository"}, 404, {"X-Error-Code": "RepoNotFound"})

        def _file(self, name: str, with_body: bool) -> None:
            data, asked = hub.files[name], self.headers.get("Range", "")
            hub.asked.append((self.command, name, asked))
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            end = hub.cut.get(name, len(data))
            if with_body and start >= end:
                self.close_connection = True
                return
            self.send_response(206 if asked else 200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data) - start))
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if with_body:
                self.wfile.write(data[start:end])
                self.close_connection = end < len(data)

        def _json(self, content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
