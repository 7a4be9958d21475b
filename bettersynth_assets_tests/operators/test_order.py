from __future__ import annotations

import pytest

from bettersynth_assets.operators.order import MOVES, Measured, planned_order, predicted_seconds


def measured(name, seconds, rejected, *, is_filter=True, needs_set=False, **more):
    return Measured(
        name=name, rows=100, seconds=seconds, rejected=rejected, is_filter=is_filter, needs_set=needs_set, **more
    )


def test_filters_are_ordered_by_cost_per_rejected_row():
    # 10 / 50 = 0.2, 1 / 1 = 1, 4 / 40 = 0.1 seconds per rejected row
    assert planned_order([measured("a", 10, 50), measured("b", 1, 1), measured("c", 4, 40)]) == [2, 0, 1]


def test_ties_keep_the_recipes_order_and_idle_filters_go_last():
    operators = [measured("idle", 1e-6, 0), measured("a", 2, 20), measured("b", 1, 10), measured("free", 1e-6, 0)]
    assert planned_order(operators) == [1, 2, 0, 3]


def test_a_failed_row_does_not_count_as_a_rejected_row():
    assert planned_order([measured("broken", 1, 0, quarantined=90), measured("a", 50, 1)]) == [1, 0]


@pytest.mark.parametrize("fence", [{"is_filter": False}, {"is_filter": False, "needs_set": True}])
def test_no_filter_moves_across_a_fence(fence):
    operators = [
        measured("dear", 50, 1), measured("cheap", 1, 50), measured("fence", 1e-6, 99, **fence),
        measured("dear_too", 50, 1), measured("cheapest", 1e-6, 99),
    ]  # fmt: skip
    assert planned_order(operators) == [1, 0, 2, 4, 3]
    assert [operator.moves == MOVES for operator in operators] == [True, True, False, True, True]


def test_filters_of_one_name_share_a_stat_and_keep_their_order():
    operators = [measured("words", 50, 1), measured("shape", 10, 50), measured("words", 1, 50)]
    assert planned_order(operators) == [0, 1, 2]


def test_predicted_time_counts_only_the_rows_that_reach_an_operator():
    operators = [measured("dear", 10, 0, load_seconds=3), measured("half", 1, 50)]
    assert predicted_seconds(operators, [0, 1], 1000) == pytest.approx(3 + 100 + 10)
    assert predicted_seconds(operators, [1, 0], 1000) == pytest.approx(3 + 10 + 50)
    assert planned_order([]) == [] and predicted_seconds([], [], 1000) == 0
