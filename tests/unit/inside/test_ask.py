"""Asking a person from an agent's code."""

from __future__ import annotations

import contextvars
import io

import pytest

import penstock
from penstock.inside import context
from penstock.inside.attempts import Attempt, Waits


class Answering:
    """A channel whose supervisor answers at once."""

    def __init__(self):
        self.calls = []
        self.sent = []

    def call(self, header, blobs=()):
        self.calls.append((header["op"], header["key"]))
        return {"ok": True}, []

    def send(self, header, blobs=()):
        self.sent.append(header)

    send_soon = send


def attempt_of(channel, **order):
    return Attempt({"a": 7, "task": "t", **order}, channel, on_stale=lambda: None)


def within(attempt, work):
    def inner():
        context.enter(attempt, alone=False)
        return work()

    return contextvars.copy_context().run(inner)


def test_the_first_time_the_attempt_ends_and_says_what_it_asks():
    channel = Answering()
    attempt = attempt_of(channel)
    with pytest.raises(Waits) as asked:
        within(attempt, lambda: penstock.ask({"refund": {1, 2}}))
    assert not isinstance(asked.value, Exception)  # an agent's own handler must not catch it
    attempt.wait(asked.value.waits)
    (finish,) = channel.sent
    assert (finish["t"], finish["ok"]) == ("finish", True)
    assert finish["waits"] == [{"id": "ask#1", "kind": "interrupt", "value": {"refund": [1, 2]}}]
    assert channel.calls == []


def test_an_answer_is_returned_and_journaled():
    channel = Answering()
    attempt = attempt_of(channel, answers={"ask#1": None})
    assert within(attempt, lambda: penstock.ask("?")) is None
    assert channel.calls == [("step.commit", "ask#1")]


def test_a_journaled_answer_is_returned_again_whatever_was_answered_last():
    channel = Answering()
    done = [{"key": "ask#1", "output": "first"}]
    attempt = attempt_of(channel, steps=done, answers={"ask#2": "second"})
    found = within(attempt, lambda: [penstock.ask("a"), penstock.ask("b")])
    assert found == ["first", "second"]
    assert channel.calls == [("step.replayed", "ask#1"), ("step.commit", "ask#2")]


def test_an_answer_that_was_not_reached_again_is_kept_before_the_next_wait():
    channel = Answering()
    attempt = attempt_of(channel, answers={"ask#1": "x"})
    attempt._occurrences["ask"] = 1  # another thread asks its question first
    with pytest.raises(Waits):
        within(attempt, lambda: penstock.ask("the other"))
    attempt.wait(())
    assert channel.calls == [("step.commit", "ask#1")]
    assert [wait["id"] for wait in channel.sent[0]["waits"]] == ["ask#2"]


def test_an_agent_that_swallows_it_waits_all_the_same():
    channel = Answering()
    attempt = attempt_of(channel)

    def agent():
        try:
            return penstock.ask("?")
        except BaseException:  # noqa: BLE001 - what is tested
            return "never mind"

    attempt.finish(within(attempt, agent))
    assert [wait["id"] for wait in channel.sent[0]["waits"]] == ["ask#1"]


def test_in_a_framework_it_asks_the_frameworks_way():
    attempt = attempt_of(Answering())
    attempt.interrupt = lambda value: f"asked {value}"
    assert within(attempt, lambda: penstock.ask("?")) == "asked ?"


def test_outside_of_penstock_it_asks_on_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert penstock.ask("Refund?") == "yes"
    assert "Refund?" in capsys.readouterr().out
