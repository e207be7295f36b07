"""Recipes that could never lead to a proven engine are refused before any work, by field, value and next step."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec

import pytest

from service.domain.engine import Fingerprint
from service.domain.model import Dataset
from service.domain.recipe import BatchProfile, Budget, Calibration, Recipe
from service.domain.tensor import TensorSpec
from service.errors import InvalidDataset, InvalidRecipe
from service.quantization import recipes
from service.quantization.recipes import (
    available_runtimes,
    candidate_runtimes,
    check_dataset_fits,
    check_recipe,
    rows_per_run,
)

ROWS = Dataset("rows", "d", 9, 10, {"x": TensorSpec("x", "FP32", (-1, 3))}, True, "k", (), datetime.now(UTC))
UNLABELLED = replace(ROWS, labels=False)


def test_the_default_recipe_with_labelled_rows_is_accepted() -> None:
    check_recipe(Recipe(), Budget(), ROWS, ROWS)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(precision="int3"), "precision is 'int3'; send one of fp32, fp16, bf16, int8"),
        (Recipe(runtime="tvm"), "runtime is 'tvm'"),
        (Recipe("bf16", "onnxruntime"), "'bf16', .* its CPU provider has no BF16 kernels; send one of fp16, fp32"),
        (Recipe(scheme="odd"), "scheme is 'odd'; send one of symmetric, asymmetric"),
        (Recipe(granularity="per_row"), "granularity is 'per_row'"),
        (Recipe(calibration=Calibration(method="guess")), "calibration.method is 'guess'"),
        (Recipe(calibration=Calibration(rows=0)), "calibration.rows is 0; send 1 to 100000"),
        (Recipe(calibration=Calibration(rows=100_001)), "calibration.rows is 100001"),
        (Recipe(calibration=Calibration(percentile=50.0)), "calibration.percentile is 50.0"),
        (Recipe(calibration=Calibration(percentile=100.1)), "calibration.percentile is 100.1"),
        (Recipe(calibration=Calibration(percentile=float("nan"))), "calibration.percentile is nan"),
        (Recipe(keep_float=("x",) * 257), "keep_float has 257 patterns; send at most 256"),
        (Recipe(keep_float=("x" * 257,)), "257 characters"),
        (Recipe(keep_float=("",)), "keep_float holds ''"),
        (Recipe(keep_float=("op:",)), "keep_float holds 'op:'"),
        (Recipe(keep_float=("a\nb",)), "printable"),
        (Recipe(batch=BatchProfile(0, 1, 1)), "batch is min 0, opt 1, max 1; send 1 <= min"),
        (Recipe(batch=BatchProfile(4, 2, 8)), "batch is min 4, opt 2, max 8"),
        (Recipe(batch=BatchProfile(1, 8, 1025)), "max 1025"),
    ],
)
def test_a_recipe_that_cannot_be_built_is_refused(recipe: Recipe, words: str) -> None:
    with pytest.raises(InvalidRecipe, match=words):
        check_recipe(recipe, Budget(), ROWS, ROWS)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget("f1"), "budget.metric is 'f1'; send one of top1, top5, agreement, mae, cosine"),
        (Budget("top1", -0.1), "budget.max_loss is -0.1"),
        (Budget("top1", float("inf")), "budget.max_loss is inf"),
        (Budget("top1", float("nan")), "budget.max_loss is nan"),
        (Budget("cosine", 3.0), "a loss of cosine is at most 2"),
        (Budget(min_speedup=0.0), "budget.min_speedup is 0.0; send how many times as fast"),
        (Budget(min_speedup=float("nan")), "budget.min_speedup is nan"),
        (Budget(min_speedup=1001.0), "above 0 and up to 1000, such as 1.2"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(budget: Budget, words: str) -> None:
    with pytest.raises(InvalidRecipe, match=words):
        check_recipe(Recipe(), budget, ROWS, ROWS)


def test_an_mae_budget_may_be_of_any_size() -> None:
    check_recipe(Recipe(), Budget("mae", 250.0), ROWS, UNLABELLED)


def test_int8_without_calibration_rows_is_refused() -> None:
    with pytest.raises(InvalidRecipe, match="no calibration set is named"):
        check_recipe(Recipe(precision="int8"), Budget(), None, ROWS)


def test_fp16_needs_no_calibration_but_something_to_be_judged_on() -> None:
    check_recipe(Recipe(precision="fp16"), Budget(), None, ROWS)
    with pytest.raises(InvalidRecipe, match="nothing can be proven; name one in validation"):
        check_recipe(Recipe(precision="fp16"), Budget(), None, None)


@pytest.mark.parametrize("metric", ["top1", "top5"])
def test_accuracy_without_labels_is_refused(metric: str) -> None:
    with pytest.raises(InvalidRecipe, match="dataset 'rows' has no labels"):
        check_recipe(Recipe(), Budget(metric), ROWS, UNLABELLED)


def test_a_host_without_tensorrt_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "find_spec", lambda name: None if name.startswith("tensorrt") else find_spec(name))
    assert "tensorrt" not in available_runtimes()
    with pytest.raises(
        InvalidRecipe, match=r"'tensorrt', which is not installed.*'octavo\[rtx\]', which builds without"
    ):
        check_recipe(Recipe(runtime="tensorrt"), Budget(), ROWS, ROWS)


def test_auto_tries_every_available_runtime_that_builds_the_precision() -> None:
    assert candidate_runtimes(Recipe()) == ("onnxruntime", "openvino")
    assert available_runtimes()[:2] == ("onnxruntime", "openvino")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "find_device", lambda: None)


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bf16_is_built_where_the_cpu_computes_it(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.setattr(recipes, "host_fingerprint", lambda: Fingerprint("a CPU", ("avx2", flag), "none", {}))
    assert candidate_runtimes(Recipe(precision="bf16")) == ("openvino",)
    check_recipe(Recipe(precision="bf16", runtime="openvino"), Budget(), None, ROWS)


@pytest.mark.parametrize("runtime", ["auto", "openvino"])
def test_bf16_is_refused_where_the_cpu_does_not_compute_it(monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    monkeypatch.setattr(recipes, "host_fingerprint", lambda: Fingerprint("a CPU", ("avx2", "avx512f"), "none", {}))
    assert candidate_runtimes(Recipe(precision="bf16", runtime=runtime)) == ()
    words = "this CPU has none of avx512_bf16, amx_bf16, bf16; send one of fp16, fp32, int8"
    with pytest.raises(InvalidRecipe, match=words):
        check_recipe(Recipe(precision="bf16", runtime=runtime), Budget(), None, ROWS)


@pytest.mark.parametrize(
    ("shape", "row", "count"),
    [
        ((-1, 3, 8), (3, 8), 0),
        ((-1, 3, -1), (3, 5), 0),
        ((1, 3, 8), (3, 8), 1),
        ((1, 3, 8), (1, 3, 8), 1),
        ((4, 3), (3,), 4),
        ((), (), 1),
        ((-1, 3), (4,), None),
        ((1, 3), (4,), None),
    ],
)
def test_a_row_fits_an_input_with_or_without_its_batch_axis(
    shape: tuple[int, ...], row: tuple[int, ...], count: int | None
) -> None:
    assert rows_per_run(row, TensorSpec("x", "FP32", shape)) == count


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": TensorSpec("y", "FP32", (-1, 3))}, "has no array 'x', only y"),
        ({"x": TensorSpec("x", "FP64", (-1, 3))}, "is FP64 but the model's input is FP32; save it as float32"),
        ({"x": TensorSpec("x", "FP32", (-1, 4))}, r"has shape \[4\] but the model's input has \[-1, 3\]"),
    ],
)
def test_a_dataset_that_does_not_fit_the_model_is_refused(arrays: dict[str, TensorSpec], words: str) -> None:
    with pytest.raises(InvalidDataset, match=words):
        check_dataset_fits("rows", arrays, [TensorSpec("x", "FP32", (-1, 3))])


def test_an_input_that_is_called_as_the_labels_are_is_refused() -> None:
    spec = TensorSpec("labels", "FP32", (-1, 3))
    with pytest.raises(InvalidDataset, match=r"has an input 'labels'.*another name for that input"):
        check_dataset_fits("rows", {"x": spec}, [spec])


def test_surplus_arrays_do_no_harm() -> None:
    spec = TensorSpec("x", "FP32", (-1, 3))
    check_dataset_fits("rows", {"x": spec, "z": spec}, [spec])


def test_checking_recipes_loads_no_runtime() -> None:
    code = (
        "import sys, service.quantization.recipes as r; r.available_runtimes();"
        "print([m for m in ('onnx', 'onnxruntime', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
