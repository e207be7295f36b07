"""The head of a plain infer request, as the parser read it, and its bytes: a connection sends the same again and again.

Equal bytes where a request begins are read equally, so that the parser need not read them again.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.api.content_coding import wanted_coding
from service.api.inference import InferenceEndpoint
from service.protocol.recording import Target

# Whatever changes how a body arrives or a reply is sent.
_SPECIAL_HEADERS = frozenset({b"expect", b"transfer-encoding", b"content-encoding", b"upgrade"})
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


def plain_head(
    endpoint: InferenceEndpoint, url: bytes, headers: list[tuple[bytes, bytes]], keep_alive: bool
) -> PlainHead | None:
    """What is asked; None where it is no infer request, or anything about it changes how bodies come or replies go."""
    named = dict(headers)
    if not _SPECIAL_HEADERS.isdisjoint(named) or not _fits(named, endpoint.max_body_bytes):
        return None
    if wanted_coding(named.get(b"accept-encoding")) is not None:
        return None
    target = None if b"%" in url else endpoint.target(url.decode("latin-1"))
    return None if target is None else PlainHead(target, named, keep_alive, int(named[b"content-length"]))


def _fits(headers: dict[bytes, bytes], max_bytes: int) -> bool:
    declared = headers.get(b"content-length", b"")
    return declared.isdigit() and len(declared) < 15 and int(declared) <= max_bytes
