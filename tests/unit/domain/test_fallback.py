"""The order in which engines stand in for one that cannot answer."""

from __future__ import annotations

from dataclasses import replace

from service.domain.engine import REFERENCE_VARIANT, EngineArtifact, Fingerprint
from service.domain.fallback import as_here, fallback_chain, unproven_because
from tests.samples import artifact
from tests.served_models import artifact as reference

RUNTIMES = ("openvino", "onnxruntime", "onnxruntime-tensorrt", "onnxruntime-cuda", "tensorrt")


def engine(precision: str, runtime: str, verdict: str = "passed") -> EngineArtifact:
    return replace(artifact(f"{precision}-{runtime}", verdict=verdict), precision=precision, runtime=runtime)


def test_tensorrt_comes_first_then_onnx_runtime_on_the_gpu_then_the_processor_and_the_reference_last() -> None:
    engines = [reference("digits"), *(engine(precision, r) for r in RUNTIMES for precision in ("fp16", "int8"))]
    assert [entry.variant for entry in fallback_chain(engines)] == [
        "int8-tensorrt",
        "fp16-tensorrt",
        "int8-onnxruntime-cuda",
        "fp16-onnxruntime-cuda",
        "int8-onnxruntime-tensorrt",
        "fp16-onnxruntime-tensorrt",
        "int8-onnxruntime",
        "int8-openvino",
        "fp16-onnxruntime",
        "fp16-openvino",
        REFERENCE_VARIANT,
    ]


def test_what_no_validation_passed_here_is_left_out() -> None:
    engines = [engine("int8", "tensorrt", "unproven"), engine("int8", "openvino", "rejected"), reference("digits")]
    assert [entry.variant for entry in fallback_chain(engines)] == [REFERENCE_VARIANT]


def test_a_runtime_that_is_missing_takes_the_verdict_back_and_the_reference_has_none_to_lose() -> None:
    seen = as_here(artifact(), None, lambda runtime: f"{runtime} is not there")
    assert seen.certificate is not None
    assert seen.certificate.verdict == "unproven"
    assert seen.certificate.reason == "runtime 'onnxruntime' cannot run here: onnxruntime is not there"
    assert unproven_because(reference(), "any") == reference()


def test_where_nothing_is_missing_the_host_decides() -> None:
    other = Fingerprint("cpu", ("asimd",), "none", {"onnxruntime": "1"})
    seen = as_here(artifact(), other, lambda runtime: "")
    assert seen.certificate is not None
    assert seen.certificate.verdict == "unproven"
    stored = artifact()
    assert as_here(stored, None, lambda runtime: "") is stored
