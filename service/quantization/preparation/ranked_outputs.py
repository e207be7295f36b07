"""Which outputs of a model rank classes, told from the reference alone: once, and the same for any number of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from service.engines.engine import Engine
from service.errors import EngineFailed, InvalidTensor
from service.quantization.data.rows import Feed
from service.quantization.measures.decisions import rows_in_falling_order, scores_outputs

# An axis may have one batch's length by chance, but not two batches'.
_OTHER_SIZE = 2
# Fewer rows may be in falling order by chance.
_MANY_ROWS = 8


def ranked_outputs(reference: Engine, feed: Feed) -> tuple[str, ...]:
    """The floating-point outputs of a vector of scores a row, in the model's order. Those that are in falling order on
    every row, as TopK gives them, are none: the first is always the best.
    """
    names = _vectors(reference, feed)
    try:
        falling = _always_falling(reference, feed, names)
    except (EngineFailed, InvalidTensor):
        # Whatever runs these rows next says why the model cannot.
        return names
    return tuple(name for name in names if name not in falling)


def _always_falling(reference: Engine, feed: Feed, names: Sequence[str]) -> set[str]:
    """Runs until each output has shown a row in another order: one batch, as a rule, and all rows at most."""
    falling = set(names)
    seen: Counter[str] = Counter()
    for _, count, batch in feed.batches(len(feed.rows), feed.affordable_rows()):
        if not falling:
            break
        answers = reference.infer(batch, names)
        for name in scores_outputs(answers, count):
            rows, in_order = rows_in_falling_order(answers[name].reshape(count, -1))
            seen[name] += rows
            falling -= set() if in_order else {name}
    return {name for name in falling if seen[name] >= _MANY_ROWS}


def _vectors(reference: Engine, feed: Feed) -> tuple[str, ...]:
    count = feed.batch_rows(1)
    found = scores_outputs(reference.infer(feed.take(0, count)), count)
    if not feed.fixed:
        # A model that takes one row alone is judged by that.
        with suppress(EngineFailed, InvalidTensor):
            others = scores_outputs(reference.infer(feed.filled(_OTHER_SIZE)), _OTHER_SIZE)
            found = tuple(name for name in found if name in others)
    return found
