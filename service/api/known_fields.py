"""Which fields a JSON body may have at a place, for callers who sent another one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

_MOST_CHARACTERS = 300
# No field's name comes near; comparing a huge one would take its time.
_LONGEST_COMPARED = 64


def advice_on_unknown(body: Any, place: Sequence[str | int]) -> str:
    """What to do about the unknown field at `place` of a body of the type `body`: the next field's name, and all there.

    A type that cannot be followed to the place leaves only the advice to leave the field out.
    """
    names = known_fields(body, place[:-1])
    sent = str(place[-1]) if place else ""
    close = get_close_matches(sent, names, n=1) if len(sent) <= _LONGEST_COMPARED else []
    advice = f"send {close[0]!r} instead, or leave it out" if close else "leave it out"
    return f"{advice}; known there: {_bounded(names)}" if names else advice


def known_fields(body: Any, place: Sequence[str | int]) -> list[str]:
    """The names of the fields at a place of a body of that type; none where no model of fields is found there."""
    model = _model(body)
    for step in place:
        if model is None:
            return []
        # Items of lists have numbers, and their type is found along with the list's.
        if isinstance(step, str):
            by_name = {field.alias or name: field for name, field in model.model_fields.items()}
            model = _model(by_name[step].annotation) if step in by_name else None
    return [] if model is None else [field.alias or name for name, field in model.model_fields.items()]


def _model(annotation: Any) -> type[BaseModel] | None:
    return next(_models(annotation), None)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _bounded(names: Sequence[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS].rpartition(', ')[0]}, ..."
