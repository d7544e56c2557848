"""What an attempt's ending makes of its task."""

from __future__ import annotations

import pytest

from penstock.domain.errors import Conflict, Invalid
from penstock.domain.tasks import (
    TERMINAL,
    Ending,
    MultitaskStrategy,
    ResourceClass,
    Stop,
    Task,
    TaskState,
    Wait,
)
from penstock.rules.tasks import (
    MOST_LOSSES,
    after_attempt,
    answers,
    because,
    handed_back,
    makes_way,
    stopped,
    under_stop,
    undone,
)


def a_task(*, crashes=0, losses=0, state=TaskState.RUNNING, waits=()):
    return Task(
        id="task_1", session_id="ses_1", agent="a", environment="production", release="r",
        state=state, outcome=None, input=None, output=None, error=None, epoch=1,
        crashes=crashes, losses=losses, worker_id="w", cancel_requested=False, events=0, steps=0,
        cost_nanos=0, created_us=0, started_us=0, finished_us=None, waits=waits,
    )  # fmt: skip


@pytest.mark.parametrize(
    "ending", [e for e in Ending if e not in (Ending.CRASH, Ending.LOST, Ending.WAITING)]
)
def test_what_the_agent_did_itself_is_final(ending):
    assert after_attempt(a_task(), ending, attempts=3).state in TERMINAL


def test_a_task_that_ran_out_of_memory_is_tried_once_more_with_more():
    after = after_attempt(a_task(crashes=1), Ending.MEMORY, attempts=2, larger=True)
    assert (after.state, after.resource_class) == (TaskState.QUEUED, ResourceClass.LARGE)
    assert (after.crashes, after.losses) == (1, 0)
    assert after_attempt(a_task(), Ending.MEMORY, attempts=2).state is TaskState.FAILED


def test_a_result_completes_and_an_error_fails():
    assert after_attempt(a_task(), Ending.OK, attempts=3).state is TaskState.COMPLETED
    assert after_attempt(a_task(), Ending.ERROR, attempts=3).state is TaskState.FAILED


def test_a_process_that_dies_is_tried_again_later_each_time_and_then_no_more():
    delays = []
    crashes = 0
    while True:
        after = after_attempt(a_task(crashes=crashes), Ending.CRASH, attempts=4)
        crashes = after.crashes
        if after.state is not TaskState.QUEUED:
            break
        delays.append(after.delay_seconds)
    assert after.state is TaskState.DEAD_LETTERED
    assert crashes == 4
    assert delays == sorted(set(delays))


def test_one_lost_worker_costs_no_time_and_several_in_a_row_some():
    delays = [
        after_attempt(a_task(losses=losses), Ending.LOST, attempts=1).delay_seconds
        for losses in range(MOST_LOSSES - 1)
    ]
    assert delays[0] == 0
    assert delays[1] > 0
    assert delays == sorted(delays)


def test_a_lost_worker_is_not_the_tasks_fault_for_long():
    losses = 0
    for _ in range(MOST_LOSSES - 1):
        after = after_attempt(a_task(losses=losses), Ending.LOST, attempts=1)
        assert after.state is TaskState.QUEUED
        assert after.crashes == 0
        losses = after.losses
    assert after_attempt(a_task(losses=losses), Ending.LOST, attempts=1).state is (
        TaskState.DEAD_LETTERED
    )


def test_handing_back_counts_for_nothing():
    after = handed_back(a_task(crashes=1, losses=2))
    assert (after.state, after.crashes, after.losses) == (TaskState.QUEUED, 1, 2)


def waiting(*ids):
    return a_task(
        state=TaskState.WAITING,
        waits=tuple(Wait(id=one, kind="interrupt", value=None) for one in ids),
    )


def test_a_task_that_asks_waits_and_its_crashes_are_not_forgotten():
    after = after_attempt(a_task(crashes=1), Ending.WAITING, attempts=3)
    assert (after.state, after.crashes) == (TaskState.WAITING, 1)
    assert after.state not in TERMINAL


def test_one_question_takes_one_answer_and_also_null_is_one():
    assert answers(waiting("a"), None, None) == {"a": None}
    assert answers(waiting("a"), {"a": 1}, None) == {"a": 1}


def test_several_questions_are_answered_by_name_all_or_some():
    assert answers(waiting("a", "b"), {"b": 1}, None) == {"b": 1}
    with pytest.raises(Invalid, match="2 things"):
        answers(waiting("a", "b"), None, True)
    with pytest.raises(Invalid):
        answers(waiting("a"), {}, None)


def test_what_nobody_asked_is_a_conflict():
    with pytest.raises(Conflict, match="does not wait for b"):
        answers(waiting("a"), {"a": 1, "b": 2}, None)


@pytest.mark.parametrize("state", [state for state in TaskState if state is not TaskState.WAITING])
def test_a_task_that_does_not_wait_takes_no_answer(state):
    with pytest.raises(Conflict, match=state.value):
        answers(a_task(state=state, waits=waiting("a").waits), {"a": 1}, None)


OUTCOMES = {
    Stop.CANCEL: Ending.CANCELLED,
    Stop.INTERRUPT: Ending.INTERRUPTED,
    Stop.ROLLBACK: Ending.ROLLED_BACK,
}


@pytest.mark.parametrize("stop", Stop)
@pytest.mark.parametrize("ending", [Ending.LOST, Ending.CRASH, Ending.CANCELLED, Ending.WAITING])
@pytest.mark.parametrize("crashes", [0, 99])
def test_what_is_to_be_stopped_never_goes_back_to_the_queue(stop, ending, crashes):
    task = a_task(crashes=crashes, losses=crashes)
    after, outcome = under_stop(after_attempt(task, ending, attempts=3), ending, stop)
    assert (after.state, outcome) == (TaskState.CANCELLED, OUTCOMES[stop])
    assert outcome is stopped(stop)


@pytest.mark.parametrize("stop", Stop)
def test_what_is_handed_back_while_it_is_to_be_stopped_ends(stop):
    after, outcome = under_stop(handed_back(a_task()), Ending.LOST, stop)
    assert (after.state, outcome) == (TaskState.CANCELLED, OUTCOMES[stop])


@pytest.mark.parametrize("ending", [Ending.OK, Ending.ERROR, Ending.TIMEOUT, Ending.BUDGET])
def test_an_end_of_its_own_stands_unless_it_is_to_be_undone(ending):
    after = after_attempt(a_task(), ending, attempts=3)
    assert under_stop(after, ending, None) == (after, ending)
    assert under_stop(after, ending, Stop.CANCEL) == (after, ending)
    assert under_stop(after, ending, Stop.INTERRUPT) == (after, ending)
    then, outcome = under_stop(after, ending, Stop.ROLLBACK)
    assert (then.state, outcome) == (TaskState.CANCELLED, Ending.ROLLED_BACK)


def test_only_a_rollback_leaves_nothing_and_only_what_was_stopped_has_a_reason():
    assert [ending for ending in Ending if undone(ending)] == [Ending.ROLLED_BACK]
    assert {ending for ending in Ending if because(ending)} == set(OUTCOMES.values())


def test_two_strategies_make_way():
    assert {s.value: makes_way(s) for s in MultitaskStrategy} == {
        "enqueue": None, "reject": None, "interrupt": Stop.INTERRUPT, "rollback": Stop.ROLLBACK,
    }  # fmt: skip
