"""TensorRT, and TensorRT-RTX, on the host's first GPU: opens a serialized plan (`engine.plan`), with its weights or
with the graph that has them.

Refuses text and tensors that TensorRT reads on the host; a batch outside of every optimization profile is the caller's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import LifoQueue
from threading import Lock

from service.engines.cuda_graph import cuda_graphs
from service.engines.cuda_memory import CudaContext, cuda_context, loading
from service.engines.engine import Array
from service.engines.runtime_cache import CacheStore, RuntimeCache
from service.engines.stripped_plan import read_plan
from service.engines.tensorrt_bindings import Profile, deserialized, engine_profiles, engine_specs, outside, refit
from service.engines.tensorrt_import import tensorrt_module
from service.engines.tensorrt_lane import RUNS_BEFORE_CAPTURE, Lane, LoadedEngine
from service.errors import DeviceFailed, EngineFailed, InvalidTensor

_log = logging.getLogger(__name__)
# While one batch is computed, the next is copied in and the last one out.
_LANES = 2


class TensorRtEngine:
    """A deserialized engine with its lanes. After a device error it answers nothing but DeviceFailed."""

    def __init__(self, loaded: LoadedEngine, profiles: Sequence[Profile], lanes: int = _LANES) -> None:
        self.inputs, self.outputs = loaded.inputs, loaded.outputs
        self.profiles = tuple(profiles)
        self._loaded: LoadedEngine | None = loaded
        self._output_names = [spec.name for spec in self.outputs]
        self._free: LifoQueue[Lane | None] = LifoQueue()
        self._lanes = lanes
        for _ in range(lanes):
            # None stands for a lane that nobody needed yet: most of an engine's memory is its lanes'.
            self._free.put(None)
        self._lost = ""
        self._warming = Lock()

    @classmethod
    def load(cls, path: Path, instances: int = 1, kernels: CacheStore | None = None) -> TensorRtEngine:
        """Reads `path`; `instances` batches, and two at least, may run beside each other.

        One more may be run by the event loop itself. Raises EngineFailed with TensorRT's own words, InvalidModel for a
        tensor that it has no array for, Unsupported where TensorRT or pycuda is missing.
        """
        plan, weights = read_plan(path)
        return cls.from_plan((plan, weights), path.name, cuda_context(), max(_LANES, instances) + 1, kernels)

    @classmethod
    def from_plan(
        cls,
        content: tuple[bytes, bytes | None],
        name: str,
        cuda: CudaContext,
        lanes: int,
        kernels: CacheStore | None = None,
    ) -> TensorRtEngine:
        """As `load`, from the plan and, where it was stripped of them, the ONNX graph that has its weights."""
        trt = tensorrt_module()
        plan, weights = content
        with loading, cuda.active():
            engine = deserialized(trt, plan, name)
            if weights is not None:
                refit(trt, engine, weights, name)
        inputs, outputs = engine_specs(trt, engine)
        with cuda.active():
            cache = RuntimeCache.open(trt, engine, kernels)
        loaded = LoadedEngine(trt, engine, inputs, outputs, cuda, cuda_graphs(), cache)
        return cls(loaded, engine_profiles(engine, inputs), lanes)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        names = self._output_names if outputs is None else list(outputs)
        self._check_names(inputs, names)
        profile = self._profile_for(inputs)
        with self.lane() as lane:
            return lane.run(inputs, profile, names)

    def warm_lanes(self, inputs: Mapping[str, Array]) -> None:
        """Runs one batch on every lane until its work is captured. A lane that the GPU has no memory for is left to
        be made when batches meet, once the first one stands.
        """
        self._check_names(inputs, self._output_names)
        profile = self._profile_for(inputs)
        with self._warming:
            held = [self._free.get() for _ in range(self._lanes)]
            warmed = 0
            try:
                for index in range(len(held)):
                    with self._active() as loaded:
                        lane = held[index] = held[index] or Lane(loaded)
                        for _ in range(RUNS_BEFORE_CAPTURE):
                            lane.run(inputs, profile, self._output_names)
                    warmed += 1
            except EngineFailed as error:
                if self._lost or not warmed:
                    raise
                told = {"warmed": warmed, "of": len(held), "reason": str(error)}
                _log.warning("not every lane of this engine could be warmed", extra=told)
            finally:
                # The one on top is taken first.
                for kept in reversed(held):
                    self._free.put(kept)

    def keep_compiled(self) -> None:
        """Stores the kernels that running has compiled so far, where TensorRT-RTX did and there is a store."""
        # Closing waits for it.
        held = self._free.get()
        try:
            with self._active() as loaded:
                if loaded.kernels is not None:
                    loaded.kernels.keep()
        finally:
            self._free.put(held)

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """A lane for the calling thread alone, inside the GPU's context; waits where all are taken."""
        lane = self._free.get()
        try:
            with self._active() as loaded:
                if lane is None:
                    lane = Lane(loaded)
                yield lane
        finally:
            self._free.put(lane)

    @contextmanager
    def _active(self) -> Iterator[LoadedEngine]:
        """Inside the GPU's context, whose errors but a lack of memory are the engine's last."""
        try:
            if self._lost:
                raise DeviceFailed(self._lost)
            if self._loaded is None:
                raise EngineFailed("this engine is closed; send the request again")
            with self._loaded.cuda.active():
                yield self._loaded
        except DeviceFailed as error:
            self._lost = str(error)
            raise

    def close(self) -> None:
        """Waits for the batches inside, then gives the GPU's memory back: the lanes' first, the weights last."""
        lanes = [self._free.get() for _ in range(self._lanes)]
        loaded, self._loaded = self._loaded, None
        for _ in lanes:
            # Whoever comes too late is told so, and does not wait for ever.
            self._free.put(None)
        if loaded is None:
            return
        kept = 0
        try:
            with loading, loaded.cuda.active():
                while lanes:
                    lane = lanes.pop()
                    kept += lane.close() if lane is not None else 0
                    del lane
                if loaded.kernels is not None:
                    loaded.kernels.close()
                del loaded
        except DeviceFailed as error:
            _log.warning("a lost GPU keeps what this engine held until the server ends", extra={"reason": str(error)})
        if kept:
            _log.warning("the GPU did not take buffers back; the server's end will", extra={"buffers": kept})

    def _check_names(self, inputs: Mapping[str, Array], names: Sequence[str]) -> None:
        lacking = [*(s.name for s in self.inputs if s.name not in inputs), *(set(names) - set(self._output_names))]
        if lacking:
            raise EngineFailed(f"this batch lacks input, or the model output, {lacking[0]!r}; see the model's metadata")
        for spec in self.inputs:
            if not spec.accepts(inputs[spec.name].shape):
                raise EngineFailed(
                    f"TensorRT failed on this batch: input {spec.name!r} has shape {list(inputs[spec.name].shape)}, "
                    f"and the engine takes {list(spec.shape)}"
                )

    def _profile_for(self, inputs: Mapping[str, Array]) -> int:
        for index, profile in enumerate(self.profiles):
            if profile.takes(inputs):
                return index
        raise self._outside_of_all(inputs)

    def _outside_of_all(self, inputs: Mapping[str, Array]) -> InvalidTensor:
        largest = self.profiles[-1]
        for name, most in largest.most.items():
            shape, least = inputs[name].shape, largest.least[name]
            axis = outside(shape, least, most)
            if axis:
                limit = f"{least[axis - 1]} to {most[axis - 1]}"
                what = "rows" if axis == 1 else f"elements on axis {axis - 1}"
                return InvalidTensor(
                    f"input {name!r} has shape {list(shape)}, and this engine was built for {limit} {what}; send as "
                    "many, or quantize again with a larger batch.max"
                )
        return InvalidTensor(
            "the inputs' shapes fit no one optimization profile of this engine; send another batch size"
        )
