"""The reference models of `models/` are what their cards say: consistent, small, accurate and self-contained."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from service.domain.model import Preprocessing

MODELS = Path(__file__).parents[2] / "models"
DIGITS = MODELS / "digits"
SWISH = MODELS / "digits_swish"
READERS_OF_DIGITS = (DIGITS, SWISH)
LITE0 = MODELS / "efficientnet_lite0"
SPLITS = ("calibration", "validation")
Split = dict[str, NDArray[np.float32]]


def load_split(name: str) -> Split:
    with np.load(DIGITS / f"{name}.npz", allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def hash_rows(split: Split) -> set[str]:
    return {hashlib.sha256(row.tobytes()).hexdigest() for row in split["input"]}


def model_of(folder: Path) -> Path:
    return folder / f"{folder.name}.onnx"


def classify(images: NDArray[np.float32], folder: Path = DIGITS) -> NDArray[np.int64]:
    session = onnxruntime.InferenceSession(model_of(folder), providers=["CPUExecutionProvider"])
    logits = np.asarray(session.run(["logits"], {"input": images})[0])
    return np.asarray(logits.argmax(axis=1), dtype=np.int64)


def measure_accuracy(folder: Path) -> float:
    validation = load_split("validation")
    return float(np.mean(classify(validation["input"], folder) == validation["labels"]))


def read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def read_preprocessing(folder: Path) -> Preprocessing:
    return Preprocessing.from_json(json.loads((folder / "preprocessing.json").read_text(encoding="utf-8")))


def test_calibration_and_validation_share_no_row_and_repeat_none() -> None:
    calibration, validation = (load_split(name) for name in SPLITS)
    assert len(hash_rows(calibration)) == len(calibration["input"]) == 256
    assert len(hash_rows(validation)) == len(validation["input"]) == 512
    assert hash_rows(calibration).isdisjoint(hash_rows(validation))


@pytest.mark.parametrize("name", SPLITS)
def test_a_split_holds_the_input_and_a_label_of_every_digit(name: str) -> None:
    split = load_split(name)
    assert set(split) == {"input", "labels"}
    assert split["input"].dtype == np.float32
    assert split["input"].shape[1:] == (1, 8, 8)
    assert split["input"].min() == 0
    assert split["input"].max() == 1
    assert split["labels"].dtype == np.int64
    assert set(split["labels"].tolist()) == set(range(len(read_lines(DIGITS / "labels.txt"))))


@pytest.mark.parametrize("name", SPLITS)
def test_every_row_is_a_digit_of_the_source_under_its_true_label(name: str) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    sources = (digits.images / 16).astype(np.float32)
    truth = {row.tobytes(): int(label) for row, label in zip(sources, digits.target, strict=True)}
    split = load_split(name)
    assert [truth[row.tobytes()] for row in split["input"]] == split["labels"].tolist()


@pytest.mark.parametrize("folder", READERS_OF_DIGITS, ids=lambda folder: folder.name)
def test_a_committed_model_is_one_valid_file_with_a_dynamic_batch_and_no_path_of_the_machine(folder: Path) -> None:
    content = model_of(folder).read_bytes()
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert not any(node.doc_string for node in model.graph.node)
    assert not any(folder in content for folder in (b"/home/", b"/root/", b"/tmp/", b"/Users/", b"/work/"))
    values = {value.name: value.type.tensor_type.shape.dim for value in (*model.graph.input, *model.graph.output)}
    assert {name: [d.dim_param or d.dim_value for d in dims] for name, dims in values.items()} == {
        "input": ["batch", 1, 8, 8],
        "logits": ["batch", 10],
    }


@pytest.mark.parametrize("folder", READERS_OF_DIGITS, ids=lambda folder: folder.name)
def test_a_committed_model_reads_at_least_97_of_100_validation_digits(folder: Path) -> None:
    assert measure_accuracy(folder) >= 0.97


@pytest.mark.parametrize("folder", READERS_OF_DIGITS, ids=lambda folder: folder.name)
def test_a_card_states_the_accuracy_that_is_measured(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    stated = re.search(r"validation accuracy \| ([0-9.]+) ", card)
    assert stated is not None
    assert float(stated[1]) == pytest.approx(measure_accuracy(folder), abs=0.005)


def test_the_swish_model_has_depthwise_layers_swish_gates_and_residual_additions() -> None:
    nodes = onnx.load_model(model_of(SWISH)).graph.node
    found = Counter(node.op_type for node in nodes)
    groups = [entry.i for node in nodes for entry in node.attribute if entry.name == "group"]
    assert sum(group > 1 for group in groups) == 3
    assert (found["Sigmoid"], found["Mul"], found["Add"]) == (14, 14, 2)


@pytest.mark.parametrize("interpolation", [cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_NEAREST])
def test_the_sample_picture_is_read_as_the_first_validation_digit(interpolation: int) -> None:
    steps = read_preprocessing(DIGITS)
    assert (steps.color, steps.layout, steps.resize) == ("GRAY", "NCHW", "stretch")
    picture = cv2.imread(str(DIGITS / "sample.png"), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    pixels = cv2.resize(picture, (steps.width, steps.height), interpolation=interpolation)
    image = (pixels.astype(np.float32) * np.float32(steps.scale) - steps.mean[0]) / steps.std[0]
    row = image.astype(np.float32)[np.newaxis, np.newaxis]
    validation = load_split("validation")
    np.testing.assert_allclose(row[0], validation["input"][0], atol=0.5 / 255 + 1e-6)
    assert classify(row)[0] == validation["labels"][0]


@pytest.mark.parametrize("folder", READERS_OF_DIGITS, ids=lambda folder: folder.name)
def test_the_committed_files_of_a_model_are_under_one_megabyte(folder: Path) -> None:
    sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
    assert 0 < sum(sizes) < 1_000_000


def test_the_lite0_labels_are_1000_distinct_names_in_the_order_of_the_logits() -> None:
    names = read_lines(LITE0 / "labels.txt")
    assert len(names) == len(set(names)) == 1000
    assert all(name == name.strip() and name for name in names)
    assert (names[0], names[967], names[999]) == ("tench", "espresso", "toilet tissue")


def test_the_lite0_preprocessing_is_pixel_minus_127_over_128() -> None:
    steps = read_preprocessing(LITE0)
    pixels = np.arange(256, dtype=np.float64)
    for mean, std in zip(steps.mean, steps.std, strict=True):
        np.testing.assert_array_equal((pixels * steps.scale - mean) / std, (pixels - 127) / 128)
    assert (steps.width, steps.height, len(steps.mean), steps.color) == (224, 224, 3, "RGB")
