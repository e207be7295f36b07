"""Refuses, before any work, a recipe that this host cannot build or that the named data cannot prove.

Light to import: the HTTP side calls it on every request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from service.domain.engine import GPU_RUNTIMES
from service.domain.model import Dataset
from service.domain.recipe import (
    AROUND,
    GRANULARITIES,
    LOWEST_PERCENTILE,
    MAX_BATCH_ROWS,
    MAX_CALIBRATION_ROWS,
    MAX_SPEEDUP,
    METHODS,
    METRICS,
    PRECISIONS,
    RUNTIMES,
    SCHEMES,
    SPARSITIES,
    WEIGHTS,
    BatchProfile,
    Budget,
    Calibration,
    Recipe,
)
from service.domain.tensor import TensorSpec
from service.engines.cuda_device import find_device, why_no_device
from service.engines.fingerprint import host_fingerprint
from service.engines.loader import install_hint
from service.errors import InvalidDataset, InvalidRecipe

MAX_KEEP_FLOAT = 256
MAX_KEEP_FLOAT_CHARACTERS = 256
_LABEL_METRICS = ("top1", "top5")
_ALL = ("fp32", "fp16", "bf16", "int8")
# Runtimes that have a builder here, each with the modules of which one must be installed and the precisions it builds.
_BUILDABLE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "onnxruntime": (("onnxruntime",), ("fp32", "fp16", "int8")),
    "openvino": (("openvino",), _ALL),
    "tensorrt": (("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"), _ALL),
    "onnxruntime-cuda": (("onnxruntime",), ("fp32", "fp16", "int8")),
    "onnxruntime-tensorrt": (("onnxruntime",), ("fp32", "fp16", "int8")),
}
# TensorRT itself is the faster of two ways to the same GPU, and a provider whose libraries are missing would fail a
# build that others would have won.
_BY_NAME_ALONE = ("onnxruntime-cuda", "onnxruntime-tensorrt")
# Without one of these a CPU computes BF16 in FP32, piece by piece: slower than FP32, and no more exact than BF16.
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")


def available_runtimes() -> tuple[str, ...]:
    """The runtimes that this host can build engines for, in order of preference."""
    return tuple(name for name, (modules, _) in _BUILDABLE.items() if any(map(find_spec, modules)))


def candidate_runtimes(recipe: Recipe) -> tuple[str, ...]:
    """The runtimes that a build of `recipe` tries: the named one, or for `auto` all that can build its precision and
    run it here.
    """
    named = _runnable_runtimes() if recipe.runtime == "auto" else (recipe.runtime,)
    return tuple(name for name in named if name in _BUILDABLE and recipe.precision in _precisions(name))


def _runnable_runtimes() -> tuple[str, ...]:
    """What `auto` may pick: an engine that cannot run here can be neither measured nor served here."""
    named = tuple(name for name in available_runtimes() if name not in _BY_NAME_ALONE)
    return tuple(name for name in named if name not in GPU_RUNTIMES or find_device() is not None)


def _precisions(runtime: str) -> tuple[str, ...]:
    """What the runtime builds on this host."""
    built = _BUILDABLE[runtime][1]
    return built if runtime in GPU_RUNTIMES or _computes_bf16() else tuple(word for word in built if word != "bf16")


def _computes_bf16() -> bool:
    return any(flag in _BF16_FLAGS for flag in host_fingerprint().flags)


def check_recipe(recipe: Recipe, budget: Budget, calibration: Dataset | None, validation: Dataset | None) -> None:
    """Raises InvalidRecipe, naming the field, its value and the next step, where the build could never succeed."""
    _check_words(recipe, budget)
    _check_runtime(recipe)
    _check_around(recipe)
    _check_weights(recipe)
    _check_calibration(recipe.calibration)
    _check_keep_float(recipe.keep_float)
    _check_batch(recipe.batch)
    _check_data(recipe, budget, calibration, validation)


def check_dataset_fits(dataset: str, arrays: Mapping[str, TensorSpec], inputs: Sequence[TensorSpec]) -> None:
    """Raises InvalidDataset unless `arrays` (name to spec, rows first) can feed a model with these inputs."""
    for wanted in inputs:
        if wanted.name == "labels":
            raise InvalidDataset(
                "the model has an input 'labels', but an array of that name holds the classes that answers are judged "
                "by; export the model with another name for that input"
            )
        if wanted.name not in arrays:
            raise InvalidDataset(
                f"the {dataset} set has no array {wanted.name!r}, only {', '.join(sorted(arrays)) or 'none'}; "
                "name one array after each input of the model"
            )
        given = arrays[wanted.name]
        if given.datatype != wanted.datatype:
            raise InvalidDataset(
                f"array {wanted.name!r} of the {dataset} set is {given.datatype} but the model's input is "
                f"{wanted.datatype}; save it as {wanted.dtype}"
            )
        if rows_per_run(given.shape[1:], wanted) is None:
            raise InvalidDataset(
                f"a row of array {wanted.name!r} of the {dataset} set has shape {list(given.shape[1:])} but the "
                f"model's input has {list(wanted.shape)}; rows go on the first axis, send {_wanted_rows(wanted)}"
            )


def rows_per_run(row_shape: tuple[int, ...], spec: TensorSpec) -> int | None:
    """How many dataset rows one run of the model takes for this input: 0 for any number, None where rows do not fit.

    A fixed first axis of K takes K rows that lack that axis; a row with the input's own shape is one run.
    """
    if spec.batched:
        return 0 if TensorSpec(spec.name, spec.datatype, spec.row_shape).accepts(row_shape) else None
    if spec.accepts(row_shape):
        return 1
    inner = TensorSpec(spec.name, spec.datatype, spec.shape[1:])
    return spec.shape[0] if spec.shape and inner.accepts(row_shape) else None


def _wanted_rows(spec: TensorSpec) -> str:
    inner = spec.row_shape if spec.batched else spec.shape
    return str(["rows", *("any" if extent == -1 else extent for extent in inner)]).replace("'", "")


def _check_words(recipe: Recipe, budget: Budget) -> None:
    words = (
        ("precision", recipe.precision, PRECISIONS),
        ("runtime", recipe.runtime, RUNTIMES),
        ("scheme", recipe.scheme, SCHEMES),
        ("granularity", recipe.granularity, GRANULARITIES),
        ("around", recipe.around, AROUND),
        ("weights", recipe.weights, WEIGHTS),
        ("sparsity", recipe.sparsity, SPARSITIES),
        ("calibration.method", recipe.calibration.method, METHODS),
        ("budget.metric", budget.metric, (None, *METRICS)),
    )
    for field, value, known in words:
        if value not in known:
            raise InvalidRecipe(f"{field} is {value!r}; send one of {', '.join(str(word) for word in known if word)}")
    if not math.isfinite(budget.max_loss) or budget.max_loss < 0:
        raise InvalidRecipe(f"budget.max_loss is {budget.max_loss}; send a finite number from 0, such as 0.01")
    if budget.metric != "mae" and budget.max_loss > 2:
        raise InvalidRecipe(f"budget.max_loss is {budget.max_loss}; a loss of {budget.metric or 'top1'} is at most 2")
    if budget.min_speedup is not None and not 0 < budget.min_speedup <= MAX_SPEEDUP:
        raise InvalidRecipe(
            f"budget.min_speedup is {budget.min_speedup}; send how many times as fast as the FP32 reference the engine "
            f"must run, above 0 and up to {MAX_SPEEDUP:g}, such as 1.2, or leave it out"
        )


def _check_runtime(recipe: Recipe) -> None:
    available = available_runtimes()
    if recipe.runtime in _BUILDABLE and recipe.runtime not in available:
        raise InvalidRecipe(
            f"runtime is {recipe.runtime!r}, which is not installed here; send auto, or "
            f"{_how_to_install(recipe.runtime)}"
        )
    if recipe.runtime not in ("auto", *available):
        raise InvalidRecipe(
            f"runtime is {recipe.runtime!r}, which this host cannot build for; send auto or "
            f"{' or '.join(available) or 'install onnxruntime'}"
        )
    if not candidate_runtimes(recipe):
        named = _runnable_runtimes() if recipe.runtime == "auto" else (recipe.runtime,)
        offered = sorted({word for name in named for word in _precisions(name)})
        raise InvalidRecipe(
            f"precision is {recipe.precision!r}, which runtime {recipe.runtime!r} does not build on this host"
            f"{_why_no_bf16(recipe)}; send one of {', '.join(offered)}"
        )


def _how_to_install(runtime: str) -> str:
    if runtime == "tensorrt":
        return "install it with: pip install 'octavo[rtx]', which builds without a GPU, or octavo[gpu] beside one"
    return install_hint(runtime)


def _check_around(recipe: Recipe) -> None:
    if recipe.around == "auto":
        return
    if recipe.precision != "int8":
        raise InvalidRecipe(
            f"around is {recipe.around!r}, the type around INT8, but precision is {recipe.precision!r}; leave it out"
        )
    if recipe.around == "bf16" and recipe.runtime in _BY_NAME_ALONE:
        raise InvalidRecipe(
            f"around is 'bf16', for which runtime {recipe.runtime!r} has no Q/DQ kernels; send fp16 or fp32, or "
            "runtime tensorrt"
        )
    if recipe.around != "fp32" and recipe.runtime not in GPU_RUNTIMES:
        raise InvalidRecipe(
            f"around is {recipe.around!r}, but INT8 of runtime {recipe.runtime!r} has FP32 around it; leave it out, or "
            "send runtime tensorrt"
        )


def _check_weights(recipe: Recipe) -> None:
    for name, value, default in (("weights", recipe.weights, "fixed"), ("sparsity", recipe.sparsity, "none")):
        if value != default and recipe.runtime != "tensorrt":
            raise InvalidRecipe(
                f"{name} is {value!r}, which runtime {recipe.runtime!r} does not have; leave it out, or send runtime "
                "tensorrt"
            )
    if recipe.weights != "fixed" and find_device() is None:
        raise InvalidRecipe(
            f"weights is {recipe.weights!r}, which TensorRT builds on the GPU that the engine is for, and here is "
            f"none: {why_no_device()}; leave it out, or send this to a host with one"
        )


def _why_no_bf16(recipe: Recipe) -> str:
    if recipe.precision != "bf16":
        return ""
    if recipe.runtime == "onnxruntime":
        return ": its CPU provider has no BF16 kernels"
    if recipe.runtime not in GPU_RUNTIMES and not _computes_bf16():
        return f": this CPU has none of {', '.join(_BF16_FLAGS)}"
    return ": only runtimes openvino and tensorrt do"


def _check_calibration(calibration: Calibration) -> None:
    if not 1 <= calibration.rows <= MAX_CALIBRATION_ROWS:
        raise InvalidRecipe(f"calibration.rows is {calibration.rows}; send 1 to {MAX_CALIBRATION_ROWS}")
    if not LOWEST_PERCENTILE < calibration.percentile <= 100:
        raise InvalidRecipe(
            f"calibration.percentile is {calibration.percentile}; send more than {LOWEST_PERCENTILE:g} and at most "
            "100, such as 99.99"
        )


def _check_keep_float(patterns: tuple[str, ...]) -> None:
    if len(patterns) > MAX_KEEP_FLOAT:
        raise InvalidRecipe(f"keep_float has {len(patterns)} patterns; send at most {MAX_KEEP_FLOAT}")
    for pattern in patterns:
        name = pattern.removeprefix("op:")
        if not name or len(pattern) > MAX_KEEP_FLOAT_CHARACTERS or not pattern.isprintable():
            raise InvalidRecipe(
                f"keep_float holds {pattern[:80]!r} ({len(pattern)} characters); send a node name with * or ?, or "
                f"op:Type, of 1 to {MAX_KEEP_FLOAT_CHARACTERS} printable characters"
            )


def _check_batch(batch: BatchProfile) -> None:
    if not 1 <= batch.min <= batch.opt <= batch.max <= MAX_BATCH_ROWS:
        raise InvalidRecipe(
            f"batch is min {batch.min}, opt {batch.opt}, max {batch.max}; "
            f"send 1 <= min <= opt <= max <= {MAX_BATCH_ROWS}"
        )


def _check_data(recipe: Recipe, budget: Budget, calibration: Dataset | None, validation: Dataset | None) -> None:
    if recipe.precision == "int8" and calibration is None:
        raise InvalidRecipe(
            "precision is 'int8' but no calibration set is named; upload real rows with POST /datasets and name them "
            "in calibration"
        )
    judge = validation or calibration
    if judge is None:
        raise InvalidRecipe("no validation set is named, so nothing can be proven; name one in validation")
    if budget.metric in _LABEL_METRICS and not judge.labels:
        raise InvalidRecipe(
            f"budget.metric is {budget.metric!r} but dataset {judge.name!r} has no labels; add an array 'labels', or "
            "send agreement"
        )
