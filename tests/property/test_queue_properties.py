"""Nobody waits for more than one turn of everybody else, however much the others have queued."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from penstock.rules.queues import deal

QUEUES = st.dictionaries(
    st.sampled_from("abcde"),
    st.dictionaries(st.sampled_from("uvwxyz"), st.integers(1, 30), min_size=1),
    min_size=1,
)
FREE = st.lists(st.integers(1, 9), min_size=1, max_size=60)


@given(
    free=st.integers(0, 50),
    keys=st.sets(st.sampled_from("abcdefgh")),
    behind=st.none() | st.sampled_from("abcdefgh"),
)
def test_every_place_is_dealt_and_no_share_is_two_larger_than_another(free, keys, behind):
    dealt = deal(free, keys, behind=behind)
    assert sum(dealt.values()) == (free if keys else 0)
    shares = [dealt.get(key, 0) for key in keys]
    assert not keys or max(shares) - min(shares) <= 1


def serve(waiting, free, turns):
    """What a worker with ``free`` places claims, as the store does it."""
    queue_behind, tenants_behind = turns
    claimed = []
    while free:
        ready = {q: [t for t, n in tenants.items() if n] for q, tenants in waiting.items()}
        ready = {q: tenants for q, tenants in ready.items() if tenants}
        if not ready:
            break
        for queue, places in deal(free, ready, behind=queue_behind).items():
            behind = tenants_behind.get(queue)
            for tenant, number in deal(places, ready[queue], behind=behind).items():
                taken = min(number, waiting[queue][tenant])
                waiting[queue][tenant] -= taken
                free -= taken
                claimed += [(queue, tenant)] * taken
        for queue, tenant in claimed:
            queue_behind, tenants_behind[queue] = queue, tenant
    return claimed, (queue_behind, tenants_behind)


@given(waiting=QUEUES, free=FREE)
def test_a_lone_task_waits_for_one_turn_of_every_other_queue(waiting, free):
    waiting["m"] = {"only": 1}  # in the middle of the others, beside heaps of work
    others = len(waiting) - 1
    turns, before = (None, {}), 0
    for places in free:
        claimed, turns = serve(waiting, places, turns)
        if ("m", "only") in claimed:
            # No queue had more than a turn before it; the deal it was part of was even.
            assert before <= others
            shares = Counter(queue for queue, _ in claimed)
            assert shares["m"] == 1
            return
        before += len(claimed)
    assert before <= others


@given(waiting=QUEUES, free=FREE)
def test_a_users_only_task_waits_for_one_turn_of_every_other_user(waiting, free):
    waiting = {"a": waiting.popitem()[1] | {"only": 1}}
    others = len(waiting["a"]) - 1
    turns, before = (None, {}), 0
    for places in free:
        claimed, turns = serve(waiting, places, turns)
        if ("a", "only") in claimed:
            assert before <= others
            return
        before += len(claimed)
    assert before <= others


@given(waiting=QUEUES, free=FREE)
def test_nothing_is_left_while_there_is_a_place(waiting, free):
    total = sum(sum(tenants.values()) for tenants in waiting.values())
    turns, served = (None, {}), 0
    for places in free:
        claimed, turns = serve(waiting, places, turns)
        assert len(claimed) == min(places, total - served)
        served += len(claimed)
