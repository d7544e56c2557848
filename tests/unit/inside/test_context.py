from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys

import pytest

import penstock
from penstock.inside import context, prompts
from penstock.inside.attempts import Attempt, Stopped
from penstock.inside.channel import Refused
from penstock.inside.prompts import PromptError, split_front_matter


class Answering:
    """A channel whose supervisor answers at once."""

    def __init__(self, reply=None):
        self.reply = reply or {"ok": True}
        self.calls = []
        self.sent = []

    def call(self, header, blobs=()):
        self.calls.append(header)
        return self.reply, []

    async def acall(self, header, blobs=()):
        return self.call(header, blobs)

    def send(self, header, blobs=()):
        self.sent.append(header)

    send_soon = send


def within(channel, work, *, steps=(), on_stale=lambda: None):
    """Run ``work`` as the code of an attempt."""
    attempt = Attempt({"a": 7, "task": "t", "steps": steps}, channel, on_stale=on_stale)

    def inner():
        context.enter(attempt, alone=False)
        return work()

    return contextvars.copy_context().run(inner)


@pytest.fixture
def release(tmp_path, monkeypatch):
    """Pins prompts as a zygote does."""
    monkeypatch.setattr(prompts, "_pinned", None)
    monkeypatch.setattr(prompts, "_templates", {})

    def pin(**texts):
        paths = {}
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
            paths[name] = str(tmp_path / name)
        prompts.pin(paths)

    return pin


class TestSteps:
    def test_outside_of_penstock_a_step_is_a_call(self):
        assert penstock.step("s", lambda a, b: (a, b), 1, b=2) == (1, 2)

    def test_a_result_is_committed_under_its_name_and_occurrence(self):
        channel = Answering()
        work = lambda: [penstock.step(name, len, "abc") for name in ("x", "y", "x")]  # noqa: E731
        assert within(channel, work) == [3, 3, 3]
        assert [call["key"] for call in channel.calls] == ["x#1", "y#1", "x#2"]
        assert all(call["op"] == "step.commit" and call["a"] == 7 for call in channel.calls)

    def test_a_journaled_step_is_not_run_again(self):
        channel = Answering()
        done = [{"key": "x#1", "output": "before"}]
        work = lambda: [penstock.step("x", lambda: "now"), penstock.step("x", lambda: "now")]  # noqa: E731
        assert within(channel, work, steps=done) == ["before", "now"]
        assert [(call["op"], call["key"]) for call in channel.calls] == [
            ("step.replayed", "x#1"),
            ("step.commit", "x#2"),
        ]

    def test_a_journaled_null_counts_as_done(self):
        done = [{"key": "x#1", "output": None}]
        assert within(Answering(), lambda: penstock.step("x", lambda: 1 / 0), steps=done) is None

    def test_async_functions_are_awaited_and_journaled(self):
        async def double(value):
            await asyncio.sleep(0)
            return value * 2

        async def work():
            return [await penstock.step("d", double, 2), await penstock.step("d", double, 4)]

        channel = Answering()
        done = [{"key": "d#1", "output": "before"}]
        assert within(channel, lambda: asyncio.run(work()), steps=done) == ["before", 8]
        assert [(call["op"], call["key"]) for call in channel.calls] == [
            ("step.replayed", "d#1"),
            ("step.commit", "d#2"),
        ]

    def test_a_first_run_sees_what_a_resumed_one_will(self):
        assert within(Answering(), lambda: penstock.step("x", lambda: {1: (2, 3)})) == {"1": [2, 3]}

    @pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
    def test_a_result_that_is_not_json_is_an_error_that_names_the_step(self, value):
        channel = Answering()
        with pytest.raises(TypeError, match="'odd'"):
            within(channel, lambda: penstock.step("odd", lambda: value))
        assert channel.calls == []

    def test_a_wrapped_coroutine_is_refused(self):
        async def nothing():
            """Never awaited."""

        with pytest.raises(TypeError, match="async function itself"):
            within(Answering(), lambda: penstock.step("x", lambda: nothing()))  # noqa: PLW0108

    def test_an_error_of_the_function_is_not_journaled(self):
        channel = Answering()
        with pytest.raises(ZeroDivisionError):
            within(channel, lambda: penstock.step("x", lambda: 1 / 0))
        assert channel.calls == []

    def test_a_stale_owner_is_stopped_also_by_except_exception(self):
        stale = Answering({"ok": False, "error": {"type": "stale", "message": "m"}})
        told = []

        def work():
            try:
                penstock.step("x", int)
            except Exception:  # noqa: BLE001
                told.append("caught")

        with pytest.raises(Stopped):
            within(stale, work, on_stale=lambda: told.append("stale"))
        assert told == ["stale"]

    def test_a_refusal_is_an_error_with_the_supervisors_words(self):
        refusing = Answering({"ok": False, "error": {"type": "invalid", "message": "too large"}})
        with pytest.raises(Refused, match="too large"):
            within(refusing, lambda: penstock.step("x", int))


