"""What the exception tree promises."""

from __future__ import annotations

import pytest

from service import errors
from service.errors import OctavoError, error_class


def _tree(root: type[OctavoError] = OctavoError) -> list[type[OctavoError]]:
    return [root, *(found for child in root.__subclasses__() for found in _tree(child))]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in _tree()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("error", _tree())
def test_a_code_leads_back_to_its_class(error: type[OctavoError]) -> None:
    assert error_class(error.code) is error


def test_an_unknown_code_is_the_root() -> None:
    assert error_class("from_a_newer_version") is OctavoError


def test_every_error_stands_in_the_drawing() -> None:
    assert errors.__doc__ is not None
    assert [error.__name__ for error in _tree() if error.__name__ not in errors.__doc__] == []
