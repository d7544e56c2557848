"""Deltas on their way from one server to another: whole, in order, and counted when lost."""

from __future__ import annotations

import random

import pytest

from penstock.domain.tasks import Delta, Dropped
from penstock.runtime.relays import _PIECE_BYTES, _WAITING_BYTES, _Incoming, _Outgoing


def delta(data, step=0):
    return Delta(task_id="t", epoch=2, step=step, data=data, mode="messages", namespace=("a", "b"))


def sent(outgoing, *items):
    for item in items:
        outgoing.add(delta(item))
    return outgoing.pieces()


def heard(incoming, pieces):
    return [
        item if isinstance(item, Dropped) else item.data
        for piece in pieces
        for item in incoming.feed(piece)
    ]


def test_items_arrive_as_they_were_said():
    outgoing, incoming = _Outgoing(), _Incoming("t")
    [item] = [
        item for piece in sent(outgoing, {"é": "\u2028\x00"}) for item in incoming.feed(piece)
    ]
    assert (item.data, item.epoch, item.mode, item.namespace) == (
        {"é": "\u2028\x00"}, 2, "messages", ("a", "b"),
    )  # fmt: skip
    assert item.size_bytes > 0


@pytest.mark.parametrize("seed", range(20))
def test_batches_are_cut_to_what_a_notification_holds_and_put_together(seed):
    chance = random.Random(seed)
    outgoing, incoming = _Outgoing(), _Incoming("t")
    said, found = [], []
    for number in range(30):
        items = [f"{number}." + "ü" * chance.randrange(3000) for _ in range(chance.randrange(4))]
        said += items
        pieces = sent(outgoing, *items)
        assert all(len(piece.encode()) < _PIECE_BYTES + 100 for piece in pieces)
        found += heard(incoming, pieces)
    assert found == said


def test_a_lost_piece_loses_its_batch_and_the_next_one_says_how_much():
    outgoing, incoming = _Outgoing(), _Incoming("t")
    assert heard(incoming, sent(outgoing, "one")) == ["one"]
    large = sent(outgoing, "x" * 10_000, "y" * 10_000)
    assert len(large) > 1
    for lost in range(len(large)):
        again = _Incoming("t")
        again._next = incoming._next
        assert heard(again, large[:lost] + large[lost + 1 :]) == []
    assert heard(incoming, large[1:]) == []
    assert heard(incoming, sent(outgoing, "two")) == [Dropped(task_id="t", count=2), "two"]


def test_what_is_too_much_for_a_batch_is_dropped_oldest_first():
    outgoing, incoming = _Outgoing(), _Incoming("t")
    assert heard(incoming, sent(outgoing, 0)) == [0]
    items = [f"{number} " + "x" * 10_000 for number in range(50)]
    found = heard(incoming, sent(outgoing, *items))
    kept = [item for item in found if not isinstance(item, Dropped)]
    assert kept == items[-len(kept) :]
    assert len(kept) == _WAITING_BYTES // 10_040
    assert found[0] == Dropped(task_id="t", count=50 - len(kept))


def test_a_server_that_begins_to_count_anew_is_no_loss():
    incoming = _Incoming("t")
    assert heard(incoming, sent(_Outgoing(), 1, 2, 3)) == [1, 2, 3]
    assert heard(incoming, sent(_Outgoing(), 4)) == [4]
