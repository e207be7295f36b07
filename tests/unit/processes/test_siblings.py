"""Questions between processes: answered, failed, or given up; played by several on one event loop."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.errors import EngineFailed, InvalidInput, NotReady, OctavoError
from service.processes.place import Place
from service.processes.siblings import Siblings
from tests.async_waiting import until


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(main())


def three(folder: Path) -> list[Siblings]:
    return [Siblings(place) for place in Place(folder, 1, 3).all]


async def echo(question: dict[str, Any]) -> dict[str, Any]:
    return question


def failing(error: Exception) -> Callable[[dict[str, Any]], Awaitable[None]]:
    async def fail(_: dict[str, Any]) -> None:
        raise error

    return fail


def test_the_others_are_asked_and_never_the_asker(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two, three_ = three(tmp_path)
        for each in (one, two, three_):
            await each.listen({"echo": echo})
        answers = await two.ask("echo", 5, word="x")
        assert answers == {1: {"kind": "echo", "word": "x"}, 3: {"kind": "echo", "word": "x"}}
        for each in (one, two, three_):
            each.close()

    run(scenario)


def test_one_that_serves_alone_asks_nobody() -> None:
    async def scenario() -> None:
        alone = Siblings()
        await alone.listen({})
        assert await alone.ask("echo", 5) == {}
        await alone.require("echo", 5)
        alone.tell("echo", 5)
        alone.close()

    run(scenario)


def test_one_that_died_and_one_that_hangs_are_left_out_in_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        # Held here: a task that waits for what nobody holds may be collected as garbage while it waits.
        forever = asyncio.Event()

        async def hang(_: dict[str, Any]) -> None:
            await forever.wait()

        one, two, dead = three(tmp_path)
        await two.listen({"echo": hang})
        await dead.listen({"echo": echo})
        dead.close()
        began = asyncio.get_running_loop().time()
        assert await one.ask("echo", 0.05) == {}
        await one.require("echo", 0.05)
        assert asyncio.get_running_loop().time() - began < 5
        two.close()

    run(scenario)


def test_a_process_takes_over_the_socket_of_one_that_died(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two, _ = three(tmp_path)
        two.place.socket.touch()  # type: ignore[union-attr]
        await two.listen({"echo": echo})
        assert list(await one.ask("echo", 5)) == [2]
        two.close()

    run(scenario)


def test_a_failure_keeps_its_kind_and_names_the_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two, _ = three(tmp_path)
        await two.listen(
            {
                "load": failing(EngineFailed("no memory")),
                "later": failing(NotReady("it loads")),
                "broken": failing(RuntimeError("oh")),
            }
        )
        with pytest.raises(EngineFailed, match=r"no memory \(in serving process 2\)"):
            await one.require("load", 5)
        # It may well do so later, and nobody need take anything back for that.
        await one.require("later", 5)
        with pytest.raises(OctavoError, match="RuntimeError: oh"):
            await one.require("broken", 5)
        with pytest.raises(OctavoError, match="KeyError"):
            await one.require("unheard of", 5)
        assert await one.ask("load", 5) == {}
        two.close()

    run(scenario)


def test_telling_waits_for_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two, _ = three(tmp_path)
        told: list[str] = []

        async def note(question: dict[str, Any]) -> None:
            told.append(question["word"])

        await two.listen({"note": note})
        one.tell("note", 5, word="x")
        assert told == []
        await until(lambda: told == ["x"])
        two.close()

    run(scenario)


@pytest.mark.parametrize("line", [b"", b"no json\n", b"[]\n", b"x" * 2_000_000 + b"\n"])
def test_what_is_no_question_is_dropped_and_the_next_one_answered(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        one, two, _ = three(tmp_path)
        await two.listen({"echo": echo})
        reader, writer = await asyncio.open_unix_connection(str(Place(tmp_path, 2, 3).socket))
        answer = b""
        # What is too long is not read to its end.
        with suppress(ConnectionError):
            writer.write(line)
            writer.write_eof()
            answer = await reader.read()
        assert answer == b"" or "error" in json.loads(answer)
        writer.close()
        assert list(await one.ask("echo", 5)) == [2]
        two.close()

    caplog.set_level(logging.ERROR, "asyncio")
    run(scenario)
    assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.parametrize("path", ["x", "0", "4", "missing/1"])
def test_a_place_that_nobody_gave_is_refused(tmp_path: Path, path: str) -> None:
    assert Place.at(tmp_path / "3", 3) == Place(tmp_path, 3, 3)
    with pytest.raises(InvalidInput, match=r"--place is .*; leave it out"):
        Place.at(tmp_path / path, 3)
