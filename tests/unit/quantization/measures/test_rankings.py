"""Of several outputs the one counts that the labels are of, or the one that an engine spoils most."""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import InvalidDataset
from service.quantization.measures.figures import Floats
from service.quantization.measures.rankings import Rankings

RANDOM = np.random.default_rng(8)
SCORES = RANDOM.normal(0, 1, (40, 6))
OTHERS = RANDOM.normal(0, 1, (40, 9))
BEST = SCORES.argmax(axis=1)


def ranked(labels: bool = False, /, **pairs: tuple[Floats, Floats]) -> Rankings:
    """Of one batch: the reference's and the engine's rows by output."""
    rankings = Rankings(pairs)
    rankings.add(pairs, BEST if labels else None)
    return rankings


def test_without_labels_the_output_that_agrees_least_counts() -> None:
    pairs = {"sound": (SCORES, SCORES), "spoilt": (OTHERS, -OTHERS)}
    found = ranked(**pairs).to_json()
    assert (found["scores"], found["ranked"]) == ("spoilt", ["sound", "spoilt"])
    assert found["metrics"]["agreement"]["output"] == "spoilt"
    assert found["tails"]["flip_rate"] == 1 - found["metrics"]["agreement"]["engine"] > 0.9


def test_with_labels_the_output_that_they_are_of_counts() -> None:
    pairs = {"embedding": (OTHERS, -OTHERS), "logits": (SCORES, SCORES)}
    found = ranked(True, **pairs).to_json()
    assert (found["scores"], found["ranked"]) == ("logits", ["logits"])
    assert found["metrics"]["top1"]["reference"] == 1
    assert len(found["classes"]) == 6


def test_of_outputs_that_are_equally_right_the_spoilt_one_counts() -> None:
    pairs = {"logits": (SCORES, SCORES), "scaled": (SCORES * 2, -SCORES)}
    assert ranked(True, **pairs).to_json()["scores"] == "scaled"


def test_an_output_with_fewer_classes_than_the_labels_is_not_theirs() -> None:
    narrow = SCORES[:, :2]
    pairs = {"narrow": (narrow, narrow), "logits": (SCORES, SCORES)}
    assert ranked(True, **pairs).to_json()["ranked"] == ["logits"]
    with pytest.raises(InvalidDataset, match="the labels run to 5 but the model scores 2 classes"):
        ranked(True, narrow=(narrow, narrow))


def test_an_output_that_is_no_vector_in_some_batch_is_judged_no_longer() -> None:
    rankings = ranked(a=(SCORES, SCORES), b=(OTHERS, -OTHERS))
    rankings.add({"a": (SCORES, SCORES)}, None)
    found = rankings.to_json()
    assert (found["scores"], found["ranked"], found["metrics"]["agreement"]["engine"]) == ("a", ["a"], 1)


def test_outputs_without_any_vector_rank_nothing() -> None:
    rankings = Rankings(())
    rankings.add({}, BEST)
    assert rankings.to_json() == {"scores": None, "ranked": [], "metrics": {}, "classes": [], "tails": {}}
