"""`octavo infer` and `octavo predict`: arrays over the Open Inference Protocol, pictures over /predict."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.client import Document, url_path
from service.cli.exit_codes import epilog
from service.cli.figures import MISSING, facts_table, rows_table
from service.cli.session import DEFAULT_URL, AsJson, ServerUrl, session
from service.cli.shapes import PREDICTION
from service.cli.tensors import HEADER_LENGTH, decode_answer, encode_request, read_arrays, save_outputs

if TYPE_CHECKING:
    from rich.console import RenderableType

INFER_EPILOG = epilog(
    "octavo infer digits --input input=rows.npy",
    "octavo infer digits --input rows.npz --variant int8-onnxruntime --save answers.npz",
    "octavo infer digits --json-body request.json --json",
)
PREDICT_EPILOG = epilog(
    "octavo predict digits models/digits/sample.png",
    "octavo predict digits photo.jpg --top-k 3 --json",
)
_SHOWN_VALUES = 8


def infer(
    model: Annotated[str, typer.Argument(help="Name of an uploaded model.")],
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="NAME=FILE.npy, or FILE.npz with an array an input; repeatable.")
    ] = None,
    json_body: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A whole protocol request as JSON, sent as it is.")
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Model version. Default: the deployed one.")] = None,
    variant: Annotated[str | None, typer.Option(help="Variant to answer. Default: the deployment decides.")] = None,
    save: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the outputs to this .npz file.")] = None,
    url: ServerUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Run a model on arrays, sent in binary."""
    if bool(inputs) == bool(json_body):
        raise typer.BadParameter("give --input once or more, or --json-body, not both")
    if json_body and variant:
        raise typer.BadParameter("--variant goes with --input; in --json-body it is parameters.variant")
    if json_body:
        body, headers = json_body.read_bytes(), {"Content-Type": "application/json"}
    else:
        body, headers = encode_request(read_arrays(inputs or ()), variant)
    versions = ("versions", version) if version else ()
    with session(url, as_json) as current:
        response = current.client.send(
            "POST", url_path("v2", "models", model, *versions, "infer"), content=body, headers=headers
        )
        answer = decode_answer(response.content, response.headers.get(HEADER_LENGTH))
        if save:
            save_outputs(save, answer)
        current.terminal.show(answer, lambda: _answer_view(answer))


def predict(
    model: Annotated[str, typer.Argument(help="Name of an image model with preprocessing.")],
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A JPEG or PNG file.")],
    top_k: Annotated[int, typer.Option(min=1, max=1000, help="How many classes to show.")] = 5,
    url: ServerUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Classify one picture."""
    kind = mimetypes.guess_type(image.name)[0] or "application/octet-stream"
    with session(url, as_json) as current:
        answer = current.client.fetch(
            "POST", url_path("models", model, "predict"), PREDICTION, params={"top_k": top_k},
            content=image.read_bytes(), headers={"Content-Type": kind},
        )  # fmt: skip
        current.terminal.show(answer, lambda: prediction_view(answer))


def prediction_view(answer: Document) -> RenderableType:
    """The classes, best first, and who answered."""
    from rich.console import Group

    who = f"{answer.get('model')} version {answer.get('version')}, variant {answer.get('variant')}"
    rows = ((p["index"], p.get("label"), f"{p['score']:.4f}") for p in answer["predictions"])
    return Group(who, rows_table(("class", "label", "score"), rows))


def _answer_view(answer: Document) -> RenderableType:
    from rich.console import Group

    parameters = answer.get("parameters") or {}
    facts = {"model": f"{answer.get('model_name')} version {answer.get('model_version')}"} | parameters
    rows = ((o["name"], o["datatype"], o["shape"], _preview(o.get("data"))) for o in answer["outputs"])
    return Group(facts_table(facts), rows_table(("output", "datatype", "shape", "values"), rows))


def _preview(data: Any) -> str:
    """The first values of an output; --json and --save give all."""
    if data is None:
        return MISSING
    import numpy as np

    values = np.asarray(data).ravel()
    shown = ", ".join(f"{v:.4g}" if isinstance(v, np.floating) else str(v) for v in values[:_SHOWN_VALUES])
    return shown + (f", ... ({values.size} values)" if values.size > _SHOWN_VALUES else "")
