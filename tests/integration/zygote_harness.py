"""A small blocking supervisor: starts a zygote, forks attempts, answers their calls from dicts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from penstock.inside.frames import Decoder, encode
from penstock.rules.checkpoints import folded, joined, snapshot, split

SOURCE = str(Path(__file__).resolve().parents[2] / "src")
START = "import sys; sys.path[:0]={paths!r}; from penstock.inside.zygote import main; main()"


class Link:
    """One end of a socket that speaks frames, read with a deadline."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._decoder = Decoder()
        self._frames: list = []

    def send(self, header, blobs=(), fds=()):
        data = encode(header, blobs)
        if fds:
            sent = socket.send_fds(self.socket, [data], list(fds))
            data = data[sent:]
        if data:
            self.socket.sendall(data)

    def receive(self, seconds=20.0):
        """The next frame; None at the end of the stream."""
        until = time.monotonic() + seconds
        while not self._frames:
            self.socket.settimeout(max(0.01, until - time.monotonic()))
            try:
                data = self.socket.recv(262144)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._frames = self._decoder.feed(data)
        return self._frames.pop(0)


@dataclass
class Records:
    """What a supervisor keeps of a session: checkpoints, their writes, and steps."""

    checkpoints: dict = field(default_factory=dict)  # (namespace, id) -> (fields, slots, metadata)
    contents: dict = field(default_factory=dict)
    writes: dict = field(default_factory=dict)  # (namespace, id) -> {(node_task, number): ...}
    steps: list = field(default_factory=list)
    stale_at: int | None = None  # the number of commits after which the owner is stale
    commits: int = 0

    def answer(self, call, blobs, task):  # noqa: PLR0911 - one case an op
        op = call["op"]
        if op in ("step.commit", "checkpoint.put"):
            if self.stale_at is not None and self.commits >= self.stale_at:
                if op == "checkpoint.put":  # as if its writes had gone ahead of it, alone
                    written = self._take_contents(call, blobs[2:])
                    self._keep_writes(
                        (call["namespace"], call["parent_id"]), call["writes"], written
                    )
                return {"ok": False, "error": {"type": "stale", "message": "epoch"}}, []
            self.commits += 1
        if op == "step.replayed":
            return {"ok": True}, []
        if op == "step.commit":
            self.steps.append({"key": call["key"], "output": call["output"]})
            return {"ok": True}, []
        if op == "checkpoint.put":
            table, metadata, *rest = blobs
            written = self._take_contents(call, rest)
            place, parent = (call["namespace"], call["checkpoint_id"]), call["parent_id"]
            below = self.checkpoints[call["namespace"], parent][1] if call["depth"] else {}
            fields = {k: call[k] for k in ("namespace", "checkpoint_id", "parent_id", "depth")}
            fields |= {"task": task, "encoding": ""}
            self.checkpoints[place] = (fields, folded(below, table), metadata)
            self._keep_writes((call["namespace"], parent), call["writes"], written)
            return {"ok": True}, []
        if op == "checkpoint.writes":
            place = (call["namespace"], call["checkpoint_id"])
            self._keep_writes(place, call["writes"], self._take_contents(call, blobs))
            return {"ok": True}, []
        if op == "checkpoint.get":
            return self._get(call)
        if op == "checkpoint.list":
            return self._list(call)
        return {"ok": False, "error": {"type": "invalid", "message": op}}, []

    def _take_contents(self, call, blobs):
        count = call["contents"]
        if count:
            self.contents |= dict(zip(split(blobs[0]), blobs[1 : count + 1], strict=True))
        return blobs[count + 1 :] if count else blobs

    def _keep_writes(self, place, items, blobs):
        kept = self.writes.setdefault(place, {})
        for item, blob in zip(items, blobs, strict=True):
            kept[item["node_task"], item["number"]] = ({**item, "encoding": ""}, blob)

    def _get(self, call):
        ids = sorted(i for n, i in self.checkpoints if n == call["namespace"])
        wanted = call["checkpoint_id"] or (ids[-1] if ids else None)
        place = (call["namespace"], wanted)
        return self._found([place] if place in self.checkpoints else [])

    def _list(self, call):
        return self._found(
            [
                place
                for place in sorted(self.checkpoints, reverse=True)
                if call["namespace"] in (None, place[0])
                and (call["before"] is None or place[1] < call["before"])
            ][: call["limit"]]
        )

    def _found(self, places):
        blobs = [joined(list(self.contents)), *self.contents.values()]
        items = []
        for place in places:
            fields, slots, metadata = self.checkpoints[place]
            writes = sorted(
                self.writes.get(place, {}).values(),
                key=lambda kept: (kept[0]["path"], kept[0]["node_task"], kept[0]["number"]),
            )
            items.append({**fields, "writes": [item for item, _ in writes]})
            blobs += [snapshot(slots), metadata, *(blob for _, blob in writes)]
        return {"ok": True, "contents": len(self.contents), "items": items}, blobs


