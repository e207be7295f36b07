"""Outputs that are an input as it came, on OpenVINO: nobody is answered with another call's rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from service.engines import openvino_engine
from service.engines.openvino_engine import OpenVinoEngine, compile_model
from service.errors import EngineFailed
from tests.unit.quantization.small_models import model_of, saved, value

WIDTH = 64
_node = helper.make_node
CAST = [_node("Cast", ["x"], ["y"], "c", to=TensorProto.FLOAT)]
# A name, and what lies between the input and the output y.
PASSING: dict[str, list[NodeProto]] = {
    "a cast to its own type": CAST,
    "a cast there and back": [
        _node("Cast", ["x"], ["half"], "c", to=TensorProto.FLOAT16),
        _node("Cast", ["half"], ["y"], "d", to=TensorProto.FLOAT),
    ],
    "what a conversion to FP16 makes of an identity": [
        _node("Cast", ["x"], ["half"], "c", to=TensorProto.FLOAT16),
        _node("Identity", ["half"], ["same"], "i"),
        _node("Cast", ["same"], ["y"], "d", to=TensorProto.FLOAT),
    ],
    "an identity": [_node("Identity", ["x"], ["y"], "i")],
    "dropouts": [_node("Dropout", ["x"], ["kept"], "d"), _node("Dropout", ["kept"], ["y"], "e")],
    "the sum of one": [_node("Sum", ["x"], ["y"], "s")],
    "two of them": [*CAST, _node("Cast", ["x"], ["z"], "d", to=TensorProto.FLOAT)],
}
# Four callers of two instances; a crash must not take the tests along.
CALLS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from service.engines.openvino_engine import OpenVinoEngine

engine = OpenVinoEngine.load(Path(sys.argv[1]), threads=1, instances=2)
passing = [spec.name for spec in engine.outputs if spec.name != "computed"]

def wrong(seed):
    rng, count = np.random.default_rng(seed), 0
    for _ in range(300):
        rows = np.full((int(rng.integers(1, 40)), 64), rng.integers(1, 1000), np.float32)
        answers = engine.infer({"x": rows})
        count += any(not np.array_equal(answers[name], rows) for name in passing)
        count += not np.array_equal(answers["computed"], -rows)
    return count

with ThreadPoolExecutor(4) as callers:
    print(sum(callers.map(wrong, range(4))))
"""


def write(path: Path, nodes: Sequence[NodeProto]) -> Path:
    """A model of x, with an output that is computed beside those that the nodes pass on."""
    shape = ("n", WIDTH)
    passing = [name for node in nodes for name in node.output if name in ("y", "z")]
    model = model_of(
        [_node("Neg", ["x"], ["computed"], "n"), *nodes],
        [value("x", shape)],
        [value(name, shape) for name in ("computed", *passing)],
    )
    return saved(model, path)


@pytest.mark.parametrize("between", PASSING)
def test_an_input_that_is_passed_on_is_the_callers_own_whoever_calls_beside(tmp_path: Path, between: str) -> None:
    path = write(tmp_path / "m.onnx", PASSING[between])
    command = [sys.executable, "-W", "ignore", "-c", CALLS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


@pytest.mark.parametrize("between", PASSING)
def test_tensors_keep_their_names_where_an_input_is_passed_on(tmp_path: Path, between: str) -> None:
    engine = OpenVinoEngine.load(write(tmp_path / "m.onnx", PASSING[between]), threads=1)
    assert [spec.name for spec in engine.inputs] == ["x"]
    outputs = ["computed", "y", "z"] if between == "two of them" else ["computed", "y"]
    assert [spec.name for spec in engine.outputs] == outputs


def test_a_model_that_passes_nothing_on_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "copy_outputs", lambda *_: pytest.fail("an output was copied"))
    engine = OpenVinoEngine.load(write(tmp_path / "m.onnx", [_node("Relu", ["x"], ["y"], "r")]), threads=1)
    assert engine.infer({"x": np.full((2, WIDTH), -1, np.float32)})["y"].max() == 0


def test_a_version_that_cannot_be_made_to_copy_is_not_let_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_engine, "copy_outputs", lambda *_: None)
    path = write(tmp_path / "m.onnx", CAST)
    with pytest.raises(EngineFailed, match=r"cannot load m\.onnx: an output is an input as it came.*, or use runtime"):
        compile_model(path, threads=1)
