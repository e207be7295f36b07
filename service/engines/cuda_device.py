"""The NVIDIA GPU that engines of this host run on: the first one that the driver shows. Starts no context on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """A GPU: `compute_capability` such as "9.0"; `driver` is the newest CUDA version that the driver runs, "13.0"."""

    name: str
    compute_capability: str
    driver: str
    memory_bytes: int


def find_device() -> CudaDevice | None:
    """The GPU, or None where there is none that can be used; `why_no_device` then says why."""
    return _look()[0]


def why_no_device() -> str:
    """A sentence with the next step; "" where there is a device."""
    return _look()[1]


@lru_cache(maxsize=1)
def _look() -> tuple[CudaDevice | None, str]:
    """Once in a process: a GPU does not come or go while it runs."""
    try:
        import pycuda.driver as cuda
    except ImportError as error:
        # Its module links against the driver's library, so this tells of a missing driver too.
        return None, f"pycuda cannot be imported ({error}); pip install 'octavo[gpu]' on a host with an NVIDIA driver"
    try:
        cuda.init()
        if not cuda.Device.count():
            return None, "the NVIDIA driver shows no GPU; check nvidia-smi, and CUDA_VISIBLE_DEVICES"
        device = cuda.Device(0)
        major, minor = device.compute_capability()
        version = cuda.get_driver_version()
        driver = f"{version // 1000}.{version % 1000 // 10}"
        return CudaDevice(device.name(), f"{major}.{minor}", driver, device.total_memory()), ""
    except cuda.Error as error:
        return None, f"the NVIDIA driver cannot be used ({error}); check nvidia-smi"
