"""The gateway end to end: the real SDK, the real ASGI application, a scripted provider."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import uvicorn
from fake_upstream import Step, Upstream

from penstock.api.completions import Completions
from penstock.domain.errors import Stale, Unavailable
from penstock.domain.exchanges import Caller, Exchange
from penstock.domain.releases import FileEntry, Limits, Manifest, ModelPin, Policy, Price
from penstock.drivers.providers.compatible import CompatibleProvider
from penstock.drivers.providers.simulated import Faults, SimulatedProvider
from penstock.gateway.budgets import Spent
from penstock.gateway.calls import Calls
from penstock.store import Store, Transaction, blobs, exchanges

PRICE = Price(input_nanos=1_000, output_nanos=10_000)
CALLER = Caller(
    task_id="task_1",
    session_id="ses_1",
    agent="support",
    environment="production",
    release="rel",
    epoch=1,
    step=0,
)
MESSAGES: Any = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Where is order 1042?"},
]


class FakeCallers:
    """Every connection belongs to ``caller``; so does the token ``t1``."""

    def __init__(self) -> None:
        self.caller: Caller | None = CALLER
        self.stale = False

    async def identify(self, host: str, port: int) -> Caller | None:
        return self.caller

    def by_token(self, token: str) -> Caller | None:
        return self.caller if token == "t1" else None

    async def confirm(self, caller: Caller) -> None:
        if self.stale:
            raise Stale("another attempt may have this task")


def manifest(chain: tuple[ModelPin, ...], cap: int | None) -> Manifest:
    none = FileEntry(path="penstock.lock", digest="0" * 64)
    return Manifest(
        agent="support",
        entrypoint="support:agent",
        python="3.11",
        code=(),
        prompts=(),
        tool_files=(),
        tools=(),
        models={"main": chain, "judge": chain},
        lock=none,
        graph={},
        state_schema="",
        policy=Policy(limits=Limits(cost_nanos=cap)),
        components={},
    )


class World:
    """A store with one task, a gateway on a port, and what tests ask about them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.callers = FakeCallers()
        self.chain: tuple[ModelPin, ...] = ()
        self.cap: int | None = None
        self.caps: dict[str, Any] = {}  # of the installation
        self.providers: dict[str, Any] = {}
        self.base_url = ""
        self.store: Store = Store(home=home)
        self.calls: Calls

    def pin(self, name: str, upstream: Upstream, **settings: Any) -> None:
        """Append a link to the chain."""
        self.providers[name] = CompatibleProvider(base_url=upstream.url, key="sk-test")
        pin = ModelPin(provider=name, model=f"{name}-model", price=PRICE, **settings)
        self.chain = (*self.chain, pin)

    def sdk(self, **settings: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.base_url}/gateway/openai/v1", api_key="penstock", **settings
        )

    async def exchanges(self) -> list[Exchange]:
        async def work(tx: Transaction) -> Any:
            return await exchanges.of_task(tx, task_id="task_1")

        return list(await self.store.read(work))

    async def blob(self, digest: str) -> bytes:
        return await self.store.read(lambda tx: blobs.get(tx, digest))

    def sql(self, statement: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.home / "penstock.sqlite")) as connection:
            rows = connection.execute(statement).fetchall()
            connection.commit()
            return rows

    def restart_attempt(self) -> None:
        """What the queue does when an attempt died: a new claim raises the epoch."""
        assert self.callers.caller is not None
        caller = dataclasses.replace(self.callers.caller, epoch=self.callers.caller.epoch + 1)
        self.callers.caller = caller
        self.sql(f"update tasks set epoch = {caller.epoch}")


