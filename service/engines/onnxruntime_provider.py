"""Whether a GPU provider of ONNX Runtime loads here; those that ONNX Runtime lists are those that it was compiled with.

A session of one node tells. A provider's library is opened here only after ONNX Runtime has tried to: it keeps the host
that it finds while it is opened, and before a session there is none.
"""

from __future__ import annotations

import ctypes
import re
import sys
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path

import onnxruntime as ort

from service.engines.onnxruntime_engine import session_options

# y = Abs(x), one float, opset 13: serving has no onnx to write it with.
_ONE_NODE = (
    b'\x08\x08:2\n\x0b\n\x01x\x12\x01y"\x03Abs\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
_LIBRARIES = {
    "CUDAExecutionProvider": "libonnxruntime_providers_cuda.so",
    "TensorrtExecutionProvider": "libonnxruntime_providers_tensorrt.so",
}
# The CUDA provider opens it no sooner than at the first convolution.
_CUDNN = "libcudnn.so.9"
_CUDA_FAILURE = re.compile(r"CUDA failure \d+: [^;]+")


@lru_cache
def why_not_loaded(provider: str) -> str:
    """The system's or ONNX Runtime's own reason, "" where the provider loads; once in a process, for it starts CUDA."""
    # Finds the libraries that came as Python packages; it prints what it does not find.
    with redirect_stdout(sys.stderr):
        ort.preload_dlls()
    try:
        session = ort.InferenceSession(_ONE_NODE, session_options(1), [provider], enable_fallback=0)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's own have no class in common
        return _why_not_opened(_path_of(provider)) or _reason(str(error))
    if provider not in session.get_providers():
        return _why_not_opened(_path_of(provider)) or "it was left out without a word; see ONNX Runtime's log"
    return _why_not_opened(_CUDNN)


def _path_of(provider: str) -> str:
    return str(Path(ort.__file__).with_name("capi") / _LIBRARIES[provider])


def _why_not_opened(library: str) -> str:
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return ""


def _reason(words: str) -> str:
    # A GPU that is full now is not one on which nothing runs.
    if "out of memory" in words:
        return ""
    failure = _CUDA_FAILURE.search(words)
    return failure[0].strip() if failure else words.strip()
