"""LangGraph's checkpoints as tables: packed as what differs from the parent's, and read again.

A table has a slot for each channel (``c``), for each channel's version (``v``), for what each node
has seen (``s``), and one for the rest. A list is packed item by item, so that a conversation adds
its new messages only; whatever is large is a content of its own, under the hash of its bytes. How
it looks from the other side is told in ``rules/checkpoints``.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Any

import ormsgpack
from langgraph.checkpoint.serde import jsonplus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Raw = bytes | tuple[str, bytes]  # packed by LangGraph; with its tag, if that is not msgpack
    Atom = tuple[Raw, Any]  # and how a table refers to it
    Slot = Atom | list[Atom]

DEEPEST = 31

_KEY_BYTES = 16
_KEY = 1  # the extension type of a content's key
_LARGE = 256  # bytes from which on a value is a content
_SQUEEZED = 512  # bytes from which on it is worth while to compress one
_SMALL_WINDOW = 8 * 1024
_RECENT = 64
_RECENT_BYTES = 256 * 1024
_APART = {"id", "channel_values", "channel_versions", "versions_seen"}
_OPTION = ormsgpack.OPT_NON_STR_KEYS
_MSGPACK = "msgpack"
_PLAIN, _ZLIB = b"\0", b"\1"


class UnlistedType(TypeError):
    """A value has a type that the graph's state does not name, so it could not be read again."""

    def __init__(self, where: str, name: str) -> None:
        super().__init__(
            f"{where} holds a {name}, which the release's state does not name. A checkpoint keeps"
            " only types that are found in the annotations of the graph's state: annotate the"
            " channel with it, or let the node return plain data."
        )


class DamagedState(ValueError):
    """A checkpoint cannot be read."""


class Table:
    """What a checkpoint holds, packed: what the next one is compared with."""

    __slots__ = ("channels", "depth", "seen", "versions")

    def __init__(self, depth: int, versions: dict[str, Any], seen: dict[str, Any]) -> None:
        self.depth = depth
        self.versions = versions
        self.seen = seen
        self.channels: dict[str, Slot] = {}


class Key(bytes):
    """The key of a content, in a table that is read."""

    __slots__ = ()