async def fill(home: Path) -> None:
    store = Store(home=home)
    await store.open()
    await store.close()
    with contextlib.closing(sqlite3.connect(home / "penstock.sqlite")) as connection:
        connection.executescript("""
            insert into agents values ('support', 1);
            insert into releases values ('rel', 'support', 1, 'c', '{}', '', 'x', 1);
            insert into sessions (id, agent, environment, release, metadata, state, tasks, failures,
              cost_nanos, busy_us, thumb, created_us)
              values ('ses_1', 'support', 'production', 'rel', '{}', 'open', 0, 0, 0, 0, 0, 1);
            insert into tasks (id, session_id, agent, environment, release, state, input, epoch,
              crashes, losses, run_after_us, close_session, cancel_requested, events, steps,
              cost_nanos, created_us)
              values ('task_1', 'ses_1', 'support', 'production', 'rel', 'running', '{}', 1,
                0, 0, 0, 0, 0, 0, 0, 0, 1);
        """)


@contextlib.asynccontextmanager
async def served(
    world: World, wrap: Callable[[Any], Any] = lambda app: app
) -> AsyncIterator[World]:
    async def manifest_of(_digest: str) -> Manifest:
        return manifest(world.chain, world.cap)

    await world.store.open()
    world.calls = Calls(
        world.store, providers=world.providers, manifest_of=manifest_of, caps=world.caps
    )
    app = wrap(Completions(world.calls, world.callers))
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    world.base_url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield world
    finally:
        server.should_exit = True
        await serving
        await world.calls.close()
        await world.store.close()


@pytest.fixture
async def world(tmp_path: Path) -> World:
    await fill(tmp_path)
    return World(tmp_path)


async def text_of(stream: Any) -> str:
    return "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])


# ---------------------------------------------------------------- answers and the record


async def test_an_answer_is_passed_on_and_recorded_content_addressed(world: World) -> None:
    async with Upstream() as upstream:
        world.pin("one", upstream, parameters={"temperature": 0.0, "max_tokens": 50})
        async with served(world), world.sdk() as sdk:
            answer = await sdk.chat.completions.create(
                model="main", messages=MESSAGES, temperature=0.9, max_completion_tokens=7
            )
            assert answer.choices[0].message.content == "hello from upstream"
            [exchange] = await world.exchanges()
            sent = upstream.ledger[0]["body"]
            # The pin's model and parameters win over the agent's.
            assert sent["model"] == "one-model"
            assert sent["temperature"] == 0.0
            assert sent["max_tokens"] == 50
            assert "max_completion_tokens" not in sent
            assert upstream.ledger[0]["headers"]["authorization"] == "Bearer sk-test".lower()
            assert exchange.outcome == "ok"
            assert (exchange.alias, exchange.provider, exchange.model) == (
                "main",
                "one",
                "one-model",
            )
            assert exchange.model_returned == "one-model-returned"
            assert exchange.usage.cached_tokens == 40
            assert exchange.usage.reasoning_tokens == 3
            assert exchange.cost_nanos == 100 * 1_000 + 10 * 10_000
            stored = [json.loads(await world.blob(d)) for d in exchange.request["messages"]]
            assert stored == MESSAGES
            assert exchange.response is not None
            body = json.loads(await world.blob(exchange.response["body"]))
            assert body["choices"][0]["message"]["content"] == "hello from upstream"
    assert world.sql("select cost_nanos from tasks") == [(200_000,)]


async def test_a_history_that_is_sent_again_is_stored_once(world: World) -> None:
    async with Upstream() as upstream:
        world.pin("one", upstream)
        async with served(world), world.sdk() as sdk:
            history = list(MESSAGES)
            for _ in range(3):
                await sdk.chat.completions.create(model="main", messages=history)
                history = [*history, {"role": "user", "content": "And then?"}]
    # Two first messages, one follow-up that is always the same, one answer that is always the same.
    assert world.sql("select count(*) from blobs") == [(4,)]
    assert upstream.connections == 1


