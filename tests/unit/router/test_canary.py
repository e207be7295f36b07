"""The canary's share of the requests."""

from __future__ import annotations

import pytest

from service.router.canary import CanaryShare


@pytest.mark.parametrize("weight", [0, 1, 10, 33, 50, 99, 100])
def test_every_hundred_calls_hold_the_weight_within_two(weight: int) -> None:
    share = CanaryShare(weight)
    for _ in range(20):
        taken = sum(share.takes_next() for _ in range(100))
        assert abs(taken - weight) <= 2


def test_none_and_all_are_exact() -> None:
    assert not any(CanaryShare(0).takes_next() for _ in range(1000))
    full = CanaryShare(100)
    assert all(full.takes_next() for _ in range(1000))
