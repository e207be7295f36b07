"""Recipes come back from JSON as they were, older ones with every step of tuning on."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from service.domain.recipe import Budget, QuantizeRequest, Recipe, Tuning
from tests.samples import quantize_request


def test_switched_off_steps_survive_the_way_through_json() -> None:
    recipe = Recipe(keep_float=("op:Softmax",), tuning=replace(Tuning(), rounding=False, ranges=False))
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_a_recipe_from_before_there_was_tuning_has_all_of_it() -> None:
    value = Recipe().to_json()
    del value["tuning"]
    assert Recipe.from_json(value).tuning == Tuning()


def test_no_tuning_is_every_step_switched_off() -> None:
    assert set(asdict(Tuning.none()).values()) == {False}


def test_the_type_around_int8_survives_and_its_default_leaves_digests_as_they_were() -> None:
    recipe = Recipe(runtime="tensorrt", around="bf16")
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert "around" not in Recipe().to_json()
    assert Recipe.from_json(Recipe().to_json()) == Recipe()


def test_weights_and_sparsity_survive_and_their_defaults_leave_digests_as_they_were() -> None:
    recipe = Recipe(runtime="tensorrt", weights="stripped", sparsity="2:4")
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert not {"weights", "sparsity"} & set(Recipe().to_json())


def test_a_budget_of_speed_survives_and_its_lack_leaves_digests_as_they_were() -> None:
    budget = Budget("top1", 0.02, 1.25)
    assert Budget(**json.loads(json.dumps(budget.to_json()))) == budget
    assert Budget().to_json() == {"metric": None, "max_loss": 0.01}


def test_what_auto_stood_for_survives_and_the_default_runtime_alone_leaves_digests_as_they_were() -> None:
    request = replace(quantize_request(), tries=("onnxruntime", "openvino"))
    assert QuantizeRequest.from_json(json.loads(json.dumps(request.to_json()))) == request
    alone = replace(request, tries=("onnxruntime",))
    assert alone.digest() == quantize_request().digest() != request.digest()


@pytest.mark.parametrize(
    ("around", "runtime", "companion"),
    [
        ("auto", "tensorrt", "fp16"),
        ("auto", "openvino", "fp32"),
        ("auto", "onnxruntime-cuda", "fp16"),
        ("fp32", "tensorrt", "fp32"),
    ],
)
def test_auto_is_the_runtimes_own_type_around_int8(around: str, runtime: str, companion: str) -> None:
    assert Recipe(around=around).companion(runtime) == companion
