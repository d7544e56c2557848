"""A process is gone when it has certainly ended, and not when it cannot be seen."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.kit import presence

SAY = "from penstock.kit.presence import of_this_process as me; print(me(), flush=True); input()"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")


@pytest.fixture
def other():
    process = subprocess.Popen(
        [sys.executable, "-c", SAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process, process.stdout.readline().strip()
    process.kill()
    process.communicate()


def test_this_process_lives():
    assert presence.of_this_process()
    assert not presence.is_gone(presence.of_this_process())


def test_a_killed_process_is_gone_also_before_its_parent_has_noticed(other):
    process, name = other
    assert not presence.is_gone(name)
    process.kill()
    process.stdout.read()  # until its end of the pipe is closed: it has ended
    while presence._fields(process.pid)[0] not in "ZX":
        pass
    assert presence.is_gone(name)
    process.wait()
    assert presence.is_gone(name)


def test_a_number_that_another_process_has_now_is_not_it(other):
    _, name = other
    assert presence.is_gone(name.rpartition("/")[0] + "/1")


@pytest.mark.parametrize("name", ["", "elsewhere/1.2/999999999/1", "nonsense"])
def test_what_is_of_another_machine_is_not_known_to_be_gone(name):
    assert not presence.is_gone(name)
