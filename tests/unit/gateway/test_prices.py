from __future__ import annotations

from penstock.domain.releases import ModelPin, Price
from penstock.drivers.providers.simulated import SimulatedProvider
from penstock.gateway.prices import Prices
from penstock.rules.budgets import Rate

OWN = Price(input_nanos=1, output_nanos=2)


async def test_the_pin_s_price_comes_first_then_the_provider_s() -> None:
    provider = SimulatedProvider(price=Price(input_nanos=3, output_nanos=4))
    pinned = await Prices().of(ModelPin(provider="simulated", model="m", price=OWN), provider)
    assert pinned == Rate(input_nanos=1, output_nanos=2, cached_nanos=1)
    own = await Prices().of(ModelPin(provider="simulated", model="m"), provider)
    assert own == Rate(input_nanos=3, output_nanos=4, cached_nanos=3)


async def test_the_public_list_knows_dated_models_and_their_cached_price() -> None:
    rate = await Prices().of(ModelPin(provider="openai", model="gpt-4o-mini-2024-07-18"), None)
    assert rate == Rate(input_nanos=150, output_nanos=600, cached_nanos=75)


async def test_nobody_knows_the_price_of_an_unheard_of_model() -> None:
    assert await Prices().of(ModelPin(provider="local", model="qwen"), None) is None
    assert await Prices().of(ModelPin(provider="openai", model="no-such-model"), None) is None