class Packer:
    """Packs what a graph keeps, refusing types that it could not read again."""

    def __init__(self, serde: Any) -> None:
        self._serde = serde
        self._check = _checking(serde)
        self._recent: dict[bytes, tuple[bytes, bytes]] = {}  # a value's bytes: key, as stored

    def table(
        self,
        below: Table | None,
        checkpoint: Mapping[str, Any],
        new_versions: Mapping[str, Any],
        contents: dict[bytes, bytes],
    ) -> tuple[Table, bytes]:
        """A checkpoint's table, as it is and as it is sent.

        Args:
            below: the parent's table, if it is known.
            checkpoint: to pack.
            new_versions: the channels that were written since.
            contents: gets what the table refers to and ``below`` does not.

        Raises:
            UnlistedType: a value could not be read again.
        """
        stands = below is not None and below.depth < DEEPEST
        versions, seen = dict(checkpoint["channel_versions"]), dict(checkpoint["versions_seen"])
        found = Table(below.depth + 1 if below and stands else 0, versions, seen)
        rest = {name: checkpoint[name] for name in checkpoint if name not in _APART}
        changed: dict[str, Any] = {"": self.atom(rest, "the checkpoint", contents)[1]}
        dropped: list[str] = []
        old_versions, old_seen = (below.versions, below.seen) if below and stands else ({}, {})
        for mark, new, old in (("v", versions, old_versions), ("s", seen, old_seen)):
            for name, value in new.items():
                if name not in old or old[name] != value:
                    changed[mark + name] = ormsgpack.packb(value, option=_OPTION)
            dropped += [mark + name for name in old if name not in new]
        self._channels(found, below, checkpoint["channel_values"], new_versions, contents)
        before = below.channels if below and stands else {}
        for name, slot in found.channels.items():
            if (form := _difference(before.get(name), slot)) is not None:
                changed["c" + name] = form
        dropped += ["c" + name for name in before if name not in found.channels]
        return found, ormsgpack.packb([changed, dropped], option=_OPTION)

    def write(self, value: Any, where: str, contents: dict[bytes, bytes]) -> bytes:
        """What a node wrote, as it is sent.

        Raises:
            UnlistedType: it could not be read again.
        """
        slot = self._slot(None, value, where, contents)
        return ormsgpack.packb(_difference(None, slot), option=_OPTION)

    def atom(self, value: Any, where: str, contents: dict[bytes, bytes]) -> Atom:
        """One value, packed and checked."""
        raw = self._raw(value)
        return raw, self._form(raw, where, contents)

    def _channels(
        self,
        found: Table,
        below: Table | None,
        values: Mapping[str, Any],
        new_versions: Mapping[str, Any],
        contents: dict[bytes, bytes],
    ) -> None:
        before = below.channels if below else {}
        old_versions = below.versions if below else {}
        for name, version in found.versions.items():
            if name in before and name not in new_versions and old_versions.get(name) == version:
                found.channels[name] = before[name]
        for name, value in values.items():
            if name not in found.channels:
                where = f"channel {name!r}"
                found.channels[name] = self._slot(before.get(name), value, where, contents)

    def _slot(
        self, before: Slot | None, value: Any, where: str, contents: dict[bytes, bytes]
    ) -> Slot:
        """A value's atoms; those that were there before stay what they were."""
        if type(value) is not list or not value:
            raw = self._raw(value)
            if type(before) is tuple and before[0] == raw:
                return before
            return raw, self._form(raw, where, contents)
        olds: list[Atom] = before if type(before) is list else []
        known: dict[Raw, Any] | None = None
        atoms: list[Atom] = []
        for number, item in enumerate(value):
            raw = self._raw(item)
            if number < len(olds) and olds[number][0] == raw:
                atoms.append(olds[number])
                continue
            if known is None:
                known = dict(olds)
            form = known.get(raw)
            atoms.append((raw, self._form(raw, where, contents) if form is None else form))
        return atoms

    def _raw(self, value: Any) -> Raw:
        tag, data = self._serde.dumps_typed(value)
        return data if tag == _MSGPACK else (tag, bytes(data))

    def _form(self, raw: Raw, where: str, contents: dict[bytes, bytes]) -> Any:
        """How a table refers to a value that was not there before."""
        tag, data = raw if isinstance(raw, tuple) else (_MSGPACK, raw)
        if tag == _MSGPACK and (name := self._check(data)) is not None:
            raise UnlistedType(where, name)
        form: Any = data
        if len(data) > _LARGE:
            key, stored = self._stored(data)
            contents[key] = stored
            form = ormsgpack.Ext(_KEY, key)
        return form if tag == _MSGPACK else [tag, form]

    def _stored(self, data: bytes) -> tuple[bytes, bytes]:
        """The key of a content and its bytes as they are stored."""
        if (found := self._recent.get(data)) is not None:
            return found
        stored = _PLAIN + data
        if len(data) >= _SQUEEZED:
            squeezed = _squeezed(data)
            if len(squeezed) < len(data) * 0.9:
                stored = _ZLIB + squeezed
        found = hashlib.blake2b(stored, digest_size=_KEY_BYTES).digest(), stored
        # A node's write is the checkpoint's new message a moment later: packed once.
        if len(data) <= _RECENT_BYTES:
            if len(self._recent) >= _RECENT:
                self._recent.clear()
            self._recent[data] = found
        return found