async def test_a_json_answer_is_recorded_before_it_is_released(world: World) -> None:
    seen: list[int] = []

    def spying(app: Any) -> Any:
        async def spy(scope: Any, receive: Any, send: Any) -> None:
            async def watched(message: Any) -> None:
                seen.append(world.sql("select count(*) from exchanges")[0][0])
                await send(message)

            await app(scope, receive, watched)

        return spy

    async with Upstream() as upstream:
        world.pin("one", upstream)
        async with served(world, spying), world.sdk() as sdk:
            await sdk.chat.completions.create(model="main", messages=MESSAGES)
    assert seen == [1, 1]


async def test_a_stream_s_end_is_released_only_after_the_commit(world: World) -> None:
    seen: list[tuple[bytes, int]] = []

    def spying(app: Any) -> Any:
        async def spy(scope: Any, receive: Any, send: Any) -> None:
            async def watched(message: Any) -> None:
                count = world.sql("select count(*) from exchanges")[0][0]
                seen.append((message.get("body", b""), count))
                await send(message)

            await app(scope, receive, watched)

        return spy

    async with Upstream(Step(delay=0.01)) as upstream:
        world.pin("one", upstream)
        async with served(world, spying), world.sdk() as sdk:
            stream = await sdk.chat.completions.create(model="main", messages=MESSAGES, stream=True)
            assert await text_of(stream) == "hello from upstream"
            [exchange] = await world.exchanges()
    assert all(count == 0 for body, count in seen if b'"content"' in body)
    ends = [count for body, count in seen if b"[DONE]" in body or b'"finish_reason":"stop"' in body]
    assert ends == [1]
    assert exchange.outcome == "ok"
    assert exchange.streamed
    assert exchange.first_token_us is not None
    assert exchange.usage.input_tokens == 100
    # The agent did not ask for usage: it is recorded and not shown.
    assert not any(b'"usage"' in body for body, _ in seen)


async def test_a_stream_shows_its_usage_to_an_agent_that_asks(world: World) -> None:
    async with Upstream() as upstream:
        world.pin("one", upstream)
        async with served(world), world.sdk() as sdk:
            stream = await sdk.chat.completions.create(
                model="main",
                messages=MESSAGES,
                stream=True,
                stream_options={"include_usage": True},
            )
            usages = [part.usage async for part in stream]
    assert usages[-1] is not None
    assert usages[-1].prompt_tokens == 100


def test_the_synchronous_sdk_works_too(tmp_path: Path) -> None:
    async def main() -> str | None:
        await fill(tmp_path)
        world = World(tmp_path)
        async with Upstream() as upstream:
            world.pin("one", upstream)
            async with served(world):
                return await asyncio.to_thread(ask, world.base_url)

    def ask(url: str) -> str | None:
        with openai.OpenAI(base_url=f"{url}/gateway/openai/v1", api_key="x") as sdk:
            assert [model.id for model in sdk.models.list()] == ["judge", "main"]
            answer = sdk.chat.completions.create(model="main", messages=MESSAGES)
            return answer.choices[0].message.content

    assert asyncio.run(main()) == "hello from upstream"


