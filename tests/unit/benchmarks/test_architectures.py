"""What the benchmark of known architectures makes of a job, and of one that failed."""

from __future__ import annotations

import numpy as np
import pytest
from onnxruntime import InferenceSession

from benchmarks.architectures import Outcome, make_report, one_request, smallest_cosine
from tests.unit.quantization.small_models import relu_model

PROVEN = Outcome("net", "openvino", "succeeded", 12.4, 0.001, 30.0, 45.0, 0.95, 1.5, 0.999)


@pytest.mark.parametrize(("engine_db", "sound"), [(45.0, True), (30.0, False), (7.6, False), (None, None)])
def test_an_engine_is_sound_while_its_kernels_add_less_noise_than_the_plan(
    engine_db: float | None, sound: bool | None
) -> None:
    assert Outcome("net", "openvino", "succeeded", 1.0, 0.001, 30.0, engine_db).sound == sound


def test_a_job_that_failed_counts_against_what_is_promised_and_says_why() -> None:
    failed = Outcome("other", "openvino", "failed", 3.0, words="the stage crashed")
    report = make_report([PROVEN, failed])
    found = [(goal.value, goal.holds) for goal in report.goals]
    assert found == [(0.5, False), (0.5, False), (1.0, True), (0.999, True)]
    assert report.tables[0].rows == [
        ["net", "openvino", "succeeded", "0.0010", "30", "45", "95%", "1.50", "0.9990", "12"],
        ["other", "openvino", "failed", "", "", "", "", "", "", "3"],
    ]
    assert report.notes == ["other on openvino: the stage crashed"]


def test_the_worst_row_of_the_worst_output_counts() -> None:
    first, second = np.eye(3), np.ones((3, 2))
    turned = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    assert smallest_cosine([first, second], [first, second]) == pytest.approx(1.0)
    assert smallest_cosine([first, second], [first, turned]) == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize(
    ("axes", "rows", "shape"),
    [
        (("n", 3), (9, 3), (4, 3)),
        ((1, 3), (9, 3), (1, 3)),
        ((2, 3), (9, 2, 3), (2, 3)),
        ((), (9,), ()),
    ],
    ids=["a batch", "one row", "a row that is the input", "a number"],
)
def test_a_request_has_as_many_rows_as_the_model_takes(
    axes: tuple[str | int, ...], rows: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    session = InferenceSession(relu_model(axes).SerializeToString(), providers=["CPUExecutionProvider"])
    found = one_request(session, {"x": np.ones(rows, np.float32)})
    assert np.shape(found["x"]) == shape
    session.run(None, found)
