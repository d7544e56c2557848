"""Steps that are tried again, and where a step's name counts."""

from __future__ import annotations

import asyncio

import pytest
from langgraph.errors import GraphInterrupt

import penstock
from penstock import Retry
from supervising import Records

AT_ONCE = Retry(3, wait_seconds=0)


@pytest.fixture
def records():
    return Records()


class Flaky:
    """Fails some times, then answers."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, value):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return value


def test_a_step_is_tried_until_it_succeeds_and_committed_once(records):
    flaky = Flaky(OSError("a"), OSError("b"))
    assert records.run(lambda: penstock.step("s", flaky, 7, retry=AT_ONCE)) == 7
    assert flaky.calls == 3
    assert [step["key"] for step in records.steps] == ["s#1"]
    assert records.run(lambda: penstock.step("s", flaky, 8, retry=AT_ONCE)) == 7
    assert flaky.calls == 3


def test_the_last_error_is_raised_as_it_is(records):
    flaky = Flaky(*[OSError(str(number)) for number in range(9)])
    with pytest.raises(OSError, match="2"):
        records.run(lambda: penstock.step("s", flaky, 7, retry=AT_ONCE))
    assert flaky.calls == 3
    assert records.steps == []


def test_only_the_errors_that_are_named_are_tried_again(records):
    policy = Retry(5, wait_seconds=0, on=(OSError, TimeoutError))
    flaky = Flaky(OSError("a"), KeyError("b"))
    with pytest.raises(KeyError):
        records.run(lambda: penstock.step("s", flaky, 7, retry=policy))
    assert flaky.calls == 2


def test_a_question_to_a_person_is_no_failure(records):
    flaky = Flaky(GraphInterrupt(()))
    with pytest.raises(GraphInterrupt):
        records.run(lambda: penstock.step("s", flaky, 7, retry=AT_ONCE))
    assert flaky.calls == 1


def test_every_try_that_failed_is_told(records):
    attempt = records.attempt()
    sent = attempt._channel.sent

    def work():
        from penstock.inside import context  # noqa: PLC0415 - as the harness does

        context.enter(attempt, alone=False)
        return penstock.step("s", Flaky(OSError("down")), 7, retry=AT_ONCE)

    import contextvars  # noqa: PLC0415 - of this test alone

    contextvars.copy_context().run(work)
    (frame,) = sent
    assert frame["kind"] == "step.retry"
    assert frame["data"] == {
        "step": "s", "failures": 1, "of": 3, "error": "OSError: down", "wait_seconds": 0.0,
    }  # fmt: skip


def test_a_wait_beyond_the_deadline_is_not_begun(records):
    flaky = Flaky(OSError("down"))
    with pytest.raises(OSError, match="down"):
        records.run(
            lambda: penstock.step(
                "s", flaky, 7, retry=Retry(wait_seconds=600, longest_seconds=600)
            ),
            deadline_seconds=60,
        )
    assert flaky.calls == 1


def test_async_steps_and_steps_outside_of_penstock_are_tried_as_well(records):
    async def flaky(errors):
        if errors:
            raise errors.pop()
        return "ok"

    async def work():
        return await penstock.step("s", flaky, [OSError("a")], retry=AT_ONCE)

    assert asyncio.run(work()) == "ok"
    assert records.run(lambda: asyncio.run(work())) == "ok"
    assert penstock.step("s", Flaky(OSError("a")), 1, retry=AT_ONCE) == 1


def test_a_number_is_a_policy_and_anything_else_is_refused():
    with pytest.raises(TypeError, match=r"retry is penstock\.Retry"):
        penstock.step("s", len, "abc", retry="twice")
    with pytest.raises(ValueError, match="attempts"):
        penstock.step("s", len, "abc", retry=0)
    assert penstock.step("s", len, "abc", retry=2) == 3


def test_waits_grow_to_a_limit_and_differ():
    policy = Retry(9, wait_seconds=1, factor=2, longest_seconds=10)
    assert [policy.pause_seconds(n, 0.0) for n in (1, 2, 3, 4, 5)] == [1, 2, 4, 8, 10]
    assert policy.pause_seconds(3, 1.0) == 2
    assert policy.pause_seconds(100_000, 0.0) == 10
    for wrong in ({"wait_seconds": -1}, {"factor": 0.5}, {"longest_seconds": -1}):
        with pytest.raises(ValueError, match="retry"):
            Retry(3, **wrong)


class TestNames:
    def test_a_step_in_a_step_is_counted_there(self, records):
        """Led past a step, an agent does not come by the steps that were in it."""
        made = []

        def note(name):
            made.append(name)
            return name

        def outer():
            return penstock.step("x", note, "inner")

        def agent():
            return [penstock.step("a", outer), penstock.step("x", note, "own")]

        assert records.run(agent) == ["inner", "own"]
        assert records.run(agent) == ["inner", "own"]
        assert made == ["inner", "own"]
        assert {step["key"] for step in records.steps} == {"a#1/x#1", "a#1", "x#1"}
