"""A call is let through once it is known whose task it is for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from penstock.domain.errors import Stale
from penstock.runtime.identity import Identities


class Holder:
    """An attempt, as far as it matters here."""

    pid = 1
    owner = "one"
    caller = SimpleNamespace(task_id="task_1", epoch=1)


async def test_a_call_waits_while_its_lease_is_in_doubt():
    owner = [None]
    found = Identities(gateway_port=1, owner=lambda: owner[0])
    found.add(Holder())
    waiting = asyncio.create_task(found.confirm(Holder.caller))
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    owner[0] = "one"
    await waiting


@pytest.mark.parametrize("gone", [True, False])
async def test_a_call_is_refused_whose_task_was_given_to_another(gone):
    owner = [None]
    found = Identities(gateway_port=1, owner=lambda: owner[0])
    holder = Holder()
    token = found.add(holder)
    waiting = asyncio.create_task(found.confirm(holder.caller))
    await asyncio.sleep(0)
    if gone:
        found.remove(holder, token)
    owner[0] = "one" if gone else "two"  # taken for dead, the worker goes on under a new name
    with pytest.raises(Stale):
        await waiting
