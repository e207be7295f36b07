"""One way through a TensorRT engine: a stream, buffers for every tensor, and execution contexts that use them.

Work on one lane is done in order; a batch on another lane is copied and computed beside it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.domain.tensor import TensorSpec
from service.engines.cuda_graph import CudaGraphs
from service.engines.cuda_memory import Bytes, CudaContext, DeviceBuffer, PinnedBuffer, capturing, free_all, loading
from service.engines.engine import Array
from service.engines.runtime_cache import RuntimeCache
from service.engines.tensorrt_outputs import OutputMemory, output_allocator
from service.errors import EngineFailed

_log = logging.getLogger(__name__)
# A shape that came this often comes again: from then on its launches are one call instead of one a kernel.
RUNS_BEFORE_CAPTURE = 3
_MAX_GRAPHS = 16
_MAX_SHAPES = 1024

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """What all lanes of one engine share. `graphs` None means that none are captured, `kernels` that none are kept."""

    trt: Any
    engine: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    cuda: CudaContext
    graphs: CudaGraphs | None
    kernels: RuntimeCache | None = None


@dataclass(slots=True, eq=False)
class _Graph:
    """A captured graph with the execution context that it was captured from, which nothing else may use."""

    handle: int
    context: Any


@dataclass(slots=True, eq=False)
class _Tensor:
    device: DeviceBuffer
    host: PinnedBuffer
    spec: TensorSpec
    shape: tuple[int, ...] = ()

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.spec.dtype.itemsize

    def pinned(self) -> Bytes:
        return self.host.view(self.size_bytes)


class Lane:
    """Made, used and closed inside the CUDA context's `active`, by one thread at a time."""

    def __init__(self, loaded: LoadedEngine) -> None:
        self._loaded = loaded
        self._cuda = cuda = loaded.cuda
        self._inputs = [_Tensor(DeviceBuffer(cuda), PinnedBuffer(cuda), spec) for spec in loaded.inputs]
        self._outputs = {s.name: _Tensor(DeviceBuffer(cuda), PinnedBuffer(cuda), s) for s in loaded.outputs}
        self._activations = DeviceBuffer(cuda)
        self._activations.reserve(int(loaded.engine.device_memory_size_v2))
        self.stream = cuda.stream()
        self._contexts: dict[int, Any] = {}
        self._memories: dict[str, OutputMemory] = {}
        self._profile = 0
        self._shapes: Shapes = ()
        self._runs: dict[Shapes, int] = {}
        self._graphs: dict[Shapes, _Graph] = {}
        # Shapes whose work cannot be captured, and (profile, output) of the allocators that a context has.
        self._plain: set[Shapes] = set()
        self._lent: set[tuple[int, str]] = set()

    def run(self, inputs: Mapping[str, Array], profile: int, names: Sequence[str]) -> dict[str, Array]:
        """One batch, in and out. Blocks for the device with the interpreter free: pycuda's wait and copies release it,
        and so does TensorRT's `execute_async_v3`. Raises EngineFailed and what `active` raises.
        """
        self.stage(inputs, profile)
        self.launch()
        return self.collect(names)

    def stage(self, inputs: Mapping[str, Array], profile: int) -> None:
        """Puts the inputs on their way to the device, and makes room for the outputs."""
        context = self._context_of(profile)
        moved = False
        for tensor in self._inputs:
            values = inputs[tensor.spec.name]
            tensor.shape = values.shape
            moved |= tensor.device.reserve(values.nbytes)
            if not context.set_input_shape(tensor.spec.name, tensor.shape):
                raise EngineFailed(
                    f"TensorRT failed on this batch: input {tensor.spec.name!r} takes no {list(tensor.shape)}"
                )
        moved |= self._make_room(context)
        if moved:
            self._drop_graphs()
        self._profile, self._shapes = profile, tuple(tensor.shape for tensor in self._inputs)
        for tensor in self._inputs:
            pinned = tensor.pinned()
            np.copyto(pinned, np.ascontiguousarray(inputs[tensor.spec.name]).reshape(-1).view(np.uint8))
            if len(pinned):
                self._cuda.driver.memcpy_htod_async(tensor.device.pointer, pinned, self.stream)

    def launch(self) -> None:
        """Has the staged batch computed: by the graph of its shapes where there is one, else call by call."""
        if self._shapes in self._graphs and self._launched(self._graphs[self._shapes]):
            return
        context = self._contexts[self._profile]
        self._bind(context)
        self._execute(context)
        self._count_run()

    def collect(self, names: Sequence[str]) -> dict[str, Array]:
        """The named outputs, each in memory of its own, once the device is done."""
        if self._memories:
            # The shapes of these are known when the kernels have run, not before.
            self.stream.synchronize()
        wanted = [self._outputs[name] for name in names]
        for tensor in wanted:
            memory = self._memories.get(tensor.spec.name)
            if memory is not None:
                tensor.shape = memory.shape
            if tensor.size_bytes:
                pointer = memory.buffer.pointer if memory else tensor.device.pointer
                self._cuda.driver.memcpy_dtoh_async(tensor.pinned(), pointer, self.stream)
        self.stream.synchronize()
        return {t.spec.name: t.pinned().view(t.spec.dtype).reshape(t.shape).copy() for t in wanted}

    def close(self) -> int:
        """Gives everything back; how many buffers a lost device did not take."""
        self._drop_graphs()
        self._contexts.clear()
        tensors = [*self._inputs, *self._outputs.values()]
        on_device = [self._activations, *(t.device for t in tensors), *(m.buffer for m in self._memories.values())]
        # pycuda destroys a stream with its last reference, and needs the context for it.
        self.stream = None
        return free_all([*(b.free for b in on_device), *(t.host.free for t in tensors)], self._cuda.driver)

    def _context_of(self, profile: int) -> Any:
        if profile not in self._contexts:
            self._contexts[profile] = self._new_context(profile)
        return self._contexts[profile]

    def _new_context(self, profile: int) -> Any:
        strategy = self._loaded.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        kernels = self._loaded.kernels
        # A runtime configuration carries the strategy too.
        with capturing:
            context = self._loaded.engine.create_execution_context(strategy if kernels is None else kernels.config)
        if context is None:
            raise EngineFailed("TensorRT makes no execution context; look at the server's log for its reason")
        # The engine was built to tell its layers; that it goes on telling them to profilers would cost every enqueue.
        context.nvtx_verbosity = self._loaded.trt.ProfilingVerbosity.NONE
        # Shared by all contexts of the lane, of which one runs at a time.
        context.set_device_memory(self._activations.pointer, self._activations.capacity)
        if not context.set_optimization_profile_async(profile, self.stream.handle):
            raise EngineFailed(f"TensorRT does not take optimization profile {profile} of this engine")
        return context

    def _make_room(self, context: Any) -> bool:
        """Room for each output of the shapes that are set; whether a buffer moved."""
        moved = False
        for name, tensor in self._outputs.items():
            tensor.shape = tuple(context.get_tensor_shape(name))
            if any(extent < 0 for extent in tensor.shape):
                self._memories.setdefault(name, OutputMemory(DeviceBuffer(self._cuda)))
            else:
                moved |= tensor.device.reserve(tensor.size_bytes)
        return moved

    def _bind(self, context: Any) -> None:
        for tensor in (*self._inputs, *self._outputs.values()):
            memory = self._memories.get(tensor.spec.name)
            if memory is None:
                context.set_tensor_address(tensor.spec.name, tensor.device.pointer)
            elif (self._profile, tensor.spec.name) not in self._lent:
                # Once: with every call the binding keeps one more reference, for as long as the context lives.
                context.set_output_allocator(tensor.spec.name, output_allocator(self._loaded.trt, memory))
                self._lent.add((self._profile, tensor.spec.name))

    def _execute(self, context: Any) -> None:
        if context.execute_async_v3(self.stream.handle):
            return
        refusals = [memory.refusal for memory in self._memories.values() if memory.refusal is not None]
        # Where the device is to blame, its own error says more: waiting for it raises that.
        self.stream.synchronize()
        raise refusals[0] if refusals else EngineFailed("TensorRT failed on this batch; its reason is in the log")

    def _count_run(self) -> None:
        if len(self._runs) >= _MAX_SHAPES:
            self._runs.clear()
        runs = self._runs[self._shapes] = self._runs.get(self._shapes, 0) + 1
        if self._loaded.graphs is None or self._memories or self._shapes in self._plain:
            return
        # While another engine is loaded this one does not wait: the shape's next run tries again.
        if runs >= RUNS_BEFORE_CAPTURE and len(self._graphs) < _MAX_GRAPHS and loading.acquire(blocking=False):
            try:
                with capturing:
                    self._capture(self._loaded.graphs)
            finally:
                loading.release()

    def _capture(self, graphs: CudaGraphs) -> None:
        """Captures the staged shapes' work on a context of its own; where that fails, they go on without a graph."""
        try:
            context = self._new_context(self._profile)
            for tensor in self._inputs:
                context.set_input_shape(tensor.spec.name, tensor.shape)
            self._bind(context)
            # A context's first run sets up what must not happen while its work is recorded.
            self._execute(context)
            self.stream.synchronize()
            self._check_capturable(context)
            handle = graphs.capture(self.stream.handle, lambda: bool(context.execute_async_v3(self.stream.handle)))
        except EngineFailed as error:
            _log.info("no CUDA graph for this shape", extra={"shapes": str(self._shapes), "reason": str(error)})
            self._plain.add(self._shapes)
            return
        self._graphs[self._shapes] = _Graph(handle, context)

    def _check_capturable(self, context: Any) -> None:
        # TensorRT-RTX knows, and TensorRT has no such call.
        asked = getattr(context, "is_stream_capturable", None)
        if asked is not None and not asked(self.stream.handle):
            raise EngineFailed("TensorRT-RTX says that this work cannot be captured")

    def _launched(self, graph: _Graph) -> bool:
        assert self._loaded.graphs is not None
        try:
            self._loaded.graphs.launch(graph.handle, self.stream.handle)
        except EngineFailed as error:
            _log.warning("a CUDA graph does not launch; its shape goes on without", extra={"reason": str(error)})
            self._destroy(self._graphs.pop(self._shapes))
            self._plain.add(self._shapes)
            return False
        return True

    def _drop_graphs(self) -> None:
        """They hold the addresses of buffers that are gone."""
        for graph in self._graphs.values():
            self._destroy(graph)
        self._graphs.clear()
        self._runs.clear()
        self._plain.clear()

    def _destroy(self, graph: _Graph) -> None:
        assert self._loaded.graphs is not None
        try:
            self._loaded.graphs.destroy(graph.handle)
        except EngineFailed as error:
            _log.warning("a CUDA graph is not given back", extra={"reason": str(error)})
