"""The host's fingerprint: processor, GPU and the versions of what is installed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError

import pytest

from service.domain.engine import Gpu
from service.engines import fingerprint
from service.engines.cuda_device import CudaDevice
from service.engines.fingerprint import engine_fingerprint, host_fingerprint

DEVICE = CudaDevice("RTX A", "8.6", "13.0", 2**34)
INSTALLED = {"onnxruntime": "1.32", "tensorrt-rtx-cu13-bindings": "1.7"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fingerprint, "find_device", lambda: DEVICE)
    monkeypatch.setattr(fingerprint, "version", installed_version)
    host_fingerprint.cache_clear()
    yield
    host_fingerprint.cache_clear()


def installed_version(name: str) -> str:
    if name not in INSTALLED:
        raise PackageNotFoundError(name)
    return INSTALLED[name]


def test_the_host_names_its_gpu_beside_the_processor() -> None:
    here = host_fingerprint()
    assert here.gpu == Gpu("RTX A", "8.6", "13.0")
    assert here.driver == "none"
    assert here.libraries == {"onnxruntime": "1.32", "tensorrt": "tensorrt_rtx 1.7"}


def test_an_engine_for_the_gpu_depends_on_it_and_one_for_the_cpu_does_not() -> None:
    on_gpu = engine_fingerprint("tensorrt", ("8.6",))
    assert (on_gpu.device, on_gpu.driver, on_gpu.flags, on_gpu.built_for) == ("RTX A", "13.0", (), ("8.6",))
    assert on_gpu.libraries == {"tensorrt": "tensorrt_rtx 1.7"}
    on_cpu = engine_fingerprint("onnxruntime")
    assert (on_cpu.gpu, on_cpu.driver, on_cpu.built_for) == (None, "none", ())


def test_the_data_centre_package_goes_before_the_other_flavour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INSTALLED, "tensorrt", "11.4")
    assert host_fingerprint().libraries["tensorrt"] == "tensorrt 11.4"


def test_a_host_without_a_gpu_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "find_device", lambda: None)
    assert host_fingerprint().gpu is None
    assert engine_fingerprint("tensorrt").driver == "none"
