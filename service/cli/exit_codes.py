"""What a command's exit status means, and the epilog that shows it, with examples, under every `--help`."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Statuses that scripts may rely on; an interrupt (Ctrl+C) exits 130, as shells expect."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REJECTED = 3
    UNREACHABLE = 4
    NOT_FOUND = 5
    CANCELLED = 6


_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "the server refused or failed, or the job failed",
    ExitCode.USAGE: "wrong usage",
    ExitCode.REJECTED: "the engine was built but is outside the budget",
    ExitCode.UNREACHABLE: "no server answers",
    ExitCode.NOT_FOUND: "no such model, version, variant, dataset or job",
    ExitCode.CANCELLED: "the job was cancelled",
}


class CommandFailed(Exception):
    """A command cannot go on. `code` is the server's public error code, or the client's own in the same style."""

    def __init__(self, message: str, code: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.code = code
        self.exit_code = exit_code


def epilog(*examples: str) -> str:
    """The end of a command's help, in rich markup: its examples, a line each, then the exit codes."""
    shown = "\n".join(f"[green]$[/green] {example}" for example in examples)
    codes = "\n".join(f"[cyan]{code.value}[/cyan] {meaning}" for code, meaning in _MEANINGS.items())
    return f"[bold]Examples[/bold]\n{shown}\n\n[bold]Exit codes[/bold]\n{codes}"
