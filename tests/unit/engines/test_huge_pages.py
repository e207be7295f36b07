"""Memory that is in use is gathered in huge pages, and stays what it was."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from service.engines import huge_pages
from service.engines.huge_pages import gather_in_huge_pages
from tests.large_memory import BYTES, MIB, fresh_memory, kernel_bytes, needs_huge_pages


@needs_huge_pages
def test_memory_in_use_is_gathered_and_holds_what_it_held() -> None:
    memory = fresh_memory()
    memory[:] = held = np.random.default_rng(0).integers(0, 256, BYTES, np.uint8)
    assert kernel_bytes(memory, "AnonHugePages") < 8 * MIB
    assert gather_in_huge_pages() >= 8 * MIB
    assert kernel_bytes(memory, "AnonHugePages") >= 8 * MIB
    assert np.array_equal(memory, held)


@needs_huge_pages
def test_memory_that_is_hardly_in_use_takes_no_more_than_before() -> None:
    memory = fresh_memory()
    memory[::MIB] = 1
    before = kernel_bytes(memory, "Rss")
    gather_in_huge_pages()
    assert kernel_bytes(memory, "Rss") == before


@needs_huge_pages
def test_a_kernel_without_room_for_huge_pages_is_asked_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fresh_memory()
    memory[:] = 1
    asked: list[int] = []

    def refuse(start: int, size: int) -> int:
        asked.append(start)
        return errno.ENOMEM

    monkeypatch.setattr(huge_pages, "_REFUSALS", 2)
    monkeypatch.setattr(huge_pages, "_collapse", refuse)
    assert gather_in_huge_pages() == 0
    assert len(asked) == 2


@needs_huge_pages
def test_a_place_that_the_kernel_leaves_as_it_is_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([errno.EINVAL, errno.EAGAIN] * 20)
    monkeypatch.setattr(huge_pages, "_collapse", lambda start, size: next(errors, 0))
    monkeypatch.setattr(huge_pages, "_filled", lambda size: iter(range(0, 41 * size, size)))
    assert gather_in_huge_pages() == int(huge_pages._SIZE.read_text())


def test_a_system_without_huge_pages_goes_on_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huge_pages, "_SIZE", tmp_path / "none")
    assert gather_in_huge_pages() == 0