# ---------------------------------------------------------------- falling back


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 503, 529])
async def test_a_failing_link_is_followed_by_the_next(world: World, status: int) -> None:
    async with Upstream(Step("status", status=status)) as bad, Upstream() as good:
        world.pin("bad", bad)
        world.pin("good", good)
        async with served(world), world.sdk() as sdk:
            answer = await sdk.chat.completions.create(model="main", messages=MESSAGES)
            [exchange] = await world.exchanges()
    assert answer.choices[0].message.content == "hello from upstream"
    assert [(a.provider, a.outcome, a.status) for a in exchange.attempts] == [
        ("bad", "status", status),
        ("good", "ok", 200),
    ]
    assert exchange.provider == "good"


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        (Step("hang"), "timeout"),
        (Step("close"), "connect"),
        (Step("cut"), "cut"),
        (Step("junk"), "invalid"),
    ],
)
async def test_a_silent_or_broken_link_is_followed_by_the_next(
    world: World, step: Step, outcome: str
) -> None:
    async with Upstream(step) as bad, Upstream() as good:
        world.pin("bad", bad, timeout_seconds=0.2)
        world.pin("good", good)
        async with served(world), world.sdk() as sdk:
            await sdk.chat.completions.create(model="main", messages=MESSAGES)
            [exchange] = await world.exchanges()
    assert [a.outcome for a in exchange.attempts] == [outcome, "ok"]


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        (Step("hang"), "timeout"),
        (Step("early_error"), "invalid"),
        (Step("status", status=500), "status"),
    ],
)
async def test_a_stream_falls_back_before_its_first_content(
    world: World, step: Step, outcome: str
) -> None:
    async with Upstream(step) as bad, Upstream() as good:
        world.pin("bad", bad, first_token_seconds=0.2)
        world.pin("good", good)
        async with served(world), world.sdk() as sdk:
            stream = await sdk.chat.completions.create(model="main", messages=MESSAGES, stream=True)
            assert await text_of(stream) == "hello from upstream"
            [exchange] = await world.exchanges()
    assert [a.outcome for a in exchange.attempts] == [outcome, "ok"]


async def test_a_wrong_request_is_not_tried_elsewhere(world: World) -> None:
    async with Upstream(Step("status", status=400)) as bad, Upstream() as good:
        world.pin("bad", bad)
        world.pin("good", good)
        async with served(world), world.sdk() as sdk:
            with pytest.raises(openai.BadRequestError, match="scripted 400"):
                await sdk.chat.completions.create(model="main", messages=MESSAGES)
    assert good.ledger == []


async def test_a_link_without_a_key_is_skipped_and_a_dead_chain_explains_itself(
    world: World,
) -> None:
    async with Upstream(Step("status", status=429, headers={"retry-after": "7"})) as bad:
        world.providers["keyless"] = CompatibleProvider(base_url=bad.url, key=None)
        world.chain = (ModelPin(provider="keyless", model="m"),)
        world.pin("bad", bad)
        async with served(world), world.sdk() as sdk:
            with pytest.raises(openai.RateLimitError) as caught:
                await sdk.chat.completions.create(model="main", messages=MESSAGES)
            [exchange] = await world.exchanges()
    assert "no key is configured" in caught.value.message
    assert "scripted 429" in caught.value.message
    assert caught.value.response.headers["retry-after"] == "7"
    assert [a.outcome for a in exchange.attempts] == ["skipped", "status"]
    # The SDK was told not to try again by itself.
    assert len(bad.ledger) == 1
    assert exchange.outcome == "error"


# ---------------------------------------------------------------- streams that break


@pytest.mark.parametrize("kind", ["cut", "no_done"])
async def test_a_cut_stream_is_never_passed_off_as_complete(world: World, kind: str) -> None:
    async with Upstream(Step(kind)) as bad, Upstream() as good:
        world.pin("bad", bad)
        world.pin("good", good)
        async with served(world), world.sdk() as sdk:
            stream = await sdk.chat.completions.create(model="main", messages=MESSAGES, stream=True)
            with pytest.raises(openai.APIError, match="cut off"):
                await text_of(stream)
            [exchange] = await world.exchanges()
    assert exchange.outcome == "cut"
    assert exchange.usage.input_tokens > 0
    assert exchange.cost_nanos > 0
    assert exchange.response is not None
    assert exchange.response["estimated"] is True
    assert good.ledger == []


async def test_a_stalled_stream_is_cut(world: World) -> None:
    async with Upstream(Step(delay=1.0)) as slow:
        world.pin("slow", slow, first_token_seconds=1.3, timeout_seconds=1.6)
        async with served(world), world.sdk() as sdk:
            stream = await sdk.chat.completions.create(model="main", messages=MESSAGES, stream=True)
            with pytest.raises(openai.APIError, match=r"not complete after 1\.6 s"):
                await text_of(stream)
            [exchange] = await world.exchanges()
    assert exchange.outcome == "cut"


