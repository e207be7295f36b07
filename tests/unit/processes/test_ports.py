"""One port for several processes, and for nobody else."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from service.errors import InvalidInput
from service.processes.ports import grpc_refused, http_refused, reserved, shared_sockets

HOST = "127.0.0.1"


@pytest.fixture
def port() -> Iterator[int]:
    with reserved(HOST, 0) as found:
        yield found


def test_port_0_is_a_free_one_that_several_can_listen_on(port: int) -> None:
    (one,), (other,) = shared_sockets(HOST, port), shared_sockets(HOST, port)
    with one, other:
        one.listen()
        other.listen()
        callers = [socket.create_connection((HOST, port)) for _ in range(64)]
        for each in (one, other):
            each.settimeout(5)
            # What holds the port does not listen, so every connection comes to one of these.
            each.accept()[0].close()
        for caller in callers:
            caller.close()


def test_a_port_that_is_listened_on_cannot_be_reserved() -> None:
    with socket.create_server((HOST, 0)) as taken:
        with pytest.raises(OSError, match="in use") as refused, reserved(HOST, taken.getsockname()[1]):
            pass
        assert refused.value.errno == errno.EADDRINUSE


def test_a_port_that_others_share_cannot_be_reserved_although_it_could_be_shared_too(port: int) -> None:
    (one,) = shared_sockets(HOST, port)
    with one:
        one.listen()
        with pytest.raises(OSError, match="in use"), reserved(HOST, port):
            pass


def test_a_port_is_reserved_before_anybody_listens(port: int) -> None:
    with pytest.raises(OSError, match="in use"), reserved(HOST, port):
        pass
    with pytest.raises(OSError, match="in use"), socket.create_server((HOST, port)):
        pass


def test_a_port_is_reserved_although_connections_that_were_closed_there_linger() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((HOST, port)) as caller:
            # Who closes first lingers.
            server.accept()[0].close()
            assert caller.recv(1) == b""
    with reserved(HOST, port) as found:
        assert found == port
        (one,) = shared_sockets(HOST, port)
        with one:
            one.listen()


def test_a_name_is_listened_on_at_each_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with reserved("both", 0) as port:
        for address in ("127.0.0.1", "127.0.0.2"):
            with pytest.raises(OSError, match="in use"), closing(socket.create_server((address, port))):
                pass


def test_a_refusal_names_the_address_the_reason_and_the_setting() -> None:
    error = OSError(errno.EADDRINUSE, "bind failed")
    assert "127.0.0.1:80: Address already in use; choose another with --host" in str(http_refused(HOST, 80, error))
    assert "gRPC on 127.0.0.1:81: Address already in use" in str(grpc_refused(HOST, 81, error))
    assert "OCTAVO_GRPC_PORT" in str(grpc_refused(HOST, 81, RuntimeError("Failed to bind")))
    assert "Failed to bind" in str(grpc_refused(HOST, 81, RuntimeError("Failed to bind")))
    unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    for refused in (http_refused, grpc_refused):
        assert "the host 'nowhere': Name or service not known; " in str(refused("nowhere", 80, unknown))


@pytest.mark.parametrize("refused", [http_refused, grpc_refused])
def test_a_host_that_is_not_this_machines_is_named_with_its_own_setting_and_no_port(
    refused: Callable[[str, int, OSError], InvalidInput],
) -> None:
    told = str(refused("192.0.2.1", 80, OSError(errno.EADDRNOTAVAIL, "bind failed")))
    assert "the host '192.0.2.1': Cannot assign requested address; " in told
    assert "--host (OCTAVO_HOST)" in told
    assert "port" not in told.lower()
