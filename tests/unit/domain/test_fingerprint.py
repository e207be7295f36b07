"""A fingerprint names the GPU beside the processor, and an engine on the GPU depends on that alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from service.domain.engine import Fingerprint, Gpu, can_prove, may_answer, never_ran, on_host, proof_gaps
from tests.samples import artifact, certificate

GPU = Gpu("RTX A", "8.6", "13.0")
CPU = Fingerprint("cpu", ("avx2",), "none", {"onnxruntime": "1", "tensorrt": "tensorrt_rtx 1.7"})
HOST = replace(CPU, gpu=GPU)
TENSORRT = replace(
    artifact("int8-tensorrt"),
    runtime="tensorrt",
    certificate=replace(certificate(), fingerprint=replace(HOST.on_gpu(), built_for=("8.0", "8.6"))),
)


def test_an_engine_on_the_gpu_has_it_as_device() -> None:
    seen = HOST.on_gpu()
    assert (seen.device, seen.flags, seen.driver) == ("RTX A", (), "13.0")
    assert CPU.on_gpu() is CPU


def test_a_fingerprint_survives_the_way_through_json_and_an_older_one_is_still_read() -> None:
    full = replace(HOST, built_for=("7.5", "8.6"))
    assert Fingerprint.from_json(json.loads(json.dumps(full.to_json()))) == full
    older = {"device": "cpu", "flags": ["avx2"], "driver": "none", "libraries": dict(CPU.libraries)}
    assert Fingerprint.from_json(older) == CPU
    assert CPU.to_json() == older


@pytest.mark.parametrize(
    ("here", "gaps"),
    [
        (HOST, ()),
        (replace(HOST, flags=("avx512f",), device="another cpu"), ()),
        (replace(HOST, gpu=replace(GPU, driver="13.1")), ("driver was 13.0, is 13.1",)),
        (replace(HOST, libraries={"tensorrt": "tensorrt 11.4"}), ("tensorrt was tensorrt_rtx 1.7, is tensorrt 11.4",)),
        (CPU, ("driver was 13.0, is none", "device was RTX A, is cpu")),
    ],
)
def test_the_gpu_its_driver_and_the_flavour_decide_for_an_engine_on_it(
    here: Fingerprint, gaps: tuple[str, ...]
) -> None:
    assert proof_gaps(TENSORRT, here) == gaps


def test_an_engine_on_the_cpu_does_not_depend_on_a_gpu_beside_it() -> None:
    assert proof_gaps(artifact(), replace(HOST, gpu=None)) == proof_gaps(artifact(), HOST) == ()


def test_only_a_host_with_a_gpu_can_prove_what_runs_on_one() -> None:
    assert can_prove(TENSORRT, HOST)
    assert not can_prove(TENSORRT, CPU)
    assert can_prove(artifact(), CPU)
    seen = on_host(TENSORRT, CPU)
    assert not may_answer(seen)
    assert seen.certificate is not None
    assert seen.certificate.reason.endswith("is cpu); serve it on a host with an NVIDIA GPU")


def test_what_another_host_has_passed_did_run_and_what_none_has_validated_did_not() -> None:
    assert not never_ran(TENSORRT)
    assert never_ran(artifact(verdict="unproven"))
    assert not never_ran(artifact(verdict="rejected"))
