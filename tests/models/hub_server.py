"""A small model hub on this machine: the few answers that huggingface_hub asks for, over real HTTP."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


class HubServer(ThreadingHTTPServer):
    """A server of one model: its branches and tags, and a folder for each commit."""

    def __init__(self, model: str, revisions: dict[str, str], commits: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model = model
        self.revisions = revisions
        self.commits = commits
        self.asked: list[str] = []
        """The path of every request, in order."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def files_asked(self) -> set[str]:
        """The downloaded files, as ``commit/file``."""
        marker = f"/{self.model}/resolve/"
        return {path.removeprefix(marker) for path in self.asked if path.startswith(marker)}

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.asked.append(path)
        api = f"/api/models/{hub.model}/"
        if not path.startswith((api, f"/{hub.model}/resolve/")):
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if path.startswith(f"{api}revision/"):
            return self._revision(path.removeprefix(f"{api}revision/"))
        if path.startswith(f"{api}tree/"):
            return self._tree(path.removeprefix(f"{api}tree/"))
        commit, _, name = path.removeprefix(f"/{hub.model}/resolve/").partition("/")
        content = (hub.commits[commit] / name).read_bytes()
        return self._send(200, content, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": commit})

    def _revision(self, revision: str) -> None:
        commit = self.server.revisions.get(revision)
        if commit is None:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        return self._json({"id": self.server.model, "sha": commit, "siblings": []})

    def _tree(self, commit: str) -> None:
        folder = self.server.commits.get(commit)
        if folder is None:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return self._json(
            [
                {
                    "type": "file",
                    "path": str(file.relative_to(folder)),
                    "size": file.stat().st_size,
                    "oid": _digest(file.read_bytes()),
                }
                for file in files
            ]
        )

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
