"""Control groups on made-up trees of both versions: what is found, written, read and given up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.domain.releases import Limits
from penstock.runtime.cgroups import Cgroups

MIB = 1 << 20
FILES = {
    2: ("cgroup.procs", "cgroup.subtree_control", "cgroup.kill", "memory.max", "memory.swap.max",
        "memory.oom.group", "memory.events", "memory.peak", "pids.max", "pids.events",
        "pids.current", "cpu.stat"),
    1: ("cgroup.procs", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes",
        "memory.swappiness", "memory.oom_control", "memory.max_usage_in_bytes", "pids.max",
        "pids.events", "pids.current", "cpuacct.usage"),
}  # fmt: skip


class Tree:
    """What a kernel would show of this process's groups."""

    def __init__(self, root, version, *, refused=False):
        self.version, self.refused = version, refused
        self.proc = root / "proc"
        self.proc.mkdir()
        mounts, own = [], []
        for number, name in enumerate(["memory", "pids", "cpuacct"] if version == 1 else [""], 1):
            point = root / (name or "unified")
            (point / "service").mkdir(parents=True)
            for file in FILES[version]:
                (point / "service" / file).touch()
            kind = f"cgroup cgroup rw,{name}" if name else "cgroup2 cgroup2 rw"
            mounts.append(f"3{number} 2 0:3 / {point} rw,nosuid - {kind}\n")
            own.append(f"{number}:{name}:/service\n" if name else "0::/service\n")
            (point / "service" / "cgroup.controllers").write_text("cpu memory pids\n")
        (self.proc / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/x rw\n" + "".join(mounts))
        (self.proc / "cgroup").write_text("".join(own))

    def mkdir(self, path):
        if self.refused:
            raise PermissionError(13, "Permission denied")
        Path.mkdir(path)
        for file in FILES[self.version]:
            (path / file).touch()

    def detect(self):
        return Cgroups.detect(self.proc, mkdir=self.mkdir)


def text(folder, name):
    return (Path(folder).parent / name).read_text()


def test_version_two_limits_and_tells_who_broke_what(tmp_path):
    cgroups = Tree(tmp_path, 2).detect()
    assert cgroups.version == 2
    group = cgroups.create()
    (join,) = group.joins
    assert Path(join).is_relative_to(tmp_path / "unified" / "service")
    group.limit(Limits(memory_bytes=100 * MIB, processes=7), reserve_bytes=MIB)
    assert text(join, "memory.max") == str(101 * MIB)
    assert text(join, "memory.swap.max") == "0"
    assert text(join, "memory.oom.group") == "1"
    assert text(join, "pids.max") == str(7 + 512)
    assert group.broken() is None
    folder = Path(join).parent
    (folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    assert group.cpu_seconds() == 1.5
    (folder / "pids.events").write_text("max 3\n")
    (folder / "pids.current").write_text("519\n")
    assert group.broken() == ("processes", 519)
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    (folder / "memory.peak").write_text(f"{101 * MIB}\n")
    assert group.broken() == ("memory", 101 * MIB)
    group.kill()
    assert text(join, "cgroup.kill") == ""  # nothing was in it
    (folder / "cgroup.procs").write_text("4194305\n")  # a pid that no kernel gives
    group.kill()
    assert text(join, "pids.max").startswith("0")  # a plain file keeps what was longer
    assert text(join, "cgroup.kill") == "1"


def test_version_one_does_the_same_in_several_hierarchies(tmp_path):
    cgroups = Tree(tmp_path, 1).detect()
    assert cgroups.version == 1
    group = cgroups.create()
    memory, pids, cpuacct = group.joins
    group.limit(Limits(memory_bytes=100 * MIB, processes=7), reserve_bytes=0)
    assert text(memory, "memory.limit_in_bytes") == str(100 * MIB)
    assert text(memory, "memory.memsw.limit_in_bytes") == str(100 * MIB)
    assert text(pids, "pids.max") == str(7 + 512)
    (Path(cpuacct).parent / "cpuacct.usage").write_text("250000000\n")
    assert group.cpu_seconds() == 0.25
    oom = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
    (Path(memory).parent / "memory.oom_control").write_text(oom.format(0))
    assert group.broken() is None
    (Path(memory).parent / "memory.oom_control").write_text(oom.format(2))
    (Path(memory).parent / "memory.max_usage_in_bytes").write_text("77\n")
    assert group.broken() == ("memory", 77)


def test_a_server_that_has_made_room_for_groups_makes_no_more_room(tmp_path):
    tree = Tree(tmp_path, 2)
    tree.mkdir(tmp_path / "unified" / "service" / "penstock-server")
    (tree.proc / "cgroup").write_text("0::/service/penstock-server\n")
    (join,) = tree.detect().create().joins
    assert Path(join).parents[2] == tmp_path / "unified" / "service"


@pytest.mark.parametrize("version", [1, 2])
def test_two_groups_are_two(tmp_path, version):
    cgroups = Tree(tmp_path, version).detect()
    one, two = cgroups.create(), cgroups.create()
    assert not set(one.joins) & set(two.joins)


@pytest.mark.parametrize("version", [1, 2])
def test_nothing_is_used_where_no_group_can_be_made(tmp_path, version):
    assert Tree(tmp_path, version, refused=True).detect() is None


def test_a_machine_without_groups_has_none(tmp_path):
    assert Cgroups.detect(tmp_path) is None
    (tmp_path / "cgroup").write_text("")
    (tmp_path / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/x rw\n")
    assert Cgroups.detect(tmp_path) is None


def test_version_two_without_the_controllers_is_not_enough(tmp_path):
    tree = Tree(tmp_path, 2)
    (tmp_path / "unified" / "service" / "cgroup.controllers").write_text("hugetlb\n")
    assert tree.detect() is None


def test_groups_of_servers_that_are_gone_are_swept(tmp_path):
    tree = Tree(tmp_path, 1)
    gone = tmp_path / "memory" / "service" / "penstock-99999999-aa"
    mine = tmp_path / "memory" / "service" / f"penstock-{os.getpid()}-aa"
    (gone / "1").mkdir(parents=True)
    mine.mkdir()
    assert tree.detect() is not None
    assert (gone.exists(), mine.exists()) == (False, True)
