"""What an agent does to the world is done once, whatever happens to the attempt that does it."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import threading
from dataclasses import dataclass

import pytest
from pydantic import BaseModel, ConfigDict, Field

import penstock
from penstock.inside import context, declarations, encodings, host
from penstock.inside.attempts import Waits
from penstock.inside.tool_calls import ToolFailed
from supervising import Records


class Killed(BaseException):
    """The process ended here."""


@pytest.fixture
def records():
    return Records()


@pytest.fixture(autouse=True)
def undeclared():
    declarations.pin([], {})
    yield
    declarations.pin([], {})


class World:
    """Something outside that remembers what was done to it."""

    def __init__(self):
        self.done = []
        self.fails = []

    def do(self, *what):
        self.done.append(what)
        if self.fails:
            raise self.fails.pop()
        return f"did {what[0]}"


@pytest.fixture
def world():
    return World()


class Result(BaseModel):
    model_config = ConfigDict(extra="allow")

    meta: dict | None = Field(alias="_meta", default=None)
    content: list[str]


def tool_of(world, retry, effect="write"):
    @penstock.tool(effect=effect, retry=retry)
    def pay(what):
        return world.do(what, penstock.idempotency_key())

    return pay


RETRIES = ("safe", "keyed", "never")


@penstock.tool(retry="safe")
def of_a_module(number: int, *, unit: str = "m") -> str:
    """Says a length."""
    return f"{number} {unit}"


@penstock.tool(retry="keyed")
def with_key(number: int, idempotency_key: str | None = None) -> str:
    """Takes the key."""
    return f"{number} under {idempotency_key}"


class TestOutside:
    def test_a_tool_is_the_function_it_was(self):
        assert of_a_module(3) == "3 m"
        assert (of_a_module.__name__, of_a_module.__doc__) == ("of_a_module", "Says a length.")
        assert (
            str(inspect.signature(of_a_module)) == "(number: 'int', *, unit: 'str' = 'm') -> 'str'"
        )
        assert pickle.loads(pickle.dumps(of_a_module)) is of_a_module
        assert penstock.idempotency_key() is None

    def test_an_async_tool_stays_async(self):
        @penstock.tool()
        async def double(value):
            return value * 2

        assert inspect.iscoroutinefunction(double)
        assert asyncio.run(double(2)) == 4

    def test_the_key_is_hidden_from_a_schema_and_may_be_given(self):
        assert list(inspect.signature(with_key).parameters) == ["number"]
        assert with_key(1) == "1 under None"
        assert with_key(1, idempotency_key="mine") == "1 under mine"

    def test_a_generator_is_marked_and_left_alone(self):
        def count():
            yield 1

        assert penstock.tool(retry="safe")(count) is count

    def test_a_method_can_be_a_tool(self, records):
        class Service:
            @penstock.tool(retry="safe")
            def look(self, number):
                return number + 1

        assert Service().look(1) == 2
        assert records.run(lambda: Service().look(1)) == 2


class TestRestarts:
    @pytest.mark.parametrize("retry", RETRIES)
    def test_what_has_returned_is_not_made_again(self, records, world, retry):
        pay = tool_of(world, retry)
        assert [records.run(lambda: pay("rent")) for _ in range(3)] == ["did rent"] * 3
        assert len(world.done) == 1

    @pytest.mark.parametrize("retry", ["safe", "keyed"])
    def test_what_may_be_repeated_is_made_again_under_the_same_key(self, records, world, retry):
        pay = tool_of(world, retry)
        world.fails = [Killed()]
        with pytest.raises(Killed):
            records.run(lambda: pay("rent"))
        assert records.run(lambda: pay("rent")) == "did rent"
        (_, first), (_, second) = world.done
        assert first == second
        assert first.startswith("task_1-")

    def test_what_must_not_be_repeated_waits_for_a_person(self, records, world):
        pay = tool_of(world, "never")
        world.fails = [Killed()]
        with pytest.raises(Killed):
            records.run(lambda: pay("rent"))
        with pytest.raises(Waits) as asked:
            records.run(lambda: pay("rent"))
        assert len(world.done) == 1
        (wait,) = asked.value.waits
        assert wait["kind"] == "tool"
        value = wait["value"]
        assert (value["tool"], value["arguments"], value["epoch"]) == ("pay", {"what": "rent"}, 1)
        assert value["state"] == "begun"

    @pytest.mark.parametrize(
        ("answer", "times"),
        [({"result": "paid"}, 1), ({"fail": "no money"}, 1), ({"retry": True}, 2)],
    )
    def test_a_persons_answer_stands(self, records, world, answer, times):
        pay = tool_of(world, "never")
        world.fails = [Killed()]
        with pytest.raises(Killed):
            records.run(lambda: pay("rent"))
        with pytest.raises(Waits) as asked:
            records.run(lambda: pay("rent"))
        answers = {asked.value.waits[0]["id"]: answer}

        def outcome(given):
            try:
                return records.run(lambda: pay("rent"), given)
            except ToolFailed as error:
                return str(error)

        # The attempt that was told may die as well: the next one knows without being told again.
        said = [outcome(answers), outcome({})]
        expected = {"result": "paid", "retry": "did rent", "fail": "pay: no money"}[
            next(iter(answer))
        ]
        assert said == [expected] * 2
        assert len(world.done) == times

    def test_a_retried_call_that_is_interrupted_again_is_a_new_question(self, records, world):
        pay = tool_of(world, "never")
        ids = []
        answers = {}
        for _ in range(2):
            world.fails = [Killed()]
            with pytest.raises(Killed):
                records.run(lambda: pay("rent"), answers)
            with pytest.raises(Waits) as asked:
                records.run(lambda: pay("rent"), answers)
            ids.append(asked.value.waits[0]["id"])
            answers = {**answers, ids[-1]: {"retry": True}}
        assert len(set(ids)) == 2
        assert records.run(lambda: pay("rent"), answers) == "did rent"
        assert len(world.done) == 3

    def test_an_answer_that_says_nothing_asks_again(self, records, world):
        pay = tool_of(world, "never")
        world.fails = [Killed()]
        with pytest.raises(Killed):
            records.run(lambda: pay("rent"))
        with pytest.raises(Waits) as asked:
            records.run(lambda: pay("rent"))
        with pytest.raises(Waits):
            records.run(lambda: pay("rent"), {asked.value.waits[0]["id"]: "yes"})
        assert len(world.done) == 1

    @pytest.mark.parametrize("retry", RETRIES)
    def test_an_error_is_no_result(self, records, world, retry):
        """It is raised as it is; after a restart the call is made again, if it may be."""
        pay = tool_of(world, retry)
        world.fails = [ConnectionError("down")]
        with pytest.raises(ConnectionError):
            records.run(lambda: pay("rent"))
        if retry == "never":
            with pytest.raises(Waits) as asked:
                records.run(lambda: pay("rent"))
            assert asked.value.waits[0]["value"]["error"] == {
                "type": "ConnectionError", "message": "down",
            }  # fmt: skip
            assert len(world.done) == 1
        else:
            assert records.run(lambda: pay("rent")) == "did rent"

    def test_a_tool_that_stops_to_ask_a_person_has_done_nothing(self, records, world):
        from langgraph.errors import GraphInterrupt  # noqa: PLC0415 - not every test needs it

        pay = tool_of(world, "never")
        world.fails = [GraphInterrupt(())]
        with pytest.raises(GraphInterrupt):
            records.run(lambda: pay("rent"))
        assert records.run(lambda: pay("rent")) == "did rent"

    def test_async_calls_are_journaled_as_well(self, records, world):
        @penstock.tool(retry="keyed")
        async def pay(what):
            await asyncio.sleep(0)
            return world.do(what)

        async def both():
            return await asyncio.gather(pay("rent"), pay("power"))

        for _ in range(2):
            assert records.run(lambda: asyncio.run(both())) == ["did rent", "did power"]
        assert len(world.done) == 2

    def test_a_sync_function_that_hands_out_an_awaitable_is_journaled_when_awaited(
        self, records, world
    ):
        async def later(what):
            return world.do(what)

        pay = penstock.tool(retry="safe")(lambda what: later(what))  # noqa: PLW0108
        for _ in range(2):

            async def work():
                result = pay("rent")
                return await result if inspect.isawaitable(result) else result

            assert records.run(lambda: asyncio.run(work())) == "did rent"
        assert len(world.done) == 1


class TestKeys:
    def test_equal_requests_are_counted(self, records, world):
        pay = tool_of(world, "never")
        records.run(lambda: [pay("rent"), pay("rent"), pay("power")])
        assert len({key for _, key in world.done}) == 3
        records.run(lambda: [pay("power"), pay("rent"), pay("rent")])
        assert len(world.done) == 3

    def test_arguments_are_the_same_however_they_are_passed(self, records, world):
        @penstock.tool()
        def pay(what, amount=1):
            return world.do(what, amount)

        records.run(lambda: pay("rent", 1))
        records.run(lambda: pay(amount=1, what="rent"))
        assert len(world.done) == 1

    def test_parallel_calls_are_known_by_their_request(self, records, world):
        pay = tool_of(world, "never")

        def work(names):
            def inside(name):
                return contextvars_run(lambda: pay(name))

            threads = [threading.Thread(target=inside(name)) for name in names]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        def contextvars_run(call):
            import contextvars  # noqa: PLC0415 - of this test alone

            copied = contextvars.copy_context()
            return lambda: copied.run(call)

        records.run(lambda: work(["a", "b", "c"]))
        records.run(lambda: work(["c", "a", "b"]))
        assert sorted(what for what, _ in world.done) == ["a", "b", "c"]

    def test_a_call_in_a_step_belongs_to_the_step(self, records, world):
        """Steps that run side by side do not shift each other's calls."""
        pay = tool_of(world, "never")

        def first(steps):
            for name in steps:
                penstock.step(name, pay, "rent")

        records.run(lambda: first(["a", "b"]))
        records.steps = [step for step in records.steps if step["key"] != "a#1"]
        records.run(lambda: first(["b", "a"]))  # b is committed, a has called and is not
        assert len(world.done) == 2

    def test_the_key_reaches_a_parameter_of_that_name(self, records):
        said = records.run(lambda: with_key(1))
        assert said.startswith("1 under task_1-")
        assert records.run(lambda: with_key(1)) == said

    def test_a_tool_inside_a_tool_has_its_own_record(self, records, world):
        inner = tool_of(world, "never")

        @penstock.tool(retry="safe", effect="read")
        def outer():
            inner("rent")
            raise Killed

        for _ in range(2):
            with pytest.raises(Killed):
                records.run(outer)
        assert len(world.done) == 1
        assert records.states() == [("pay", "done")]

    def test_a_tool_that_calls_itself_is_one_call(self, records):
        @penstock.tool(retry="safe")
        def down(number):
            return number if number == 0 else down(number - 1)

        assert records.run(lambda: down(5)) == 0
        assert len(records.calls) == 1


