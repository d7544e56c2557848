"""Which attempt is at the other end of a connection.

An agent's clients hold one loopback address and a placeholder key, so what tells attempts apart is
the connection itself: the kernel says which socket is bound to the peer's address (``sock_diag``,
see sock_diag(7)), and ``/proc`` says which attempt's process holds that socket.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import socket
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from penstock.domain.errors import Stale
from penstock.domain.exchanges import Caller
from penstock.runtime.procfs import descendants

_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
_REMEMBERED = 4096
_DOUBT_SECONDS = 10.0  # how long a lease may be in doubt
_LOOK_SECONDS = 0.05
_AGAIN_SECONDS = (0.005, 0.02, 0.1, 0.4)


class Holder(Protocol):
    """An attempt that may hold connections."""

    @property
    def pid(self) -> int | None:
        """Its process, once it has one of its own."""
        ...

    @property
    def caller(self) -> Caller:
        """Who it is, for the gateway."""
        ...

    @property
    def owner(self) -> str | None:
        """The name under which this worker took its task."""
        ...


def _key(holder: Holder) -> tuple[str, int]:
    caller = holder.caller
    return caller.task_id, caller.epoch


class Identities:
    """The attempts that run now; implements ``domain.exchanges.Callers``."""

    def __init__(self, *, gateway_port: int, owner: Callable[[], str | None]) -> None:
        """Look at connections to ``gateway_port`` of this machine.

        ``owner`` says whose tasks nobody else can have now; nothing while that is in doubt.
        """
        self._port = gateway_port
        self._owner = owner
        self._holding: dict[tuple[str, int], Holder] = {}  # by task and epoch
        self._holders: dict[Holder, int] = {}  # … and how many connections are known to be theirs
        self._tokens: dict[str, Holder] = {}
        self._known: OrderedDict[tuple[str, int], tuple[Holder, str, str]] = OrderedDict()

    def add(self, holder: Holder) -> str:
        """Make an attempt known; returns the token that names it where processes are shared."""
        token = secrets.token_urlsafe(24)
        self._holders[holder] = 0
        self._tokens[token] = holder
        self._holding[_key(holder)] = holder
        return token

    def remove(self, holder: Holder, token: str) -> None:
        """Forget an attempt; nothing is attributed to it any more."""
        self._holders.pop(holder, None)
        self._tokens.pop(token, None)
        self._holding.pop(_key(holder), None)

    def by_token(self, token: str) -> Caller | None:
        """The attempt that was given ``token``."""
        holder = self._tokens.get(token)
        return None if holder is None else holder.caller

    async def confirm(self, caller: Caller) -> None:
        """Wait until it is known that nobody else has the caller's task.

        A process that was stopped for longer than its lease goes on where it was, before its
        heartbeat has found out what happened meanwhile: a call must not be paid for until then.

        Raises:
            Stale: somebody else has it, or may have it.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + _DOUBT_SECONDS
        # Asked again and again: a lease goes by without an event.
        while (owner := self._owner()) is None and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        holder = self._holding.get((caller.task_id, caller.epoch))
        if owner is None or holder is None or holder.owner != owner:
            raise Stale("another attempt may have this task; this one must stop")

    async def identify(self, host: str, port: int) -> Caller | None:
        """The attempt whose socket is bound to ``host:port``, or nothing."""
        known = self._known.get((host, port))
        if known is not None:
            holder, path, target = known
            # The port may be another's by now; whoever still holds this very socket has it.
            if holder in self._holders and _readlink(path) == target:
                return holder.caller
            del self._known[host, port]
        inode = _inode(host, port, self._port)
        if not inode:
            return None
        target = f"socket:[{inode}]"
        found = self._search(target)
        for seconds in _AGAIN_SECONDS:
            if found is not None:
                break
            # The process may have been faster than the word that it was forked.
            await asyncio.sleep(seconds)
            found = self._search(target)
        if found is None:
            return None
        holder, path = found
        self._holders[holder] += 1
        self._known[host, port] = (holder, path, target)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return holder.caller

    def _search(self, target: str) -> tuple[Holder, str] | None:
        # Most connections are the first of the attempt that began last.
        newest = list(self._holders)[::-1]
        holders = sorted(newest, key=self._holders.__getitem__)
        groups: dict[int, Holder] = {}
        for holder in holders:
            pid = holder.pid
            if pid is None:
                continue
            groups[pid] = holder
            if (path := _holds(pid, target)) is not None:
                return holder, path
        return _search_below(groups, target)


def _search_below(groups: dict[int, Holder], target: str) -> tuple[Holder, str] | None:
    """Look at the processes that attempts have started, whatever group they are in now.

    An attempt is the parent of its orphans, so every such process leads up to one.
    """
    for pid, holder in groups.items():
        for child in descendants(pid):
            if (path := _holds(child, target)) is not None:
                return holder, path
    return None


def _holds(pid: int, target: str) -> str | None:
    """The path below /proc at which a process holds a socket, if it does."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208 - see above
    except OSError:
        return None
    for name in reversed(names):
        path = f"{folder}/{name}"
        if _readlink(path) == target:
            return path
    return None


def _readlink(path: str) -> str | None:
    try:
        return os.readlink(path)  # noqa: PTH115 - see above
    except OSError:
        return None


def _inode(host: str, port: int, gateway_port: int) -> int | None:
    """The inode of the socket at ``host:port`` that is connected to the gateway's port."""
    address = ipaddress.ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    families = [(socket.AF_INET, address if mapped is None else mapped)]
    if address.version == 6:  # noqa: PLR2004 - IP version six
        families.append((socket.AF_INET6, address))
    for family, source in families:
        if family == socket.AF_INET and source.version != 4:  # noqa: PLR2004 - IP version four
            continue
        inode = _ask(family, source.packed, port, gateway_port)
        if inode:
            return inode
    return None


def _ask(family: int, source: bytes, port: int, gateway_port: int) -> int | None:
    """Ask the kernel for one TCP socket by its two addresses, both on this machine."""
    packed = source.ljust(16, b"\0")
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES)
    request += struct.pack("!HH", port, gateway_port) + packed + packed
    request += struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
    header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diag:  # 4: NETLINK_SOCK_DIAG
        diag.settimeout(0.2)
        try:
            diag.sendto(header + request, (0, 0))
            answer = diag.recv(4096)
        except OSError:
            return _from_proc(family, source, port)
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind == _NLMSG_ERROR:
        return _from_proc(family, source, port)
    # struct inet_diag_msg: 4 bytes, the 48 bytes of inet_diag_sockid, then
    # expires, rqueue, wqueue, uid, inode.
    inode: int = struct.unpack_from("=IIIII", answer, 16 + 4 + 48)[4]
    return inode


def _from_proc(family: int, source: bytes, port: int) -> int | None:
    """Find the socket in /proc/net, where the kernel answers no ``sock_diag``."""
    words = struct.unpack(f"={len(source) // 4}I", source)
    local = "".join(f"{word:08X}" for word in words) + f":{port:04X}"
    try:
        with open("/proc/net/tcp" if family == socket.AF_INET else "/proc/net/tcp6") as table:  # noqa: PTH123 - no file of ours
            for line in table:
                fields = line.split()
                if len(fields) > 9 and fields[1] == local:  # noqa: PLR2004 - the inode's column
                    return int(fields[9]) or None
    except OSError:
        return None
    return None
