"""`octavo demo`: the main job from upload to metrics, over HTTP against a real server started for it alone."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import service
from service.cli.client import Client, Document, answered, url_path
from service.cli.demo_server import DemoServer
from service.cli.deploy import Routes, set_routes
from service.cli.exit_codes import CommandFailed, ExitCode, epilog
from service.cli.infer import prediction_view
from service.cli.quantize import request_build
from service.cli.report_view import comparison_view
from service.cli.session import Session, Terminal
from service.cli.shapes import DATASET, MODEL_VERSION, PREDICTION, REPORT
from service.cli.upload import post_file
from service.cli.watch import error_text, follow

DEMO_EPILOG = epilog("octavo demo", "octavo demo --models /opt/octavo/models")

MODEL = "digits"
MAX_LOSS = 0.01
TIME_LIMIT_SECONDS = 600.0
SERVER_COMMAND = (sys.executable, "-m", "service", "up")
# Enough requests for a mean that the first one, which loads the image library, does not govern.
_PREDICTIONS = 50
_MODEL_FILES = (
    "digits.onnx", "labels.txt", "preprocessing.json", "calibration.npz", "validation.npz", "sample.png",
)  # fmt: skip


def demo(
    models: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder of the reference models. Default: the repository's.")
    ] = None,
) -> None:
    """Upload, quantize, prove, deploy and call the digits model on a server of its own, then stop it."""
    terminal = Terminal()
    try:
        folder = find_model(models)
        with terminated_in_order(), tempfile.TemporaryDirectory(prefix="octavo-demo-") as state:
            run_demo(terminal, folder, DemoServer(SERVER_COMMAND, Path(state), TIME_LIMIT_SECONDS))
    except CommandFailed as failure:
        terminal.fail(failure)
        raise typer.Exit(ExitCode.FAILED) from failure


def find_model(models: Path | None) -> Path:
    """The digits folder in `models`, else in the current directory's or the repository's. Raises CommandFailed."""
    repository = Path(service.__file__).resolve().parent.parent
    candidates = [models] if models else [Path.cwd() / "models", repository / "models"]
    for candidate in candidates:
        folder = candidate / MODEL
        if all((folder / name).is_file() for name in _MODEL_FILES):
            return folder
    looked = " or ".join(str(candidate / MODEL) for candidate in candidates)
    raise CommandFailed(
        f"{looked} does not hold {', '.join(_MODEL_FILES)}; run it in the repository, or name its models with --models",
        "no_reference_models",
        ExitCode.FAILED,
    )


@contextmanager
def terminated_in_order() -> Iterator[None]:
    """Within it SIGTERM unwinds the stack, so that the server is stopped before this process ends."""

    def leave(*_: object) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_demo(terminal: Terminal, folder: Path, server: DemoServer) -> None:
    """Every step in order. Raises CommandFailed for the first that fails, after the end of the server's log."""
    started = time.monotonic()
    try:
        with server, Client(server.url) as client:
            server.wait_until_ready(client)
            _say(terminal, f"the server answers at {server.url} after {time.monotonic() - started:.1f} s")
            DemoSteps(Session(client, terminal), folder).run()
    except CommandFailed as failure:
        terminal.note(f"the end of the server's log:\n{server.log_tail()}")
        if server.expired:
            late = f"the demo was stopped after {server.time_limit_seconds:g} s: {failure}"
            raise CommandFailed(late, "demo_time_limit", ExitCode.FAILED) from failure
        raise
    _say(terminal, f"the server has stopped; the demo took {time.monotonic() - started:.1f} s")