class TestDeclarations:
    def test_an_undeclared_tool_is_taken_for_the_worst(self):
        assert declarations.of("x") == {"effect": "write", "retry": "never"}

    def test_a_project_may_say_otherwise(self):
        declarations.pin([], {"retry": "safe"})
        assert declarations.of("x") == {"effect": "write", "retry": "safe"}

    def test_of_two_tools_of_one_name_the_stricter_counts(self):
        declarations.pin(
            [
                {"name": "x", "effect": "read", "retry": "keyed"},
                {"name": "x", "effect": "write", "retry": "safe"},
            ],
            {},
        )
        assert declarations.of("x") == {"effect": "write", "retry": "keyed"}

    def test_a_mark_counts_before_the_release(self):
        declarations.pin([{"name": "pay", "effect": "read", "retry": "safe"}], {})
        assert declarations.of("pay", tool_of(None, "never"))["retry"] == "never"


class TestCost:
    def test_reading_is_written_down_once(self, records, world):
        read = tool_of(world, "safe", "read")
        records.run(lambda: read("x"))
        assert records.commits == 1
        write = tool_of(world, "safe", "write")
        records.run(lambda: write("y"))
        assert records.commits == 3


@dataclass
class Point:
    x: int


class TestResults:
    @pytest.mark.parametrize(
        "value", [None, True, 3, 2.5, "ü", b"\x00", [1, {"a": None}], {"a": {"b": []}}]
    )
    def test_plain_values_come_back_as_they_were(self, value):
        packed = encodings.pack(value)
        again = encodings.unpack(*packed)
        assert again == value
        assert type(again) is type(value)

    def test_what_json_would_change_is_not_kept_as_json(self):
        packed = encodings.pack((1, 2))
        assert packed is None or encodings.unpack(*packed) == (1, 2)

    def test_a_model_comes_back_whose_fields_have_other_names_outside(self):
        """As the results of MCP have, in the first version of its client."""
        value = Result.model_validate({"_meta": {"took": 3}, "content": ["x"], "more": 1})
        packed = encodings.pack(value)
        assert packed is not None
        assert encodings.unpack(*packed) == value

    def test_messages_and_commands_of_langgraph_come_back(self):
        from langchain_core.messages import ToolMessage  # noqa: PLC0415 - not every test needs it
        from langgraph.types import Command  # noqa: PLC0415 - as above

        message = ToolMessage("sunny", tool_call_id="1", name="weather", artifact={"deg": 20})
        for value in (message, Command(update={"messages": [message]}, goto="next")):
            packed = encodings.pack(value)
            assert packed is not None
            assert encodings.unpack(*packed) == value

    def test_what_has_no_form_is_named_and_called_once_per_attempt(self, records, capsys):
        made = []

        @penstock.tool(retry="safe")
        def connect():
            made.append(1)
            return object()

        for _ in range(2):
            records.run(connect)
        assert len(made) == 2
        assert records.states() == [("connect", "done")]
        assert capsys.readouterr().err.count("connect returns (builtins.object)") == 1

    def test_what_must_not_be_repeated_and_has_no_form_waits_for_a_person(self, records):
        connect = penstock.tool(retry="never")(lambda: object())  # noqa: PLW0108
        records.run(connect)
        with pytest.raises(Waits) as asked:
            records.run(connect)
        assert asked.value.waits[0]["value"]["state"] == "done"


def test_scopes_are_left_again(records):
    def work():
        seen = [context.scope()]
        penstock.step("a", lambda: seen.append(context.scope()))
        seen.append(context.scope())
        return seen

    assert records.run(work) == ["", "a#1", ""]


def test_a_question_that_a_group_of_tasks_has_wrapped_is_still_a_question(records, world):
    """Anyio and asyncio.TaskGroup wrap what ends them; the MCP client opens such groups."""
    pay = tool_of(world, "never")
    world.fails = [Killed()]
    with pytest.raises(Killed):
        records.run(lambda: pay("rent"))
    attempt = records.attempt()

    async def one():
        context.enter(attempt, alone=False)
        pay("rent")

    async def grouped():
        async with asyncio.TaskGroup() as group:
            group.create_task(one())

    with pytest.raises(BaseExceptionGroup) as wrapped:
        asyncio.run(grouped())
    host.report(attempt, wrapped.value, "/nowhere")
    (finish,) = attempt._channel.sent
    assert finish["ok"]
    assert [wait["kind"] for wait in finish["waits"]] == ["tool"]
