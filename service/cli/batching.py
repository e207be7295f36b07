"""`octavo batching`: shows how a model's requests wait and share batches, and changes it while they do."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.arguments import number_above
from service.cli.client import Document, url_path
from service.cli.exit_codes import epilog
from service.cli.figures import facts_table
from service.cli.session import DEFAULT_URL, AsJson, ServerUrl, session
from service.cli.shapes import BATCHING
from service.domain.batching import MAX_DELAY_SECONDS, MAX_PRIORITY_LEVELS, MAX_ROWS, MAX_TIMEOUT_SECONDS

BATCHING_EPILOG = epilog(
    "octavo batching digits",
    "octavo batching digits --delay 0.002 --preferred 8,16",
    "octavo batching digits --priority-levels 3 --default-priority 2 --timeout 0.5",
    "octavo batching minilm --buckets 16,32,64,128",
    "octavo batching digits --reset",
)


def batching(
    model: Annotated[str, typer.Argument(help="Name of a deployed model.")],
    max_batch_rows: Annotated[int | None, typer.Option(min=1, max=MAX_ROWS, help="Rows in one batch at most.")] = None,
    preferred: Annotated[str | None, typer.Option(help="Batch sizes to start with, rising, by commas.")] = None,
    delay: Annotated[
        float | None, typer.Option(min=0, max=MAX_DELAY_SECONDS, help="Seconds to wait for a batch to fill.")
    ] = None,
    max_queue_rows: Annotated[int | None, typer.Option(min=1, max=MAX_ROWS, help="Rows that may wait.")] = None,
    timeout: Annotated[
        float | None, number_above(0, MAX_TIMEOUT_SECONDS, "Seconds that a request may take at most.")
    ] = None,
    priority_levels: Annotated[
        int | None, typer.Option(min=0, max=MAX_PRIORITY_LEVELS, help="Levels of priority; 0 for none.")
    ] = None,
    default_priority: Annotated[
        int | None, typer.Option(min=0, max=MAX_PRIORITY_LEVELS, help="Level of requests that name none.")
    ] = None,
    buckets: Annotated[str | None, typer.Option(help="Lengths to pad variable dimensions to, by commas.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Go back to the server's settings first.")] = False,
    url: ServerUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show how a model's requests are batched, or change what is named and keep the rest."""
    wished = {
        "max_batch_rows": max_batch_rows,
        "preferred_batch_rows": _numbers("--preferred", preferred),
        "batch_delay_seconds": delay,
        "max_queue_rows": max_queue_rows,
        "timeout_seconds": timeout,
        "priority_levels": priority_levels,
        "default_priority": default_priority,
    }
    changes: Document = {name: value for name, value in wished.items() if value is not None}
    lengths = _numbers("--buckets", buckets)
    with session(url, as_json) as current:
        path = url_path("models", model, "batching")
        shown: Document = {} if reset else current.client.fetch("GET", path, BATCHING)
        if lengths is not None:
            # The values that inputs are padded with are set beside the lengths, and stay.
            changes["padding"] = (shown.get("padding") or {}) | {"buckets": lengths}
        if changes or reset:
            shown = current.client.fetch("PUT", path, BATCHING, json=shown | changes)
        current.terminal.show(shown, lambda: facts_table(shown))


def _numbers(option: str, text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"{option} is {text!r}; give whole numbers with commas between")
    return [int(part) for part in parts]
