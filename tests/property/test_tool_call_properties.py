"""The keys of tool calls, and what is done with them, over any history of restarts."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.tool_calls import CallState, ToolCall
from penstock.inside import declarations, fingerprints, tool_calls
from penstock.inside.attempts import Waits
from penstock.rules.tool_calls import Next, idempotency_key, scope_of, verdict, wait_id
from supervising import Records

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
TEXT = st.text(max_size=8)
PLACES = st.tuples(TEXT, TEXT, st.integers(1, 50))


@given(PLACES, PLACES)
def test_a_key_names_one_call(one, other):
    keys = [idempotency_key("task_1", *call) for call in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)
    assert idempotency_key("task_2", *one) != keys[0]
    assert keys[0].isascii()
    assert len(keys[0]) < 64


@given(PLACES, PLACES)
def test_what_is_done_in_a_call_belongs_to_that_call(one, other):
    hashed = [(place, fingerprints.digest(request), n) for place, request, n in (one, other)]
    scopes = [scope_of(*call) for call in hashed]
    assert (scopes[0] == scopes[1]) == (hashed[0] == hashed[1])


@given(st.dictionaries(st.text(), JSON, max_size=4), st.randoms())
def test_a_request_does_not_depend_on_the_order_of_its_members(arguments, chance):
    items = list(arguments.items())
    chance.shuffle(items)
    assert fingerprints.digest("t", arguments) == fingerprints.digest("t", dict(items))


@given(JSON, JSON)
def test_requests_that_say_different_things_are_different(one, other):
    same = repr(fingerprints.plain(one)) == repr(fingerprints.plain(other))
    if not same and one != other:
        assert fingerprints.digest("t", [one]) != fingerprints.digest("t", [other])


@given(
    st.sampled_from(CallState),
    st.sampled_from(["safe", "keyed", "never"]),
    st.booleans(),
    st.sampled_from([None, {"result": 1}, {"retry": True}, {"fail": "no"}]),
)
def test_what_must_not_be_repeated_is_made_again_only_on_a_persons_word(state, retry, kept, answer):
    found = ToolCall(
        task_id="t", place="0", request="r", number=1, tool="pay", effect="write", retry=retry,
        arguments={}, epoch=1, state=state, encoding="json" if kept else None, result=b"1",
    )  # fmt: skip
    said = verdict(found, retry=retry, answer=answer)
    if state is CallState.DONE and kept:
        assert said.what is Next.RETURN
    if said.what is Next.MAKE and state is not CallState.SUSPENDED:
        assert retry != "never" or answer == {"retry": True}
    assert wait_id(found) == wait_id(found)


class Killed(BaseException):
    """The process ended here."""


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["safe", "keyed", "never"])), max_size=6
    ),
    st.lists(st.integers(0, 6), max_size=4),
    st.randoms(),
)
def test_however_often_it_dies_every_call_is_made_once_or_asked_about(calls, deaths, chance):
    """Attempts die after any call, or in it; equal calls come in any order at every attempt."""
    declarations.pin([], {})
    records = Records()
    made: Counter[tuple[str, str, str]] = Counter()
    keys: dict[str, str] = {}
    answers: dict[str, dict] = {}

    def attempt(death, order):
        results = []
        for position, (name, retry) in enumerate(order):

            def make(position=position, name=name, retry=retry):
                from penstock.inside import context  # noqa: PLC0415 - as an agent would

                key = context.idempotency_key()
                made[key, name, retry] += 1
                assert keys.setdefault(key, name + retry) == name + retry
                if position == death:
                    raise Killed
                return f"{name} {key}"

            tool = tool_calls.Tool(name, {"effect": "write", "retry": retry})
            results.append(tool_calls.call(tool, {"retry": retry}, make))
        return sorted(results)

    for death in [*deaths, None] * 8:
        order = list(calls)
        chance.shuffle(order)
        try:
            final = records.run(lambda death=death, order=order: attempt(death, order), answers)
        except Killed:
            continue
        except Waits as asked:
            for wait in asked.waits:
                answers[wait["id"]] = {"result": f"{wait['value']['tool']} said"}
            continue
        break
    else:
        raise AssertionError("it never ended")
    assert records.run(lambda: attempt(None, list(calls)), answers) == final
    for (_, _, retry), times in made.items():
        assert times == 1 or retry != "never"
    assert len(keys) == len(calls)
