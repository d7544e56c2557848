"""A PostgreSQL that neither answers nor hangs up."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from cutting_proxy import CuttingProxy
from penstock.domain.access import SYSTEM
from penstock.domain.errors import Unavailable
from penstock.store import Store, audit
from penstock.store.postgres import PostgresDatabase
from penstock.store.silences import Silences
from postgres_database import fresh_database

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(120)]

SILENCE_SECONDS = 1.0
PATIENT_SECONDS = 2.0  # where whoever asks has to be answered, on a busy machine, too


@asynccontextmanager
async def behind_a_network(tmp_path, *, connections=3, silence_seconds=SILENCE_SECONDS):
    """A store whose connections lead through a proxy, the proxy, and the direct way."""
    async with fresh_database() as url:
        parts = urlsplit(url)
        with CuttingProxy(parts.port or 5432) as proxy:
            own = parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}")

            def made(deliver):
                return PostgresDatabase(
                    urlunsplit(own),
                    deliver,
                    connections=connections,
                    silence_seconds=silence_seconds,
                )

            store = Store(home=tmp_path, database=made)
            await store.open()
            direct = await asyncpg.connect(url)
            try:
                yield store, proxy, direct
            finally:
                proxy.heal()
                await store.close()
                await direct.close()


def noting(name):
    async def work(tx):
        await audit.add(tx, SYSTEM, "note", object_kind="thing", object_id=name, detail={})

    return work


async def noted(direct):
    rows = await direct.fetch("select object_id from audit order by seq")
    return [row["object_id"] for row in rows]


async def test_whoever_asks_is_told_and_all_goes_on_when_the_network_heals(tmp_path):
    async with behind_a_network(tmp_path) as (store, proxy, direct):
        await store.transact(noting("before"))
        proxy.swallow()
        asked = [store.transact(noting(f"lost-{n}")) for n in range(6)]
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in told] == [Unavailable] * 6
        with pytest.raises(Unavailable):
            await store.read(audit.listing)
        proxy.heal()
        await store.transact(noting("after"))
        # No transaction was open that ended behind our back: none of it is there by half.
        assert await noted(direct) == ["before", "after"]


async def test_a_commit_whose_answer_is_swallowed_has_an_unknown_fate(tmp_path):
    async with behind_a_network(tmp_path, connections=1) as (store, proxy, direct):

        async def work(tx):
            await noting("once")(tx)
            proxy.swallow()  # the commit is what does not arrive

        with pytest.raises(Unavailable, match="write"):
            await store.transact(work)
        assert await noted(direct) == []
        proxy.heal()
        # The commit was on its way, and the connection it came over serves nobody any more.
        while await noted(direct) != ["once"]:
            await asyncio.sleep(0.02)
        await store.transact(noting("next"))
        assert await noted(direct) == ["once", "next"]


async def test_what_takes_long_on_purpose_is_not_cut(tmp_path, monkeypatch):
    answers: asyncio.Queue[bool] = asyncio.Queue()
    comes = Silences._comes

    async def telling(self, pid):
        answer = await comes(self, pid)
        answers.put_nowait(answer)
        return answer

    monkeypatch.setattr(Silences, "_comes", telling)
    async with behind_a_network(tmp_path, silence_seconds=PATIENT_SECONDS) as (store, _, direct):
        await direct.execute("begin; lock table audit")
        waiting = asyncio.create_task(store.transact(noting("patient")))
        assert [await answers.get() for _ in range(2)] == [True, True]
        await direct.execute("commit")
        await waiting
        assert await noted(direct) == ["patient"]
