"""Names of deciding metrics: benchmark, metric, unit, and which metrics are refused."""

from __future__ import annotations

import pytest

from bettersynth_assets.config.deciding import Measure, can_decide, check_metric


def test_a_name_is_a_benchmark_or_a_metric_of_it() -> None:
    headline, part = Measure.of("mmbench"), Measure.of("gqa/accuracy/open")
    assert (headline.benchmark, headline.metric, headline.title) == ("mmbench", None, "MMBench")
    assert (part.benchmark, part.metric, part.title) == ("gqa", "accuracy/open", "GQA accuracy/open")
    likelihood = Measure.of("textvqa/log_probability_per_token")
    assert (likelihood.unit, headline.unit) == ("nats", "points") and likelihood.digits > headline.digits


@pytest.mark.parametrize("name", ["mme/score", "mme/perception", "pope/yes_ratio", "textvqa/accuracy", "mmbench/"])
def test_headlines_sums_and_shares_of_answers_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        check_metric(name)


def test_a_benchmark_that_is_not_registered_yet_is_checked_later() -> None:
    check_metric("counting/other")
    assert not can_decide("counting", "other") and can_decide("counting", "log_probability_per_token")
