"""Quantities as people write them: ``5m``, ``1GiB``, ``$0.50``, ``10%``."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

T = TypeVar("T")

_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_SECONDS["d"] = Decimal(86400)
_BYTES = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_BYTES |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_COUNTS = {"": 1, "k": 10**3, "M": 10**6}
_NUMBER = r"\s*(\d+(?:\.\d+)?)\s*"


def seconds(value: Any) -> float:
    """A duration: ``90``, ``90s``, ``5m``, ``1.5h``, ``7d``.

    Raises:
        ValueError: it is none.
    """
    return float(_scaled(value, _SECONDS | {"": Decimal(1)}, "a duration such as 90s, 5m or 2h"))


def size_bytes(value: Any) -> int:
    """A size: ``512MiB``, ``1GiB``, ``1048576``.

    Raises:
        ValueError: it is none.
    """
    return int(_scaled(value, _BYTES, "a size such as 512MiB or 1GiB"))


def count(value: Any) -> int:
    """A number of things: ``200``, ``200k``, ``1.5M``.

    Raises:
        ValueError: it is none, or no whole one.
    """
    number = _scaled(value, _COUNTS, "a number such as 60 or 200k")
    if number != int(number):
        raise ValueError(f"{value!r} is no whole number")
    return int(number)


def nanos(value: Any) -> int:
    """An amount of dollars as nano-dollars: ``$0.50`` or ``0.5``.

    Raises:
        ValueError: it is none.
    """
    text = str(value).strip().removeprefix("$")
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if isinstance(value, bool) or not amount.is_finite() or amount < 0:
        raise ValueError(f"{value!r} is no amount of dollars such as $0.50")
    return int(amount * 1_000_000_000)


def share(value: Any) -> float:
    """A share: ``10%`` or ``0.1``.

    Raises:
        ValueError: it is none, or not between 0 and 1.
    """
    text = str(value).strip()
    try:
        number = Decimal(text[:-1]) / 100 if text.endswith("%") else Decimal(text)
    except InvalidOperation:
        number = Decimal(-1)
    if isinstance(value, bool) or not 0 <= number <= 1:
        raise ValueError(f"{value!r} is no share such as 10% or 0.1")
    return float(number)


def _scaled(value: Any, units: dict[str, Any], example: str) -> Decimal:
    match = re.fullmatch(_NUMBER + r"([A-Za-z]*)\s*", str(value))
    if match is None or isinstance(value, bool) or match[2] not in units:
        raise ValueError(f"{value!r} is not {example}")
    return Decimal(match[1]) * Decimal(units[match[2]])


def positive(parse: Callable[[Any], T]) -> Callable[[Any], T]:
    """A reader that refuses what is not more than nothing."""

    def checked(value: Any) -> T:
        number = parse(value)
        if number <= 0:  # type: ignore[operator]
            raise ValueError(f"{value!r} is not more than nothing")
        return number

    return checked
