"""Local copies stay within their bound, and under whoever uses them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.registry.blob_cache import BlobCache


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_was_not_asked_for_longest_goes_first(tmp_path: Path, clock: Clock) -> None:
    cache = BlobCache(tmp_path, 250, 60, clock)
    for key in ("content/a", "content/b"):
        cache.keep(key, [b"x" * 50, b"y" * 50])
        clock.now += 100
    assert cache.find("content/a") == tmp_path / "content/a"
    clock.now += 100
    kept = cache.keep("content/c", [b"z" * 100])
    assert kept.read_bytes() == b"z" * 100
    assert names(tmp_path) == ["content/a", "content/c"]
    assert cache.find("content/b") is None


def test_what_was_asked_for_lately_stays_over_the_bound(tmp_path: Path, clock: Clock) -> None:
    cache = BlobCache(tmp_path, 10, 60, clock)
    for key in "abc":
        cache.keep(key, [b"x" * 100])
        clock.now += 20
    assert names(tmp_path) == ["a", "b", "c"]
    clock.now += 10
    cache.keep("d", [b"x"])
    assert names(tmp_path) == ["b", "c", "d"]


def test_a_copy_that_fails_leaves_nothing_and_one_that_was_killed_goes_later(tmp_path: Path, clock: Clock) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise OSError("the store is gone")

    cache = BlobCache(tmp_path, 1000, 60, clock)
    with pytest.raises(OSError, match="the store is gone"):
        cache.keep("a", broken())
    assert names(tmp_path) == []
    killed = tmp_path / "b.0123.partial"
    killed.write_bytes(b"half")
    clock.now = killed.stat().st_mtime + 30
    cache.keep("c", [b"x"])
    assert names(tmp_path) == ["b.0123.partial", "c"]
    clock.now += 31
    cache.keep("d", [b"x"])
    assert names(tmp_path) == ["c", "d"]


def test_what_is_asked_for_while_others_go_stays(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = BlobCache(tmp_path, 10, 60, clock)
    for key in "ab":
        cache.keep(key, [b"x" * 100])
    clock.now += 100
    unlink = Path.unlink

    def unlink_and_ask(path: Path, missing_ok: bool = False) -> None:
        if path.name == "a":
            assert cache.find("b")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_and_ask)
    cache.keep("c", [b"x" * 100])
    assert names(tmp_path) == ["b", "c"]


def test_a_forgotten_copy_is_gone_and_a_missing_one_no_error(tmp_path: Path, clock: Clock) -> None:
    cache = BlobCache(tmp_path, 1000, 60, clock)
    cache.keep("a", [b"x"])
    cache.forget("a")
    cache.forget("a")
    assert cache.find("a") is None
