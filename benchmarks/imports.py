"""Which modules a serving process holds: it is started in a Python that also tells what it has imported so far."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from benchmarks.errors import CannotMeasure
from benchmarks.octavo import Place, Server, free_port, is_ready, serve_program, wait_until
from benchmarks.payloads import check_answer, make_requests
from benchmarks.process import running
from benchmarks.reference import bare_session

# Libraries that cost much to import, whichever of Octavo's processes uses them.
HEAVY = (
    "onnxruntime", "sqlalchemy", "alembic", "dbos", "cv2", "onnx", "openvino", "sklearn", "scipy", "rich", "typer",
    "httpx",
)  # fmt: skip
# Each path written to the named pipe gets the names of the modules; the server's own code knows nothing of it.
_WATCHED = """
import json, sys, threading
from pathlib import Path

def tell(pipe):
    while True:
        for line in open(pipe):
            target = Path(line.strip())
            partial = target.with_suffix(".partial")
            partial.write_text(json.dumps(sorted(sys.modules)))
            partial.replace(target)

threading.Thread(target=tell, args=(sys.argv.pop(1),), daemon=True).start()
from service.__main__ import main
main()
"""


@dataclass(frozen=True)
class Imported:
    """Names of `sys.modules` when the server is ready on an empty state, and after an upload and an inference."""

    ready: frozenset[str]
    served: frozenset[str]


def imported_modules(model: Path) -> Imported:
    """Starts a server, looks, uploads `model`, infers once, and looks again."""
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as name, bare_session(model, 1) as bare:
        folder, port = Path(name), free_port()
        pipe = folder / "pipe"
        os.mkfifo(pipe)
        program = serve_program(Place(folder / "data"), port)
        program = replace(program, command=[sys.executable, "-c", _WATCHED, str(pipe), "serve"])
        url = f"http://127.0.0.1:{port}"
        with running(program) as process, httpx.Client(base_url=url, timeout=60) as client:
            wait_until(lambda: process.poll() is not None or is_ready(client), "octavo serve to be ready")
            if process.poll() is not None:
                raise CannotMeasure(f"octavo serve ended with {process.returncode}: {program.log.read_text()}")
            ready = _modules(pipe, folder / "ready.json")
            server = Server(url, process.pid, client)
            server.upload_model("model", model)
            requests = make_requests(bare, folder / "requests")
            check_answer(server.infer_url("model"), requests.binary, requests.expected)
            return Imported(ready, _modules(pipe, folder / "served.json"))


def _modules(pipe: Path, target: Path) -> frozenset[str]:
    with pipe.open("w") as stream:
        stream.write(f"{target}\n")
    wait_until(target.is_file, "the list of modules")
    return frozenset(json.loads(target.read_text()))
