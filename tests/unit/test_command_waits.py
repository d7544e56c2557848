"""A command that waits for a task outlives the server it asked."""

from __future__ import annotations

import pytest

from penstock.cli.waiting import settled
from penstock.domain.errors import Unavailable

RUNNING = {"id": "task_1", "state": "running"}
DONE = {"id": "task_1", "state": "completed"}


class Servers:
    """Answers in turn, each after the seconds it takes; a clock that only they and pauses move."""

    def __init__(self, *answers):
        self.now = 0.0
        self.asked = []
        self._answers = list(answers)

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def wait_for_task(self, task_id, *, seconds):
        self.asked.append(seconds)
        takes, answer = self._answers[0]
        if len(self._answers) > 1:
            del self._answers[0]
        self.now += takes
        if isinstance(answer, Exception):
            raise answer
        return answer

    def settled(self, task, seconds):
        return settled(self, task, seconds, clock=self.clock, sleep=self.sleep)


def test_what_has_ended_is_not_asked_for():
    servers = Servers((0, RUNNING))
    assert servers.settled(DONE, 600) == DONE
    assert servers.asked == []


@pytest.mark.parametrize("between", [(1, RUNNING), (1, Unavailable("gone"))])
def test_it_asks_again_when_a_server_stops_or_is_gone(between):
    servers = Servers(between, (2, DONE))
    assert servers.settled(RUNNING, 600) == DONE
    assert servers.asked == [600, 598.5]


def test_it_returns_when_its_time_is_over():
    servers = Servers((10, RUNNING))
    assert servers.settled(RUNNING, 10) == RUNNING
    assert servers.asked == [10]


def test_no_request_asks_for_more_than_a_server_grants():
    servers = Servers((600, RUNNING), (0, DONE))
    assert servers.settled(RUNNING, 1000) == DONE
    assert servers.asked[0] == 600


def test_it_gives_up_when_no_server_has_answered_for_a_minute():
    servers = Servers((0, Unavailable("nobody is there")))
    with pytest.raises(Unavailable, match="nobody is there"):
        servers.settled(RUNNING, 600)
    assert 60 < servers.now < 62


def test_patience_begins_anew_once_a_server_has_answered():
    gone = [(29, Unavailable("gone"))] * 2
    servers = Servers(*gone, (0, RUNNING), *gone, (0, DONE))
    assert servers.settled(RUNNING, 600) == DONE
