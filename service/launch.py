"""Starts `octavo up` and `octavo serve --processes N`: processes under one supervisor, on ports held for them."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from service.errors import InvalidInput
from service.processes.place import Place
from service.processes.ports import grpc_refused, http_refused, reserved
from service.settings import Settings
from service.supervisor import Supervisor, octavo_command

# What a supervisor adds to the drain before it kills.
_KILL_SECONDS = 5.0
# The path of a Unix socket, its final zero included, is to fit into 108 bytes.
_MAX_SOCKET_PATH = 107
_log = logging.getLogger(__name__)
_Commands = dict[str, Sequence[str]]


def launch(settings: Settings, with_worker: bool) -> int:
    """Runs until SIGTERM or SIGINT; gives the exit code. Raises InvalidInput for an address or a host it cannot use."""
    with ExitStack() as held:
        if settings.processes == 1:
            commands: _Commands = {"serve": _serve(settings, settings.port, settings.grpc_port)}
        else:
            commands = _several(settings, held)
        if with_worker:
            # Its engines are measured on as many threads as the server's have.
            several = ["--processes", str(settings.processes)] if settings.processes > 1 else []
            commands["work"] = octavo_command("work", *_common(settings), *several)
        stop_seconds = settings.drain_seconds + _KILL_SECONDS
        return Supervisor(commands, stop_seconds, settings.hang_seconds).run()


def _several(settings: Settings, held: ExitStack) -> _Commands:
    if sys.platform != "linux":
        raise InvalidInput(
            f"OCTAVO_PROCESSES is {settings.processes}: only Linux deals connections out to several; set it to 1"
        )
    port = _held(held, http_refused, settings.host, settings.port)
    grpc_port = settings.grpc_port
    if grpc_port is not None:
        grpc_port = _held(held, grpc_refused, settings.host, grpc_port)
    first = Place(_private_folder(held), 1, settings.processes)
    told = {"host": settings.host, "port": port, "grpc_port": grpc_port, "processes": settings.processes}
    _log.info("several processes serve", extra=told)
    return {
        f"serve-{place.number}": [
            *_serve(settings, port, grpc_port),
            *("--processes", str(place.processes), "--place", str(place.path)),
        ]
        for place in first.all
    }


def _held(held: ExitStack, refused: Callable[[str, int, OSError], InvalidInput], host: str, port: int) -> int:
    try:
        return held.enter_context(reserved(host, port))
    except OSError as error:
        raise refused(host, port, error) from error


def _private_folder(held: ExitStack) -> Path:
    """For this user alone, and gone with the server."""
    try:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="octavo-", ignore_cleanup_errors=True)))
    except OSError as error:
        raise InvalidInput(
            f"no folder for temporary files can be written: {error.strerror}; name one with TMPDIR"
        ) from error
    path = Place(folder, 1, 1).socket
    if len(str(path).encode()) + 1 > _MAX_SOCKET_PATH:
        raise InvalidInput(f"the path {str(path)!r} is too long for a socket; name a shorter folder with TMPDIR")
    return folder


def _serve(settings: Settings, port: int, grpc_port: int | None) -> list[str]:
    # Without gRPC, both read that from the environment that they share.
    grpc_options = [] if grpc_port is None else ["--grpc-port", str(grpc_port)]
    http_options = ["--host", settings.host, "--port", str(port)]
    return octavo_command("serve", *http_options, *grpc_options, *_common(settings))


def _common(settings: Settings) -> list[str]:
    return ["--data-dir", str(settings.data_dir)]