async def test_an_agent_that_hangs_up_stops_the_provider_and_is_recorded(world: World) -> None:
    async with Upstream(Step(delay=0.05, text="one two three " * 50)) as upstream:
        world.pin("one", upstream)
        async with served(world), world.sdk() as sdk:
            stream = await sdk.chat.completions.create(model="main", messages=MESSAGES, stream=True)
            async for part in stream:
                if part.choices[0].delta.content:
                    break
            await stream.close()
            for _ in range(100):
                if upstream.broken and await world.exchanges():
                    break
                await asyncio.sleep(0.02)
            [exchange] = await world.exchanges()
            assert world.calls._tasks._states["task_1"].calls == 0
            assert exchange.response is not None
            came = await world.blob(exchange.response["body"])
    assert upstream.broken == 1
    assert exchange.outcome == "cut"
    assert "closed the connection" in exchange.response["error"]
    assert b"one" in came
    assert world.sql("select cost_nanos > 0 from tasks") == [(1,)]


# ---------------------------------------------------------------- restarts


async def test_a_restarted_attempt_is_answered_from_the_record(world: World) -> None:
    async with Upstream(Step(text="first"), Step(text="second"), Step(text="third")) as upstream:
        world.pin("one", upstream)
        async with served(world), world.sdk() as sdk:

            async def ask(**more: Any) -> str | None:
                answer = await sdk.chat.completions.create(model="main", messages=MESSAGES, **more)
                return (
                    await text_of(answer)
                    if more.get("stream")
                    else answer.choices[0].message.content
                )

            assert [await ask(), await ask(stream=True)] == ["first", "second"]
            cost = world.sql("select cost_nanos from tasks")
            world.restart_attempt()
            # In the form asked, each record once, then on to the provider.
            assert [await ask(stream=True), await ask()] == ["first", "second"]
            assert len(upstream.ledger) == 2
            assert world.sql("select cost_nanos from tasks") == cost
            assert await ask() == "third"
            world.restart_attempt()
            assert [await ask(), await ask(), await ask()] == ["first", "second", "third"]
            assert len(upstream.ledger) == 3
            # A step further is another call.
            assert world.callers.caller is not None
            world.callers.caller = dataclasses.replace(world.callers.caller, step=1)
            assert await ask() == "hello from upstream"
            recorded = await world.exchanges()
    replays = [e for e in recorded if e.replayed_from is not None]
    assert [e.cost_nanos for e in replays] == [0] * 5
    assert replays[0].replayed_from == recorded[0].id
    assert len(upstream.ledger) == 4


async def test_equal_calls_at_once_do_not_share_a_record(world: World) -> None:
    async with Upstream(*(Step(text=f"answer {i}") for i in range(6))) as upstream:
        world.pin("one", upstream)
        async with served(world), world.sdk() as sdk:

            async def ask(_: int) -> str | None:
                answer = await sdk.chat.completions.create(model="main", messages=MESSAGES)
                return answer.choices[0].message.content

            first = await asyncio.gather(*map(ask, range(4)))
            world.restart_attempt()
            again = await asyncio.gather(*map(ask, range(5)))
    assert sorted(map(str, first)) == [f"answer {i}" for i in range(4)]
    assert sorted(map(str, again)) == [f"answer {i}" for i in range(5)]
    assert len(upstream.ledger) == 5


async def test_failures_and_cut_streams_are_not_repeated(world: World) -> None:
    async with Upstream(Step("status", status=500), Step("cut"), Step(text="well")) as upstream:
        world.pin("one", upstream)
        async with served(world), world.sdk() as sdk:
            with pytest.raises(openai.InternalServerError):
                await sdk.chat.completions.create(model="main", messages=MESSAGES)
            stream = await sdk.chat.completions.create(model="main", messages=MESSAGES, stream=True)
            with pytest.raises(openai.APIError):
                await text_of(stream)
            world.restart_attempt()
            answer = await sdk.chat.completions.create(model="main", messages=MESSAGES)
    assert answer.choices[0].message.content == "well"


