"""What is put off is done: in a moment, once, whatever else fails, and where no thread may begin."""

from __future__ import annotations

import threading

import pytest

from penstock.inside import later


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(later, "_clock", later._Clock())


def test_everything_is_done_in_its_order_also_behind_a_failure(clock, capfd):
    done, ended = [], threading.Event()

    def fail():
        raise MemoryError("no room")

    later.soon(lambda: done.append(1))
    later.soon(fail)
    later.soon(lambda: done.append(2))
    later.soon(ended.set)
    assert ended.wait(20)
    assert done == [1, 2]
    assert "no room" in capfd.readouterr().err


def test_what_comes_after_a_rest_is_done_too(clock):
    for _ in range(2):
        ended = threading.Event()
        later.soon(ended.set)
        assert ended.wait(20)
        for thread in threading.enumerate():
            if thread.name == "penstock-later":
                thread.join(20)
                assert not thread.is_alive()


def test_where_no_thread_may_begin_it_is_done_at_once(clock, monkeypatch):
    def refused(_):
        raise RuntimeError("can't start new thread")

    done = []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        later.soon(lambda: done.append(1))
        later.soon(lambda: done.append(2))
        assert done == [1, 2]
    ended = threading.Event()
    later.soon(ended.set)  # and in a thread again, once there may be one
    assert ended.wait(20)
