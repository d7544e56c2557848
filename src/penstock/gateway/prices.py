"""What a model's tokens cost: the pin says, else the provider, else the public price list."""

from __future__ import annotations

import asyncio
import math

from penstock.domain.releases import ModelPin, Price
from penstock.drivers.providers import Provider
from penstock.rules.budgets import Rate

_MILLION = 1_000_000
_NANOS_PER_TOKEN = 1_000  # dollars per million tokens → nano-dollars per token


class Prices:
    """Looks prices up once for every provider and model."""

    def __init__(self) -> None:
        self._listed: dict[tuple[str, str], Rate | None] = {}

    async def of(self, pin: ModelPin, provider: Provider | None) -> Rate | None:
        """The rate of a link, or nothing when nobody knows it."""
        price = pin.price or (provider.price if provider is not None else None)
        if price is not None:
            return _flat(price)
        key = (pin.provider, pin.model)
        if key not in self._listed:
            # The list is large and read from disk: never on the event loop.
            self._listed[key] = await asyncio.to_thread(_look_up, *key)
        return self._listed[key]


def _flat(price: Price) -> Rate:
    return Rate(
        input_nanos=price.input_nanos,
        output_nanos=price.output_nanos,
        cached_nanos=price.input_nanos,
    )


def _look_up(provider: str, model: str) -> Rate | None:
    from genai_prices import Usage, calc_price  # noqa: PLC0415 - 0.4 s that most starts never need

    def nanos(usage: Usage) -> int:
        found = calc_price(usage, model_ref=model, provider_id=provider)
        # Rounded up: a cap is kept from the safe side.
        return math.ceil(found.total_price * _NANOS_PER_TOKEN)

    try:
        return Rate(
            input_nanos=nanos(Usage(input_tokens=_MILLION, output_tokens=0)),
            output_nanos=nanos(Usage(input_tokens=0, output_tokens=_MILLION)),
            cached_nanos=nanos(
                Usage(input_tokens=_MILLION, cache_read_tokens=_MILLION, output_tokens=0)
            ),
        )
    except LookupError:
        return None
