"""When the time of an attempt begins."""

from __future__ import annotations

from types import SimpleNamespace

from penstock.domain.releases import Limits
from penstock.runtime import wardens


def test_what_a_process_took_to_start_is_not_of_its_attempts_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(wardens, "time", SimpleNamespace(monotonic=lambda: now[0]))
    killed = []
    thread = SimpleNamespace(look_at=lambda *_: None)
    child = SimpleNamespace(pid=None, base_bytes=0, group=None, kill=lambda: killed.append(now[0]))
    warden = wardens.Warden(thread, Limits(time_seconds=5.0), None)
    now[0] = 160.0  # a cold release
    warden.watch(child)
    warden.look(164.9)
    assert warden.broken is None
    now[0] = 165.0
    warden.look(now[0])
    assert (warden.broken, killed) == (("time", 5.0), [165.0])
