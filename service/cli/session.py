"""What every client command shares: the options --url and --json, the terminal, and failures told in one way."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.client import Client
from service.cli.exit_codes import CommandFailed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

DEFAULT_URL = "http://127.0.0.1:8000"
# Piped tables must not be cut to the 80 columns that rich assumes without a terminal.
_PIPED_COLUMNS = 160

ServerUrl = Annotated[str, typer.Option("--url", envvar="OCTAVO_URL", help="Address of the server.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, errors but of usage too.")]


class Terminal:
    """Results on stdout, as text or as JSON; progress, notes and errors on stderr."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    def show(self, document: Any, view: Callable[[], RenderableType]) -> None:
        """Prints the document as JSON (numpy arrays as lists, NaN as null), or else what `view` makes of it."""
        if self.as_json:
            import orjson

            sys.stdout.write(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY).decode() + "\n")
        else:
            self.out.print(view())

    def note(self, text: str) -> None:
        """A line on stderr for the person who reads along."""
        self.err.print(text, soft_wrap=True)

    def fail(self, failure: CommandFailed) -> None:
        """Tells the failure on stderr, and with --json also as `{"error", "code"}` on stdout."""
        from rich.text import Text

        # A file's name may have bytes that are not UTF-8, and JSON may not.
        told = str(failure).encode("utf-8", "backslashreplace").decode()
        self.err.print(Text("error: ", style="bold red").append(told, style="default"), soft_wrap=True)
        if self.as_json:
            self.show({"error": told, "code": failure.code}, lambda: "")

    def job_progress(self) -> Progress:
        """A bar for a job's stages; silent where stderr is no terminal."""
        from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        return Progress(*columns, TimeElapsedColumn(), console=self.err, disable=not sys.stderr.isatty())

    def byte_progress(self) -> Progress:
        """A bar for bytes read or sent; silent where stderr is no terminal."""
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        return Progress(*columns, console=self.err, disable=not sys.stderr.isatty())


@dataclass(frozen=True, slots=True)
class Session:
    """One command's connection and terminal."""

    client: Client
    terminal: Terminal


@contextmanager
def session(url: str, as_json: bool) -> Iterator[Session]:
    """The session of one command; a CommandFailed within is told to the user and ends the process with its code."""
    terminal = Terminal(as_json=as_json)
    try:
        with Client(url) as client:
            yield Session(client, terminal)
    except CommandFailed as failure:
        terminal.fail(failure)
        raise typer.Exit(failure.exit_code) from failure


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # Names and labels come from users: they are text, never markup.
    return Console(
        stderr=stderr, markup=False, emoji=False, highlight=False, width=None if stream.isatty() else _PIPED_COLUMNS
    )
