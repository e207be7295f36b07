"""Reads one multipart form as it arrives: its file part goes to a spool file while it is hashed, the rest to memory.

Refuses parts that are unknown, repeated, missing, encoded or over their limit, and a form without its closing boundary.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from service.errors import InputTooLarge, InvalidInput, InvalidRequest, StorageFull, StoreUnavailable

# EFBIG: the file system or a quota allows no file this large, which to the caller is a full disk.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PLAIN_ENCODINGS = frozenset({b"7bit", b"8bit", b"binary"})
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class UploadForm:
    """What a form may hold: `part_bytes` gives each small part's limit; `refusal` is raised for a bad file part."""

    part_bytes: Mapping[str, int]
    extensions: tuple[str, ...]
    max_file_bytes: int
    refusal: type[InvalidInput]

    @property
    def max_body_bytes(self) -> int:
        """The file, every small part, and room for boundaries and part headers."""
        return self.max_file_bytes + sum(self.part_bytes.values()) + 64 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """A form read whole: the spooled file at `path`, and each small part's bytes."""

    path: Path
    filename: str | None
    sha256: str
    size_bytes: int
    parts: Mapping[str, bytes]

    def text(self, part: str) -> str | None:
        """A small part as text; None where it was not sent. Raises InvalidRequest when it is not UTF-8."""
        data = self.parts.get(part)
        if data is None:
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"part {part!r} is not UTF-8 at byte {error.start}; send it as UTF-8 text") from error


class FormReader:
    """Feeds on the body's bytes, in any portions; `finish` answers the upload, `close` lets go of its file."""

    def __init__(self, boundary: bytes, form: UploadForm, path: Path) -> None:
        self._form = form
        self._path = path
        self._file: BinaryIO | None = None
        self._filename: str | None = None
        self._hash = hashlib.sha256()
        self._size = 0
        self._parts: dict[str, bytearray] = {}
        self._part: str | None = None
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._ended = False
        self._parser = _parser(boundary, self)

    def feed(self, data: bytes) -> None:
        """Raises InvalidRequest, InputTooLarge, the form's refusal, StorageFull or StoreUnavailable."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest(f"the multipart form cannot be read: {error}; send multipart/form-data") from error
        except OSError as error:
            raise storage_error(error, self._size) from error

    def finish(self, required: tuple[str, ...]) -> Upload:
        """The whole upload. Raises InvalidRequest for a form cut short or without a required part or file."""
        if not self._ended:
            raise InvalidRequest(
                f"the form ends before its closing boundary, {self._size} bytes into the file; send it again whole"
            )
        missing = [name for name in required if name not in self._parts] + ([] if self._file else ["file"])
        if missing:
            raise InvalidRequest(f"the form has no part {missing[0]!r}; send {', '.join((*required, 'file'))}")
        if self._size == 0:
            raise self._form.refusal(f"the file {_shown(self._filename)} is empty (0 bytes); send its content")
        try:
            self.close()
        except OSError as error:
            raise storage_error(error, self._size) from error
        parts = {name: bytes(data) for name, data in self._parts.items()}
        return Upload(self._path, self._filename, self._hash.hexdigest(), self._size, parts)

    def close(self) -> None:
        """Raises OSError when the last bytes cannot be written."""
        if self._file is not None:
            self._file.close()

    def on_part_begin(self) -> None:
        self._headers = {}
        self._part = None

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        self._headers[bytes(self._header[0]).lower()] = bytes(self._header[1])
        self._header = (bytearray(), bytearray())

    def on_headers_finished(self) -> None:
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in _PLAIN_ENCODINGS:
            raise InvalidRequest(f"a part is encoded as {encoding.decode('latin-1')!r}; send its bytes as they are")
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise InvalidRequest("a part of the form has no name; name it in its Content-Disposition header")
        name = options[b"name"].decode("utf-8", "replace")
        if name == "file":
            self._open(options.get(b"filename"))
        else:
            self._begin_small(name)
        self._part = name

    def _open(self, filename: bytes | None) -> None:
        if self._file is not None:
            raise InvalidRequest("the form has part 'file' twice; send each part once")
        self._filename = filename.decode("utf-8", "replace") if filename else None
        extension = Path(self._filename or "").suffix.lower()
        if extension and extension not in self._form.extensions:
            raise self._form.refusal(
                f"the file {_shown(self._filename)} ends in {_shown(extension)}; "
                f"send one that ends in {' or '.join(self._form.extensions)}"
            )
        self._file = self._path.open("xb")

    def _begin_small(self, name: str) -> None:
        if name not in self._form.part_bytes:
            known = ", ".join(("file", *self._form.part_bytes))
            raise InvalidRequest(f"the form has an unknown part {_shown(name)}; it may hold {known}")
        if name in self._parts:
            raise InvalidRequest(f"the form has part {name!r} twice; send each part once")
        self._parts[name] = bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == "file":
            self._spool(memoryview(data)[start:end])
            return
        assert self._part is not None
        kept, limit = self._parts[self._part], self._form.part_bytes[self._part]
        if len(kept) + end - start > limit:
            raise InputTooLarge(f"part {self._part!r} is longer than {limit} bytes; send at most {limit}")
        kept.extend(data[start:end])

    def _spool(self, data: memoryview) -> None:
        assert self._file is not None
        self._size += len(data)
        if self._size > self._form.max_file_bytes:
            raise too_large(self._form.max_file_bytes, f"over {self._form.max_file_bytes}")
        self._hash.update(data)
        self._file.write(data)

    def on_end(self) -> None:
        self._ended = True


def too_large(limit_bytes: int, got: str) -> InputTooLarge:
    """The refusal of a file part, or of a whole form, over the upload limit."""
    return InputTooLarge(
        f"the upload is {got} bytes; at most {limit_bytes} are taken: send a smaller file, "
        "or have OCTAVO_MAX_UPLOAD_BYTES raised"
    )


def _parser(boundary: bytes, reader: FormReader) -> MultipartParser:
    return MultipartParser(
        boundary,
        {
            "on_part_begin": reader.on_part_begin,
            "on_part_data": reader.on_part_data,
            "on_header_field": reader.on_header_field,
            "on_header_value": reader.on_header_value,
            "on_header_end": reader.on_header_end,
            "on_headers_finished": reader.on_headers_finished,
            "on_end": reader.on_end,
        },
    )


def storage_error(error: OSError, size_bytes: int) -> StorageFull | StoreUnavailable:
    """What an OSError means to the caller, `size_bytes` into the file."""
    if error.errno in _FULL:
        return StorageFull(
            f"the disk of the uploads was full after {size_bytes} bytes of the file; free space, or send a smaller file"
        )
    return StoreUnavailable(f"the upload could not be spooled: {error.strerror}; check the data folder's disk")


def _shown(text: str | None) -> str:
    if text is None or len(text) <= _SHOWN:
        return repr(text or "without a name")
    return f"{text[:_SHOWN]!r}... ({len(text)} characters)"
