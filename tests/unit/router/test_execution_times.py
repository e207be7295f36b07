"""What is learned of an engine's run times, and what is expected of sizes that never ran."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.router.execution_times import ExecutionTimes


def test_sizes_between_known_ones_lie_between_them_and_larger_ones_in_proportion() -> None:
    times = ExecutionTimes({1: 1.0, 4: 4.0, 8: 10.0})
    assert [times.expected(rows) for rows in (1, 2, 4, 6, 8, 16)] == [1, 2, 4, 7, 10, 20]


def test_with_nothing_known_nothing_is_expected_to_last() -> None:
    assert ExecutionTimes({}).bound(8) == 0


def test_the_first_run_of_a_size_becomes_its_mean_and_later_ones_move_it_slowly() -> None:
    times = ExecutionTimes({1: 1.0})
    times.observe(4, 8.0)
    assert times.expected(4) == 8.0
    times.observe(4, 16.0)
    assert times.expected(4) == 9.0


def test_one_hiccup_is_no_speed_and_an_engine_that_became_slow_is_soon_known_as_slow() -> None:
    times = ExecutionTimes({1: 0.001})
    times.observe(1, 30.0)
    assert times.bound(1) < 0.02
    runs = 0
    while times.expected(1) < 20.0:
        times.observe(1, 30.0)
        runs += 1
    assert runs < 40


def test_steady_runs_end_with_a_narrow_bound_and_restless_ones_with_a_wide_one() -> None:
    steady, restless = ExecutionTimes({1: 1.0}), ExecutionTimes({1: 1.0})
    for run in range(200):
        steady.observe(1, 2.0)
        restless.observe(1, 1.0 if run % 2 else 3.0)
    assert steady.bound(1) == pytest.approx(2.0, rel=0.01)
    assert restless.bound(1) > 4.0


def test_forgiving_makes_every_size_a_little_quicker() -> None:
    times = ExecutionTimes({1: 1.0, 8: 4.0})
    before = [times.bound(rows) for rows in (1, 4, 8, 20)]
    times.forgive(8)
    assert all(0 < times.bound(rows) < was for rows, was in zip((1, 4, 8, 20), before, strict=True))


def ran(times: ExecutionTimes, runs: int, seconds: dict[int, float]) -> ExecutionTimes:
    for _ in range(runs):
        for rows, took in seconds.items():
            times.observe(rows, took)
    return times


@pytest.mark.parametrize(("slow", "fast"), [(1, 8), (8, 1)])
def test_a_size_that_was_slow_and_runs_no_more_is_thought_fast_again_once_others_are(slow: int, fast: int) -> None:
    measured = {1: 1.0, 8: 4.0}
    times = ran(ExecutionTimes(measured), 50, {slow: 10 * measured[slow]})
    assert times.expected(slow) > 9 * measured[slow]
    ran(times, 2000, {fast: measured[fast]})
    assert times.expected(slow) == pytest.approx(measured[slow], rel=0.1)
    assert times.bound(slow) <= 2.1 * measured[slow]


def test_a_size_that_does_not_run_becomes_slow_with_the_others() -> None:
    times = ran(ExecutionTimes({1: 1.0, 4: 2.0, 8: 4.0}), 1000, {4: 6.0, 8: 12.0})
    assert times.expected(1) == pytest.approx(3.0, rel=0.1)


def test_a_size_that_warming_up_left_out_keeps_its_share_of_the_others() -> None:
    times = ran(ExecutionTimes({1: 1.0}), 200, {1: 5.0})
    times.observe(3, 10.0)
    ran(times, 1000, {1: 1.0})
    assert times.expected(3) == pytest.approx(2.0, rel=0.1)


def test_each_size_that_runs_is_known_by_its_own_runs() -> None:
    times = ran(ExecutionTimes({1: 1.0, 8: 4.0}), 500, {1: 7.0, 8: 4.0})
    assert [times.expected(1), times.expected(8)] == pytest.approx([7.0, 4.0])


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(1e-6, 1e3)), min_size=1, max_size=300))
def test_any_history_keeps_few_sizes_and_finite_expectations(runs: list[tuple[int, float]]) -> None:
    times = ExecutionTimes({})
    for rows, seconds in runs:
        times.observe(rows, seconds)
        assert 0 < times.expected(rows) <= times.bound(rows) < float("inf")
    assert len(times._sizes) <= 16 + 8 * 10


def test_a_size_whose_first_time_was_a_mishap_is_forgiven_for_good_while_others_run() -> None:
    times = ExecutionTimes({1: 0.001, 32: 1.0})
    for _ in range(60):
        ran(times, 64, {1: 0.001})
        times.forgive(32)
    assert times.expected(32) < 0.05
    assert times.expected(1) == pytest.approx(0.001, rel=0.2)


def test_forgiving_a_size_that_runs_makes_no_other_one_slower() -> None:
    times = ExecutionTimes({1: 0.001, 8: 0.004, 32: 0.01})
    for _ in range(20):
        for _ in range(64):
            times.observe(1, 0.001)
            times.forgive(1)
    ran(times, 640, {1: 0.001})
    assert times.expected(8) <= 0.0044
    assert times.expected(32) <= 0.011


def test_what_is_refused_again_and_again_is_not_thought_faster_than_half_of_its_fastest_run() -> None:
    times = ran(ExecutionTimes({1: 0.02, 8: 0.08}), 20, {1: 0.013})
    for _ in range(400):
        times.forgive(1)
    assert 0.0065 <= times.expected(1) < 0.013
    assert times.expected(8) > 0.02, "and what the others are thought to take goes no further down with it"


def test_a_size_that_never_ran_is_forgiven_until_it_runs_and_its_run_then_counts() -> None:
    times = ExecutionTimes({1: 0.013})
    for _ in range(200):
        times.forgive(1)
    assert times.expected(1) < 1e-6
    while times.expected(1) < 0.0065:
        times.observe(1, 0.013)
    for _ in range(200):
        times.forgive(1)
    assert times.expected(1) >= 0.0065


@pytest.mark.parametrize("rows", [6, 16])
def test_a_size_that_is_reckoned_from_others_is_forgiven_no_further_than_they_are(rows: int) -> None:
    times = ran(ExecutionTimes({4: 0.04, 8: 0.08}), 20, {4: 0.04, 8: 0.08})
    for _ in range(400):
        times.forgive(rows)
    assert times.expected(rows) >= rows * 0.005 - 1e-9


def test_a_size_whose_only_run_was_a_hiccup_is_forgiven_that() -> None:
    times = ExecutionTimes({1: 0.001, 8: 0.008})
    times.observe(3, 30.0)
    for _ in range(200):
        times.forgive(3)
    assert times.expected(3) < 0.003


def test_an_engine_that_became_faster_than_all_its_runs_here_is_known_by_warming_up() -> None:
    times = ran(ExecutionTimes({1: 0.01}), 100, {1: 0.1})
    for _ in range(400):
        times.forgive(1)
    assert times.expected(1) < 0.01