@dataclass
class Result:
    """What came of an attempt."""

    finish: dict | None
    frames: list
    stdout: str
    stderr: str
    exited: dict | None

    def of(self, kind):
        return [frame for frame in self.frames if frame["t"] == kind]


class Child:
    """A forked process: its channel and what it prints."""

    def __init__(self, zygote, number, link, pipes):
        self.zygote = zygote
        self.number = number
        self.link = link
        self.pid = None
        self.fork_us = None
        self.texts = [bytearray(), bytearray()]
        self._readers = [
            threading.Thread(target=self._read, args=(fd, text))
            for fd, text in zip(pipes, self.texts, strict=True)
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(fd, text):
        while data := os.read(fd, 65536):
            text += data
        os.close(fd)

    def order(
        self, given=None, *, a=1, task="task_1", session="ses_1", resume=False, steps=(), token="",
        **more,
    ):  # fmt: skip
        self.link.send(
            {
                "t": "order", "a": a, "task": task, "session": session, "agent": "x", "release": "r",
                "epoch": 2 if resume else 1, "input": given, "resume": resume, "steps": list(steps),
                "deadline_seconds": 30, "token": token, **more,
            }
        )  # fmt: skip

    def serve(self, records=None, *, task="task_1", seconds=20.0, on_frame=None):
        """Answer calls until the channel ends; returns the frames."""
        records = records or Records()
        frames = []
        while (received := self.link.receive(seconds)) is not None:
            header, blobs = received
            frames.append(header)
            if on_frame is not None:
                on_frame(header)
            if header["t"] == "call":
                answer, out = records.answer(header, blobs, task)
                self.link.send({"t": "reply", "a": header["a"], "id": header["id"], **answer}, out)
        return frames

    def close(self):
        self.link.socket.close()
        for reader in self._readers:
            reader.join(10)
            assert not reader.is_alive()

    def result(self, frames):
        exited = self.zygote.exited(self.number)
        self.close()
        finish = next((frame for frame in frames if frame["t"] == "finish"), None)
        out, err = (text.decode() for text in self.texts)
        return Result(finish, frames, out, err, exited)


class ZygoteProcess:
    """A zygote of one project directory."""

    def __init__(self, project, entrypoint, *, prompts=None, python=sys.executable, env=None):
        ours, theirs = socket.socketpair()
        config = {
            "entrypoint": entrypoint, "project": str(project), "vendor": None, "prompts": prompts or {},
        }  # fmt: skip
        start = START.format(paths=[SOURCE, str(project)])
        self.process = subprocess.Popen(
            [python, "-I", "-c", start, str(theirs.fileno()), json.dumps(config)],
            pass_fds=[theirs.fileno()],
            cwd=project,
            env={
                "PATH": os.environ["PATH"],
                "LANG": "C.UTF-8",
                "HOME": str(project),
                **(env or {}),
            },
        )
        theirs.close()
        self.link = Link(ours)
        self.first = self.link.receive(60)[0]
        self._number = 0
        self._exited = {}
        self._children = []

    def fork(self, *, limits=None, shared=False):
        self._number += 1
        ours, channel = socket.socketpair()
        out_r, out_w = os.pipe()
        err_r, err_w = os.pipe()
        self.link.send(
            {"t": "fork", "order": self._number, "shared": shared, "limits": limits or {}},
            fds=[channel.fileno(), out_w, err_w],
        )
        channel.close()
        os.close(out_w)
        os.close(err_w)
        child = Child(self, self._number, Link(ours), (out_r, err_r))
        self._children.append(child)
        forked = self.await_frame("forked")
        child.pid, child.fork_us = forked["pid"], forked["us"]
        return child

    def run(self, given=None, *, records=None, limits=None, seconds=20.0, task="task_1", **order):
        child = self.fork(limits=limits)
        child.order(given, task=task, **order)
        return child.result(child.serve(records, task=task, seconds=seconds))

    def await_frame(self, kind, seconds=20.0):
        while True:
            received = self.link.receive(seconds)
            if received is None:
                return None
            header = received[0]
            if header["t"] == kind:
                return header
            if header["t"] == "exited":
                self._exited[header["order"]] = header

    def exited(self, number):
        while number not in self._exited:
            header = self.await_frame("exited")
            if header is None:
                return None
            self._exited[header["order"]] = header
        return self._exited[number]

    def close(self):
        self.link.socket.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            for child in self._children:
                child.close()


def is_alive(pid):
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"
