"""The zygote and its attempts, driven by a small supervisor: what an agent may do to a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from zygote_harness import SOURCE, Records, ZygoteProcess, is_alive

from waiting import wait_until

MB = 1 << 20


@pytest.fixture
def start(tmp_path):
    """Starts zygotes of the code given; stops them at the end."""
    running = []

    def go(code, name="agent", *, prompts=None, env=None):
        (tmp_path / "mine.py").write_text(textwrap.dedent(code))
        zygote = ZygoteProcess(tmp_path, f"mine:{name}", prompts=prompts, env=env)
        running.append(zygote)
        return zygote

    yield go
    for zygote in running:
        zygote.close()


class TestPlainAgents:
    def test_a_function_gets_the_input_and_its_output_is_captured(self, start):
        zygote = start(
            """
            import logging, os, sys
            log = logging.StreamHandler()
            def agent(question):
                print("to stdout")
                sys.stderr.write("to stderr\\n")
                log.emit(logging.LogRecord("n", 20, "p", 1, "logged", (), None))
                os.write(1, b"to fd 1\\n")
                os.system("echo from a child")
                assert sys.stdin.read() == ""
                return {"answer": question, "odd": {1, 2}.__class__, "inf": float("inf")}
            """
        )
        assert zygote.first["mode"] == "fork"
        assert zygote.first["threads"] == 1
        result = zygote.run("why?")
        assert result.finish["output"] == {"answer": "why?", "odd": "<class 'set'>", "inf": None}
        assert result.stdout.splitlines() == ["to stdout", "to fd 1", "from a child"]
        assert result.stderr.splitlines() == ["to stderr", "logged"]
        assert result.exited["status"] == 0
        assert result.exited["cpu_us"] > 0

    def test_members_of_the_input_are_spread_over_parameters(self, start):
        zygote = start("def agent(a, b=2, *, c=3): return [a, b, c]")
        assert zygote.run({"a": 1, "c": 5}).finish["output"] == [1, 2, 5]

    STREAMS = """
        import asyncio
        from penstock import step
        async def plus(n):
            await asyncio.sleep(0)
            return n + 1
        async def agent(n):
            global leaked
            leaked = asyncio.create_task(asyncio.sleep(3600))
            return await step("plus", plus, n)
        def stream(n):
            yield "a"
            yield "b"
            return {"n": n} if n else None
        async def astream(n):
            for item in ("x", "y"):
                yield item
        def slipped(n):
            return agent(n)
        """

    @pytest.mark.parametrize("name", ["agent", "slipped"])
    def test_async_functions_are_awaited(self, start, name):
        records = Records()
        assert start(self.STREAMS, name).run(1, records=records).finish["output"] == 2
        assert records.steps == [{"key": "plus#1", "output": 2}]

    @pytest.mark.parametrize(
        ("name", "given", "items", "output"),
        [
            ("stream", 1, ["a", "b"], {"n": 1}),
            ("stream", 0, ["a", "b"], ["a", "b"]),
            ("astream", 1, ["x", "y"], ["x", "y"]),
        ],
    )
    def test_generators_stream(self, start, name, given, items, output):
        result = start(self.STREAMS, name).run(given)
        assert [frame["data"] for frame in result.of("delta")] == items
        assert result.finish["output"] == output

    def test_forks_are_strangers_to_each_other(self, start):
        zygote = start(
            """
            import os, random, uuid
            seen = []
            def agent(_):
                seen.append(1)
                return [len(seen), random.random(), os.getpid() == os.getpgrp(), os.environ["HOME"]]
            """
        )
        one, two = (zygote.run().finish["output"] for _ in range(2))
        assert one[0] == two[0] == 1
        assert one[1] != two[1]
        assert one[2] is two[2] is True

    def test_prompts_of_the_release_are_read_once(self, start, tmp_path):
        (tmp_path / "s.prompt").write_text("---\nversion: 1\n---\nBe {{ how }}.")
        zygote = start(
            """
            from penstock import prompt
            AT_IMPORT = prompt("system", how="kind")
            def agent(_):
                return [AT_IMPORT, prompt("system", how="brief")]
            """,
            prompts={"system": "s.prompt"},
        )
        (tmp_path / "s.prompt").unlink()
        assert zygote.run().finish["output"] == ["Be kind.", "Be brief."]

    def test_what_an_agent_starts_has_only_the_standard_streams(self, start):
        zygote = start("import os\ndef agent(_): os.system('echo /proc/self/fd/*')")
        assert zygote.run().stdout.replace("/proc/self/fd/", "").split() in (
            ["0", "1", "2"],
            ["0", "1", "2", "3"],  # the directory itself
        )

    def test_no_descriptor_but_its_own_reaches_an_attempt(self, start):
        zygote = start(
            """
            import os
            def agent(_):
                return sorted(os.readlink(f"/proc/self/fd/{fd}").split(":")[0]
                    for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}") or int(fd) < 20
                    if os.path.islink(f"/proc/self/fd/{fd}"))
            """
        )
        other = zygote.fork()
        found = zygote.run().finish["output"]
        assert found == ["/dev/null", "pipe", "pipe", "socket"]
        other.order()
        other.result(other.serve())


class TestErrors:
    def test_an_exception_names_the_authors_line_and_hides_ours(self, start, tmp_path):
        zygote = start(
            """
            import json
            def deep(x):
                return json.loads(x)
            def agent(x):
                return deep(x)
            """
        )
        error = zygote.run("{").finish["error"]
        assert error["kind"] == "error"
        assert error["type"] == "JSONDecodeError"
        assert error["where"] == "mine.py:4"
        assert 'File "mine.py", line 6, in agent' in error["traceback"]
        assert "penstock/inside" not in error["traceback"]
        assert str(tmp_path) not in error["traceback"]

    def test_sys_exit_is_reported_as_such(self, start):
        result = start("import sys\ndef agent(x): sys.exit('enough')").run()
        assert result.finish["error"]["kind"] == "exit"
        assert "enough" in result.finish["error"]["message"]
        assert result.exited["status"] == 0

    def test_an_output_that_is_too_large_is_an_error_of_the_agent(self, start):
        result = start("def agent(x): return 'x' * (65 * 1024 * 1024)").run()
        assert "cannot be sent" in result.finish["error"]["message"]

    @pytest.mark.parametrize(
        ("code", "where", "words"),
        [
            ("\n\nimport not_there\n", "mine.py:3", "No module named 'not_there'"),
            ("def agent(x)\n    return 1\n", "mine.py:1", "expected ':'"),
            ("x = 1\nimport json\njson.loads('{')\n", "mine.py:3", "Expecting"),
            ("import sys\nsys.exit(9)\n", "mine.py:2", "sys.exit(9)"),
            ("def other(x): ...\n", None, "has no 'agent'; it has: other"),
            ("agent = 3\n", None, "is a int"),
            ("def agent(): ...\n", None, "takes no argument"),
        ],
    )
    def test_an_agent_that_cannot_be_imported(self, start, code, where, words):
        zygote = start(code)
        assert zygote.first["t"] == "failed"
        error = zygote.first["error"]
        assert error["where"] == where
        assert words in error["message"]
        assert "penstock/inside" not in error["traceback"]
        if where:
            name, line = where.split(":")
            assert f'File "{name}", line {line}' in error["traceback"]
        assert zygote.process.wait(10) == 3


class TestBadManners:
    def test_exit_behind_our_back_and_crashes_are_seen_from_outside(self, start):
        zygote = start(
            """
            import ctypes, os
            def agent(how):
                if how == "exit":
                    os._exit(7)
                ctypes.string_at(0)
            """
        )
        result = zygote.run("exit")
        assert result.finish is None
        assert result.exited["status"] == 7
        result = zygote.run("crash")
        assert result.exited["status"] == -signal.SIGSEGV
        assert "mine.py" in result.stderr  # where it was

    def test_leaked_threads_and_processes_do_not_outlive_the_attempt(self, start):
        zygote = start(
            """
            import subprocess, threading, time, atexit
            atexit.register(lambda: print("atexit of the parent"))
            def agent(_):
                threading.Thread(target=time.sleep, args=(3600,)).start()
                print("last words", end="")
                return subprocess.Popen(["sleep", "3600"]).pid
            """
        )
        started = time.monotonic()
        result = zygote.run()
        assert time.monotonic() - started < 5
        assert result.stdout == "last words"
        wait_until(lambda: not is_alive(result.finish["output"]))

    def test_an_attempt_that_never_returns_is_killed_by_its_group(self, start):
        zygote = start(
            """
            import signal, time
            def agent(_):
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
                while True:
                    try:
                        time.sleep(60)
                    except BaseException:
                        pass
            """
        )
        child = zygote.fork()
        child.order()
        time.sleep(0.2)
        os.killpg(child.pid, signal.SIGKILL)
        result = child.result(child.serve())
        assert result.finish is None
        assert result.exited["status"] == -signal.SIGKILL

    def test_a_closed_channel_ends_the_attempt(self, start):
        zygote = start("import time\ndef agent(_): time.sleep(3600)")
        child = zygote.fork()
        child.order()
        time.sleep(0.1)
        child.link.socket.close()
        assert zygote.exited(child.number)["status"] == 76

    def test_a_cancel_ends_the_attempt(self, start):
        zygote = start("import time\ndef agent(_): time.sleep(3600)")
        child = zygote.fork()
        child.order()
        child.link.send({"t": "cancel", "a": 1})
        assert child.result(child.serve()).exited["status"] == 75

    def test_a_memory_hog_fails_alone_and_says_why(self, start):
        zygote = start(
            """
            def agent(size):
                held = []
                while len(held) < size:
                    held.append(bytearray(1024 * 1024))
                return len(held)
            """
        )
        other = zygote.fork(limits={"memory_bytes": 256 * MB})
        hog = zygote.run(4096, limits={"memory_bytes": 200 * MB})
        assert hog.finish["error"]["type"] == "MemoryError"
        assert hog.finish["error"]["where"] == "mine.py:5"
        assert 150 * 1024 < hog.exited["maxrss_kb"] < 280 * 1024
        other.order(100)
        assert other.result(other.serve()).finish["output"] == 100

    def test_shared_mappings_count_too(self, start):
        zygote = start(
            """
            import mmap
            def agent(_):
                return len([mmap.mmap(-1, 512 * 1024 * 1024) for _ in range(8)])
            """
        )
        assert not zygote.run(limits={"memory_bytes": 200 * MB}).finish["ok"]

    def test_a_cpu_limit_kills_a_burner(self, start):
        zygote = start("def agent(_):\n    while True: pass")
        result = zygote.run(limits={"cpu_seconds": 1})
        assert result.finish is None
        assert result.exited["status"] in (-signal.SIGXCPU, -signal.SIGKILL)

    def test_open_files_are_limited(self, start):
        zygote = start("def agent(_): return len([open('/dev/null') for _ in range(100)])")
        assert zygote.run(limits={"open_files": 50}).finish["error"]["type"] == "OSError"


class TestImports:
    def test_a_thread_or_socket_left_by_an_import_rules_out_forking(self, start):
        thread = start(
            """
            import threading, time
            threading.Thread(target=time.sleep, args=(3600,), daemon=True, name="reporter").start()
            def agent(x): return x
            """
        )
        assert thread.first["mode"] == "spare"
        assert "reporter" in thread.first["why"]
        socket = start("import socket\ns = socket.socket()\ndef agent(x): return x")
        assert socket.first["mode"] == "spare"
        assert "1 sockets" in socket.first["why"]

    def test_a_spare_runs_one_attempt_itself(self, start):
        zygote = start(
            """
            import threading, time
            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
            def agent(x):
                print("here")
                return x
            """
        )
        child = zygote.fork()
        assert child.pid == zygote.process.pid
        child.order("only")
        result = child.result(child.serve())
        assert result.finish["output"] == "only"
        assert result.stdout == "here\n"
        assert result.exited is None
        assert zygote.process.wait(10) == 0

    def test_warming_imports_what_the_first_attempt_did(self, start):
        zygote = start(
            """
            def agent(_):
                import colorsys, sys
                return "colorsys" in sys.modules
            """
        )
        names = zygote.run().of("modules")[0]["names"]
        assert "colorsys" in names
        zygote.link.send({"t": "warm", "modules": [*names, "no_such_module"]})
        warmed = zygote.await_frame("warmed")
        assert warmed["imported"] == len(names)
        assert warmed["threads"] == 1
        assert zygote.run().of("modules") == []


class TestLifeAndDeath:
    def test_the_zygote_and_its_attempts_die_with_the_supervisor(self, tmp_path):
        (tmp_path / "mine.py").write_text("import time\ndef agent(_): time.sleep(3600)\n")
        code = f"""
