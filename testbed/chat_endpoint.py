"""An OpenAI-compatible chat endpoint in a process of its own: it answers with the prompt and an ending.

As a program it listens on a free port of 127.0.0.1, whose number it prints.
"""

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

KEY = "sk-of-the-testbed"
ENDING = " moving left to right on a blue background"


class ChatEndpoint:
    """A context manager: the endpoint runs in its block, until ``stop``."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        with self._process.stdout as said:
            self.url = f"http://127.0.0.1:{int(said.readline())}/v1"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process; nothing listens there any more."""
        self._process.kill()
        self._process.wait()


class _Chat(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_right = self.path == "/v1/chat/completions" and self.headers["Authorization"] == f"Bearer {KEY}"
        message = {"role": "assistant", "content": asked["messages"][-1]["content"] + ENDING}
        answer = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": asked["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
        body = json.dumps(answer).encode()
        self.send_response(200 if is_right else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Chat)
    print(server.server_port, flush=True)
    server.serve_forever()
