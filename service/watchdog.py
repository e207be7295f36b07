"""Signs of life from a process to the one that started it, so that one that hangs can be told from one that is busy.

The words are systemd's (sd_notify and sd_watchdog_enabled): a Unix datagram "WATCHDOG=1" to the socket that
NOTIFY_SOCKET names, more often than every WATCHDOG_USEC microseconds. So `octavo serve` also obeys a systemd unit's
WatchdogSec.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

_ALIVE = b"WATCHDOG=1"
_MAX_BYTES = 4096
_CREDENTIALS = struct.Struct("3i")
_SIGNS_PER_LIMIT = 4
_HEARD_AT_ONCE = 1000
_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_log = logging.getLogger(__name__)


class SignOfLife:
    """The child's end. Without a watching parent it does nothing."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        limit = os.environ.get("WATCHDOG_USEC", "")
        meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._address = "\0" + address[1:] if address.startswith("@") else address
        # Seconds between two signs; None where nobody watches.
        self.pause_seconds = int(limit) / 1e6 / _SIGNS_PER_LIMIT if address and limit.isdecimal() and meant else None

    def give(self) -> None:
        """Never blocks, and never fails: a parent that is gone or behind hears nothing."""
        if self.pause_seconds is not None:
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(_ALIVE, self._address)

    async def keep_giving(self) -> None:
        """From the event loop: a process whose loop stands still answers nobody."""
        while self.pause_seconds is not None:
            self.give()
            await asyncio.sleep(self.pause_seconds)


class Watch:
    """The parent's end, on Linux; elsewhere nobody is ever heard."""

    def __init__(self, limit_seconds: float) -> None:
        self._socket: socket.socket | None = None
        # What the children are started with: whoever watches this process does not watch them.
        self.environment = {key: value for key, value in os.environ.items() if key not in _VARIABLES}
        if sys.platform == "linux":
            self._path = Path(tempfile.gettempdir()) / f"octavo-{uuid.uuid4().hex[:16]}.alive"
            self._socket = _private_socket(self._path)
        if self._socket is not None:
            self.environment |= {"NOTIFY_SOCKET": str(self._path), "WATCHDOG_USEC": str(int(limit_seconds * 1e6))}

    @property
    def can_hear(self) -> bool:
        return self._socket is not None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._path.unlink(missing_ok=True)

    def heard(self) -> set[int]:
        """The processes that gave a sign since the last call, by id, as the kernel vouches for it."""
        found: set[int] = set()
        for _ in range(_HEARD_AT_ONCE if self._socket is not None else 0):
            assert self._socket is not None
            try:
                words, told, _, _ = self._socket.recvmsg(_MAX_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
            except BlockingIOError:
                break
            if words == _ALIVE:
                found |= {_CREDENTIALS.unpack(data)[0] for _, kind, data in told if kind == socket.SCM_CREDENTIALS}
        return found


def _private_socket(path: Path) -> socket.socket | None:
    """One that only this user can send to: a stranger could fill it, and living children would not be heard."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    before = os.umask(0o177)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        made.bind(str(path))
    except OSError as error:
        made.close()
        _log.warning("processes that hang are not found", extra={"socket": str(path), "reason": str(error)})
        return None
    finally:
        os.umask(before)
    return made
