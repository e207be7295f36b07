"""What callers are told of a field that nobody knows."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, create_model

from service.api.known_fields import advice_on_unknown, known_fields


class Inner(BaseModel):
    rows: int
    named: Annotated[str, Field(alias="name")]


class Body(BaseModel):
    calibration: Annotated[Inner | None, Field(description="How.")] = None
    several: list[Inner] = Field(default_factory=list)
    count: int = 0


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ((), ["calibration", "several", "count"]),
        (("calibration",), ["rows", "name"]),
        (("several", 3), ["rows", "name"]),
        (("count",), []),
        (("nowhere", "deeper"), []),
    ],
)
def test_the_known_fields_are_those_of_the_place(place: tuple[str | int, ...], names: list[str]) -> None:
    assert known_fields(Body, place) == names


def test_a_close_name_is_suggested_and_all_are_listed() -> None:
    assert advice_on_unknown(Body, ("calibratoin",)) == (
        "send 'calibration' instead, or leave it out; known there: calibration, several, count"
    )
    assert advice_on_unknown(Body, ("calibration", "row")).startswith("send 'rows' instead")


@pytest.mark.parametrize("name", ["colour", "x" * 100_000])
def test_a_name_that_is_near_none_is_to_be_left_out(name: str) -> None:
    assert advice_on_unknown(Body, (name,)) == "leave it out; known there: calibration, several, count"


@pytest.mark.parametrize(("body", "place"), [(None, ("x",)), (int, ("x",)), (Body, ("count", "x")), (Body, ())])
def test_where_no_fields_are_found_only_leaving_it_out_is_advised(body: Any, place: tuple[str, ...]) -> None:
    advice = advice_on_unknown(body, place)
    assert advice.split(";")[0] == "leave it out"
    assert place == () or "known" not in advice


def test_the_list_of_names_has_a_bound_and_ends_between_two() -> None:
    fields: dict[str, Any] = {f"field_{number}": (int, 0) for number in range(1000)}
    advice = advice_on_unknown(create_model("Wide", **fields), ("odd",))
    assert len(advice) < 400
    assert advice.endswith(", ...")
    assert advice.split(", ")[-2] in fields
