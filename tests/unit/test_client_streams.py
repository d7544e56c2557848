"""What the client makes of the bytes of a stream."""

from __future__ import annotations

import json

import httpx2
import pytest

from penstock.client import streams
from penstock.client.streams import Events, Following, created
from penstock.domain.errors import Unavailable

BODY = (
    b"retry: 1000\n: connected\n\n"
    b'id: 1\nevent: started\ndata: {"a": "\xe2\x80\xa8 \xc2\x85 x"}\n\n'
    b": heartbeat\n\n"
    b'event: delta\ndata: "two"\n\n'
    b'event: end\ndata: {"state": "completed"}\n\n'
)


def parsed(pieces):
    events = Events()
    return [item for piece in pieces for item in events.feed(piece)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_whole_however_they_are_cut(size):
    found = parsed(BODY[at : at + size] for at in range(0, len(BODY), size))
    assert found == [
        {"id": 1, "event": "started", "data": {"a": "\u2028 \x85 x"}},
        {"id": None, "event": "delta", "data": "two"},
        {"id": None, "event": "end", "data": {"state": "completed"}},
    ]


def test_a_follower_goes_on_behind_the_last_event_it_has():
    following = Following("task 1", after=4, modes=["updates"], patience=60)
    first = following.request()
    assert first["url"] == "/api/v1/tasks/task%201/stream"
    assert (first["headers"], first["params"]) == ({"last-event-id": "4"}, {"mode": "updates"})
    list(following.feed(b"id: 5\nevent: step\ndata: 1\n\nevent: delta\ndata: 2\n\nid: 6\neve"))
    assert not following.ended
    # The half that came before the cut is not put before what comes after it.
    assert following.request()["headers"] == {"last-event-id": "5"}
    list(following.feed(b"id: 6\nevent: step\ndata: 1\n\nevent: end\ndata: {}\n\n"))
    assert following.ended


def test_a_task_is_made_under_one_key_however_often_it_is_asked_for():
    body = created({"agent": "a", "input": 1, "user_id": None}, None)
    assert body.keys() == {"agent", "input", "idempotency_key"}
    following = Following(None, patience=60, body=body)
    asked = [json.loads(following.request()["content"]) for _ in range(2)]
    assert asked[0] == asked[1] == body
    [made] = following.begun({"location": "/api/v1/tasks/task_9"})
    assert made["data"] == {"task": "task_9"}
    assert following.request()["url"] == "/api/v1/tasks/task_9/stream"


def test_patience_ends_when_no_server_has_answered_for_long(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(streams.time, "monotonic", lambda: now[0])
    following = Following("t", patience=60)
    error = httpx2.ConnectError("refused")
    pauses = []
    while now[0] <= 60:
        pauses.append(following.pause("http://x", error))
        now[0] += 3
    assert pauses[0] < pauses[1] <= max(pauses) == 3.0
    list(following.feed(b": heartbeat\n\n"))
    assert following.pause("http://x", None) == pauses[0]
    now[0] += 61
    with pytest.raises(Unavailable, match="no server answers"):
        following.pause("http://x", error)
    with pytest.raises(Unavailable, match="again and again"):
        following.pause("http://x", None)