async def test_an_answer_that_comes_after_a_newer_claim_belongs_to_nobody(world: World) -> None:
    async with Upstream(Step(delay=0.4, text="late"), Step(text="fresh")) as upstream:
        world.pin("one", upstream)
        async with served(world), world.sdk() as sdk:
            old = asyncio.create_task(sdk.chat.completions.create(model="main", messages=MESSAGES))
            while not upstream.ledger:
                await asyncio.sleep(0.01)
            world.restart_attempt()
            new = await sdk.chat.completions.create(model="main", messages=MESSAGES)
            with pytest.raises(openai.ConflictError, match="newer attempt"):
                await old
            outcomes = [(e.caller.epoch, e.outcome) for e in await world.exchanges()]
    assert new.choices[0].message.content == "fresh"
    assert outcomes == [(1, "cut"), (2, "ok")]
    assert world.sql("select cost_nanos from tasks") == [(400_000,)]


# ---------------------------------------------------------------- money


async def test_the_cap_is_enforced_before_the_call(world: World) -> None:
    world.cap = 500_000
    async with Upstream() as upstream:
        world.pin("one", upstream, parameters={"max_tokens": 10})
        async with served(world), world.sdk() as sdk:
            # Each call costs 200,000 and may cost about 150,000 by its estimate.
            for _ in range(2):
                await sdk.chat.completions.create(model="main", messages=MESSAGES)
            with pytest.raises(openai.APIStatusError) as caught:
                await sdk.chat.completions.create(model="main", messages=MESSAGES)
            recorded = await world.exchanges()
    assert caught.value.status_code == 402
    assert caught.value.code == "budget_exceeded"
    assert len(upstream.ledger) == 2
    assert [e.outcome for e in recorded] == ["ok", "ok", "refused"]
    assert world.sql("select limit_hit from tasks") == [("cost",)]


async def test_calls_in_flight_count_against_the_cap(world: World) -> None:
    world.cap = 500_000
    async with Upstream(*(Step(delay=0.2) for _ in range(10))) as upstream:
        world.pin("one", upstream, parameters={"max_tokens": 10})
        async with served(world), world.sdk() as sdk:
            calls = [
                sdk.chat.completions.create(model="main", messages=MESSAGES) for _ in range(10)
            ]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert world.calls._tasks._states["task_1"].budget.reserved == Spent()
    refused = [a for a in answers if isinstance(a, openai.APIStatusError)]
    assert 1 <= len(upstream.ledger) <= 3
    assert len(refused) == 10 - len(upstream.ledger)


async def test_the_token_limit_is_enforced_before_the_call(world: World) -> None:
    async with Upstream() as upstream:
        world.pin("one", upstream, parameters={"max_tokens": 10})
        world.caps = {"tokens": 250}  # lower than the release's, which has none
        async with served(world), world.sdk() as sdk:
            # Each call uses 110 tokens and may use fewer by its estimate.
            for _ in range(2):
                await sdk.chat.completions.create(model="main", messages=MESSAGES)
            with pytest.raises(openai.APIStatusError, match="cap of 250 tokens") as caught:
                await sdk.chat.completions.create(model="main", messages=MESSAGES)
    assert (caught.value.status_code, caught.value.code) == (402, "token_limit_exceeded")
    assert len(upstream.ledger) == 2
    assert world.sql("select limit_hit, tokens from tasks") == [("tokens", 220)]


async def test_an_answer_from_the_record_uses_no_tokens_again(world: World) -> None:
    async with Upstream() as upstream:
        world.pin("one", upstream)
        async with served(world), world.sdk() as sdk:
            await sdk.chat.completions.create(model="main", messages=MESSAGES)
            world.restart_attempt()
            await sdk.chat.completions.create(model="main", messages=MESSAGES)
    assert len(upstream.ledger) == 1
    assert world.sql("select tokens from tasks") == [(110,)]


