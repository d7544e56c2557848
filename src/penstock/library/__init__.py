"""Durable workflows inside a program of your own: no server, no agent, the same guarantees.

::

    from penstock import step
    from penstock.library import Workflows

    workflows = Workflows("postgresql://…")        # or a directory, for SQLite

    @workflows.workflow
    async def order(number: int) -> str:
        paid = await step("pay", pay, number)      # committed once, never done again
        return await step("ship", ship, number, paid)

    async with workflows:
        print(await workflows.run(order, 1042, id="order-1042"))

A workflow that lost its process goes on behind its last committed step: in this program when it is
started again, or in another one that knows the same function and uses the same database. The
tables, fences, epochs, leases and the reaper are the server's.

The store lives in a thread of its own, so that a step of a plain function may be committed from
anywhere, also from the middle of an event loop.
"""

from __future__ import annotations

from penstock.library.runs import WorkflowFailed
from penstock.library.workflows import Handle, Workflows

__all__ = ["Handle", "WorkflowFailed", "Workflows"]
