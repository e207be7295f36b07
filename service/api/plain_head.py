"""The head of a plain infer request, as the parser read it, and its bytes: a connection sends the same again and again.

Equal bytes where a request begins are read equally, so that the parser need not read them again.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.protocol.recording import Target

_END = b"\r\n\r\n"
# Longer ones are compared and copied for nothing where they differ.
_MAX_NOTED_BYTES = 4096


@dataclass(slots=True, eq=False)
class PlainHead:
    """What is asked, the headers, and how long the body is. `text` is the bytes of all this, once they are known."""

    target: Target
    headers: dict[bytes, bytes]
    keep_alive: bool
    body_bytes: int
    text: bytes | None = None

    def note(self, data: bytes | memoryview, body_bytes: int) -> None:
        """Keeps the head's bytes: `data` began with them, and was nothing more but `body_bytes` of the body."""
        size = bytes(data[: _MAX_NOTED_BYTES + len(_END)]).find(_END) + len(_END)
        # Where the head ended elsewhere, or was not all that came, the counts differ.
        if size >= len(_END) and len(data) - size == body_bytes and self.keep_alive:
            self.text = bytes(data[:size])

    def begins(self, data: bytes | memoryview) -> bool:
        """Whether `data` is this head, with a part of its body or all of it and no more."""
        text = self.text
        if text is None or not 0 <= len(data) - len(text) <= self.body_bytes:
            return False
        return bytes(data[: len(text)]) == text
