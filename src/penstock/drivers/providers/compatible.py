"""Any endpoint that speaks OpenAI's Chat Completions: OpenAI, vLLM, Ollama, llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.domain.releases import Price
from penstock.drivers.providers import KeyMissing, ProviderAnswer, ProviderRequest
from penstock.drivers.providers.http1 import Http1Pool

OPENAI = "https://api.openai.com/v1"


class CompatibleProvider:
    """A base URL and a key."""

    def __init__(
        self,
        *,
        base_url: str = OPENAI,
        key: str | None = None,
        key_needed: bool = True,
        key_hint: str = "Set OPENAI_API_KEY.",
        price: Price | None = None,
        headers: Mapping[str, str] | None = None,
        connect_seconds: float = 5.0,
    ) -> None:
        """Prepare; the first call connects.

        ``key_hint`` tells a person how to supply the key; ``price`` stands for a server that no
        price list knows. The key goes nowhere but into the Authorization header.

        Raises:
            Invalid: the URL, the key or a header cannot be sent.
        """
        sent = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "user-agent": "penstock",
            **(headers or {}),
        }
        if key:
            sent["authorization"] = f"Bearer {key}"
        self._price = price
        self._missing = key_needed and not key
        self._key_hint = key_hint
        self._pool = Http1Pool(base_url, headers=sent, connect_seconds=connect_seconds)

    @property
    def price(self) -> Price | None:
        """What it charges whatever the model, or ``None``: the price list says."""
        return self._price

    async def call(self, request: ProviderRequest) -> ProviderAnswer:
        """Send a request and wait for the head of its answer.

        Raises:
            KeyMissing: no key is configured.
            ProviderFailed: there is no answer.
        """
        if self._missing:
            raise KeyMissing(f"no key is configured. {self._key_hint}", hint=self._key_hint)
        return await self._pool.post("/chat/completions", request.body)

    async def close(self) -> None:
        """Close the idle connections."""
        await self._pool.close()
