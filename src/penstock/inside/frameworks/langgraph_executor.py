"""LangGraph's background work, without a thread for each call of our saver.

A sync graph hands every checkpoint and every node's writes to a pool of threads that is made for
the run, and then waits for the checkpoint. A thread costs more than the call: so a checkpoint is
committed in the thread that would wait for it, and writes wait for their checkpoint in no thread at
all. Whatever else a graph runs in the background, and the nodes of a step that has several, get
LangGraph's own pool, which is made when the first of them comes.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from penstock.inside.frameworks.langgraph_saver import PenstockSaver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PUT = "_checkpointer_put_after_previous"


def patch(module: Any) -> None:
    """Let graphs use it; ``module`` is ``langgraph.pregel._executor``."""
    make = module.get_executor_for_config

    @contextlib.contextmanager
    def executor(config: Any) -> Iterator[Any]:
        with contextlib.ExitStack() as stack:
            yield _Executor(lambda: stack.enter_context(make(config)))

    module.get_executor_for_config = executor


class _Executor:
    """What a run takes for its pool of threads."""

    def __init__(self, make_pool: Callable[[], Any]) -> None:
        self._make_pool = make_pool
        self._pool: Any = None
        self._making = threading.Lock()

    def submit(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        """Run in the background, or at once what would be waited for."""
        called: Any = args[0] if args else None
        if getattr(called, "__func__", None) is PenstockSaver.put_writes:
            future: Future[Any] = called.__self__.hold_writes(*args[1:], **kwargs)
            return future
        if getattr(called, "__name__", "") == _PUT and isinstance(
            getattr(getattr(called, "__self__", None), "checkpointer", None), PenstockSaver
        ):
            return _done(run, *args, **kwargs)
        with self._making:
            if self._pool is None:
                self._pool = self._make_pool()
        submitted: Future[Any] = self._pool.submit(run, *args, **kwargs)
        return submitted


def _done(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """What a call has come to, as a future that is done."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    try:
        future.set_result(run(*args, **kwargs))
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks the future
        future.set_exception(error)
    return future
