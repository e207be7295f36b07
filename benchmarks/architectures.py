"""Known architectures, and published models, through the whole product: upload, INT8 on each runtime, deployment,
answers over HTTP.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.errors import CannotMeasure
from benchmarks.jobs import cancel_job, post_job, wait_for_end
from benchmarks.octavo import Place, Server, accept, served, working
from benchmarks.options import Options
from benchmarks.report import Goal, Report, Table
from service.domain.recipe import Tuning
from service.quantization.pipeline import available_runtimes

_RUNTIMES = ("onnxruntime", "openvino")
_THREADS = 2
_JOB_SECONDS = 1200.0
_MAX_LOSS, _WITHIN, _ROWS = 0.05, 0.95, 4
_DATATYPES = {"float32": "FP32", "float64": "FP64", "int32": "INT32", "int64": "INT64"}
_COLUMNS = [
    "model", "runtime", "result", "cosine lost", "plan, dB", "engine beside plan, dB", "MACs in INT8",
    "over FP32, batch 8", "answers, cosine", "job, s",
]  # fmt: skip
Rows = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Subject:
    """What the models of a run are: the report's name and title, and what stands before and behind its first words."""

    name: str
    title: str
    weights: str
    told: str


ARCHITECTURES = Subject(
    "architectures", "Known architectures", "random weights",
    "It tells what their graphs ask of the product, and not how accurate trained ones stay.",
)  # fmt: skip
PUBLISHED = Subject(
    "published", "Published models", "the weights that its authors published",
    "Rows are drawn, and carry no labels: engines are held against their models, and these against nothing.",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One job and what was served of it; None where the job got no further. `words` tell why it did not."""

    model: str
    runtime: str
    state: str
    seconds: float
    loss: float | None = None
    plan_db: float | None = None
    engine_db: float | None = None
    int8_share: float | None = None
    speedup: float | None = None
    served_cosine: float | None = None
    words: str = ""

    @property
    def proven(self) -> bool:
        return self.state in ("succeeded", "rejected")

    @property
    def sound(self) -> bool | None:
        """Whether the engine's kernels add less noise to its plan's answers than the plan to the model's, if measured.

        Kernels round sums otherwise, and no more: beyond that they compute something else.
        """
        return None if self.engine_db is None or self.plan_db is None else self.engine_db > self.plan_db

    def row(self) -> list[str]:
        figures = [
            (self.loss, "{:.4f}"), (self.plan_db, "{:.0f}"), (self.engine_db, "{:.0f}"), (self.int8_share, "{:.0%}"),
            (self.speedup, "{:.2f}"), (self.served_cosine, "{:.4f}"),
        ]  # fmt: skip
        shown = ["" if value is None else form.format(value) for value, form in figures]
        return [self.model, self.runtime, self.state, *shown, f"{self.seconds:.0f}"]


def measure_architectures(options: Options, say: Callable[[str], None]) -> Report:
    """Each folder of `options.find_architectures()`. One that fails is told, and keeps none from being tried."""
    return _measure(ARCHITECTURES, options.find_architectures(), options, say)


def measure_published(options: Options, say: Callable[[str], None]) -> Report:
    """Each folder of `options.find_published()`, likewise."""
    return _measure(PUBLISHED, options.find_published(), options, say)


def _measure(subject: Subject, folders: Sequence[Path], options: Options, say: Callable[[str], None]) -> Report:
    steps = {} if options.tuned else {"tuning": asdict(Tuning.none())}
    recipes = [{"runtime": name} | steps for name in _RUNTIMES if name in available_runtimes()]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as folder:
        place = Place(Path(folder) / "data", _THREADS)
        with served(place) as server, working(place):
            for path in folders:
                say(path.name)
                outcomes += _try(server, path, recipes)
    return make_report(outcomes, subject)


def _try(server: Server, folder: Path, recipes: Sequence[dict[str, Any]]) -> list[Outcome]:
    name = folder.name
    try:
        server.upload_model(name, folder / "model.onnx")
        for split in ("calibration", "validation"):
            server.upload_dataset(f"{name}-{split}", folder / f"{split}.npz")
    except CannotMeasure as error:
        return [Outcome(name, recipe["runtime"], "not uploaded", 0.0, words=str(error)) for recipe in recipes]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    with np.load(folder / "validation.npz") as arrays:
        rows = one_request(session, {key: arrays[key] for key in arrays.files})
    names = [entry.name for entry in session.get_outputs()]
    expected = dict(zip(names, session.run(names, rows), strict=True))
    outcomes = [_outcome(server, name, recipe, (rows, expected)) for recipe in recipes]
    accept(server.client.delete(f"/models/{name}/deployment"))
    return outcomes


def _outcome(server: Server, name: str, recipe: dict[str, Any], wanted: tuple[Rows, Rows]) -> Outcome:
    try:
        return _run(server, name, recipe, wanted)
    except CannotMeasure as error:
        return Outcome(name, recipe["runtime"], "given up", _JOB_SECONDS, words=str(error))


def _run(server: Server, name: str, recipe: dict[str, Any], wanted: tuple[Rows, Rows]) -> Outcome:
    runtime = recipe["runtime"]
    job_id = post_job(server, name, recipe, "cosine", _MAX_LOSS)
    try:
        job = wait_for_end(server, job_id, _JOB_SECONDS)
    except CannotMeasure:
        # An engine that hangs must not keep the others waiting.
        cancel_job(server, job_id)
        raise
    seconds = sum(stage["seconds"] or 0.0 for stage in job["stages"])
    if job["state"] not in ("succeeded", "rejected"):
        return Outcome(name, runtime, job["state"], seconds, words=str(job["error"]))
    report = accept(server.client.get(f"/jobs/{job['id']}/report")).json()
    legs = {leg["leg"]: leg["sqnr_db"] for leg in (report["loss_split"] or {}).get("legs", [])}
    by_batch = {entry["batch"]: entry["speedup"] for entry in report["speed"]["by_batch"]}
    answers, words = None, ""
    if job["state"] == "succeeded":
        try:
            answers = _served_cosine(server, name, job["result"]["variant"], wanted)
        except CannotMeasure as error:
            words = str(error)
    else:
        words = report["certificate"]["reason"]
    return Outcome(
        name, runtime, job["state"], seconds, report["metrics"]["cosine"]["loss"], legs.get("plan"), legs.get("engine"),
        report["int8_mac_share"], by_batch.get(8), answers, words,
    )  # fmt: skip


def _served_cosine(server: Server, name: str, variant: str, wanted: tuple[Rows, Rows]) -> float:
    """Of the served engine's answers to the model's: the output and row where it is smallest."""
    rows, expected = wanted
    accept(server.client.put(f"/models/{name}/deployment", json={"version": 1, "stable": {"variant": variant}}))
    tensors = [_tensor(key, array) for key, array in rows.items()]
    answer = accept(server.client.post(f"/v2/models/{name}/infer", json={"inputs": tensors})).json()
    # In whatever order the server answers, and with a row of its own for each row of a batch.
    outputs = {output["name"]: np.array(output["data"], np.float64) for output in answer["outputs"]}
    return smallest_cosine(
        [_by_row(array, rows) for array in expected.values()],
        [_by_row(outputs[name].reshape(array.shape), rows) for name, array in expected.items()],
    )


def one_request(session: onnxruntime.InferenceSession, rows: Rows) -> Rows:
    """As many of the dataset's rows as the model takes at once, and as it takes them."""
    axes = {entry.name: entry.shape for entry in session.get_inputs()}
    if any(array.ndim > len(axes[name]) for name, array in rows.items()):
        # A row that is an input as it stands has no axis of rows in it, beside others that have one.
        wholes = {name: array[0] if array.ndim > len(axes[name]) else array[:1] for name, array in rows.items()}
        return {name: np.asarray(array) for name, array in wholes.items()}
    together = all(shape and not isinstance(shape[0], int) for shape in axes.values())
    return {name: array[: _ROWS if together else 1] for name, array in rows.items()}


def _by_row(array: np.ndarray[Any, Any], rows: Rows) -> np.ndarray[Any, Any]:
    counts = {len(given) if given.ndim else 0 for given in rows.values()}
    flat = array.astype(np.float64)
    return flat.reshape(_ROWS, -1) if counts == {_ROWS} else flat.reshape(1, -1)


def _tensor(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    datatype = _DATATYPES[str(array.dtype)]
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}


def smallest_cosine(expected: Sequence[np.ndarray[Any, Any]], found: Sequence[np.ndarray[Any, Any]]) -> float:
    """Of all rows of all outputs, [rows, values] each."""
    cosines = []
    for left, right in zip(expected, found, strict=True):
        sizes = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosines.append(np.min((left * right).sum(1) / np.maximum(sizes, np.finfo(np.float64).tiny)))
    return float(min(cosines))


def make_report(outcomes: Sequence[Outcome], subject: Subject = ARCHITECTURES) -> Report:
    """Of one or more jobs."""
    report = Report(
        subject.name,
        subject.title,
        f"Each with {subject.weights} through upload, INT8 by the default recipe on each runtime within 5 % of the "
        "cosine, deployment, and 4 rows over HTTP, or the one that it takes, beside ONNX Runtime's FP32 answers. "
        f"{subject.told}",
    )
    count = len(outcomes)
    report.goals += [
        Goal("jobs that ended with a proof, of all", sum(one.proven for one in outcomes) / count, 1.0),
        Goal("engines within 5 % of the cosine, of all jobs", _share(outcomes, "succeeded"), _WITHIN),
        Goal("engines whose kernels add less noise than their plan", _sound(outcomes), 1.0),
        Goal("smallest cosine of an answer over HTTP", _smallest(outcomes), 1 - 2 * _MAX_LOSS),
    ]
    report.tables.append(Table(f"{count} jobs", _COLUMNS, [one.row() for one in outcomes]))
    report.notes += [f"{one.model} on {one.runtime}: {one.words}" for one in outcomes if one.words]
    report.rounds["jobs"] = [asdict(one) for one in outcomes]
    return report


def _share(outcomes: Sequence[Outcome], state: str) -> float:
    return sum(one.state == state for one in outcomes) / len(outcomes)


def _sound(outcomes: Sequence[Outcome]) -> float:
    """Of those that were measured."""
    measured = [one.sound for one in outcomes if one.sound is not None]
    return sum(measured) / len(measured) if measured else 0.0


def _smallest(outcomes: Sequence[Outcome]) -> float:
    return min((one.served_cosine for one in outcomes if one.served_cosine is not None), default=0.0)
