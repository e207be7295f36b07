"""New connections among the processes of a host: dealt evenly, never lost to one that died, hangs or stops."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.api.arrival import dealt
from service.processes.dealing import Board, Dealer
from service.processes.place import Place
from tests.async_waiting import until

HELLO = b"hello"


class Process:
    """What is dealt of one process: a server on a port of its own, which answers each byte with its number."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.now = 0.0
        self.dealer = Dealer(place, lambda: self.now)
        self.open: set[asyncio.Transport] = set()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.dealer.start(lambda connection: loop.connect_accepted_socket(lambda: Numbered(self), connection))

    async def listen(self) -> int:
        make = dealt(self.dealer.hand_on, lambda: Numbered(self))  # type: ignore[arg-type]
        self.server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        return int(self.server.sockets[0].getsockname()[1])


class Numbered(asyncio.Protocol):
    def __init__(self, process: Process) -> None:
        self.process = process

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.process.open.add(transport)
        self.process.dealer.count(len(self.process.open))

    def data_received(self, data: bytes) -> None:
        self.transport.write(bytes([self.process.place.number]) * len(data))

    def connection_lost(self, error: Exception | None) -> None:
        self.process.open.discard(self.transport)
        self.process.dealer.count(len(self.process.open))


class Client:
    """One connection, which sends at once."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.sendall(HELLO)

    async def server(self) -> int:
        """The number of the process that answers."""
        answer = await asyncio.to_thread(self._socket.recv, len(HELLO))
        assert answer == answer[:1] * len(HELLO)
        return answer[0]

    def close(self) -> None:
        self._socket.close()


class Host:
    """Some processes, of which only the first is met by callers unless it hands them on."""

    def __init__(self, folder: Path, count: int) -> None:
        self.processes = [Process(place) for place in Place(folder, 1, count).all]
        self.port = 0
        self._clients: list[Client] = []

    def call(self, count: int) -> list[Client]:
        clients = [Client(self.port) for _ in range(count)]
        self._clients += clients
        return clients

    async def servers(self, count: int) -> list[int]:
        return sorted([await client.server() for client in self.call(count)])

    def hang(self, process: Process) -> None:
        """It reads no more of what it is handed."""
        asyncio.get_running_loop().remove_reader(process.dealer._socket)

    def kill(self, process: Process) -> None:
        """As the kernel ends it: nothing is told to anybody."""
        self.hang(process)
        process.dealer._socket.close()
        self.processes.remove(process)

    async def replace(self, process: Process) -> None:
        self.processes.append(Process(process.place))
        await self.processes[-1].start()

    async def close(self) -> None:
        for client in self._clients:
            client.close()
        for process in self.processes:
            await process.dealer.stop()
            for transport in process.open:
                transport.abort()
        self.processes[0].server.close()
        await self.processes[0].server.wait_closed()


def run(folder: Path, scenario: Callable[[Host], Awaitable[None]], count: int = 2, started: int | None = None) -> None:
    async def main() -> None:
        host = Host(folder, count)
        host.port = await host.processes[0].listen()
        for process in host.processes[:started]:
            await process.start()
        try:
            async with asyncio.timeout(20):
                await scenario(host)
        finally:
            await host.close()

    asyncio.run(main())


def test_connections_that_come_at_once_to_one_process_are_dealt_evenly_and_what_they_sent_is_there(
    tmp_path: Path,
) -> None:
    async def scenario(host: Host) -> None:
        assert await host.servers(12) == [1] * 4 + [2] * 4 + [3] * 4
        assert await host.servers(3) == [1, 2, 3]

    run(tmp_path, scenario, count=3)


def test_who_has_no_more_than_the_others_keeps_what_comes(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        assert await host.servers(1) == [1]
        assert await host.servers(1) == [2]
        assert await host.servers(1) == [1]

    run(tmp_path, scenario)


def test_ends_of_connections_make_room(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        clients = host.call(8)
        own = [client for client in clients if await client.server() == 1]
        for client in own:
            client.close()
        await until(lambda: not host.processes[0].open)
        assert await host.servers(4) == [1] * 4

    run(tmp_path, scenario)


def test_of_many_short_connections_a_hundred_a_second_are_handed_on(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        first, second = host.processes
        servers = await host.servers(1)
        for _ in range(104):
            (client,) = host.call(1)
            servers.append(await client.server())
            client.close()
            await until(lambda: not second.open and len(first.open) == 1)
        assert servers == [1] + [2] * 100 + [1] * 4
        first.now += 1
        assert await host.servers(1) == [2]

    run(tmp_path, scenario)


def test_a_process_that_does_not_take_any_yet_is_handed_none(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        assert await host.servers(4) == [1] * 4

    run(tmp_path, scenario, started=1)


def test_what_would_go_to_a_dead_process_stays_and_the_one_in_its_place_gets_some(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        first, second = host.processes
        assert await host.servers(2) == [1, 2]
        host.kill(second)
        assert await host.servers(2) == [1, 1]
        await host.replace(second)
        assert await host.servers(4) == [1] + [2] * 3
        assert Board(first.place).loads().tolist() == [4, 3]

    run(tmp_path, scenario)


def test_one_that_hangs_is_handed_no_more_than_its_share_and_the_next_in_its_place_not_blamed(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        first, second = host.processes
        host.hang(second)
        host.call(6)
        await until(lambda: len(first.open) == 3)
        assert Board(first.place).loads().tolist() == [3, 3]
        host.kill(second)
        await host.replace(second)
        assert Board(first.place).loads().tolist() == [3, 0]

    run(tmp_path, scenario)


def test_one_that_stops_takes_what_is_on_its_way_and_no_more(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        first, second = host.processes
        host.hang(second)
        clients = host.call(4)
        await until(lambda: len(first.open) == 2)
        await second.dealer.stop()
        assert len(second.open) == 2
        assert sorted([await client.server() for client in clients]) == [1, 1, 2, 2]
        assert await host.servers(2) == [1, 1]

    run(tmp_path, scenario)


def test_a_process_without_a_file_for_a_connection_is_handed_none_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(host: Host) -> None:
        first, second = host.processes
        board = Board(first.place)
        assert await host.servers(1) == [1]
        board.handed[0, 1] += 1
        assert board.loads().tolist() == [1, 1]
        # What the kernel makes of a message whose connection it could not deliver.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as giver:
            giver.sendto(bytes([0]), str(second.place.take))
        await until(lambda: board.taken[1, 0] == 1)
        second.dealer.count(0)
        assert await host.servers(2) == [1, 1]
        assert "no file is left for it; raise the limit of open files" in caplog.text
        await until(lambda: board.loads().tolist() == [3, 0])
        assert await host.servers(1) == [2]

    run(tmp_path, scenario)


def test_one_that_was_taken_for_dead_by_mistake_comes_back(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        board = Board(host.processes[0].place)
        board.open[1] = 0
        assert await host.servers(2) == [1, 1]
        await until(lambda: board.loads().tolist() == [2, 0])

    run(tmp_path, scenario)


def test_one_that_was_killed_while_it_handed_on_leaves_no_count_behind(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        first, second = host.processes
        board = Board(first.place)
        # It had counted, and not sent.
        board.handed[1, 0] += 1
        host.kill(second)
        await host.replace(second)
        assert board.loads().tolist() == [0, 0]

    run(tmp_path, scenario)


@pytest.mark.parametrize("words", [b"", b"\x00\x00", b"\x09"])
def test_a_message_that_no_sibling_sends_is_passed_over_and_its_connection_closed(tmp_path: Path, words: bytes) -> None:
    async def scenario(host: Host) -> None:
        second = host.processes[1]
        one, other = socket.socketpair()
        with one, other, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as giver:
            giver.connect(str(second.place.take))
            socket.send_fds(giver, [words], [other.fileno()])
            other.close()
            one.settimeout(10)
            assert await asyncio.to_thread(one.recv, 1) == b""
        assert not second.open

    run(tmp_path, scenario)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_handing_on_leaves_no_file_open(tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for client in host.call(40):
            await client.server()
            client.close()
        await until(lambda: not any(process.open for process in host.processes))
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)

    run(tmp_path, scenario)
