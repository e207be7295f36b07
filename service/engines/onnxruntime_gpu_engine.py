"""ONNX Runtime on the host's first GPU, by its CUDA or TensorRT provider. Computes in the precision of the graph."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from service.engines.cuda_memory import loading
from service.engines.engine import Array
from service.engines.onnxruntime_engine import LEFT_OUT_OPTIMIZERS, session_options, tensor_spec, text_of
from service.errors import DeviceFailed, EngineFailed

PROVIDERS = {"onnxruntime-cuda": "CUDAExecutionProvider", "onnxruntime-tensorrt": "TensorrtExecutionProvider"}
_CPU = "CPUExecutionProvider"
# ONNX Runtime 1.31 is linked with libnvinfer.so.10, whatever TensorRT is installed beside it.
_ALSO = {"onnxruntime-tensorrt": ", or of TensorRT 10"}
_CUDA_ERROR = re.compile(r"CUDA (?:failure|error):? (\d+)")
# After these the process cannot use the device any more: cudaErrorECCUncorrectable, IllegalAddress, LaunchTimeout, ...
_STICKY = frozenset({214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999})

# How its memory pools say that they are empty, the processor's in the same words.
_FULL = "Failed to allocate memory"

Slot = dict[str, Any]


class OnnxRuntimeGpuEngine:
    """One session. A caller's inputs are bound to device memory that later batches of the same shape write anew."""

    def __init__(self, session: ort.InferenceSession, device: str = "cuda") -> None:
        self._session = session
        self._device = device
        self.inputs = tuple(tensor_spec(node) for node in session.get_inputs())
        self.outputs = tuple(tensor_spec(node) for node in session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]
        # ONNX Runtime binds no text.
        self._binds = all(spec.datatype != "BYTES" for spec in (*self.inputs, *self.outputs))
        self._free: deque[Slot] = deque()
        self._lost = ""

    @classmethod
    def load(cls, path: Path, runtime: str, tf32: bool = False) -> OnnxRuntimeGpuEngine:
        """Opens an ONNX file on `runtime`'s provider; operators that it lacks run on the processor.

        `tf32` lets FP32 products be taken in TF32, as ONNX Runtime does by default: the graph says FP32, so here it
        does not. Raises EngineFailed, with ONNX Runtime's own words or where it left the GPU without a word.
        """
        provider = PROVIDERS[runtime]
        providers = cuda_providers(tf32)
        if runtime == "onnxruntime-tensorrt":
            providers.insert(0, (provider, _tensorrt_options(path)))
        try:
            options = session_options(1)
            with loading:
                session = ort.InferenceSession(str(path), options, providers, disabled_optimizers=LEFT_OUT_OPTIMIZERS)
        except Exception as error:
            step = _used_up(error) or "check the model"
            raise EngineFailed(f"ONNX Runtime cannot load {path.name} on the GPU: {error}; {step}") from error
        if session.get_providers()[0] != provider:
            raise EngineFailed(
                f"ONNX Runtime has loaded {path.name} without its {provider}: a library that it was built with is "
                f"missing, of CUDA 13 or cuDNN 9{_ALSO.get(runtime, '')}; its log names it: install that, or use the "
                "GPU image"
            )
        return cls(session)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        if self._lost:
            raise DeviceFailed(self._lost)
        names = self._output_names if outputs is None else list(outputs)
        lacking = [*(s.name for s in self.inputs if s.name not in inputs), *(set(names) - set(self._output_names))]
        if lacking:
            raise EngineFailed(f"this batch lacks input, or the model output, {lacking[0]!r}; see the model's metadata")
        texts = {s.name: text_of(s.name, inputs[s.name]) for s in self.inputs if s.datatype == "BYTES"}
        try:
            slot = self._free.pop()
        except IndexError:
            slot = {}
        try:
            arrays = self._run(slot, dict(inputs) | texts, names)
        except Exception as error:
            raise self._failure(error) from error
        self._free.append(slot)
        return dict(zip(names, arrays, strict=True))

    def _run(self, slot: Slot, inputs: Mapping[str, Array], names: Sequence[str]) -> list[Array]:
        if not self._binds:
            plain: list[Array] = self._session.run(names, inputs)
            return plain
        binding = self._session.io_binding()
        for spec in self.inputs:
            values = inputs[spec.name]
            if values.size:
                binding.bind_ortvalue_input(spec.name, self._on_device(slot, spec.name, values))
            else:
                binding.bind_cpu_input(spec.name, values)
        for name in names:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding)
        copied: list[Array] = binding.copy_outputs_to_cpu()
        return copied

    def _on_device(self, slot: Slot, name: str, values: Array) -> Any:
        held = slot.get(name)
        if held is not None and tuple(held.shape()) == values.shape:
            held.update_inplace(values)
        else:
            held = slot[name] = ort.OrtValue.ortvalue_from_numpy(values, self._device, 0)
        return held

    def _failure(self, error: Exception) -> EngineFailed:
        found = _CUDA_ERROR.search(str(error))
        if found is None or int(found[1]) not in _STICKY:
            step = _used_up(error)
            return EngineFailed(f"ONNX Runtime failed on this batch: {error}" + (f"; {step}" if step else ""))
        self._lost = (
            f"the GPU failed: CUDA error {found[1]}; this server's engines on it are lost, restart the server to use "
            "it again"
        )
        return DeviceFailed(self._lost)

    def close(self) -> None:
        with loading:
            self._free.clear()
            del self._session


def _used_up(error: Exception) -> str:
    words = "the GPU's memory is used up: send fewer rows, or deploy fewer engines on it"
    return words if _FULL in str(error) else ""


def cuda_providers(tf32: bool = False) -> list[Any]:
    """The CUDA provider, and the processor for what that lacks."""
    return [(PROVIDERS["onnxruntime-cuda"], cuda_options(tf32)), _CPU]


def cuda_options(tf32: bool) -> dict[str, str]:
    """What the CUDA provider is told; `tf32` lets it take FP32 products in TF32."""
    return {
        "device_id": "0",
        "use_tf32": str(int(tf32)),
        # An exhaustive search would be made again, while a caller waits, for each batch size that is new.
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
    }


def _tensorrt_options(path: Path) -> dict[str, str]:
    """Engines are kept beside the model: building them takes minutes, and would again at every start."""
    return {
        "device_id": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(path.with_name(f"{path.name}.engines")),
    }