class Reader:
    """Reads tables, with the contents that came with them."""

    def __init__(self, serde: Any, contents: Mapping[bytes, bytes]) -> None:
        self._serde = serde
        self._stored = contents
        self._plain: dict[bytes, bytes] = {}

    def table(self, data: bytes, depth: int) -> tuple[dict[str, Any], Table]:
        """A checkpoint without its id, and its table; the table stands alone.

        Raises:
            DamagedState: it cannot be read.
        """
        slots, _ = self._unpacked(data)
        checkpoint: dict[str, Any] = {"channel_values": {}}
        found = Table(depth, {}, {})
        for name, form in slots.items():
            slot = self._slot(form)
            if not name:
                checkpoint.update(self._value(slot))
            elif name[0] == "v":
                found.versions[name[1:]] = self._value(slot)
            elif name[0] == "s":
                found.seen[name[1:]] = self._value(slot)
            else:
                found.channels[name[1:]] = slot
                checkpoint["channel_values"][name[1:]] = self._value(slot)
        checkpoint["channel_versions"] = dict(found.versions)
        checkpoint["versions_seen"] = {node: dict(seen) for node, seen in found.seen.items()}
        return checkpoint, found

    def write(self, data: bytes) -> Any:
        """What a node wrote.

        Raises:
            DamagedState: it cannot be read.
        """
        return self._value(self._slot(self._unpacked(data)))

    def _unpacked(self, data: bytes) -> Any:
        return ormsgpack.unpackb(data, ext_hook=lambda _, key: Key(key), option=_OPTION)

    def _slot(self, form: Any) -> Slot:
        if type(form) is list and type(form[0]) is int:
            return [self._atom(atom) for atom in form[1]]
        return self._atom(form)

    def _atom(self, form: Any) -> Atom:
        tag, inner = form if type(form) is list else (_MSGPACK, form)
        data = inner
        if type(inner) is Key:
            data = self._content(inner)
            inner = ormsgpack.Ext(_KEY, bytes(inner))
        return (data, inner) if tag == _MSGPACK else ((tag, data), [tag, inner])

    def _content(self, key: Key) -> bytes:
        if (data := self._plain.get(key)) is None:
            stored = self._stored.get(key)
            if stored is None:
                raise DamagedState(f"a value of the checkpoint did not come with it: {key.hex()}")
            data = zlib.decompress(stored[1:]) if stored[:1] == _ZLIB else stored[1:]
            self._plain[key] = data
        return data

    def _value(self, slot: Slot) -> Any:
        if isinstance(slot, list):
            return [self._loaded(raw) for raw, _ in slot]
        return self._loaded(slot[0])

    def _loaded(self, raw: Raw) -> Any:
        typed = raw if isinstance(raw, tuple) else (_MSGPACK, raw)
        return self._serde.loads_typed(typed)


def _squeezed(data: bytes) -> bytes:
    # What zlib sets up for its usual window costs five times what a message of a kilobyte does.
    compressor = (
        zlib.compressobj(1, zlib.DEFLATED, 12, 5)
        if len(data) <= _SMALL_WINDOW
        else zlib.compressobj(1)
    )
    return compressor.compress(data) + compressor.flush()


def _difference(before: Slot | None, slot: Slot) -> Any:
    """A slot as a table has it that stands on one with ``before``; None if it is the same."""
    if slot is before:
        return None
    if type(slot) is not list:
        return slot[1] if type(before) is not tuple or before[0] != slot[0] else None
    keep = 0
    if type(before) is list:
        if len(before) == len(slot) and all(a is b for a, b in zip(before, slot, strict=True)):
            return None
        most = min(len(before), len(slot))
        while keep < most and before[keep] is slot[keep]:
            keep += 1
    return [keep, [form for _, form in slot[keep:]]]


def _checking(serde: Any) -> Callable[[bytes], str | None]:
    """What names the first type in packed bytes that could not be read again."""
    allowed = getattr(serde, "_allowed_msgpack_modules", True)
    rules = getattr(jsonplus, "_lg_msgpack", None)
    if allowed is True or rules is None:  # a LangGraph that reads whatever there is
        return lambda _: None
    types = set(rules.SAFE_MSGPACK_TYPES) | set(allowed or ())
    methods = set(rules.SAFE_MSGPACK_METHODS)
    nested = {jsonplus.EXT_DELTA_SNAPSHOT, jsonplus.EXT_NUMPY_ARRAY}

    def check(data: bytes) -> str | None:
        refused: list[str] = []

        def hook(code: int, inner: bytes) -> None:
            parts = ormsgpack.unpackb(inner, ext_hook=hook, option=_OPTION)
            if code in nested:
                return
            known = (
                (parts[0], parts[1], parts[3]) in methods
                if code == jsonplus.EXT_METHOD_SINGLE_ARG
                else (parts[0], parts[1]) in types
            )
            if not known:
                refused.append(f"{parts[0]}.{parts[1]}")

        ormsgpack.unpackb(data, ext_hook=hook, option=_OPTION)
        return refused[0] if refused else None

    return check
