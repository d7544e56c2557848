"""Steps: what an agent's author has done once per task, whatever happens in between."""

from __future__ import annotations

from penstock.inside.context import current
from penstock.inside.retries import Retry

TYPE_CHECKING = False  # typing is not imported for it: this module is on every agent's import path
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")


def step(
    name: str,
    fn: Callable[..., T],
    /,
    *args: Any,
    retry: Retry | int | None = None,
    **kwargs: Any,
) -> T:
    """Call ``fn`` once per task: its result is journaled and not computed again after a restart.

    The journal knows a step by ``name`` and by how often that name has come up where the step is
    called (in the agent's own course, in another step, in a node of a graph), so a step must be
    reached in the same order every time. The result must be JSON (it comes back as JSON would give
    it: a tuple as a list). ``fn`` may be async; then await what this returns. Outside of Penstock
    nothing is journaled.

    Args:
        name: what the step is called in the journal.
        fn: what is called with ``args`` and ``kwargs``.
        args: for ``fn``.
        retry: how often ``fn`` is tried when it raises: a :class:`Retry`, or a number of attempts.
            Without it an error is raised as it is, and is not journaled.
        kwargs: for ``fn``.

    Raises:
        TypeError: the result is not JSON.
    """
    policy = Retry(retry) if isinstance(retry, int) and not isinstance(retry, bool) else retry
    if policy is not None and not isinstance(policy, Retry):
        raise TypeError(
            f"step {name!r}: retry is penstock.Retry(…) or a number of attempts, not {retry!r}"
        )
    attempt = current()
    if attempt is None and policy is None:
        return fn(*args, **kwargs)
    from penstock.inside import step_runs  # noqa: PLC0415 - only who runs steps pays for it

    result: T = step_runs.run(attempt, name, policy, fn, args, kwargs)
    return result
