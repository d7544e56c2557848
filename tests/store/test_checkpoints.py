"""Checkpoints are kept as differences, sealed, and never without what they stand on."""

from __future__ import annotations

import os

os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"  # as in an agent's process, before the import

import asyncio
import dataclasses
from functools import partial
from itertools import count

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from penstock.domain.errors import Conflict, Damaged
from penstock.inside.attempts import Stopped
from penstock.inside.channel import Refused
from penstock.inside.frameworks.langgraph_tables import UnlistedType
from penstock.rules.checkpoints import Sealer, key_of, snapshot
from penstock.store import checkpoints, endings, tasks
from penstock.store.migrate import migrations
from rollout_world import release
from saver_attempt import claim_again, claimed, finish, saver_of, session

LONG = "a message that is long enough to be kept once for its session " * 8
_steps = count()


@dataclasses.dataclass
class Order:
    number: int


@pytest.fixture
async def digest(store):
    found = (await release(store, "one")).digest
    await session(store, found)
    return found


@pytest.fixture
async def saver(store, digest):
    return saver_of(store, await claimed(store, digest))


def thread(checkpoint_id=None, *, name="ses_1", namespace=""):
    known = {"thread_id": name, "checkpoint_ns": namespace}
    return {"configurable": known | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}


async def put(saver, parent, values, *, versions=None):
    step = next(_steps)
    versions = versions or dict.fromkeys(values, step)
    checkpoint = {
        **empty_checkpoint(), "id": str(uuid6(clock_seq=step)), "channel_values": values,
        "channel_versions": versions, "versions_seen": {"node": versions},
    }  # fmt: skip
    return await saver.aput(parent, checkpoint, {"source": "loop", "step": step}, versions)


async def chat(saver, length, *, start=None, name="m"):
    """A conversation of messages, each committed; the config of every step."""
    configs, messages = [start or thread()], []
    for number in range(length):
        messages = [*messages, f"{name}{number} {LONG}"]
        configs.append(await put(saver, configs[-1], {"messages": messages, "n": number}))
    return configs[1:]


async def values(saver, config):
    found = await saver.aget_tuple(config)
    return found and found.checkpoint["channel_values"]


async def rows(store, query, **parameters):
    return await store.read(lambda tx: tx.fetch_all(query, session_id="ses_1", **parameters))


async def stored_bytes(store):
    found = await rows(store, "checkpoints.of_session")
    kept = await rows(store, "checkpoints.keys")
    contents = await rows(
        store, "checkpoints.contents", keys=b"".join(bytes(row["key"]) for row in kept)
    )
    return sum(len(row["data"]) + len(row["metadata"]) for row in found) + sum(
        len(row["data"]) for row in contents
    )


