"""TensorRT engines, by whichever of `tensorrt` and `tensorrt_rtx` is installed; the latter builds with no GPU.

Precision lies in the graph: the network is strongly typed, TF32 stays off, and what is built runs on a GPU alone.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from service.domain.recipe import BatchProfile
from service.engines.cuda_device import find_device, why_no_device
from service.engines.cuda_memory import free_device_bytes
from service.engines.engine import Engine
from service.engines.gpu_requirements import missing_for
from service.engines.runtime_cache import CacheStore
from service.engines.stripped_plan import write_stripped
from service.engines.tensorrt_engine import TensorRtEngine
from service.engines.tensorrt_import import tensorrt_flavour, tensorrt_module
from service.engines.tensorrt_log import listening, process_logger
from service.errors import EngineFailed, InvalidModel
from service.quantization.atomic_files import replacing
from service.quantization.builders.builder import BuildOptions, ExecutedOperator
from service.quantization.builders.tensorrt_flags import flags_of, is_shaped_by_data, set_flags
from service.quantization.builders.tensorrt_inspection import compiled_operators, network_layers, operators_of
from service.quantization.builders.tensorrt_log import BuildLog
from service.quantization.builders.tensorrt_parsing import parsed_network
from service.quantization.builders.tensorrt_script import reproduce_script
from service.quantization.builders.tensorrt_targets import set_targets
from service.quantization.graphs.sparsity import sparse_operators
from service.quantization.kept_files import RUNTIME_CACHE

# Scratch memory that one layer's kernel may ask for where no GPU says how much there is: a small card has 8 GiB in all.
_WORKSPACE_BYTES = 4 * 1024**3
_MIB = 1024 * 1024
# How TensorRT says that scratch memory, or the GPU's as a whole, did not suffice.
_NO_ROOM = ("workspace limit", "out of memory", "outofmemory", "amount of gpu memory")


class TensorRtBuilder:
    """Builds with one optimization profile, from one row over the recipe's usual batch size to its largest."""

    engine_file = "engine.plan"

    def build(self, converted: Path, engine: Path, options: BuildOptions) -> dict[str, Any]:
        """Tells of flavour, version, targets, memory, seconds, log and layers, and how to build by hand."""
        _check_can_build(options.weights)
        # Whatever sizes the recipe measures, requests come with any number of rows.
        batch = replace(options.batch, min=1)
        trt, log = tensorrt_module(), BuildLog()
        started = time.monotonic()
        try:
            model = onnx.load_model(converted, load_external_data=False)
        except DecodeError as error:
            raise InvalidModel(f"{converted.name} is no ONNX graph: {error}; run the job again") from error
        with listening(log.take):
            builder = trt.Builder(process_logger(trt))
            builder.max_threads = max(1, options.threads)
            network = parsed_network(trt, builder, process_logger(trt), model)
            config = _config(trt, builder, network, batch)
            sparse = sparse_operators(model)
            flags = flags_of(trt, options.weights, bool(sparse), is_shaped_by_data(model))
            set_flags(trt, config, flags)
            targets = set_targets(trt, config, options.weights != "fixed")
            cache = TimingCache(config, options.timing_cache)
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineFailed(_why_not_built(log))
        _check_memory(log.memory)
        _write(engine, memoryview(plan), converted, options.weights)
        cache.keep()
        flavour, version = tensorrt_flavour()
        return {
            "flavour": flavour,
            "version": version,
            "built_for": list(targets),
            "portable": flavour == "tensorrt_rtx" and options.weights == "fixed",
            "weights": options.weights,
            "sparse_operators": sparse,
            "plan_bytes": len(memoryview(plan)),
            "batch": asdict(batch),
            "workspace_bytes": _workspace_bytes(),
            "memory": log.memory,
            "seconds": time.monotonic() - started,
            "log": log.to_json(),
            "network": network_layers(network),
            "executed": [operator.to_json() for operator in compiled_operators(log.layers)],
            "reproduce": reproduce_script(flavour, batch, (targets, flags), _workspace_bytes()),
        }

    def why_not_here(self) -> str:
        if find_device() is None:
            return f"no NVIDIA device on this host; {why_no_device()}"
        return missing_for("tensorrt")

    def load(self, engine: Path, threads: int) -> Engine:
        kept = engine.with_name(RUNTIME_CACHE)
        # A new engine: there is nothing to read.
        return TensorRtEngine.load(engine, kernels=CacheStore(lambda: None, partial(_write_whole, kept)))

    def executed(self, engine: Path, threads: int) -> tuple[ExecutedOperator, ...]:
        return operators_of(engine)