class TestPrompts:
    def test_static_text_is_verbatim(self, release):
        release(system="---\nversion: 3\n---\nBe kind.  \n\n100 % {sure}\n")
        assert penstock.prompt("system", unused=1) == "Be kind.  \n\n100 % {sure}\n"

    def test_a_template_is_rendered(self, release):
        release(greet="Hello {{ name }}{% if vip %}!{% endif %}\n")
        assert penstock.prompt("greet", name="<Ada>", vip=True) == "Hello <Ada>!\n"

    def test_a_missing_variable_is_an_error_that_names_it(self, release):
        release(greet="Hello {{ name }}")
        with pytest.raises(PromptError, match=r"'greet'.*'name' is undefined"):
            penstock.prompt("greet")

    @pytest.mark.parametrize(
        "text", ["{{ ''.__class__.__mro__ }}", "{{ items.append(1) }}", "{{ f.__globals__ }}"]
    )
    def test_templates_cannot_reach_python(self, release, text):
        release(evil=text)
        with pytest.raises(PromptError):
            penstock.prompt("evil", items=[], f=lambda: None)

    def test_a_broken_template_fails_when_it_is_asked_for(self, release):
        release(broken="{% if %}", fine="ok")
        assert penstock.prompt("fine") == "ok"
        with pytest.raises(PromptError, match="broken"):
            penstock.prompt("broken")

    def test_an_unknown_name_lists_the_known_ones(self, release):
        release(one="1", two="2")
        with pytest.raises(PromptError, match="one, two"):
            penstock.prompt("three")

    def test_outside_of_penstock_files_are_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(prompts, "_pinned", None)
        (tmp_path / "prompts").mkdir()
        (tmp_path / "prompts" / "system.prompt").write_text("---\na: 1\n---\nHi {{ x }}")
        monkeypatch.chdir(tmp_path)
        assert penstock.prompt("system", x="you") == "Hi you"
        with pytest.raises(PromptError, match=r"prompts/none\.prompt"):
            penstock.prompt("none")

    @pytest.mark.parametrize(
        ("text", "matter", "body"),
        [
            ("plain", None, "plain"),
            ("---\nno end", None, "---\nno end"),
            ("---\r\na: 1\r\n---\r\nbody", "a: 1\r\n", "body"),
            ("---\n---\nbody\n---\n", "", "body\n---\n"),
            ("a\n---\nb", None, "a\n---\nb"),
        ],
    )
    def test_front_matter(self, text, matter, body):
        assert split_front_matter(text) == (matter, body)


class TestTools:
    def test_a_tool_is_marked(self):
        def look(number: int) -> str:
            return str(number)

        marked = penstock.tool(effect="read", retry="safe")(look)
        assert marked.__wrapped__ is look
        assert marked.__penstock_tool__ == {"effect": "read", "retry": "safe"}

    @pytest.mark.parametrize("wrong", [{"effect": "reads"}, {"retry": "maybe"}])
    def test_another_word_is_refused(self, wrong):
        with pytest.raises(ValueError, match="one of"):
            penstock.tool(**wrong)


class TestImport:
    def test_importing_penstock_pulls_in_nothing_heavy(self):
        code = "import sys; before = set(sys.modules); import penstock; print(*set(sys.modules) - before)"
        loaded = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.split()
        ours = {name for name in loaded if name.startswith("penstock")}
        assert len(ours) <= 8
        assert set(loaded) - ours <= {"__future__", "contextvars", "_contextvars"}