class TestForm:
    async def test_a_long_conversation_reads_back_at_each_of_its_steps(self, store, saver):
        configs = await chat(saver, 70)
        for number, config in enumerate(configs):
            messages = [f"m{n} {LONG}" for n in range(number + 1)]
            assert await values(saver, config) == {"messages": messages, "n": number}
        found = await rows(store, "checkpoints.of_session")
        assert max(row["depth"] for row in found) == 31
        assert sum(row["depth"] == 0 for row in found) == 3  # 1, 33, 65
        assert len(await rows(store, "checkpoints.keys")) == 70

    async def test_twice_as_long_a_conversation_takes_twice_the_bytes(self, store, saver):
        configs = await chat(saver, 64)
        once = await stored_bytes(store)
        await chat(saver, 64, start=configs[-1], name="n")
        # The second half forgets the first, but stands on it: the same number of the same size.
        assert await stored_bytes(store) == pytest.approx(2 * once, rel=0.05)

    async def test_a_restarted_process_goes_on_with_differences(self, store, digest, saver):
        configs = await chat(saver, 5)
        again = saver_of(store, await self._stolen(store))
        messages = (await values(again, thread()))["messages"]
        await put(again, configs[-1], {"messages": [*messages, LONG], "n": 5})
        latest = (await rows(store, "checkpoints.of_session"))[-1]
        assert latest["depth"] == 5
        assert (await values(again, thread()))["messages"] == [*messages, LONG]

    @staticmethod
    async def _stolen(store):
        await store.transact(
            partial(
                endings.requeue, task_id="task_1", epoch=1, crashes=0, losses=1, delay_seconds=0,
                why={},
            )
        )  # fmt: skip
        return await claim_again(store, "w2")

    async def test_items_that_change_move_or_go_are_kept_so(self, saver):
        config = thread()
        told = [
            [LONG, "b", "c" * 300], [LONG, "B", "c" * 300], ["c" * 300], [],
            [None, b"bytes", b"x" * 300, [LONG], {"k": LONG}], [LONG, LONG, LONG], "no list", [1],
        ]  # fmt: skip
        configs = []
        for items in told:
            config = await put(saver, config, {"items": items})
            configs.append(config)
        assert [(await values(saver, one))["items"] for one in configs] == told

    async def test_what_no_step_has_written_is_not_packed_again(self, store, saver):
        config = await put(saver, thread(), {"big": LONG, "n": 0}, versions={"big": 1, "n": 1})
        checkpoint = {
            **empty_checkpoint(), "id": str(uuid6(clock_seq=next(_steps))),
            "channel_values": {"n": 1}, "channel_versions": {"big": 1, "n": 2},
        }  # fmt: skip
        config = await saver.aput(config, checkpoint, {"source": "loop"}, {"n": 2})
        assert await values(saver, config) == {"big": LONG, "n": 1}

    async def test_branches_of_one_parent_do_not_see_each_other(self, saver):
        configs = await chat(saver, 3)
        left = await put(saver, configs[1], {"messages": ["left"], "n": 9})
        right = await put(saver, configs[1], {"messages": ["right"], "n": 8})
        assert (await values(saver, left))["messages"] == ["left"]
        assert (await values(saver, right))["messages"] == ["right"]
        assert (await values(saver, configs[2]))["n"] == 2
        assert (await saver.aget_tuple(left)).parent_config == configs[1]

    async def test_other_threads_of_an_agent_stay_inside_the_session(self, store, saver):
        await chat(saver, 2)
        other = thread(name="mine")
        config = await put(saver, other, {"messages": ["mine"]})
        assert config["configurable"]["thread_id"] == "mine"
        assert (await values(saver, other))["messages"] == ["mine"]
        assert (await values(saver, thread()))["n"] == 1
        await saver.adelete_thread("mine")
        assert await values(saver, other) is None
        assert (await values(saver, thread()))["n"] == 1

    async def test_a_checkpoint_that_is_put_again_is_one(self, store, saver):
        """Also when others stand on it by then; but it can never become another one."""
        await chat(saver, 2)
        first, second = await rows(store, "checkpoints.of_session")

        async def again(row, **other):
            base = first["seal"] if row["depth"] else None
            put = {**dict(row), "base": base, **other}
            del put["created_us"]
            await store.transact(lambda tx: tx.execute("checkpoints.put", **put))

        for row in (first, second):
            await again(row)
        with pytest.raises(Conflict):
            await again(first, data=second["data"], seal=second["seal"])
        assert await rows(store, "checkpoints.of_session") == [first, second]


