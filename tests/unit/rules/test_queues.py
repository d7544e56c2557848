"""Whose turn it is, and when it is worth trying again."""

from __future__ import annotations

import pytest

from penstock.domain.queues import QueueLoad
from penstock.rules.queues import deal, is_full, retry_after_seconds


def test_places_are_dealt_out_evenly_behind_the_one_served_last():
    assert deal(5, ["a", "b", "c"], behind=None) == {"a": 2, "b": 2, "c": 1}
    assert deal(5, ["a", "b", "c"], behind="a") == {"b": 2, "c": 2, "a": 1}
    assert deal(2, ["a", "b", "c"], behind="b") == {"c": 1, "a": 1}


def test_who_was_served_last_and_is_gone_still_says_where_to_begin():
    assert list(deal(1, ["a", "d"], behind="b")) == ["d"]
    assert list(deal(1, ["a", "d"], behind="z")) == ["a"]


def test_nothing_to_deal_is_dealt_to_nobody():
    assert deal(0, ["a"], behind=None) == {}
    assert deal(3, [], behind=None) == {}


def test_a_queue_is_full_once_more_wait_than_may():
    assert not is_full(QueueLoad(waiting=10, departed=0, period_us=1), limit=10)
    assert is_full(QueueLoad(waiting=11, departed=0, period_us=1), limit=10)


def after(*, waiting=101, departed=0, period=10.0, limit=100, chance=0.0):
    load = QueueLoad(waiting=waiting, departed=departed, period_us=int(period * 1e6))
    return retry_after_seconds(load, limit=limit, chance=chance)


def test_a_queue_that_drains_faster_may_be_tried_sooner():
    # A twentieth of 100, and the one too many: six tasks at one a second, at ten a second.
    assert after(departed=10) == 6
    assert after(departed=100) == 1
    assert after(departed=10) < after(departed=5) < after(departed=1)


def test_a_queue_that_does_not_drain_may_be_tried_much_later():
    assert after(departed=0) == 300
    assert after(departed=10, period=0) == 300


@pytest.mark.parametrize("departed", [0, 1, 10, 1000])
def test_who_is_refused_at_one_moment_comes_back_spread_out_and_within_bounds(departed):
    answers = [after(departed=departed, chance=chance / 10) for chance in range(10)]
    assert answers == sorted(answers)
    assert 1 <= answers[0] <= answers[-1] <= 300