@dataclass(frozen=True, slots=True)
class DemoSteps:
    """The main job over one session, from the reference model in `folder`."""

    current: Session
    folder: Path

    def run(self) -> None:
        """Raises CommandFailed for the first step that fails."""
        self._upload()
        built = [self._build("int8"), self._build("fp16")]
        self.current.terminal.out.print(comparison_view([report for _, report in built]))
        variant = built[0][0]
        self._deploy(variant)
        self._classify()
        self._show_metrics(variant)

    def _upload(self) -> None:
        terminal = self.current.terminal
        preprocessing = (self.folder / "preprocessing.json").read_text(encoding="utf-8")
        fields = {"name": MODEL, "preprocessing": preprocessing}
        version = answered(
            post_file(self.current, "/models", self.folder / "digits.onnx", fields, self.folder / "labels.txt"),
            MODEL_VERSION,
        )
        _say(terminal, f"uploaded model {MODEL} version {version['version']}, {version['size_bytes']} bytes")
        for purpose in ("calibration", "validation"):
            stored = answered(
                post_file(self.current, "/datasets", self.folder / f"{purpose}.npz", {"name": f"{MODEL}-{purpose}"}),
                DATASET,
            )
            _say(terminal, f"uploaded dataset {stored['name']}, {stored['rows']} rows")

    def _build(self, precision: str) -> tuple[str, Document]:
        """The variant's name and the report of one build within the budget."""
        body: Document = {
            "model": MODEL,
            "recipe": {"precision": precision},
            "calibration": f"{MODEL}-calibration",
            "validation": f"{MODEL}-validation",
            "budget": {"metric": "top1", "max_loss": MAX_LOSS},
        }
        _say(self.current.terminal, f"quantizing to {precision}, top-1 loss at most {MAX_LOSS:.0%}")
        job = follow(self.current, request_build(self.current, body)["id"])
        if job["state"] != "succeeded":
            why = error_text(job) or (job.get("result") or {}).get("certificate", {}).get("reason")
            raise CommandFailed(f"the {precision} job ended {job['state']}: {why}", "job_failed", ExitCode.FAILED)
        stages = ", ".join(f"{s['name']} {s['seconds']:.1f} s" for s in job["stages"] if s.get("seconds") is not None)
        _say(self.current.terminal, f"built {job['result']['variant']}: {stages}")
        report: Document = self.current.client.fetch("GET", url_path("jobs", job["id"], "report"), REPORT)
        return job["result"]["variant"], report

    def _deploy(self, variant: str) -> None:
        set_routes(self.current.client, MODEL, Routes(variant))
        _say(self.current.terminal, f"deployed {variant}")

    def _classify(self) -> None:
        picture = (self.folder / "sample.png").read_bytes()
        path, headers = url_path("models", MODEL, "predict"), {"Content-Type": "image/png"}
        answers = [
            self.current.client.fetch("POST", path, PREDICTION, content=picture, headers=headers)
            for _ in range(_PREDICTIONS)
        ]
        _say(self.current.terminal, f"classified {self.folder / 'sample.png'} {_PREDICTIONS} times")
        self.current.terminal.out.print(prediction_view(answers[-1]))

    def _show_metrics(self, variant: str) -> None:
        """The variant's request latency, as Prometheus scrapes it."""
        lines = latency_lines(self.current.client.send("GET", "/metrics").text, MODEL, variant)
        if not lines:
            raise CommandFailed(f"/metrics has no latency of {MODEL} {variant}", "no_metrics", ExitCode.FAILED)
        _say(self.current.terminal, "its request latency in /metrics, in seconds")
        for line in lines:
            self.current.terminal.out.print(f"  {line}", soft_wrap=True)


def latency_lines(metrics: str, model: str, variant: str) -> list[str]:
    """The sum and count of a variant's request latency among Prometheus text lines."""
    names = ("octavo_request_duration_seconds_sum", "octavo_request_duration_seconds_count")
    labels = (f'model="{model}"', f'variant="{variant}"')
    return [line for line in metrics.splitlines() if line.startswith(names) and all(label in line for label in labels)]


def _say(terminal: Terminal, text: str) -> None:
    terminal.out.print(f"==> {text}", soft_wrap=True)
