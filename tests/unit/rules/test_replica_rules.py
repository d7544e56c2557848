"""The number of replicas follows the load, within bounds, and neither hurries nor flaps."""

import pytest

from penstock.domain.replicas import Load, Scaling, Wish
from penstock.rules.replicas import desired_replicas, wanted


def at(now, load, scaling, wishes=()):
    return desired_replicas(load, scaling, wishes, now_seconds=now)


@pytest.mark.parametrize(
    ("backlog", "in_flight", "least", "most", "expected"),
    [
        (0, 0, 0, 4, 0),
        (0, 0, 1, 4, 1),
        (1, 0, 0, 4, 1),
        (10, 0, 0, 4, 1),
        (11, 0, 0, 4, 2),
        (6, 5, 0, 4, 2),
        (1000, 0, 0, 4, 4),
    ],
)
def test_each_replica_is_meant_to_have_its_target_of_tasks(
    backlog, in_flight, least, most, expected
):
    scaling = Scaling(least=least, most=most, target=10)
    load = Load(backlog=backlog, in_flight=in_flight, replicas=0)
    assert wanted(load, scaling) == expected


def test_the_first_task_brings_a_replica_at_once_however_long_a_rise_must_last():
    scaling = Scaling(most=4, target=10, up_seconds=60)
    found = at(
        100, Load(backlog=1, in_flight=0, replicas=0), scaling, (Wish(at_seconds=99, replicas=0),)
    )
    assert found.replicas == 1


def test_a_rise_is_followed_when_it_has_lasted():
    scaling = Scaling(most=8, target=10, up_seconds=5)
    load = Load(backlog=35, in_flight=0, replicas=1)
    calm = (Wish(at_seconds=8, replicas=1),)
    assert at(10, load, scaling, calm).replicas == 1
    assert at(14, load, scaling, (*calm, Wish(at_seconds=10, replicas=4))).replicas == 4


def test_a_fall_is_followed_when_nothing_has_called_for_more_for_long_enough():
    scaling = Scaling(most=8, target=10, down_seconds=60)
    load = Load(backlog=0, in_flight=0, replicas=4)
    busy = (Wish(at_seconds=50, replicas=3),)
    assert at(100, load, scaling, busy).replicas == 3
    assert at(111, load, scaling, busy).replicas == 0


def test_the_way_up_is_no_more_than_twice_as_many_at_a_time():
    scaling = Scaling(most=64, target=1)
    found = at(0, Load(backlog=1000, in_flight=0, replicas=10), scaling)
    assert found.replicas == 20


def test_bounds_hold_at_once_also_when_they_have_just_been_changed():
    scaling = Scaling(least=2, most=3, target=10)
    assert at(0, Load(backlog=0, in_flight=0, replicas=0), scaling).replicas == 2
    assert at(0, Load(backlog=500, in_flight=0, replicas=9), scaling).replicas == 3


def test_old_wishes_are_forgotten():
    scaling = Scaling(most=4, target=10, up_seconds=5, down_seconds=60)
    wishes = tuple(Wish(at_seconds=second, replicas=1) for second in range(100))
    found = at(100, Load(backlog=0, in_flight=0, replicas=1), scaling, wishes)
    assert len(found.wishes) == 61
