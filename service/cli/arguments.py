"""Checks of what a user typed that hold for every command, before anything is sent. A fault is wrong usage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand


class CheckedCommand(TyperCommand):
    """A command whose numbers are finite and whose text is UTF-8: JSON has nothing else to send."""

    # The base class names a type of its private copy of click.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises BadParameter with the option's or argument's name for any other value."""
        rest = super().parse_args(ctx, args)
        param: Any
        for param in self.params:
            for value in _each(ctx.params.get(param.name or "")):
                fault = _fault(value)
                if fault:
                    raise typer.BadParameter(fault, ctx=ctx, param=param)
        return rest


def number_above(low: float, high: float, text: str, panel: str | None = None) -> Any:
    """An option whose number is above `low`, which typer's ranges would take along, and `high` at most."""

    def check(value: float | None) -> float | None:
        if value is not None and (value <= low or value > high):
            raise typer.BadParameter(f"{value} is out of range; give more than {low:g} and at most {high:g}")
        return value

    # As typer shows its own ranges.
    metavar = f"<float range> [{low:g}<x<={high:g}]"
    return typer.Option(callback=check, metavar=metavar, help=text, rich_help_panel=panel)


def regular_file(file: Path | None) -> Path | None:
    """An option's callback: a file is read twice, and sent with its size, so a pipe or a device will not do."""
    if file is not None and not file.is_file():
        raise typer.BadParameter(f"{str(file)!r} is a pipe or a device; copy it to a file, and give that")
    return file


def _each(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        yield from value
    else:
        yield value


def _fault(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no finite number; give one, or leave the option out"
    # What the system gives of other bytes; a file's name may have them.
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return f"{value!r} is not UTF-8; give it in UTF-8"
    return ""