class TestWrites:
    async def test_what_one_node_wrote_goes_with_its_checkpoint(self, saver):
        config = await put(saver, thread(), {"messages": []})
        calls = saver._attempt.calls
        calls.clear()
        _, after = await asyncio.gather(
            saver.aput_writes(config, [("messages", [LONG])], "node"),
            put(saver, config, {"messages": [LONG]}),
        )
        assert [call["op"] for call in calls] == ["checkpoint.put"]
        assert calls[0]["contents"] == 1  # the write's message is the checkpoint's
        assert (await saver.aget_tuple(config)).pending_writes == [("node", "messages", [LONG])]
        assert (await saver.aget_tuple(after)).pending_writes == []

    async def test_what_waits_in_vain_is_on_record_when_it_is_told_so(self, saver):
        config = await put(saver, thread(), {"n": 1})
        saver._attempt.calls.clear()
        await saver.aput_writes(config, [("n", 2)], "node")
        await asyncio.to_thread(saver.put_writes, config, [("n", 3)], "other")
        assert [call["op"] for call in saver._attempt.calls] == ["checkpoint.writes"] * 2
        written = (await saver.aget_tuple(config)).pending_writes
        assert sorted(written) == [("node", "n", 2), ("other", "n", 3)]

    async def test_writes_that_no_checkpoint_may_follow_go_at_once(self, saver):
        config = await put(saver, thread(), {"n": 1})
        await saver.aput_writes(config, [("__interrupt__", "?")], "node")
        await saver.aput_writes(config, [("__interrupt__", "!")], "node")
        assert (await saver.aget_tuple(config)).pending_writes == [("node", "__interrupt__", "!")]

    async def test_who_waits_hears_that_the_checkpoint_was_refused(self, store, saver):
        config = await put(saver, thread(), {"n": 1})
        await TestForm._stolen(store)
        results = await asyncio.gather(
            saver.aput_writes(config, [("n", 2)], "node"),
            put(saver, config, {"n": 2}),
            return_exceptions=True,
        )
        assert [type(one) for one in results] == [Stopped, Stopped]


class TestTypes:
    async def test_a_type_that_the_state_does_not_name_is_refused_by_its_name(self, saver):
        name = f"{Order.__module__}.Order"
        with pytest.raises(UnlistedType, match=f"channel 'order' holds a {name}"):
            await put(saver, thread(), {"order": Order(1)})
        with pytest.raises(UnlistedType, match=f"'orders' holds a {name}"):
            await put(saver, thread(), {"orders": [{"deep": [Order(1)]}]})
        with pytest.raises(UnlistedType, match=f"wrote to 'order' holds a {name}"):
            await saver.aput_writes(thread("1"), [("order", Order(1))], "node")
        assert await values(saver, thread()) is None

    async def test_a_type_that_the_state_names_comes_back(self, store, digest):
        claim = await claimed(store, digest)
        saver = saver_of(store, claim, {(Order.__module__, "Order")})
        given = {"order": Order(1), "orders": [Order(2), {"deep": Order(3)}]}
        await put(saver, thread(), given)
        assert await values(saver, thread()) == given

    async def test_nothing_is_pickled(self, saver):
        with pytest.raises(TypeError):
            await put(saver, thread(), {"what": object()})
        with pytest.raises(NotImplementedError):
            saver.serde.loads_typed(("pickle", b"cos\nsystem\n"))


EDITS = {
    "its table": "update checkpoints set data = metadata where @ and depth = 2",
    "its metadata": "update checkpoints set metadata = data where @ and depth = 2",
    "its parent": "update checkpoints set parent_id = 'x' where @ and depth = 2",
    "its epoch": "update checkpoints set epoch = 7 where @ and depth = 2",
    "its release": "update checkpoints set release = 'x' where @ and depth = 2",
    "its task": "update checkpoints set task_id = 'task_9' where @ and depth = 2",
    "its form": "update checkpoints set format = 0, encoding = 'msgpack' where @ and depth = 2",
    "what it stands on": "update checkpoints set data = metadata where @ and depth = 0",
    "its seal": "update checkpoints set seal = null where @ and depth = 2",
    "something below is gone": "delete from checkpoints where @ and depth = 1",
    "a content": "update checkpoint_contents set data = key where @",
    "a content is gone": "delete from checkpoint_contents where @",
    "a node's write": "update checkpoint_writes set channel = 'x' where @",
    "the seal of a write": "update checkpoint_writes set seal = null where @",
}


