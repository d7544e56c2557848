"""Deltas that wait for a slow reader are bounded, and the reader hears how many it lost."""

from __future__ import annotations

from penstock.actions.streams import Backlog
from penstock.domain.tasks import Delta, Dropped


def delta(number, size=1):
    return Delta(task_id="t", epoch=1, step=0, data=number, size_bytes=size)


def test_the_oldest_are_dropped_and_counted_before_the_rest():
    backlog = Backlog(most=3, most_bytes=1000)
    for number in range(10):
        backlog.add(delta(number))
    assert backlog.take() == [Dropped(task_id="t", count=7), delta(7), delta(8), delta(9)]
    assert backlog.take() == []
    backlog.add(delta(10))
    assert backlog.take() == [delta(10)]


def test_bytes_are_bounded_too():
    backlog = Backlog(most=100, most_bytes=100)
    for number in range(10):
        backlog.add(delta(number, 40))
    assert [item for item in backlog.take() if isinstance(item, Delta)] == [
        delta(8, 40),
        delta(9, 40),
    ]
    backlog.add(delta(11, 5000))
    assert backlog.take() == [Dropped(task_id="t", count=1)]


def test_what_was_lost_on_the_way_counts_as_well():
    backlog = Backlog(most=1, most_bytes=100)
    backlog.add(Dropped(task_id="t", count=5))
    backlog.add(delta(1))
    backlog.add(delta(2))
    assert backlog.take() == [Dropped(task_id="t", count=6), delta(2)]
