"""Which GPUs an engine is for: TensorRT-RTX takes a list of compute capabilities, TensorRT the host's own."""

from __future__ import annotations

from typing import Any

from service.engines.cuda_device import find_device
from service.errors import EngineFailed

# Before it GPUs have no BF16, and TensorRT-RTX no multiplication of FP32 matrices for them.
_LOWEST = 80


def set_targets(trt: Any, config: Any, this_gpu: bool = False) -> tuple[str, ...]:
    """Sets them and gives their names, such as "8.6"; `this_gpu` sets the host's own alone.

    Raises EngineFailed where the flavour does not take one.
    """
    device = find_device()
    here = None if device is None else device.compute_capability
    known = getattr(trt, "ComputeCapability", None)
    if known is None:
        return () if here is None else (here,)
    targets = _targets(known)
    if here is not None and here not in targets:
        # A GPU that the list does not know: TensorRT-RTX may still compile for what it finds.
        targets = {here: known.CURRENT}
    elif here is not None and this_gpu:
        targets = {here: targets[here]}
    config.num_compute_capabilities = len(targets)
    for index, (name, capability) in enumerate(targets.items()):
        if not config.set_compute_capability(capability, index):
            raise EngineFailed(f"TensorRT does not compile for compute capability {name}; build on another host")
    return tuple(targets)


def _targets(known: Any) -> dict[str, Any]:
    numbers = sorted(int(capability) for capability in known.__members__.values())
    return {f"{number // 10}.{number % 10}": known(number) for number in numbers if number >= _LOWEST}