class TestSeal:
    async def test_an_edited_database_is_refused(self, database, store, digest, saver):
        """Whatever is edited, and in whatever way the session is read then."""
        for number, (what, edit) in enumerate(EDITS.items(), 10):
            name = f"ses_{number}"
            await session(store, digest, name)
            victim = saver_of(store, await claimed(store, digest, number, name=name))
            configs = await chat(victim, 3, start=thread(name=name))
            await victim.aput_writes(configs[-1], [("n", 1)], "node")
            await values(victim, thread(name=name))
            await database.execute(edit.replace("@", f"session_id = '{name}'"))
            with pytest.raises(Refused, match=f"session {name}"):
                pytest.fail(f"{what}: {await victim.aget_tuple(configs[-1])}")
            with pytest.raises(Refused, match=f"session {name}"):
                pytest.fail(f"{what}: {[one async for one in victim.alist(thread(name=name))]}")

    async def test_a_row_does_not_count_in_another_session(self, database, store, saver):
        configs = await chat(saver, 1)
        await database.execute("update checkpoints set session_id = 'ses_2'")
        await database.execute("update checkpoint_contents set session_id = 'ses_2'")
        with pytest.raises(Damaged, match="is not as it was written"):
            await store.read(
                partial(
                    checkpoints.get, sealer=store.sealer, session_id="ses_2", namespace="",
                    checkpoint_id=configs[0]["configurable"]["checkpoint_id"],
                )
            )  # fmt: skip

    async def test_another_installation_believes_nothing(self, store, saver):
        await chat(saver, 1)
        with pytest.raises(Damaged):
            await store.read(
                partial(
                    checkpoints.get,
                    sealer=Sealer(b"another"),
                    session_id="ses_1",
                    namespace="",
                    checkpoint_id=None,
                )
            )

    async def test_a_content_that_is_not_what_its_key_says_is_not_kept(self, store, saver):
        fields = {"namespace": "", "checkpoint_id": "1", "contents": 1, "writes": []}
        with pytest.raises(Refused, match="not what its key says"):
            await saver._attempt.acall("checkpoint.writes", [key_of(b"one"), b"two"], **fields)
        assert await rows(store, "checkpoints.keys") == []


class TestFence:
    async def test_a_difference_is_never_without_its_base(self, store, saver):
        """Neither without its parent, nor on one that has gone or changed since it was read."""
        blobs = [snapshot({}), b"", key_of(b"one"), b"one"]
        fields = {
            "namespace": "", "checkpoint_id": "2", "parent_id": "1", "depth": 1, "leans": True,
            "contents": 1, "writes": [],
        }  # fmt: skip
        with pytest.raises(Refused, match="stands on 1, which is not there"):
            await saver._attempt.acall("checkpoint.put", blobs, **fields)
        with pytest.raises(Refused, match="stands on 1, which is not there"):
            await saver._attempt.acall("checkpoint.put", blobs, **fields | {"depth": 0})
        saver._attempt.journal._bases["", "1"] = (0, b"a seal that no row has")
        with pytest.raises(Refused, match="checkpoint 2 cannot be kept"):
            await saver._attempt.acall("checkpoint.put", blobs, **fields)
        assert await rows(store, "checkpoints.keys") == []
        assert await rows(store, "checkpoints.of_session") == []
        assert (await store.read(lambda tx: tasks.get(tx, "task_1"))).steps == 0

    async def test_two_attempts_cannot_interleave(self, store, saver):
        configs = await chat(saver, 2)
        again = saver_of(store, await TestForm._stolen(store))
        await values(again, thread())
        mine = await put(again, configs[-1], {"messages": ["mine"], "n": 7})
        with pytest.raises(Stopped):
            await put(saver, configs[-1], {"messages": ["late"], "n": 8})
        with pytest.raises(Stopped):
            await saver.aput_writes(configs[-1], [("n", 8)], "node")
        assert await values(again, thread()) == {"messages": ["mine"], "n": 7}
        assert (await again.aget_tuple(mine)).parent_config == configs[-1]