import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}, {SOURCE!r}]
from zygote_harness import ZygoteProcess
z = ZygoteProcess({str(tmp_path)!r}, "mine:agent")
c = z.fork(); c.order()
print(z.process.pid, c.pid, flush=True)
import time; time.sleep(3600)
"""
        supervisor = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        )
        pids = [int(word) for word in supervisor.stdout.readline().split()]
        assert all(map(is_alive, pids))
        supervisor.kill()
        supervisor.wait()
        supervisor.stdout.close()
        wait_until(lambda: not any(map(is_alive, pids)), 3)

    def test_attempts_die_with_their_zygote(self, start):
        zygote = start("import time\ndef agent(_): time.sleep(3600)")
        child = zygote.fork()
        child.order()
        zygote.process.kill()
        zygote.process.wait()
        wait_until(lambda: not is_alive(child.pid), 3)
        child.result([])

    def test_stop_kills_every_attempt(self, start):
        zygote = start("import time\ndef agent(_): time.sleep(3600)")
        children = [zygote.fork() for _ in range(3)]
        for child in children:
            child.order()
        zygote.link.send({"t": "stop"})
        assert zygote.process.wait(10) == 0
        wait_until(lambda: not any(is_alive(child.pid) for child in children), 3)
        for child in children:
            child.result([])


class TestSteps:
    CODE = """
        from penstock import step
        def work(n):
            print("working", n)
            return n
        def agent(n):
            return [step("work", work, i) for i in range(n)]
        """

    def test_a_resumed_task_does_not_repeat_a_step(self, start):
        zygote = start(self.CODE)
        records = Records()
        assert zygote.run(2, records=records).stdout == "working 0\nworking 1\n"
        again = zygote.run(3, records=records, resume=True, steps=list(records.steps))
        assert again.finish["output"] == [0, 1, 2]
        assert again.stdout == "working 2\n"

    def test_a_stale_owner_stops_at_once(self, start):
        zygote = start(self.CODE)
        result = zygote.run(5, records=Records(stale_at=2))
        assert result.finish is None
        assert result.exited["status"] == 75
        assert result.stdout == "working 0\nworking 1\nworking 2\n"


GRAPH = """
    import operator, os, sys
    from typing import Annotated, TypedDict
    from langgraph.graph import END, START, StateGraph
    from langgraph.config import get_stream_writer

    class State(TypedDict):
        trail: Annotated[list, operator.add]

    def one(state):
        print("in one")
        get_stream_writer()({"progress": 1})
        return {"trail": ["one"]}

    def two(state):
        print("in two")
        if os.path.exists("crash"):
            os.unlink("crash")
            os._exit(9)
        return {"trail": ["two"]}

    async def atwo(state):
        return two(state)

    def build(second):
        graph = StateGraph(State)
        graph.add_node("one", one)
        graph.add_node("two", second)
        graph.add_edge(START, "one")
        graph.add_edge("one", "two")
        graph.add_edge("two", END)
        return graph

    graph = build(two).compile()
    uncompiled = build(two)
    agraph = build(atwo).compile()
    def factory():
        return build(two)
    def configured(config):
        return build(two).compile()
    """


class TestLangGraph:
    @pytest.mark.parametrize("name", ["graph", "uncompiled", "factory", "configured", "agraph"])
    def test_a_graph_runs_and_each_step_is_committed_with_its_update(self, start, name):
        zygote = start(GRAPH, name)
        assert zygote.first["mode"] == "fork", zygote.first
        records = Records()
        result = zygote.run({"trail": ["in"]}, records=records)
        assert result.finish.get("output") == {"trail": ["in", "one", "two"]}, result
        assert result.stdout == "in one\nin two\n"
        order = [
            next(iter(frame["data"])) if frame["t"] == "event" else frame.get("op")
            for frame in result.frames
            if frame["t"] == "event" or frame.get("op") == "checkpoint.put"
        ]
        assert order == ["checkpoint.put"] * 2 + ["one", "checkpoint.put", "two", "checkpoint.put"]
        assert ("custom", {"progress": 1}) in [(f["mode"], f["data"]) for f in result.of("delta")]

    @pytest.mark.parametrize("name", ["graph", "agraph"])
    def test_a_killed_graph_goes_on_at_its_next_step(self, start, tmp_path, name):
        zygote = start(GRAPH, name)
        (tmp_path / "crash").touch()
        records = Records()
        first = zygote.run({"trail": ["in"]}, records=records)
        assert first.exited["status"] == 9
        assert first.stdout.startswith("in one\n")
        again = zygote.run({"trail": ["in"]}, records=records, resume=True)
        assert again.finish["output"] == {"trail": ["in", "one", "two"]}
        assert again.stdout == "in two\n"

    def test_a_finished_task_that_is_resumed_runs_nothing(self, start):
        zygote = start(GRAPH, "graph")
        records = Records()
        done = zygote.run({"trail": ["in"]}, records=records)
        again = zygote.run({"trail": ["in"]}, records=records, resume=True)
        assert again.finish["output"] == done.finish["output"]
        assert again.stdout == ""

    @pytest.mark.parametrize("name", ["graph", "agraph"])
    def test_a_node_that_wrote_but_was_not_committed_is_not_the_end(self, start, name):
        zygote = start(GRAPH, name)
        records = Records(stale_at=2)  # killed between what "one" wrote and its checkpoint
        assert zygote.run({"trail": ["in"]}, records=records).finish is None
        assert any(records.writes.values())
        records.stale_at = None
        again = zygote.run({"trail": ["in"]}, records=records, resume=True)
        assert again.finish["output"] == {"trail": ["in", "one", "two"]}

    def test_the_next_task_of_a_session_builds_on_the_last(self, start):
        zygote = start(GRAPH, "graph")
        records = Records()
        zygote.run({"trail": ["a"]}, records=records)
        second = zygote.run({"trail": ["b"]}, records=records, task="task_2")
        expected = ["a", "one", "two", "b", "one", "two"]
        assert second.finish["output"] == {"trail": expected}
        # Resumed, but the latest checkpoint is another task's: the input still has to be applied.
        third = zygote.run({"trail": ["c"]}, records=records, task="task_3", resume=True)
        assert third.finish["output"] == {"trail": [*expected, "c", "one", "two"]}

    def test_a_stale_owner_commits_nothing_more(self, start):
        zygote = start(GRAPH, "graph")
        records = Records(stale_at=2)
        result = zygote.run({"trail": []}, records=records)
        assert result.finish is None
        assert result.exited["status"] == 75
        assert len(records.checkpoints) == 2

    def test_messages_interrupts_parallel_nodes_and_subgraphs(self, start):
        zygote = start(
            """
            import operator
            from typing import Annotated, TypedDict
            from langgraph.graph import END, START, MessagesState, StateGraph
            from langgraph.types import interrupt

            class State(MessagesState):
                seen: Annotated[list, operator.add]

            inner = StateGraph(State)
            inner.add_node("leaf", lambda s: {"seen": ["leaf"]})
            inner.add_edge(START, "leaf")

            g = StateGraph(State)
            g.add_node("left", lambda s: {"seen": ["left"]})
            g.add_node("right", lambda s: {"seen": ["right"]})
            g.add_node("sub", inner.compile())
            def ask(s):
                if s["messages"][-1].content == "stop":
                    interrupt({"ask": "sure?"})
                return {"messages": [("assistant", "done")]}
            g.add_node("ask", ask)
            g.add_edge(START, "left"); g.add_edge(START, "right"); g.add_edge("left", "sub")
            g.add_edge(["sub", "right"], "ask"); g.add_edge("ask", END)
            agent = g
            """
        )
        output = zygote.run("hello").finish["output"]
        assert [m["role"] for m in output["messages"]] == ["user", "assistant"]
        assert [m["content"] for m in output["messages"]] == ["hello", "done"]
        assert set(output["seen"]) == {"left", "right", "leaf"}
        asked = zygote.run("stop").finish
        assert asked["ok"]
        (wait,) = asked["waits"]
        assert (wait["kind"], wait["value"]) == ("interrupt", {"ask": "sure?"})

    def test_tokens_of_a_chat_model_are_deltas(self, start, tmp_path):
        (tmp_path / "langchain_pretend.py").write_text(
            "from langchain_core.language_models import GenericFakeChatModel\n"
            "from langchain_core.messages import AIMessage\n"
            "model = GenericFakeChatModel(messages=iter([AIMessage('one two')]))\n"
        )
        zygote = start(
            """
            from langchain_pretend import model
            from langgraph.graph import START, MessagesState, StateGraph
            agent = StateGraph(MessagesState)
            agent.add_node("talk", lambda s: {"messages": [model.invoke(s["messages"])]})
            agent.add_edge(START, "talk")
            """
        )
        result = zygote.run("hello")
        assert result.finish["output"]["messages"][-1]["content"] == "one two"
        deltas = [frame["data"] for frame in result.of("delta")]
        assert "".join(delta["content"] for delta in deltas) == "one two"
        assert {delta["node"] for delta in deltas} == {"talk"}
        assert [frame["data"].keys() for frame in result.of("event")] == [{"talk": 0}.keys()]

    def test_the_output_is_what_the_output_schema_names(self, start):
        zygote = start(
            """
            from typing import TypedDict
            from langgraph.graph import START, StateGraph
            class Asked(TypedDict):
                question: str
            class Told(TypedDict):
                answer: str
            class State(Asked, Told):
                secret: str
            agent = StateGraph(State, input_schema=Asked, output_schema=Told)
            agent.add_node("n", lambda s: {"answer": s["question"] + "!", "secret": "x"})
            agent.add_edge(START, "n")
            """
        )
        records = Records()
        for resume in (False, True):
            result = zygote.run({"question": "q"}, records=records, resume=resume)
            assert result.finish["output"] == {"answer": "q!"}

    def test_an_error_in_a_node_names_its_line(self, start):
        zygote = start(GRAPH.replace('return {"trail": ["one"]}', "return 1 / 0"), "graph")
        error = zygote.run({"trail": []}).finish["error"]
        assert error["type"] == "ZeroDivisionError"
        assert "in one" in error["traceback"]
        assert error["where"].startswith("mine.py:")

    def test_sys_exit_in_a_node(self, start):
        zygote = start(GRAPH.replace('return {"trail": ["one"]}', "sys.exit(4)"), "graph")
        assert zygote.run({"trail": []}).finish["error"]["kind"] == "exit"


class TestSaver:
    """The saver alone, over the records of a supervisor in this process."""

    @pytest.fixture
    def saver(self):
        from penstock.inside.frameworks.langgraph_saver import PenstockSaver  # noqa: PLC0415

        records = Records()

        class Here:
            session = "s"

            def call(self, op, blobs=(), **fields):
                return records.answer({"op": op, **fields}, blobs, "task_1")

            async def acall(self, op, blobs=(), **fields):
                return self.call(op, blobs, **fields)

        return PenstockSaver().of(Here())

    def test_checkpoints_writes_and_listings_round_trip(self, saver):
        from langgraph.checkpoint.base import empty_checkpoint  # noqa: PLC0415

        config = {"configurable": {"thread_id": "s", "checkpoint_ns": ""}}
        ids = []
        for step in range(3):
            checkpoint = {**empty_checkpoint(), "channel_values": {"n": [step, {1, 2}]}}
            config = saver.put(config, checkpoint, {"source": "loop", "step": step}, {})
            ids.append(checkpoint["id"])
        saver.put_writes(config, [("n", step), ("__error__", "e")], "node", "path")
        base = {"configurable": {"thread_id": "s", "checkpoint_ns": ""}}
        latest = saver.get_tuple(base)
        assert latest.checkpoint["channel_values"] == {"n": [2, {1, 2}]}
        assert latest.config["configurable"]["checkpoint_id"] == ids[2]
        assert latest.parent_config["configurable"]["checkpoint_id"] == ids[1]
        assert latest.metadata == {"source": "loop", "step": 2, "penstock_task": "task_1"}
        assert latest.pending_writes == [("node", "__error__", "e"), ("node", "n", 2)]

        def listed(**query):
            return [found.metadata["step"] for found in saver.list(base, **query)]

        assert listed() == [2, 1, 0]
        assert listed(limit=2) == [2, 1]
        assert listed(before=latest.config) == [1, 0]
        assert listed(filter={"step": 0}, limit=1) == [0]

    async def test_the_async_api_is_the_same(self, saver):
        from langgraph.checkpoint.base import empty_checkpoint  # noqa: PLC0415

        base = {"configurable": {"thread_id": "s", "checkpoint_ns": "sub"}}
        assert await saver.aget_tuple(base) is None
        config = await saver.aput(base, empty_checkpoint(), {"step": 0}, {})
        await saver.aput_writes(config, [("n", 1)], "node")
        assert (await saver.aget_tuple(base)).pending_writes == [("node", "n", 1)]
        assert [found.config async for found in saver.alist(base)] == [config]


class TestShared:
    def test_many_attempts_side_by_side_keep_their_output_apart(self, start):
        zygote = start(
            """
            import sys, threading, time
            together = threading.Barrier(3)
            def agent(n):
                print("start", n)
                together.wait(10)
                print("end", n, file=sys.stderr)
                sys.stdout.write("unfinished")
                if n == 2:
                    sys.exit("two")
                return n
            """
        )
        child = zygote.fork(shared=True)
        for number in (1, 2, 3):
            child.order(number, a=number, task=f"t{number}")
        frames = take(child, lambda frames: sum(f["t"] == "finish" for f in frames) == 3)
        outcome = {f["a"]: f.get("output", f.get("error")) for f in frames if f["t"] == "finish"}
        assert (outcome[1], outcome[3]) == (1, 3)
        assert outcome[2]["kind"] == "exit"
        assert "two" in outcome[2]["message"]
        for number in (1, 2, 3):
            logs = [f for f in frames if f["t"] == "log" and f["a"] == number]
            text = "".join(f["text"] for f in logs if f["stream"] == "stdout")
            assert text == f"start {number}\nunfinished"
            assert "".join(f["text"] for f in logs if f["stream"] == "stderr") == f"end {number}\n"
        child.link.socket.close()
        assert child.zygote.exited(child.number)["status"] == 76

    def test_graphs_commit_under_their_own_attempt(self, start):
        zygote = start(GRAPH, "agraph")
        child = zygote.fork(shared=True)
        records = {1: Records(), 2: Records(stale_at=2), 3: Records()}
        for number in records:
            child.order({"trail": [number]}, a=number, task=f"t{number}", session=f"s{number}")
        frames = take(
            child, lambda frames: sum(f["t"] == "finish" for f in frames) == 2, records=records
        )
        outputs = {f["a"]: f["output"]["trail"] for f in frames if f["t"] == "finish"}
        assert outputs == {1: [1, "one", "two"], 3: [3, "one", "two"]}
        assert len(records[2].checkpoints) == 2
        child.link.socket.close()

    def test_evaluators_score_from_0_to_1(self, start, tmp_path):
        (tmp_path / "evals.py").write_text(
            "def good(record): return record['tasks'] == []\n"
            "async def half(record): return 0.5\n"
            "def wild(record): return 7\n"
            "def words(record): return 'fine'\n"
            "def broken(record): return record['nothing']\n"
        )
        zygote = start("def agent(x): return x")
        child = zygote.fork(shared=True)
        names = ["good", "half", "wild", "words", "broken", "missing"]
        for number, name in enumerate(names):
            child.link.send(
                {"t": "evaluate", "a": number, "function": f"evals:{name}", "record": {"tasks": []}}
            )
        frames = take(child, lambda frames: len(frames) == len(names))
        got = {names[f["a"]]: f.get("score", f.get("error", {}).get("message")) for f in frames}
        assert got["good"] == 1.0
        assert got["half"] == 0.5
        assert "from 0 to 1" in got["wild"]
        assert "'fine'" in got["words"]
        assert "nothing" in got["broken"]
        assert "no 'missing'" in got["missing"]
        child.link.socket.close()

    def test_requests_to_the_gateway_name_the_attempt_and_no_others_do(self, start):
        seen = {}
        servers = [listen(seen, name) for name in ("gateway", "other")]
        gateway, other = (server.server_port for server in servers)
        zygote = start(
            f"""
            import httpx2
            client = httpx2.Client(trust_env=False)
            async def both(n):
                async with httpx2.AsyncClient(trust_env=False) as mine:
                    await mine.get("http://127.0.0.1:{gateway}/gateway/openai/v1/x")
                return n
            def agent(n):
                client.get("http://127.0.0.1:{gateway}/gateway/openai/v1/x")
                client.get("http://127.0.0.1:{other}/gateway/x")
                return both(n)
            """,
            env={"PENSTOCK_GATEWAY": f"http://127.0.0.1:{gateway}/gateway"},
        )
        child = zygote.fork(shared=True)
        child.order(1, token="secret-1")
        frames = take(child, lambda frames: any(f["t"] == "finish" for f in frames))
        assert frames[-1]["ok"], frames
        assert seen["gateway"] == ["secret-1", "secret-1"]
        assert seen["other"] == [None]
        for server in servers:
            server.shutdown()
            server.server_close()
        child.link.socket.close()

    def test_a_cancelled_attempt_leaves_its_neighbours_alone(self, start):
        zygote = start(
            """
            import asyncio
            async def agent(n):
                await asyncio.sleep(3600 if n == 1 else 0.3)
                return n
            """
        )
        child = zygote.fork(shared=True)
        child.order(1, a=1)
        child.order(2, a=2)
        child.link.send({"t": "cancel", "a": 1})
        frames = take(child, lambda frames: any(f["t"] == "finish" for f in frames))
        assert [(f["t"], f["a"]) for f in frames] == [("stopped", 1), ("finish", 2)]
        child.link.socket.close()


def take(child, enough, *, records=None):
    """Frames from a shared host until there are enough; calls are answered."""
    frames = []
    while not enough(frames):
        header, blobs = child.link.receive(10)
        if header["t"] == "call":
            number = header["a"]
            answer, out = records[number].answer(header, blobs, f"t{number}")
            child.link.send({"t": "reply", "a": number, "id": header["id"], **answer}, out)
        else:
            frames.append(header)
    return frames


def listen(seen, name):
    """A web server that notes the attempt header of each request; returns its port."""
    import http.server  # noqa: PLC0415

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.setdefault(name, []).append(self.headers["x-penstock-attempt"])
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
