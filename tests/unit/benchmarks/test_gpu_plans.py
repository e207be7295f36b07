"""The plans of the GPU benchmark and of tests/gpu, built here by TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu_plans import build_plan, profile_of
from service.engines.cuda_device import CudaDevice
from service.engines.tensorrt_bindings import Profile
from service.engines.tensorrt_import import tensorrt_module
from service.engines.tensorrt_log import process_logger
from service.quantization.builders import tensorrt_targets
from tests.gpu.conftest import LARGEST_BATCH, OPEN_EXTENTS, compiled
from tests.unit.quantization.small_models import classifier, saved, u_net

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


def test_a_plan_names_the_hosts_gpu_alone_and_without_one_every_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, sizes = saved(classifier(), tmp_path / "m.onnx"), []
    for device in (CudaDevice("RTX A", "8.6", "13.0", 2**33), None):
        monkeypatch.setattr(tensorrt_targets, "find_device", lambda device=device: device)
        sizes.append(build_plan(graph, tmp_path / "m.plan", (1, 8), tf32=False).stat().st_size)
    assert sizes[0] < sizes[1]