async def test_an_unknown_price_under_a_cap_is_refused(world: World) -> None:
    world.cap = 500_000
    async with Upstream() as upstream:
        world.providers["mystery"] = CompatibleProvider(base_url=upstream.url, key="k")
        world.chain = (ModelPin(provider="mystery", model="unheard-of"),)
        async with served(world), world.sdk() as sdk:
            with pytest.raises(openai.APIStatusError, match="nobody knows what mystery/unheard-of"):
                await sdk.chat.completions.create(model="main", messages=MESSAGES)
    assert upstream.ledger == []


# ---------------------------------------------------------------- who may call, and for what


async def test_a_model_that_is_not_pinned_is_refused_with_those_that_are(world: World) -> None:
    async with Upstream() as upstream:
        world.pin("one", upstream)
        async with served(world), world.sdk() as sdk:
            with pytest.raises(openai.NotFoundError, match="It knows: judge, main"):
                await sdk.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            [exchange] = await world.exchanges()
    assert exchange.outcome == "refused"
    assert upstream.ledger == []


async def test_a_stranger_is_refused(world: World) -> None:
    async with served(world), world.sdk() as sdk:
        world.callers.caller = None
        with pytest.raises(openai.AuthenticationError, match="belongs to no running task attempt"):
            await sdk.chat.completions.create(model="main", messages=MESSAGES)


async def test_an_attempt_may_be_named_by_its_token(world: World) -> None:
    async with Upstream() as upstream:
        world.pin("one", upstream)
        async with served(world), world.sdk() as sdk:
            await sdk.chat.completions.create(
                model="main", messages=MESSAGES, extra_headers={"x-penstock-attempt": "t1"}
            )
            with pytest.raises(openai.AuthenticationError):
                await sdk.chat.completions.create(
                    model="main", messages=MESSAGES, extra_headers={"x-penstock-attempt": "t2"}
                )


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"{", b'{"model": "main"}', b'{"model": 3, "messages": []}']
)
async def test_a_body_that_is_no_request_is_refused_with_a_sentence(
    world: World, body: bytes
) -> None:
    async with served(world), httpx2.AsyncClient() as http:
        answer = await http.post(
            f"{world.base_url}/gateway/openai/v1/chat/completions", content=body
        )
        assert answer.status_code == 400
        assert "not a Chat Completions request" in answer.json()["error"]["message"]


# ---------------------------------------------------------------- the client of the providers


async def test_a_kept_connection_that_was_closed_is_replaced_and_the_record_says_so(
    world: World,
) -> None:
    async with Upstream(Step(), Step("close"), Step()) as upstream:
        world.pin("one", upstream)
        async with served(world), world.sdk() as sdk:
            await sdk.chat.completions.create(model="main", messages=MESSAGES)
            await sdk.chat.completions.create(model="main", messages=MESSAGES)
            recorded = await world.exchanges()
    assert recorded[1].attempts[0].detail == "sent again: a kept connection had been closed"


async def test_finished_tasks_are_forgotten(world: World) -> None:
    async with Upstream() as upstream:
        world.pin("one", upstream)
        async with served(world), world.sdk() as sdk:
            world.calls._tasks._keep = 5
            for number in range(100, 120):
                world.sql(
                    "insert into tasks (id, session_id, agent, environment, release, state, input,"
                    " epoch, crashes, losses, run_after_us, close_session, cancel_requested, events,"
                    f" steps, cost_nanos, created_us) values ('task_{number}', 'ses_1', 'support',"
                    " 'production', 'rel', 'completed', '{}', 1, 0, 0, 0, 0, 0, 0, 0, 0, 1)"
                )
                world.callers.caller = dataclasses.replace(CALLER, task_id=f"task_{number}")
                await sdk.chat.completions.create(model="main", messages=MESSAGES)
            assert len(world.calls._tasks) == 5