def _write_whole(path: Path, content: bytes) -> None:
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def _check_can_build(weights: str) -> None:
    missing = why_no_device() if find_device() is None else missing_for("tensorrt")
    if missing and tensorrt_flavour()[0] == "tensorrt":
        raise EngineFailed(
            f"the tensorrt package builds on the GPU that the engine is for, and here none can be used: {missing}; run "
            "the job on a host with one, or install octavo[rtx] instead, which builds without"
        )
    if missing and weights != "fixed":
        raise EngineFailed(
            f"weights is {weights!r}, which TensorRT builds on the GPU that the engine is for, and here none can be "
            f"used: {missing}; leave weights out of the recipe, or run the job on a host with one"
        )


def _write(engine: Path, plan: memoryview, converted: Path, weights: str) -> None:
    if weights == "stripped":
        write_stripped(engine, plan, converted)
    else:
        engine.write_bytes(plan)


def _config(trt: Any, builder: Any, network: Any, batch: BatchProfile) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _workspace_bytes())
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        fed = network.get_input(index)
        if fed.is_shape_tensor:
            raise InvalidModel(
                f"the values of input {fed.name!r} decide on shapes, for which the recipe gives no bounds; export the "
                "model with these values fixed, or build for runtime onnxruntime"
            )
        profile.set_shape(fed.name, *_extents(tuple(fed.shape), batch))
    config.add_optimization_profile(profile)
    return config


def _extents(shape: tuple[int, ...], batch: BatchProfile) -> list[tuple[int, ...]]:
    """Smallest, usual and largest shape: only the first axis is open, as `check_limits` sees to."""
    return [tuple(rows if extent < 0 else extent for extent in shape) for rows in (batch.min, batch.opt, batch.max)]


def _workspace_bytes() -> int:
    device = find_device()
    return _WORKSPACE_BYTES if device is None else device.memory_bytes // 2


def _check_memory(needed: dict[str, int]) -> None:
    """Refuses an engine that could not be loaded once. One that other engines leave no room for is the router's."""
    device = find_device()
    total = sum(needed.values())
    if device is not None and total > device.memory_bytes:
        raise EngineFailed(
            f"the engine needs {total / _MIB:.0f} MiB of GPU memory and {device.name} has "
            f"{device.memory_bytes / _MIB:.0f}{_of_the_gpu_free()}; lower batch.max, or build in fp16 or int8"
        )


def _of_the_gpu_free() -> str:
    free = free_device_bytes()
    return "" if free is None else f", {free / _MIB:.1f} MiB of it free"


def _why_not_built(log: BuildLog) -> str:
    step = "lower batch.max, keep what it names in floating point, or build for runtime onnxruntime"
    if any(words in log.reason.lower() for words in _NO_ROOM):
        scratch = f"{_workspace_bytes() / _MIB:.0f} MiB on this host{_of_the_gpu_free()}"
        step = f"its kernels may take {scratch}: lower batch.max"
    return f"TensorRT gave no engine: {log.reason}; {step}"


class TimingCache:
    """What timing kernels on this very GPU has shown. TensorRT-RTX times none when it builds, and keeps no file."""

    def __init__(self, config: Any, path: Path | None) -> None:
        self._config, self._path = config, path
        if path is None or tensorrt_flavour()[0] != "tensorrt":
            self._path = None
            return
        known = path.read_bytes() if path.exists() else b""
        # A cache of another GPU or version is refused by TensorRT itself; then it starts anew.
        for content in dict.fromkeys((known, b"")):
            if config.set_timing_cache(config.create_timing_cache(content), False):
                break

    def keep(self) -> None:
        if self._path is not None:
            self._path.write_bytes(memoryview(self._config.get_timing_cache().serialize()))
