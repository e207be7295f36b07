"""The report of one build as plain JSON: every measured figure of the engine and of the reference, and the host's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from service.domain.engine import REFERENCE_VARIANT, Certificate
from service.quantization.conversion.conversion import CONVERTED, PLAN
from service.quantization.conversion.int8_conversion import TUNING
from service.quantization.conversion.macs import multiply_accumulates
from service.quantization.graphs.graph import Graph
from service.quantization.lint.fusion_table import fusion_table, mismatch_warnings, unfused
from service.quantization.measures.decisions import OF_EVERY_OUTPUT
from service.quantization.measures.residency import HOW
from service.quantization.preparation.preparation import INSPECTED, PREPARED
from service.quantization.task import PipelineTask

_ACCURACY = ("top1", "top5", "f1")
# What each stage may leave for the reader, beside its own files.
_STAGE_FILES = (INSPECTED, "calibrate.json", "convert.json")
# A difference below this share is noise of the host.
_SLOWER = 1.05
# Below it more than a tenth of an output's power is error: what INT8 costs a sound output is far less.
LOWEST_COSINE = 0.95


@dataclass(frozen=True)
class ReportParts:
    """What the stages found: validation, build, verdict, the winning runtime and every candidate's verdict."""

    task: PipelineTask
    found: dict[str, Any]
    built: dict[str, Any]
    certificate: Certificate
    runtime: str
    candidates: tuple[dict[str, Any], ...]


def build_report(parts: ReportParts) -> dict[str, Any]:
    """The report. Seconds, bytes and rows are named in the keys; `operators` pairs each plan with what really ran."""
    task, found, certificate = parts.task, parts.found, parts.certificate
    measured = found["candidates"][parts.runtime]
    engine = parts.built["engines"][parts.runtime]
    operators = _operators(task.read(f"{parts.runtime}/{PLAN}")["operators"], engine["executed"])
    lint = _lint(parts, engine["executed"])
    speed = speed_of(measured["latency"], task.recipe.batch.opt)
    return {
        "variant": f"{task.recipe.precision}-{parts.runtime}",
        "unproven": measured.get("unproven", ""),
        "build": engine.get("notes", {}),
        "verdict": certificate.verdict,
        "headline": _headline(certificate, speed, measured["size"]),
        "certificate": certificate.to_json(),
        "host": certificate.fingerprint.to_json(),
        "model_sha256": certificate.model_sha256,
        "recipe": task.recipe.to_json(),
        "validation": {"rows": found["rows"], "on": found["validated_on"], "labels": found["labels"]},
        "reference": _side("reference", REFERENCE_VARIANT, measured),
        "engine": _side("engine", f"{task.recipe.precision}-{parts.runtime}", measured),
        "speed": speed,
        **{key: measured[key] for key in ("metrics", "outputs", "classes", "tails", "consistency", "loss_split")},
        "waterfall": _with_unfused(measured["waterfall"], unfused(lint)),
        "operators": operators,
        "executed": dict(Counter(operator["operator"] for operator in engine["executed"])),
        "int8_operators": engine["int8_operators"],
        "int8_mac_share": int8_mac_share(Graph.load(task.folder / PREPARED), operators),
        "lint": lint,
        "tuning": _read_if_there(task, f"{parts.runtime}/{TUNING}", []),
        "candidates": list(parts.candidates),
        "measured_how": {"resident_bytes": HOW, "latency": "engine and reference in turn, one batch a call",
                         "percentiles": "from bins of equal ratio, within 1 %", "interval": "95 %"},
        "warnings": [*_warnings(parts, measured, operators), *mismatch_warnings(lint)],
    }  # fmt: skip


def speed_of(latency: dict[str, list[dict[str, Any]]], batch: int) -> dict[str, Any]:
    """How many times faster than the reference (p50), at the batch size nearest to `batch` and at every other.

    Nothing is known of an engine that did not run.
    """
    if not latency["engine"]:
        return {"batch": batch, "speedup": None, "faster": None, "by_batch": []}
    ratios = {
        before["batch"]: before["p50_seconds"] / after["p50_seconds"]
        for before, after in zip(latency["reference"], latency["engine"], strict=True)
    }
    nearest = min(ratios, key=lambda size: abs(size - batch))
    by_batch = [{"batch": size, "speedup": ratio} for size, ratio in ratios.items()]
    return {"batch": nearest, "speedup": ratios[nearest], "faster": ratios[nearest] > 1, "by_batch": by_batch}


