"""The mark that says what a tool does to the world and whether it may be repeated."""

from __future__ import annotations

TYPE_CHECKING = False  # typing is not imported for it: this module is on every agent's import path
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal, TypeVar

    Function = TypeVar("Function", bound=Callable[..., object])

EFFECTS = ("read", "write")
RETRIES = ("safe", "keyed", "never")


def tool(
    *,
    effect: Literal["read", "write"] = "write",
    retry: Literal["safe", "keyed", "never"] = "never",
) -> Callable[[Function], Function]:
    """Declare a function a tool; the function itself is returned unchanged.

    Args:
        effect: ``read`` changes nothing outside, ``write`` does.
        retry: ``safe`` may be repeated freely; ``keyed`` may be repeated with its idempotency key;
            ``never`` must not be repeated: an interrupted call waits for a person.

    Raises:
        ValueError: another word than these.
    """
    if effect not in EFFECTS:
        raise ValueError(f"a tool's effect is one of {', '.join(EFFECTS)}, not {effect!r}")
    if retry not in RETRIES:
        raise ValueError(f"a tool's retry is one of {', '.join(RETRIES)}, not {retry!r}")

    def mark(function: Function) -> Function:
        function.__penstock_tool__ = {"effect": effect, "retry": retry}  # type: ignore[attr-defined]
        return function

    return mark
