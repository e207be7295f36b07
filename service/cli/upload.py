"""`octavo upload` and `octavo dataset`: files streamed to the server with their SHA-256, never held whole in memory."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from service.cli.arguments import regular_file
from service.cli.client import Document, answered, url_path
from service.cli.exit_codes import CommandFailed, ExitCode, epilog
from service.cli.figures import byte_text, facts_table
from service.cli.session import DEFAULT_URL, AsJson, ServerUrl, Session, session
from service.cli.shapes import DATASET, DEPLOYMENT, MODEL_VERSION
from service.domain.engine import REFERENCE_VARIANT

if TYPE_CHECKING:
    import httpx
    from rich.console import RenderableType

_READ_BYTES = 1024 * 1024

UPLOAD_EPILOG = epilog(
    "octavo upload models/digits/digits.onnx --name digits --labels models/digits/labels.txt",
    "octavo upload net.onnx --name net --preprocessing preprocessing.json --json",
)
DATASET_EPILOG = epilog(
    "octavo dataset calibration.npz --name digits-calibration --model digits",
    "octavo dataset photos.zip --name photos --preprocessing preprocessing.json",
)

PreprocessingFile = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, callback=regular_file, help="JSON file: how a picture becomes the input tensor."
    ),
]


def upload(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, callback=regular_file, help="The model, an ONNX file.")
    ],
    name: Annotated[str, typer.Option(help="Name to serve it under; an existing name gets a new version.")],
    labels: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, callback=regular_file, help="Text file of class labels, one a line."),
    ] = None,
    preprocessing: PreprocessingFile = None,
    url: ServerUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Upload a model. Its first version is served at once, in FP32; a later one waits for `octavo deploy`."""
    fields = {"name": name} | _preprocessing_field(preprocessing)
    with session(url, as_json) as current:
        answer = post_file(current, "/models", file, fields, labels)
        version: Document = answered(answer, MODEL_VERSION)
        current.terminal.show(version, lambda: _version_view(version))
        if not as_json:
            _tell_what_follows(current, version, known=answer.status_code == HTTPStatus.OK)


def dataset(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, callback=regular_file, help="Rows: .npz, or .zip of class folders."
        ),
    ],
    name: Annotated[str, typer.Option(help="Name to call it by in `octavo quantize`.")],
    model: Annotated[str | None, typer.Option(help="Model whose preprocessing fits the pictures.")] = None,
    preprocessing: PreprocessingFile = None,
    url: ServerUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Upload rows to calibrate or to validate with."""
    if model is not None and preprocessing is not None:
        raise typer.BadParameter("give --model or --preprocessing, not both")
    fields = {"name": name} | ({"model": model} if model else {}) | _preprocessing_field(preprocessing)
    with session(url, as_json) as current:
        stored: Document = answered(post_file(current, "/datasets", file, fields), DATASET)
        current.terminal.show(stored, lambda: _dataset_view(stored))


def post_file(
    current: Session, path: str, file: Path, fields: dict[str, str], labels: Path | None = None
) -> httpx.Response:
    """Posts the file as a multipart form with its SHA-256, the fields first; the server's answer."""
    with current.terminal.byte_progress() as progress, file.open("rb") as stream:
        size = file.stat().st_size

        def advance(task: Any) -> Callable[[int], None]:
            return lambda count: progress.advance(task, count)

        digest = _sha256(stream, advance(progress.add_task(f"hashing {file.name}", total=size)))
        sent = CountedFile(stream, advance(progress.add_task(f"sending {file.name}", total=size)))
        files: dict[str, Any] = {"labels": (_sent_name(labels), labels.read_bytes())} if labels else {}
        files["file"] = (_sent_name(file), sent)
        return current.client.send("POST", path, data=fields | {"sha256": digest}, files=files)


class CountedFile(io.RawIOBase):
    """A binary file that tells `on_bytes` how many bytes each read took."""

    def __init__(self, stream: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        self._stream = stream
        self._on_bytes = on_bytes

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        self._on_bytes(len(chunk))
        return chunk

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def fileno(self) -> int:
        return self._stream.fileno()


def _sent_name(file: Path) -> str:
    """The file's name as a form can carry it, whatever bytes the system lets it have."""
    return file.name.encode("utf-8", "replace").decode()


def _sha256(stream: BinaryIO, on_bytes: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(_READ_BYTES):
        digest.update(chunk)
        on_bytes(len(chunk))
    return digest.hexdigest()


def _preprocessing_field(file: Path | None) -> dict[str, str]:
    """The form's field, refused as wrong usage where the file is no JSON object."""
    if file is None:
        return {}
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{file} is not JSON: {error}; see `preprocessing` in the API guide") from error
    if not isinstance(document, dict):
        raise typer.BadParameter(f"{file} holds a {type(document).__name__}; give a JSON object such as {{...}}")
    return {"preprocessing": json.dumps(document)}


def _tell_what_follows(current: Session, version: Document, known: bool) -> None:
    """Notes on stderr: that nothing new was stored, and how a version that does not serve comes to."""
    name, number = version["name"], version["version"]
    if known:
        current.terminal.note(f"these bytes were version {number} of model {name} already: nothing was added")
    elif number == 1:
        return
    try:
        serving: int | None = current.client.fetch("GET", url_path("models", name, "deployment"), DEPLOYMENT)["version"]
    except CommandFailed as failure:
        if failure.exit_code is not ExitCode.NOT_FOUND:
            # The upload succeeded: not being able to say more of it is no failure.
            return
        serving = None
    if serving != number:
        now = "no version is deployed" if serving is None else f"version {serving} stays deployed"
        command = shlex.join(("octavo", "deploy", name, REFERENCE_VARIANT, "--version", str(number)))
        current.terminal.note(f"{now}; `{command}` deploys version {number}")


def _version_view(version: Document) -> RenderableType:
    tensors = {
        kind: ", ".join(f"{t['name']} {t['datatype']} {t['shape']}" for t in version.get(kind) or ())
        for kind in ("inputs", "outputs")
    }
    facts = {"model": version["name"], "version": version["version"], "size": byte_text(version.get("size_bytes"))}
    return facts_table(facts | {"opset": version.get("opset")} | tensors | {"sha256": version.get("sha256")})


def _dataset_view(stored: Document) -> RenderableType:
    facts = {key: stored.get(key) for key in ("name", "rows", "labels", "sha256")}
    return facts_table(facts | {"warnings": "\n".join(stored.get("warnings") or ())})
