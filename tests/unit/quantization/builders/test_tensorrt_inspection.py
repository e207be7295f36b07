"""Which operators an engine multiplies in INT8: the builder's log and the engine's inspector tell it alike."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from service.errors import EngineFailed
from service.quantization.builders.builder import ExecutedOperator
from service.quantization.builders.tensorrt_inspection import compiled_operators, executed_operators, operators_of
from service.quantization.builders.tensorrt_log import BuildLog

LAYERS = """Layers:
Name: __myl_Move_0, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [-1,3,8], Datatype: Float, Format: NHWC}], \
Constants: [], Outputs: [ { Name: q, Dimensions: [-1,3], Datatype: Int8, Format: NHWC }], TacticName: t, StreamId: 0, \
Metadata: [ONNX Layer: stem/input_0/quantize][ONNX Layer: stem]
Name: stem_myl0_2, LayerType: correlation, Inputs: [ { Name: q, Dimensions: [-1,3,8], Datatype: Int8, Format: NHWC}], \
Constants: [ { Name: w, Dimensions: [8,3,3,3], Datatype: Int8 }, { Name: s, Datatype: Float }], \
Outputs: [ { Name: a, Dimensions: [-1,8,6,6], Datatype: Float, Format: NHWC }], TacticName: , StreamId: 0, \
Metadata: [ONNX Layer: ste][ONNX Layer: stem][ONNX Layer: stem/input_0/dequantize][ONNX Layer: stem/weight/dequantize]
Name: head_myl0_3, LayerType: gemm, Inputs: [ { Name: h, Dimensions: [-1,8], Datatype: Half, Format: Linear }], \
Constants: [], Outputs: [ { Name: y, Dimensions: [-1,4], Datatype: Half, Format: Linear }], TacticName: , StreamId: 0, \
Metadata: [ONNX Layer: head]
Bindings:
x
y
""".replace("\\\n", "")


class Severity(Enum):
    VERBOSE = 4
    INFO = 3
    WARNING = 2
    ERROR = 1


def log_of(*messages: tuple[Severity, str]) -> BuildLog:
    log = BuildLog()
    for severity, text in messages:
        log.take(severity.name, text)
    return log


def test_the_log_gives_the_layers_that_were_compiled_and_of_which_nodes() -> None:
    log = log_of((Severity.VERBOSE, LAYERS))
    assert [layer["name"] for layer in log.layers] == ["__myl_Move_0", "stem_myl0_2", "head_myl0_3"]
    assert (log.layers[1]["reads"], log.layers[1]["makes"]) == (["Int8"], ["Float"])
    assert compiled_operators(log.layers) == (
        ExecutedOperator("stem", "correlation", True),
        ExecutedOperator("head", "gemm", False),
    )


def test_the_log_is_digested_and_its_errors_are_the_reason() -> None:
    log = log_of(
        (Severity.INFO, "Total Weights Memory: 1984 bytes"),
        (Severity.INFO, "Total Activation Memory: 8216576 bytes"),
        *((Severity.WARNING, "the same thing") for _ in range(3)),
        (Severity.ERROR, "it is\ntoo large"),
    )
    assert log.memory == {"weights_bytes": 1984, "activation_bytes": 8216576}
    told = log.to_json()
    assert told["warnings"] == ["the same thing"]
    assert told["lines"] == {"info": 2, "warning": 3, "error": 1}
    assert log.reason == "it is too large"
    assert log_of().reason == "it gave no reason"


def test_a_log_without_end_stays_small() -> None:
    log = log_of(*((Severity.WARNING, f"warning {index}" + "x" * 10_000) for index in range(1000)))
    assert len(log.to_json()["warnings"]) == 20
    assert all(len(warning) <= 600 for warning in log.to_json()["warnings"])


@pytest.mark.parametrize("key", ["Datatype", "Format/Datatype", "Format"])
def test_the_inspector_tells_the_same(key: str) -> None:
    def layer(name: str, kind: str, reads: str, origins: str) -> dict[str, Any]:
        return {"Name": name, "LayerType": kind, "Inputs": [{"Name": "t", key: reads}], "Metadata": origins}

    information = {
        "Layers": [
            layer("stem + relu", "CaskConvolution", "Int8 Linear", "[ONNX Layer: stem]\u001e[ONNX Layer: relu]"),
            layer("head", "gemm", "Half", "[ONNX Layer: head]"),
            "a name alone",
        ]
    }
    assert executed_operators(information) == (
        ExecutedOperator("stem", "CaskConvolution", True),
        ExecutedOperator("head", "gemm", False),
    )


def test_a_file_that_is_no_engine_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    for content in (b"", b"no engine", b"ptrt" + bytes(1000)):
        (tmp_path / "engine.plan").write_bytes(content)
        with pytest.raises(EngineFailed, match=r"TensorRT cannot read engine.plan: .+; quantize again on this host"):
            operators_of(tmp_path / "engine.plan")
