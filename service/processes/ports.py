"""One TCP port for several processes: each listens on a socket of its own, and the kernel deals the connections out.

Linux only: elsewhere SO_REUSEPORT gives all connections to one of them.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from service.errors import InvalidInput

# Who has just connected sends its request at once.
_READ_SECONDS = 0.1
_Address = tuple[socket.AddressFamily, tuple[Any, ...]]


@contextmanager
def reserved(host: str, port: int) -> Iterator[int]:
    """Keeps the port for the processes that will share it, and gives it: for port 0, a free one.

    Raises OSError where another listens there. What is held here never listens, so no connection comes to it.
    """
    with ExitStack() as held:
        for family, place in _addresses(host, port):
            if port:
                # A sharing socket would find nothing amiss where another server shares the port too.
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    _bind(probe, _at(place, port), socket.SO_REUSEADDR)
            holder = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
            _hold(holder, _at(place, port))
            port = holder.getsockname()[1]
        yield port


def shared_sockets(host: str, port: int) -> list[socket.socket]:
    """Sockets of this process on the port that others share, one for each address of the host. Raises OSError."""
    sockets = []
    for family, place in _addresses(host, port):
        each = socket.socket(family, socket.SOCK_STREAM)
        _bind(each, place, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
        sockets.append(each)
    return sockets


async def take_last(
    servers: Sequence[asyncio.Server],
    sockets: Sequence[socket.socket],
    take: Callable[[socket.socket], Awaitable[None]],
) -> None:
    """Closes what is listened on, `sockets` of the servers' own among it, and hands connections that came until then to
    `take`: the kernel took them, and would reset them with their requests. Waits a moment for those to be read.
    """
    kept = [socket.socket(fileno=os.dup(each.fileno())) for server in servers for each in server.sockets]
    for server in servers:
        server.close()
    for own in sockets:
        own.close()
    last = [connection for each in kept for connection in _accepted(each)]
    for connection in last:
        try:
            connection.setblocking(False)
            await take(connection)
        except OSError:
            connection.close()
    if last:
        await asyncio.sleep(_READ_SECONDS)


def _accepted(listening: socket.socket) -> list[socket.socket]:
    """All that wait there, which is closed then."""
    connections = []
    with listening, suppress(OSError):
        listening.setblocking(False)
        while True:
            connections.append(listening.accept()[0])
    return connections


def http_refused(host: str, port: int, error: OSError) -> InvalidInput:
    if _host_is_wrong(error):
        return _host_refused(host, error)
    return InvalidInput(
        f"cannot listen on {host}:{port}: {_reason(error)}; "
        "choose another with --host and --port (OCTAVO_HOST, OCTAVO_PORT), or stop what listens there"
    )


def grpc_refused(host: str, port: int, error: OSError | RuntimeError) -> InvalidInput:
    if _host_is_wrong(error):
        return _host_refused(host, error)
    return InvalidInput(
        f"cannot listen for gRPC on {host}:{port}: {_reason(error)}; choose another port with --grpc-port "
        "(OCTAVO_GRPC_PORT; empty for no gRPC), or stop what listens there"
    )


def _host_refused(host: str, error: OSError | RuntimeError) -> InvalidInput:
    """Another port would not help."""
    return InvalidInput(
        f"cannot listen on the host {host!r}: {_reason(error)}; give an address or a name of this machine with --host "
        "(OCTAVO_HOST), such as 127.0.0.1, or 0.0.0.0 for all of them"
    )


def _host_is_wrong(error: OSError | RuntimeError) -> bool:
    return isinstance(error, socket.gaierror) or (isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL)


def _reason(error: OSError | RuntimeError) -> str:
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    # A name that cannot be resolved has a number below 0, of another table.
    return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)


def _addresses(host: str, port: int) -> list[_Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, place) for family, _, _, _, place in found))


def _at(place: tuple[Any, ...], port: int) -> tuple[Any, ...]:
    return (place[0], port, *place[2:])


def _hold(holder: socket.socket, place: tuple[Any, ...]) -> None:
    try:
        # Without SO_REUSEADDR another server's probe meets this socket, though it does not listen.
        _bind(holder, place, socket.SO_REUSEPORT)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Connections that a server alone on the port has just closed are in the way for a minute.
        _bind(holder, place, socket.SO_REUSEADDR)


def _bind(each: socket.socket, place: tuple[Any, ...], *options: int) -> None:
    for option in options:
        each.setsockopt(socket.SOL_SOCKET, option, 1)
    if each.family == socket.AF_INET6:
        each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    each.bind(place)
