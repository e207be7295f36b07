"""A real HTTP server in a thread that gives the answers a test wrote down and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What to send: `cut_bytes` promises so many bytes more than are sent, then hangs up."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_bytes: int = 0


class ScriptedServer:
    """Answers each method and path in the order written; the last answer stays."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.script: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def answer(self, method: str, path: str, body: Any, status: int = 200, **headers: str) -> None:
        """Adds an answer; a body that is not bytes goes as JSON, and `content_type="x"` as the header Content-Type."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.script[method, path].append(Answer(content, status, named))

    def events(self, job_id: str, *jobs: dict[str, Any], cut_bytes: int = 0) -> None:
        """Adds an event stream with one event a job state."""
        body = b": hello\n\n" + b"".join(b"event: job\ndata: " + json.dumps(job).encode() + b"\n\n" for job in jobs)
        headers = {"Content-Type": "text/event-stream"}
        self.script["GET", f"/jobs/{job_id}/events"].append(Answer(body, 200, headers, cut_bytes))

    def only(self, method: str, path: str) -> Received:
        """The one request of that method and path."""
        (found,) = [r for r in self.received if (r.method, r.path) == (method, path)]
        return found

    @contextmanager
    def running(self) -> Iterator[ScriptedServer]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            thread.join()
            self._http.server_close()

    def next_answer(self, request: Received) -> Answer:
        with self._lock:
            self.received.append(request)
            answers = self.script.get((request.method, request.path))
            if not answers:
                missing = {"error": f"{request.path} is not scripted; write its answer", "code": "not_found"}
                return Answer(json.dumps(missing).encode(), 404)
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                address = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Received(self.command, address.path, parse_qs(address.query), headers, body)
                answer = server.next_answer(request)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body) + answer.cut_bytes))
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815 (the names that the base class calls)

            def log_message(self, *_: Any) -> None:
                """Quiet: the test reads what was received."""

        return Handler