# ---------------------------------------------------------------- the simulated provider


@pytest.mark.parametrize("stream", [False, True])
async def test_the_simulated_provider_serves_tools_through_the_gateway(
    world: World,
    stream: bool,  # noqa: FBT001 - pytest fills it in by name
) -> None:
    world.providers["simulated"] = SimulatedProvider()
    world.chain = (ModelPin(provider="simulated", model="small"),)
    world.cap = 10**9
    tool: Any = {
        "type": "function",
        "function": {
            "name": "lookup_order",
            "parameters": {
                "type": "object",
                "properties": {"order_id": {"type": "string"}},
                "required": ["order_id"],
            },
        },
    }
    async with served(world), world.sdk() as sdk:
        answer = await sdk.chat.completions.create(
            model="main", messages=MESSAGES, tools=[tool], tool_choice="required", stream=stream
        )
        if stream:
            parts = [part async for part in answer]
            [asked] = [
                p.choices[0].delta.tool_calls for p in parts if p.choices[0].delta.tool_calls
            ]
        else:
            asked = answer.choices[0].message.tool_calls
        [exchange] = await world.exchanges()
    assert asked[0].function.name == "lookup_order"
    assert exchange.fingerprint == "simulated-1"
    assert exchange.cost_nanos > 0


async def test_faults_of_the_simulated_provider_are_routed_around(world: World) -> None:
    world.providers["bad"] = SimulatedProvider(faults=Faults(overloaded=1.0))
    world.providers["good"] = SimulatedProvider()
    world.chain = (ModelPin(provider="bad", model="m"), ModelPin(provider="good", model="m"))
    async with served(world), world.sdk() as sdk:
        await sdk.chat.completions.create(model="main", messages=MESSAGES)
        [exchange] = await world.exchanges()
    assert [(a.provider, a.status) for a in exchange.attempts] == [("bad", 529), ("good", 200)]


# ---------------------------------------------------------------- a store that is away


class Absent:
    """A store whose writes fail for a while: before they are made, or after."""

    def __init__(self, store: Store, *, failures: int, landed: bool) -> None:
        self._store, self.failures, self._landed = store, failures, landed

    async def read(self, work: Any) -> Any:
        return await self._store.read(work)

    async def transact(self, work: Any) -> Any:
        if self.failures:
            self.failures -= 1
            if self._landed:
                await self._store.transact(work)
            raise Unavailable("the database is away")
        return await self._store.transact(work)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("landed", [True, False])
async def test_an_answer_waits_for_a_store_that_is_away_and_is_charged_once(
    world: World, *, streamed: bool, landed: bool
) -> None:
    async with Upstream() as upstream:
        world.pin("one", upstream)
        absent = world.store = Absent(world.store, failures=2, landed=landed)  # type: ignore[assignment]
        async with served(world), world.sdk(max_retries=0) as sdk:
            answer = await sdk.chat.completions.create(
                model="main", messages=MESSAGES, stream=streamed
            )
            if streamed:
                text = await text_of(answer)
            else:
                text = answer.choices[0].message.content
            assert text == "hello from upstream"
            assert absent.failures == 0
            [exchange] = await world.exchanges()
            assert exchange.outcome == "ok"
            [[cost]] = world.sql("select cost_nanos from tasks")
            assert cost == exchange.cost_nanos > 0
            assert len(upstream.ledger) == 1


async def test_a_call_whose_task_may_be_another_s_reaches_no_provider(world: World) -> None:
    async with Upstream() as upstream:
        world.pin("one", upstream)
        world.callers.stale = True
        async with served(world), world.sdk(max_retries=0) as sdk:
            with pytest.raises(openai.ConflictError, match="may have this task"):
                await sdk.chat.completions.create(model="main", messages=MESSAGES)
        assert upstream.ledger == []
