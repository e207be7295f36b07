"""Deals new connections out evenly among the serving processes of a host: who has more than another hands it on.

The kernel deals by a hash, and a few connections that are kept may all meet one process. What cannot go on stays here.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import socket
import time
from array import array
from collections.abc import Awaitable, Callable
from math import inf

import numpy as np

from service.processes.place import Place

_log = logging.getLogger(__name__)
# Handing on takes longer than a short request does, and where connections are many and short, chance deals well enough.
_MAX_A_SECOND = 100
# So soon a process takes connections again that had no file to spare for one, or was taken for dead by mistake.
_REFRESH_SECONDS = 1.0
# More connections than any process has: one that takes none.
_AWAY = 2**62


class Board:
    """What each process has, in memory that all share. A number has one writer; a dead process, whoever finds it dead.

    `open` [processes] has a process's connections and 1, or 0 where it takes none; `handed` and `taken`
    [processes, processes] have how many each (row) has handed on to, or taken from, each other.
    """

    def __init__(self, place: Place) -> None:
        count = place.processes
        size = 8 * count * (1 + 2 * count)
        file = os.open(place.connections, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(file, size)
            memory = np.frombuffer(mmap.mmap(file, size), np.int64)
        finally:
            os.close(file)
        self.open = memory[:count]
        self.handed, self.taken = memory[count:].reshape(2, count, count)

    def loads(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The connections of each process, those on their way to it included. [processes]"""
        on_their_way = self.handed.sum(axis=0) - self.taken.sum(axis=1)
        loads: np.ndarray[tuple[int], np.dtype[np.int64]] = np.where(self.open > 0, self.open - 1 + on_their_way, _AWAY)
        return loads


class Dealer:
    """One process's part in it. Belongs to the event loop; made before the process listens."""

    def __init__(self, place: Place, clock: Callable[[], float] = time.monotonic) -> None:
        self._place = place
        self._clock = clock
        self._since = -inf
        self._handed = 0
        self._own = place.number - 1
        self._board = Board(place)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._take: Callable[[socket.socket], Awaitable[object]] | None = None
        self._taking: set[asyncio.Task[None]] = set()
        self._open = 0
        self._full = False
        self._refreshing: asyncio.TimerHandle | None = None

    def start(self, take: Callable[[socket.socket], Awaitable[object]]) -> None:
        """From now on others hand connections on to this process, each of which goes to `take`."""
        self._take = take
        # What was on its way to a process that died in this place is lost, and what it sent has arrived by now.
        self._board.taken[self._own] = self._board.handed[:, self._own]
        self._board.handed[self._own] = self._board.taken[:, self._own]
        self._place.take.unlink(missing_ok=True)
        self._socket.bind(str(self._place.take))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)
        self._refresh()

    def count(self, connections: int) -> None:
        """So many are open here."""
        self._open = connections
        if self._take is not None and not self._full:
            self._board.open[self._own] = connections + 1

    def _refresh(self) -> None:
        self._full = False
        self.count(self._open)
        self._refreshing = asyncio.get_running_loop().call_later(_REFRESH_SECONDS, self._refresh)

    def hand_on(self, transport: asyncio.Transport) -> bool:
        """Whether a connection that has just come went to another process; it is closed here then, unread."""
        if not self._open or not self._may():
            return False
        loads = self._board.loads()
        loads[self._own] = _AWAY
        other = int(loads.argmin())
        if loads[other] >= self._open:
            return False
        # Counted first: one that is killed in between has sent one too few, which whoever takes its place sets right.
        self._board.handed[self._own, other] += 1
        if not self._send(transport, other):
            self._board.handed[self._own, other] -= 1
            return False
        self._handed += 1
        transport.abort()
        return True

    def _may(self) -> bool:
        now = self._clock()
        if now >= self._since + 1:
            self._since, self._handed = now, 0
        return self._handed < _MAX_A_SECOND

    def _send(self, transport: asyncio.Transport, other: int) -> bool:
        descriptors = array("i", [transport.get_extra_info("socket").fileno()])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        try:
            self._socket.sendmsg([bytes([self._own])], rights, 0, str(self._place.all[other].take))
        except (FileNotFoundError, ConnectionRefusedError):
            # It died. One that comes in its place says so.
            self._board.open[other] = 0
            return False
        except OSError:
            # It is behind with what it was handed already.
            return False
        return True

    def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                words, descriptors, _, _ = socket.recv_fds(self._socket, 2, 1)
            except OSError:
                return
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            connections = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            if len(words) != 1 or words[0] >= self._place.processes:
                # No sibling sent this.
                for connection in connections:
                    connection.close()
                continue
            if not connections:
                self._take_none(words[0])
            for connection in connections:
                task = loop.create_task(self._serve(connection, words[0]))
                self._taking.add(task)
                task.add_done_callback(self._taking.discard)

    def _take_none(self, giver: int) -> None:
        """The kernel dropped a connection, as this process has as many files open as it may."""
        self._board.taken[self._own, giver] += 1
        self._full, self._board.open[self._own] = True, 0
        _log.warning("a connection was lost: no file is left for it; raise the limit of open files (ulimit -n)")

    async def _serve(self, connection: socket.socket, giver: int) -> None:
        assert self._take is not None
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._take(connection)
        except OSError as error:
            connection.close()
            _log.info("a connection ended on its way between processes", extra={"error": str(error)})
        finally:
            self._board.taken[self._own, giver] += 1

    async def stop(self) -> None:
        """Takes no more, once what is on its way is here."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        if self._take is not None:
            self._board.open[self._own] = 0
            self._place.take.unlink(missing_ok=True)
            asyncio.get_running_loop().remove_reader(self._socket)
            self._receive()
            await asyncio.gather(*self._taking, return_exceptions=True)
            self._take = None
        self._socket.close()