class TestHistories:
    async def test_the_latest_task_can_be_taken_back(self, store, digest, saver):
        configs = await chat(saver, 40)
        before = await stored_bytes(store)
        await finish(store, claim_of(saver))
        second = saver_of(store, await claimed(store, digest, 2))
        await values(second, thread())
        messages = (await values(second, thread()))["messages"]
        last = await put(second, configs[-1], {"messages": [*messages, "2" + LONG], "n": 2})
        await second.aput_writes(configs[-1], [("n", 5)], "node")
        await second.aput_writes(last, [("n", 6)], "node")
        taken = partial(
            checkpoints.forget_task, sealer=store.sealer, session_id="ses_1", task_id="task_2"
        )
        assert await store.transact(taken) == 1
        assert await stored_bytes(store) == before
        latest = await second.aget_tuple(thread())
        assert (latest.config, latest.pending_writes) == (configs[-1], [])
        assert await store.transact(taken) == 0

    async def test_a_task_that_another_went_on_from_stays(self, store, digest, saver):
        configs = await chat(saver, 2)
        await finish(store, claim_of(saver))
        second = saver_of(store, await claimed(store, digest, 2))
        await put(second, configs[-1], {"messages": ["2"], "n": 2})
        before = [dict(row) for row in await rows(store, "checkpoints.of_session")]
        with pytest.raises(Conflict, match="task_2 went on from what task task_1"):
            await store.transact(
                partial(
                    checkpoints.forget_task, sealer=store.sealer, session_id="ses_1",
                    task_id="task_1",
                )
            )  # fmt: skip
        assert [dict(row) for row in await rows(store, "checkpoints.of_session")] == before

    async def test_what_stood_on_a_removed_checkpoint_stands_alone(self, store, saver):
        configs = await chat(saver, 6)
        gone = [
            ("", config["configurable"]["checkpoint_id"]) for config in (configs[0], configs[3])
        ]
        await store.transact(
            partial(checkpoints.forget, sealer=store.sealer, session_id="ses_1", gone=gone)
        )
        left = [config for number, config in enumerate(configs) if number not in (0, 3)]
        assert [(await values(saver, one))["n"] for one in left] == [1, 2, 4, 5]
        found = await rows(store, "checkpoints.of_session")
        assert sorted(row["depth"] for row in found) == [0, 0, 1, 1]

    async def test_a_fork_has_everything_and_its_own_future(self, store, digest, saver):
        configs = await chat(saver, 4)
        await saver.aput_writes(configs[1], [("n", 5)], "node")
        until = configs[1]["configurable"]["checkpoint_id"]
        await session(store, digest, "ses_2")
        copied = partial(
            checkpoints.copy, sealer=store.sealer, session_id="ses_1", to_session_id="ses_2"
        )
        assert await store.transact(partial(copied, until=until, pending=False)) == 2
        await finish(store, claim_of(saver))
        fork = saver_of(store, await claimed(store, digest, 2, name="ses_2"))
        latest = await fork.aget_tuple(thread(name="ses_2"))
        assert latest.checkpoint["channel_values"]["n"] == 1
        assert latest.pending_writes == []
        await put(fork, latest.config, {"messages": ["fork"], "n": 99})
        await store.transact(lambda tx: checkpoints.delete_session(tx, "ses_1"))
        assert (await values(fork, thread(name="ses_2")))["messages"] == ["fork"]
        assert (await values(fork, latest.config))["messages"] == [f"m{n} {LONG}" for n in (0, 1)]

    async def test_a_fork_may_go_on_with_what_is_pending(self, store, digest, saver):
        configs = await chat(saver, 1)
        await saver.aput_writes(configs[0], [("messages", [LONG + "?"])], "node")
        await session(store, digest, "ses_2")
        await store.transact(
            partial(
                checkpoints.copy, sealer=store.sealer, session_id="ses_1", to_session_id="ses_2"
            )
        )
        await finish(store, claim_of(saver))
        fork = saver_of(store, await claimed(store, digest, 2, name="ses_2"))
        found = await fork.aget_tuple(thread(name="ses_2"))
        assert found.pending_writes == [("node", "messages", [LONG + "?"])]

    async def test_a_deleted_session_leaves_nothing(self, database, store, saver):
        configs = await chat(saver, 3)
        await saver.aput_writes(configs[0], [("n", 5)], "node")
        await store.transact(lambda tx: checkpoints.delete_session(tx, "ses_1"))
        for query in ("of_session", "writes_of_session", "keys"):
            assert await rows(store, f"checkpoints.{query}") == []


