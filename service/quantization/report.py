"""The report of one build as plain JSON: every measured figure of the engine and of the reference, and the host's."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from service.domain.engine import REFERENCE_VARIANT, Certificate
from service.quantization.conversion import PLAN
from service.quantization.preparation import INSPECTED
from service.quantization.residency import HOW
from service.quantization.task import PipelineTask

_ACCURACY = ("top1", "top5")
# A difference below this share is noise of the host.
_SLOWER = 1.05


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
    task, found = parts.task, parts.found
    measured = found["candidates"][parts.runtime]
    engine = parts.built["engines"][parts.runtime]
    operators = _operators(task.read(f"{parts.runtime}/{PLAN}")["operators"], engine["executed"])
    with task.model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "variant": f"{task.recipe.precision}-{parts.runtime}",
        "verdict": parts.certificate.verdict,
        "certificate": parts.certificate.to_json(),
        "host": parts.certificate.fingerprint.to_json(),
        "model_sha256": digest,
        "recipe": task.recipe.to_json(),
        "validation": {"rows": found["rows"], "on": found["validated_on"], "labels": found["labels"]},
        "reference": _side("reference", REFERENCE_VARIANT, measured),
        "engine": _side("engine", f"{task.recipe.precision}-{parts.runtime}", measured),
        "metrics": measured["metrics"],
        "outputs": measured["outputs"],
        "classes": measured["classes"],
        "operators": operators,
        "executed": dict(Counter(operator["operator"] for operator in engine["executed"])),
        "int8_operators": engine["int8_operators"],
        "candidates": list(parts.candidates),
        "measured_how": {"resident_bytes": HOW, "latency": "engine and reference in turn, one batch a call",
                         "percentiles": "from bins of equal ratio, within 1 %", "interval": "95 %"},
        "warnings": _warnings(parts, measured, operators),
    }  # fmt: skip


def _side(side: str, variant: str, measured: dict[str, Any]) -> dict[str, Any]:
    """The figures of the engine or of the reference: accuracy where labels exist, latency per batch size, size."""
    accuracy = {metric: measured["metrics"][metric][side] for metric in _ACCURACY if metric in measured["metrics"]}
    return {
        "variant": variant,
        "accuracy": accuracy,
        "latency": measured["latency"][side],
        **measured["size"][side],
    }


def _operators(planned: list[dict[str, str]], executed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each planned operator with the kernel that runs it; None where it was fused into another or folded away."""
    ran = {operator["name"]: operator for operator in executed}
    return [
        {**operator, "runs_as": ran[operator["name"]]["operator"] if operator["name"] in ran else None,
         "runs_int8": ran[operator["name"]]["int8"] if operator["name"] in ran else None}
        for operator in planned
    ]  # fmt: skip


def _warnings(parts: ReportParts, measured: dict[str, Any], operators: list[dict[str, Any]]) -> list[str]:
    warnings = [*parts.task.read(INSPECTED)["warnings"], *parts.found["warnings"]]
    unfused = [entry["name"] for entry in operators if entry["precision"] == "INT8" and entry["runs_int8"] is False]
    if unfused:
        warnings.append(f"{len(unfused)} operators planned in INT8 run in floating point, for example {unfused[0]!r}")
    kept = [entry["name"] for entry in operators if entry["reason"].startswith("kept") and entry["runs_int8"]]
    if kept:
        warnings.append(
            f"{len(kept)} operators that keep_float names run on INT8 kernels, for they stand between INT8 neighbours, "
            f"for example {kept[0]!r}; name the neighbours too"
        )
    for before, after in zip(measured["latency"]["reference"], measured["latency"]["engine"], strict=True):
        ratio = after["p50_seconds"] / before["p50_seconds"]
        if ratio > _SLOWER and parts.task.recipe.precision != "fp32":
            warnings.append(
                f"at batch {after['batch']} the engine takes {ratio:.2f} times as long as the FP32 reference"
            )
    return warnings
