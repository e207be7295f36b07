"""Arrays as Open Inference Protocol requests and answers, tensors in binary. Refuses pickled objects."""

from __future__ import annotations

import io
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from service.cli.client import Document
from service.cli.exit_codes import CommandFailed, ExitCode
from service.cli.shapes import INFERENCE, fits
from service.cli.whole_file import written_whole

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

# What numpy, zipfile and zlib raise for damaged files; RuntimeError for encrypted or unknown members and deep headers.
_UNREADABLE = (
    ValueError, EOFError, MemoryError, OverflowError, RuntimeError, SyntaxError, TypeError, KeyError, struct.error,
    tokenize.TokenError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
_SAVE_STEP = "save numbers, or text of its own type (array.astype(str)), with numpy.save or savez"
HEADER_LENGTH = "Inference-Header-Content-Length"


def read_arrays(inputs: Iterable[str]) -> dict[str, Array]:
    """The arrays of `NAME=FILE.npy` and `FILE.npz` arguments by input name. Raises BadParameter for wrong ones."""
    arrays: dict[str, Array] = {}
    for argument in inputs:
        found = _arrays_of(argument)
        repeated = sorted(found.keys() & arrays.keys())
        if repeated:
            raise typer.BadParameter(f"input {repeated[0]!r} is given twice; give each input once")
        arrays |= found
    return arrays


def encode_request(arrays: dict[str, Array], variant: str | None) -> tuple[bytes, dict[str, str]]:
    """The request's body and headers: JSON, then each array's bytes, little-endian and row-major."""
    import orjson

    described: list[Document] = []
    payloads: list[bytes] = []
    for name, array in arrays.items():
        datatype, payload = _encoded(name, array)
        size = {"binary_data_size": len(payload)}
        described.append({"name": name, "shape": list(array.shape), "datatype": datatype, "parameters": size})
        payloads.append(payload)
    parameters: Document = {"binary_data_output": True} | ({"variant": variant} if variant else {})
    header = orjson.dumps({"inputs": described, "parameters": parameters})
    return b"".join((header, *payloads)), {HEADER_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}


def decode_answer(content: bytes, header_length: str | None) -> Document:
    """The answer with every output's `data` as an array (binary outputs) or as the list that the server sent."""
    import orjson

    try:
        length = len(content) if header_length is None else int(header_length)
        answer: Document = orjson.loads(content[:length])
        if not fits(answer, INFERENCE):
            raise ValueError("it has no outputs with name, datatype and shape")
        rest = memoryview(content)[length:]
        for output in answer["outputs"]:
            size = (output.get("parameters") or {}).pop("binary_data_size", None)
            if size is not None:
                output["data"] = _decoded(output, bytes(rest[:size]))
                rest = rest[size:]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandFailed(
            f"the inference answer cannot be read: {error}; check that --url names an Octavo server",
            "foreign_answer",
            ExitCode.FAILED,
        ) from error
    return answer


def save_outputs(file: Path, answer: Document) -> None:
    """Writes the outputs to an .npz file, an array a name. Raises CommandFailed where the file cannot be written.

    numpy.savez takes the names as keywords, beside its own `file`: an output may have that name too.
    """
    from numpy.lib.format import write_array

    arrays = {output["name"]: _shaped(output) for output in answer["outputs"]}
    # Made in memory: an archive is written with seeks, which a pipe or a device lacks.
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write_array(member, array, allow_pickle=False)
    with written_whole(file) as stream:
        stream.write(content.getbuffer())


def _shaped(output: Document) -> Array:
    import numpy as np

    name, shape = output["name"], output["shape"]
    try:
        array = np.asarray(output.get("data")).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise _unsaved(f"output {name!r} is no array of shape {shape}: {error}") from error
    if array.dtype.hasobject:
        raise _unsaved(f"output {name!r} holds more than numbers or text")
    return array


def _unsaved(why: str) -> CommandFailed:
    return CommandFailed(f"{why}; see the answer with --json, without --save", "not_saved", ExitCode.FAILED)


def _arrays_of(argument: str) -> dict[str, Array]:
    import numpy as np

    name, _, path = argument.rpartition("=")
    file = Path(path)
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if not name:
                raise typer.BadParameter(f"{argument!r} names no input; give NAME={argument}")
            return {name: loaded}
        with loaded:
            if name:
                raise typer.BadParameter(f"{file} names its own inputs; give --input {file} alone")
            return {key: _member(loaded, key) for key in loaded.files}
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror or error}") from error
    except _UNREADABLE as error:
        raise typer.BadParameter(f"{file} holds no plain arrays: {error}; {_SAVE_STEP}") from error


def _member(loaded: Mapping[str, Array], key: str) -> Array:
    """An archive's member; what is no .npy file comes as bytes. Raises ValueError for that."""
    array: Any = loaded[key]
    if not hasattr(array, "dtype"):
        raise ValueError(f"member {key!r} is no .npy file")
    return array  # type: ignore[no-any-return]


def _encoded(name: str, array: Array) -> tuple[str, bytes]:
    """The protocol's datatype and bytes of an array; text becomes BYTES, each element behind its length."""
    import numpy as np

    from service.domain.tensor import NUMPY_TYPES

    if array.dtype.kind in "SU":
        try:
            elements = (np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array).ravel().tolist()
        except UnicodeEncodeError as error:
            raise typer.BadParameter(f"input {name!r} holds text that is no Unicode: {error}; mend the text") from error
        return "BYTES", b"".join(len(element).to_bytes(4, "little") + element for element in elements)
    for datatype, known in NUMPY_TYPES.items():
        # BF16 travels as 16-bit words too; a file cannot tell the two apart, so words stay UINT16.
        if datatype != "BF16" and array.dtype.newbyteorder("=") == known:
            return datatype, array.astype(known.newbyteorder("<")).tobytes()
    raise typer.BadParameter(f"input {name!r} has type {array.dtype}, which the protocol lacks; convert the array")


def _decoded(output: Document, payload: bytes) -> Array | list[str]:
    import numpy as np

    from service.domain.tensor import NUMPY_TYPES

    if output["datatype"] == "BYTES":
        return list(_texts(payload))
    words = np.frombuffer(payload, NUMPY_TYPES[output["datatype"]].newbyteorder("<"))
    if output["datatype"] == "BF16":
        # The upper half of a float32: shift it up to read it.
        words = (words.astype(np.uint32) << 16).view(np.float32)
    return words


def _texts(payload: bytes) -> Iterable[str]:
    start = 0
    while start < len(payload):
        end = start + 4 + int.from_bytes(payload[start : start + 4], "little")
        if end > len(payload):
            raise ValueError(f"a BYTES element ends at byte {end} of {len(payload)}")
        yield payload[start + 4 : end].decode("utf-8", "replace")
        start = end
