"""`octavo report`: what a job measured, the FP32 reference beside the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli.client import Client, Document, url_path
from service.cli.exit_codes import epilog
from service.cli.report_view import report_view
from service.cli.session import DEFAULT_URL, AsJson, ServerUrl, session
from service.cli.shapes import REPORT
from service.cli.whole_file import written_whole

REPORT_EPILOG = epilog(
    "octavo report $JOB",
    "octavo report $JOB --html report.html",
    "octavo report $JOB --json > report.json",
)


def report(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="A job that succeeded or was rejected.")],
    html: Annotated[Path | None, typer.Option(dir_okay=False, help="Also write the page with plots here.")] = None,
    url: ServerUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show accuracy, error, latency and size of a built engine beside its reference."""
    with session(url, as_json) as current:
        figures: Document = current.client.fetch("GET", url_path("jobs", job_id, "report"), REPORT)
        if html is not None:
            _download(current.client, url_path("jobs", job_id, "report.html"), html)
            current.terminal.note(f"the page is in {html}")
        current.terminal.show(figures, lambda: report_view(figures))


def _download(client: Client, path: str, file: Path) -> None:
    """Streams the page to the file, which appears only when it is whole."""
    with client.stream("GET", path) as response, written_whole(file) as stream:
        for chunk in response.iter_bytes():
            stream.write(chunk)
