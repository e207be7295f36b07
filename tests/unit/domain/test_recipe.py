"""Recipes come back from JSON as they were, older ones with every step of tuning on."""

from __future__ import annotations

from dataclasses import asdict, replace

from service.domain.recipe import Recipe, Tuning


def test_switched_off_steps_survive_the_way_through_json() -> None:
    recipe = Recipe(keep_float=("op:Softmax",), tuning=replace(Tuning(), rounding=False, ranges=False))
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_a_recipe_from_before_there_was_tuning_has_all_of_it() -> None:
    value = Recipe().to_json()
    del value["tuning"]
    assert Recipe.from_json(value).tuning == Tuning()


def test_no_tuning_is_every_step_switched_off() -> None:
    assert set(asdict(Tuning.none()).values()) == {False}