def claim_of(saver):
    """The claim a saver works under."""

    class Claimed:
        task = saver._attempt.journal._task
        epoch = saver._attempt.journal.epoch

    return Claimed


class TestUpgrade:
    async def test_checkpoints_of_older_releases_stay(self, database):
        """Rows that were kept whole and unsealed are sealed once, read, and built upon."""
        await _as_it_was(database)
        store = await database.open()
        digest = (await release(store, "one")).digest
        await session(store, digest)
        claim = await claimed(store, digest, 2)
        saver = saver_of(store, claim)
        with pytest.raises(Refused):
            await saver.aget_tuple(thread())
        while await store.transact(partial(checkpoints.adopt, sealer=store.sealer)):
            pass
        found = await saver.aget_tuple(thread())
        assert found.checkpoint["channel_values"] == {"messages": ["old"]}
        assert found.metadata == {"source": "loop", "step": 1, "penstock_task": "task_1"}
        assert found.pending_writes == [("node", "messages", ["more"])]
        assert [one.checkpoint["id"] async for one in saver.alist(thread())] == ["1"]
        await put(saver, found.config, {"messages": ["old", "new"]})
        assert (await values(saver, thread()))["messages"] == ["old", "new"]
        assert (await values(saver, thread("1")))["messages"] == ["old"]


async def _as_it_was(database):
    """The tables before there were differences, with a checkpoint and a write in them."""
    pack = JsonPlusSerializer().dumps_typed
    checkpoint = {**empty_checkpoint(), "id": "1", "channel_values": {"messages": ["old"]}}
    (_, data), (_, metadata), (_, value) = (
        pack(one) for one in (checkpoint, {"source": "loop", "step": 1}, ["more"])
    )
    literal = "x'{}'" if database.url is None else "'\\x{}'"
    blobs = [literal.format(one.hex()) for one in (data, metadata, value)]
    statements = [
        "create table migrations (version bigint primary key, name text not null)",
    ]
    dialect = "sqlite" if database.url is None else "postgres"
    known = migrations(dialect)
    (cut,) = [version for version, name, _ in known if name == "checkpoints"]
    for version, name, sql in known:
        if version < cut:
            statements += [sql, f"insert into migrations values ({version}, '{name}')"]
    checkpoint = f"'ses_1', '', '1', null, 'task_1', 1, 'msgpack', {blobs[0]}, {blobs[1]}, 1"
    write = f"'ses_1', '', '1', 'node', 0, 'messages', '', 'msgpack', {blobs[2]}, 'task_1', 1"
    statements += [
        f"insert into checkpoints values ({checkpoint})",
        f"insert into checkpoint_writes values ({write})",
    ]
    database.home.mkdir(parents=True, exist_ok=True)
    for sql in statements:
        await database.execute(sql)


async def test_a_claim_says_whether_its_session_has_a_checkpoint_yet(store, digest):
    first = await claimed(store, digest)
    assert first.blank
    mine = saver_of(store, first)
    assert await mine.aget_tuple(thread()) is None
    config = await put(mine, thread(), {"n": 1})
    assert await values(mine, config) == {"n": 1}  # what it wrote itself is there
    await finish(store, first)
    second = await claimed(store, digest, 2)
    assert not second.blank
    assert await values(saver_of(store, second), thread()) == {"n": 1}
