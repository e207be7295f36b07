"""The GPU as pycuda tells of it, and what is said where there is none. The module is a fake; no GPU takes part."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest

from service.engines import cuda_device
from service.engines.cuda_device import CudaDevice, find_device, why_no_device


@pytest.fixture(autouse=True)
def looked_at_anew() -> Iterator[None]:
    cuda_device._look.cache_clear()
    yield
    cuda_device._look.cache_clear()


class DriverError(Exception):
    pass


def install(monkeypatch: pytest.MonkeyPatch, count: int = 1, failure: str = "") -> None:
    def init() -> None:
        if failure:
            raise DriverError(failure)

    device = SimpleNamespace(name=lambda: "GPU A", compute_capability=lambda: (8, 6), total_memory=lambda: 1 << 34)
    driver = ModuleType("pycuda.driver")
    vars(driver).update(
        Error=DriverError,
        init=init,
        get_driver_version=lambda: 13010,
        Device=type("Device", (), {"count": staticmethod(lambda: count), "__new__": lambda cls, number: device}),
    )
    package = ModuleType("pycuda")
    vars(package)["driver"] = driver
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)


def test_a_device_is_told_with_its_capability_driver_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    assert find_device() == CudaDevice("GPU A", "8.6", "13.1", 1 << 34)
    assert why_no_device() == ""


def test_without_pycuda_there_is_no_device_and_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    assert find_device() is None
    assert "pip install 'octavo[gpu]'" in why_no_device()


@pytest.mark.parametrize(
    ("count", "failure", "said"),
    [(0, "", "shows no GPU; check nvidia-smi"), (1, "cuInit failed: no CUDA-capable device", "cuInit failed")],
)
def test_a_driver_without_a_gpu_and_one_that_fails_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, count: int, failure: str, said: str
) -> None:
    install(monkeypatch, count, failure)
    assert find_device() is None
    assert said in why_no_device()
