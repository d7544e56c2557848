"""What becomes of a model call whose agent hangs up, or whose task is to end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from fake_upstream import Step, Upstream
from test_gateway import MESSAGES, World, fill, served

from penstock.store import endings


@pytest.fixture
async def world(tmp_path: Path) -> World:
    await fill(tmp_path)
    return World(tmp_path)


async def asked(world: World, *, stream: bool) -> asyncio.StreamWriter:
    """A call on a connection of its own."""
    _, _, address = world.base_url.rpartition("/")
    host, _, port = address.partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({"model": "main", "messages": MESSAGES, "stream": stream}).encode()
    writer.write(
        b"POST /gateway/openai/v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    )
    await writer.drain()
    return writer


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("hangs_up", [False, True])
async def test_a_call_of_a_task_that_is_cancelled_is_ended(world, stream, hangs_up):
    async with Upstream(Step(kind="hang")) as upstream:
        world.pin("one", upstream)
        async with served(world):
            writer = await asked(world, stream=stream)
            await until(lambda: upstream.ledger)
            # In a process shared with others the connection stays.
            await world.store.transact(lambda tx: endings.cancel(tx, "task_1"))
            if hangs_up:
                writer.close()
            await until(lambda: upstream.broken)
            while not await world.exchanges():
                await asyncio.sleep(0.01)
            [exchange] = await world.exchanges()
            assert (exchange.outcome, exchange.status) == ("cut", 499)
            # The provider may bill what it was asked; an estimate is on record.
            assert exchange.cost_nanos > 0
            writer.close()


async def test_a_call_whose_notification_was_lost_is_ended_when_its_agent_hangs_up(world):
    async with Upstream(Step(kind="hang")) as upstream:
        world.pin("one", upstream)
        async with served(world):
            writer = await asked(world, stream=False)
            await until(lambda: upstream.ledger)
            world.sql("update tasks set cancel_requested = 1")
            writer.close()
            await until(lambda: upstream.broken)


async def test_the_answer_to_a_crashed_agent_is_worth_having(world):
    """Its task goes on, and finds the answer on record."""
    async with Upstream(Step(delay=0.3)) as upstream:
        world.pin("one", upstream)
        async with served(world), world.sdk() as sdk:
            writer = await asked(world, stream=False)
            await until(lambda: upstream.ledger)
            writer.close()
            while not await world.exchanges():
                await asyncio.sleep(0.01)
            world.restart_attempt()
            answer = await sdk.chat.completions.create(model="main", messages=MESSAGES)
            assert answer.choices[0].message.content == "hello from upstream"
        assert len(upstream.ledger) == 1
        assert upstream.broken == 0
