"""Weights of 7 bits in every channel of every operator: what a reduce_range switch does, on a build's own ranges."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from service.domain.plan import QuantizationPlan, TensorGrid
from service.quantization.planning.rules import rules_of

# Two products of 64 with the largest activation, 255, stay below 2 to the power of 15.
_LARGEST, _LARGEST_OF_8_BITS = 64, 127


def write_seven_bits(build: Path, folder: Path, runtime: str) -> None:
    """Copies `build`, made without tuning, to `folder`, with plan and converted graph of coarser weight scales."""
    shutil.copytree(build, folder)
    path = folder / runtime / "plan.json"
    plan = coarser(QuantizationPlan.from_json(json.loads(path.read_text())))
    path.write_text(json.dumps(plan.to_json()))
    emitted = rules_of(runtime).emit(onnx.load_model(folder / "prepared.onnx"), plan)
    onnx.save_model(emitted, folder / runtime / "converted.onnx")


def coarser(plan: QuantizationPlan) -> QuantizationPlan:
    """The plan with weights of at most 64; a bias's scale stays the product of the input's and the weight's."""
    return replace(
        plan,
        weights=tuple(
            replace(entry, weight=_coarser(entry.weight), bias=None if entry.bias is None else _coarser(entry.bias))
            for entry in plan.weights
        ),
    )


def _coarser(grid: TensorGrid) -> TensorGrid:
    ratio = _LARGEST_OF_8_BITS / _LARGEST
    return replace(grid, scales=tuple(float(np.float32(scale * ratio)) for scale in grid.scales))
