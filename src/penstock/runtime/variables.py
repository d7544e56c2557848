"""What an environment gives to an agent's process, with secrets looked up when it is needed."""

from __future__ import annotations

import time
from collections.abc import Mapping

from penstock.domain.environments import Environment
from penstock.domain.errors import Unavailable
from penstock.domain.releases import Manifest
from penstock.drivers.secrets import Secrets
from penstock.rules.environments import reference
from penstock.store import Store, Transaction, environments

_FRESH_SECONDS = 1.0  # how long a change of an environment may go unnoticed


class Variables:
    """Finds the variables of a release in an environment; no value of a secret is kept."""

    def __init__(self, store: Store, secrets: Mapping[str, Secrets]) -> None:
        self._store = store
        self._secrets = secrets
        self._known: dict[tuple[str, str], tuple[float, Environment]] = {}

    async def of(self, pinned: Manifest, environment: str) -> dict[str, str]:
        """Name → value; the environment's own win over what the release says.

        Raises:
            Unavailable: a secret cannot be read; names its reference, never a value.
        """
        added = await self._environment(pinned.agent, environment)
        found = {}
        for name, value in {**pinned.policy.secrets, **added.variables}.items():
            refers = reference(value)
            found[name] = value if refers is None else await self._read(*refers)
        return found

    async def _read(self, driver: str, address: str) -> str:
        secrets = self._secrets.get(driver)
        if secrets is None:
            known = ", ".join(sorted(self._secrets))
            raise Unavailable(f"{driver}:{address} is no secret that can be read; known: {known}")
        return await secrets.read(address)

    async def _environment(self, agent: str, environment: str) -> Environment:
        known = self._known.get((agent, environment))
        if known is not None and time.monotonic() - known[0] < _FRESH_SECONDS:
            return known[1]

        async def work(tx: Transaction) -> Environment:
            return await environments.get(tx, agent, environment)

        found = await self._store.read(work)
        self._known[agent, environment] = (time.monotonic(), found)
        return found