def _headline(certificate: Certificate, speed: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    smaller = sizes["reference"]["disk_bytes"] / max(sizes["engine"]["disk_bytes"], 1)
    return {
        "metric": certificate.metric,
        "loss": certificate.loss,
        "max_loss": certificate.max_loss,
        "speedup": speed["speedup"],
        "min_speedup": certificate.min_speedup,
        "batch": speed["batch"],
        "times_smaller": smaller,
    }


def _side(side: str, variant: str, measured: dict[str, Any]) -> dict[str, Any]:
    """The figures of the engine or of the reference: accuracy where labels exist, latency per batch size, size."""
    accuracy = {metric: measured["metrics"][metric][side] for metric in _ACCURACY if metric in measured["metrics"]}
    return {
        "variant": variant,
        "accuracy": accuracy,
        "latency": measured["latency"][side],
        **measured["size"][side],
    }


def _lint(parts: ReportParts, executed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if parts.task.recipe.precision != "int8":
        return []
    return fusion_table(parts.runtime, parts.task.folder / parts.runtime / CONVERTED, executed)


def _with_unfused(waterfall: dict[str, Any] | None, names: list[str]) -> dict[str, Any] | None:
    """Marks operators that were to run in INT8 and do not: their cost is time, so their share stays as it is."""
    if waterfall is None:
        return None
    operators = [entry | {"unfused": entry["name"] in names} for entry in waterfall["operators"]]
    return waterfall | {"operators": operators}


def _operators(planned: list[dict[str, str]], executed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each planned operator with the kernel that runs it; None where it was fused into another or folded away."""
    ran = {operator["name"]: operator for operator in executed}
    return [
        {**operator, "runs_as": ran[operator["name"]]["operator"] if operator["name"] in ran else None,
         "runs_int8": ran[operator["name"]]["int8"] if operator["name"] in ran else None}
        for operator in planned
    ]  # fmt: skip


def int8_mac_share(graph: Graph, operators: list[dict[str, Any]]) -> float | None:
    """The share of the model's multiply-accumulates that INT8 operators do, or None where it has none to count."""
    macs = multiply_accumulates(graph)
    runs = {entry["name"] for entry in operators if entry["precision"] == "INT8" and entry["runs_int8"] is not False}
    total = sum(macs.values())
    return sum(count for name, count in macs.items() if name in runs) / total if total else None


def _read_if_there(task: PipelineTask, name: str, otherwise: Any) -> Any:
    return task.read(name) if (task.folder / name).exists() else otherwise


def _stage_warnings(task: PipelineTask) -> list[str]:
    return [warning for name in _STAGE_FILES for warning in _read_if_there(task, name, {}).get("warnings", ())]


def _warnings(parts: ReportParts, measured: dict[str, Any], operators: list[dict[str, Any]]) -> list[str]:
    warnings = [*_stage_warnings(parts.task), *parts.found["warnings"], *_untold_warnings(measured["outputs"])]
    warnings += unjudged_warnings(measured, parts.certificate.metric)
    warnings += _float_warnings(parts.task.recipe.precision, operators)
    planned = [entry["name"] for entry in operators if entry["precision"] == "INT8" and entry["runs_int8"] is False]
    if planned:
        warnings.append(f"{len(planned)} operators planned in INT8 run in floating point, for example {planned[0]!r}")
    kept = [entry["name"] for entry in operators if entry["reason"].startswith("kept") and entry["runs_int8"]]
    if kept:
        warnings.append(
            f"{len(kept)} operators that keep_float names run on INT8 kernels, for they stand between INT8 neighbours, "
            f"for example {kept[0]!r}; name the neighbours too"
        )
    if measured.get("unproven"):
        warnings.insert(0, _unproven_warning(measured))
    elif parts.task.recipe.precision != "fp32":
        warnings += _speed_warnings(measured["latency"], parts.task.recipe.batch.opt)
    return warnings + [
        f"{key.replace('_', ' ')}: {measured[key]['note']}"
        for key in ("loss_split", "waterfall")
        if measured[key] is not None and measured[key]["note"]
    ]


def _float_warnings(precision: str, operators: list[dict[str, Any]]) -> list[str]:
    """An engine in half precision of which no operator computes in it is the upload once more."""
    if precision not in ("fp16", "bf16") or any(entry["precision"] == precision.upper() for entry in operators):
        return []
    one = operators[0]
    return [
        f"no operator of this engine computes in {precision.upper()}: it is the upload once more, for example "
        f"{one['operator']} {one['name']!r} in {one['precision']}: {one['reason']}; keep serving the reference"
    ]


def _untold_warnings(outputs: list[dict[str, Any]]) -> list[str]:
    return [
        f"output {output['name']!r} of the reference is NaN or infinite in {output['reference_not_finite']} places, "
        f"which no figure counts, beside {output['compared']} that are compared; look at the rows, unless the model "
        "masks by infinity"
        for output in outputs
        if output["reference_not_finite"]
    ]


def unjudged_warnings(measured: dict[str, Any], metric: str) -> list[str]:
    """Names the float outputs of one candidate that its metric does not judge and that are far from the reference's."""
    if metric in OF_EVERY_OUTPUT:
        return []
    return [
        f"output {output['name']!r} is not judged by {metric}, and the engine's answers there are far from the "
        f"reference's: their cosine is {output['cosine']:.3f}, below {LOWEST_COSINE}; send cosine as budget.metric to "
        "judge every output, or do not use this one"
        for output in measured["outputs"]
        if output["float"] and output["compared"] and output["name"] not in measured["ranked"]
        if output["cosine"] < LOWEST_COSINE
    ]


def _unproven_warning(measured: dict[str, Any]) -> str:
    figures = "every figure of it is simulated on the CPU, without its kernels"
    if not measured["simulated"]:
        figures = "the CPU cannot simulate its types either, so there are no figures of it"
    return f"this engine was built and has not run, for {measured['unproven']}: {figures}"


def _speed_warnings(latency: dict[str, list[dict[str, Any]]], batch: int) -> list[str]:
    """An engine that is not faster than the reference is no fault, but nobody should deploy it unknowing."""
    speed = speed_of(latency, batch)
    found = []
    if not speed["faster"]:
        found.append(
            f"the engine is not faster than the FP32 reference on this host: {speed['speedup']:.2f} times its speed at "
            f"batch {speed['batch']}; keep serving the reference unless the smaller size is worth it"
        )
    return found + [
        f"at batch {entry['batch']} the engine takes {1 / entry['speedup']:.2f} times as long as the FP32 reference"
        for entry in speed["by_batch"]
        if entry["speedup"] * _SLOWER < 1 and entry["batch"] != speed["batch"]
    ]
