"""The link of an agent's process: frames go out in their order, answers come to their callers."""

from __future__ import annotations

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from penstock.inside.channel import EXIT_ORPHANED, Channel
from penstock.inside.frames import Decoder


@pytest.fixture
def ends():
    """A channel, and the supervisor's end of it."""
    mine, theirs = socket.socketpair()
    theirs.settimeout(20)
    yield Channel(mine), theirs
    mine.close()
    theirs.close()


def arrived(end, count):
    """The next frames' headers."""
    decoder, found = Decoder(), []
    while len(found) < count:
        found += [header for header, _ in decoder.feed(end.recv(65536))]
    return found


def test_what_may_wait_goes_in_front_of_the_next_frame(ends):
    channel, end = ends
    channel.send_soon({"t": "event", "n": 1})
    channel.send_soon({"t": "event", "n": 2})
    channel.send({"t": "finish"})
    assert [header["t"] for header in arrived(end, 3)] == ["event", "event", "finish"]


def test_what_may_wait_does_not_wait_for_long(ends):
    channel, end = ends
    channel.send_soon({"t": "event"})
    assert arrived(end, 1) == [{"t": "event"}]  # though nothing follows


def test_many_threads_send_each_frame_once_and_in_their_own_order(ends):
    channel, end = ends
    count, threads = 200, 4

    def say(number):
        for n in range(count):
            (channel.send_soon if n % 3 else channel.send)({"by": number, "n": n})

    with ThreadPoolExecutor(threads) as pool:
        for number in range(threads):
            pool.submit(say, number)
        found = arrived(end, count * threads)
    for number in range(threads):
        assert [frame["n"] for frame in found if frame["by"] == number] == list(range(count))


CALLS = """
import os, socket, threading
from penstock.inside.channel import EXIT_ORPHANED, Channel
from penstock.inside.frames import Decoder, encode

mine, end = socket.socketpair()
channel = Channel(mine)
channel.start(lambda _: None)

def answer():
    decoder, calls = Decoder(), []
    while len(calls) < 3:
        calls += [header for header, _ in decoder.feed(end.recv(65536))]
    for call in reversed(calls):
        end.sendall(encode({"t": "reply", "id": call["id"], "of": call["what"]}))

threading.Thread(target=answer).start()
begun = [channel.begin_call({"what": n}) for n in range(3)]
print([call.result(20)[0]["of"] for call in begun], flush=True)
end.close()
threading.Event().wait(20)
"""


def test_answers_come_to_their_callers_and_the_process_ends_with_its_channel():
    command = [sys.executable, "-c", CALLS]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.stdout == "[0, 1, 2]\n", ended.stderr
    assert ended.returncode == EXIT_ORPHANED
