"""The plans of the GPU benchmark and of tests/gpu, built here by TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu_plans import profile_of
from service.engines.tensorrt_bindings import Profile
from service.engines.tensorrt_import import tensorrt_module
from service.engines.tensorrt_log import process_logger
from tests.gpu.conftest import LARGEST_BATCH, OPEN_EXTENTS, compiled
from tests.unit.quantization.small_models import saved, u_net

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")


def profile_for_the_contract() -> Profile:
    trt = tensorrt_module()
    builder = trt.Builder(process_logger(trt))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, process_logger(trt)).parse(u_net().SerializeToString())
    least, _, most = profile_of(builder, network, (1, LARGEST_BATCH), OPEN_EXTENTS).get_shape("x")
    return Profile({"x": tuple(least)}, {"x": tuple(most)})


def test_the_contracts_network_of_open_axes_takes_the_sizes_that_the_contract_asks_of_it() -> None:
    profile = profile_for_the_contract()
    taken = [(2, 3, 32, 32), (3, 3, 48, 64)]
    # The first sizes that are tried are not to be taken.
    refused = [(1, 3, 1, 1), (1, 3, 16, 16)]
    assert all(profile.takes({"x": np.zeros(shape, np.float32)}) for shape in taken)
    assert not any(profile.takes({"x": np.zeros(shape, np.float32)}) for shape in refused)


def test_its_plan_is_built(tmp_path: Path) -> None:
    assert compiled(saved(u_net(), tmp_path / "m.onnx")).stat().st_size > 1000
