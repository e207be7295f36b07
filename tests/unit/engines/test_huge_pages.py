"""Memory that is in use is gathered in huge pages, and stays what it was."""

from __future__ import annotations

import errno
import mmap
import os
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest

from service.engines import huge_pages
from service.engines.huge_pages import gather_in_huge_pages
from tests.large_memory import BYTES, HUGE, MIB, fresh_memory, kernel_bytes, needs_huge_pages


@needs_huge_pages
def test_memory_in_use_is_gathered_and_holds_what_it_held() -> None:
    memory = fresh_memory()
    memory[:] = held = np.random.default_rng(0).integers(0, 256, BYTES, np.uint8)
    assert gather_in_huge_pages() >= BYTES
    assert kernel_bytes(memory, "AnonHugePages") == BYTES
    assert np.array_equal(memory, held)


@needs_huge_pages
@pytest.mark.parametrize(("sixteenths", "gathered"), [(15, BYTES), (13, 0), (1, 0)])
def test_a_huge_page_is_taken_where_seven_eighths_of_it_are_in_use(sixteenths: int, gathered: int) -> None:
    memory = fresh_memory()
    memory.reshape(-1, HUGE)[:, : sixteenths * HUGE // 16] = 1
    gather_in_huge_pages()
    assert kernel_bytes(memory, "AnonHugePages") == gathered


@needs_huge_pages
def test_memory_that_was_only_read_takes_no_more_than_before() -> None:
    memory = fresh_memory()
    assert memory.sum() == 0
    before = kernel_bytes(memory, "Rss")
    gather_in_huge_pages()
    assert kernel_bytes(memory, "Rss") == before


@needs_huge_pages
@pytest.mark.parametrize("name", [b"w\xe9ights.bin", "two\u2028lines".encode(), b"three \x0b words"])
def test_files_of_odd_names_are_passed_over(name: bytes, tmp_path: Path) -> None:
    memory = fresh_memory()
    memory[:] = 1
    path = os.fsencode(tmp_path) + b"/" + name
    file = os.open(path, os.O_CREAT | os.O_RDWR)
    os.ftruncate(file, 4096)
    with mmap.mmap(file, 4096, access=mmap.ACCESS_READ):
        os.close(file)
        assert gather_in_huge_pages() >= BYTES


@needs_huge_pages
@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EBUSY])
def test_a_kernel_without_room_for_huge_pages_is_asked_a_few_times_only(
    error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fresh_memory()
    memory[:] = 1
    asked: list[int] = []

    def refuse(start: int, size: int) -> int:
        asked.append(start)
        return error

    monkeypatch.setattr(huge_pages, "_REFUSALS", 2)
    monkeypatch.setattr(huge_pages, "_collapse", refuse)
    assert gather_in_huge_pages() == 0
    assert len(asked) == 2


@needs_huge_pages
def test_a_place_that_the_kernel_leaves_as_it_is_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = chain([errno.EINVAL, errno.EAGAIN, *[errno.ENOMEM] * 7, 0] * 3, repeat(0))
    monkeypatch.setattr(huge_pages, "_collapse", lambda start, size: next(errors))
    monkeypatch.setattr(huge_pages, "_filled", lambda size: iter(range(0, 31 * size, size)))
    assert gather_in_huge_pages() == 4 * HUGE


@pytest.mark.parametrize("words", ["", "huge"])
def test_a_system_without_huge_pages_goes_on_without(
    words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    size = tmp_path / "size"
    monkeypatch.setattr(huge_pages, "_SIZE", size)
    assert gather_in_huge_pages() == 0
    size.write_text(words)
    assert gather_in_huge_pages() == 0


@needs_huge_pages
def test_vast_memory_that_is_not_in_use_is_looked_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fresh_memory()
    memory[-4 * MIB :] = 1
    monkeypatch.setattr(huge_pages, "_AT_ONCE", 3)
    gather_in_huge_pages()
    assert kernel_bytes(memory, "AnonHugePages") == 4 * MIB
