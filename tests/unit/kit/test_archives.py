"""Archives: the same files are the same bytes, and a bad one does no harm."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile

import pytest

from penstock.kit.archives import ArchiveError, pack, unpack

MOST = {"most_bytes": 1 << 20, "most_files": 100}


def make(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_the_same_files_are_the_same_bytes(tmp_path):
    one = make(tmp_path / "one", b="2", a__c="1")
    two = make(tmp_path / "two", a__c="1", b="2")
    os.utime(two / "b", (1, 1))
    (two / "b").chmod(0o600)
    assert pack(one) == pack(two)
    (two / "b").chmod(0o700)
    assert pack(one) != pack(two)


def test_what_is_packed_comes_out_again(tmp_path):
    source = make(tmp_path / "in", a="1", b__c="ü", junk__x="0")
    (tmp_path / "out").mkdir()
    unpack(pack(source, ignore=("junk",)), tmp_path / "out", **MOST)
    assert {p.name for p in (tmp_path / "out").rglob("*")} == {"a", "b", "c"}
    assert (tmp_path / "out/b/c").read_text() == "ü"


def test_a_link_is_refused_when_packing(tmp_path):
    folder = make(tmp_path / "in", a="1")
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveError, match="symbolic link"):
        pack(folder)


def archive(*members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def entry(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


BAD = {
    "up": archive((entry("../out"), b"x")),
    "absolute": archive((entry("/etc/x"), b"x")),
    "link": archive((entry("a", tarfile.SYMTYPE, "/etc/passwd"), b"")),
    "hard link": archive((entry("a", tarfile.LNKTYPE, "b"), b"")),
    "device": archive((entry("a", tarfile.CHRTYPE), b"")),
    "twice": archive((entry("a"), b"1"), (entry("a"), b"2")),
    "many": archive(*((entry(f"f{number}"), b"") for number in range(101))),
    "bomb": gzip.compress(b"\0" * (1 << 22)),
    "large": archive((entry("a"), b"x" * ((1 << 20) + 1))),
    "no archive": b"hello",
    "cut": archive((entry("a"), os.urandom(5000)))[:2000],
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_refused_and_writes_nothing_outside(tmp_path, name):
    target = tmp_path / "target"
    target.mkdir()
    if name == "bomb":
        with contextlib.suppress(ArchiveError):
            unpack(BAD[name], target, **MOST)
        assert list(target.iterdir()) == []
        return
    with pytest.raises(ArchiveError):
        unpack(BAD[name], target, **MOST)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
