"""``models:`` of penstock.yaml: aliases, and the chains of pinned models behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from penstock.domain.releases import ModelPin, Price
from penstock.rules.documents import Document, Path, mapping, name, under
from penstock.rules.quantities import nanos, positive, seconds

_DATED = re.compile(r"(\d{4}-?\d{2}-?\d{2}|-\d{4}|@|:)")
_UNDATED_PROVIDERS = {"simulated", "local"}
_NOTHING: dict[str, Any] = {}

# What the vendors' model pages give as the dated id behind a name.
DATED_IDS = {
    "gpt-4.1": "gpt-4.1-2025-04-14",
    "gpt-4.1-mini": "gpt-4.1-mini-2025-04-14",
    "gpt-4.1-nano": "gpt-4.1-nano-2025-04-14",
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "gpt-4-turbo": "gpt-4-turbo-2024-04-09",
    "gpt-5": "gpt-5-2025-08-07",
    "gpt-5-mini": "gpt-5-mini-2025-08-07",
    "gpt-5-nano": "gpt-5-nano-2025-08-07",
    "o1": "o1-2024-12-17",
    "o3": "o3-2025-04-16",
    "o3-mini": "o3-mini-2025-01-31",
    "o4-mini": "o4-mini-2025-04-16",
    "claude-3-5-haiku-latest": "claude-3-5-haiku-20241022",
    "claude-3-7-sonnet-latest": "claude-3-7-sonnet-20250219",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-opus-4-0": "claude-opus-4-20250514",
    "claude-opus-4-1": "claude-opus-4-1-20250805",
    "claude-opus-4-5": "claude-opus-4-5-20251101",
    "claude-sonnet-4-0": "claude-sonnet-4-20250514",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
}

Chains = Mapping[str, tuple[ModelPin, ...]]


def read_models(document: Document) -> dict[str, tuple[ModelPin, ...]]:
    """Alias → chain; what is wrong is noted in the document."""
    found = {}
    for alias, value in under(document, "models").items():
        path: Path = ("models", alias)
        links = value if isinstance(value, list) else [value]
        if not links:
            document.refuse(path, f"{name(path)} has no model", _LINK)
        chain = []
        for index, link in enumerate(links):
            at = (*path, index) if isinstance(value, list) else path
            pin = _link(document, at, link)
            if pin is not None:
                chain.append(pin)
        found[alias] = tuple(chain)
    return found


_LINK = "models: {main: [openai/gpt-4o-2024-08-06, simulated/small]}"
_LINK_KEYS = ("model", "parameters", "timeout", "first_token", "price")


def _link(document: Document, path: Path, link: Any) -> ModelPin | None:
    given: Mapping[str, Any] = {"model": link} if isinstance(link, str) else link
    if not isinstance(given, dict):
        document.refuse(path, f"{name(path)} is no model", _LINK)
        return None
    if isinstance(link, dict):
        document.known(path, given, _LINK_KEYS)
    provider, _, model = str(given.get("model", "")).partition("/")
    if not provider or not model:
        document.refuse(path, f"{name(path)}: a model is written provider/model", _LINK)
        return None
    shipped = ModelPin(provider=provider, model=model)
    return ModelPin(
        provider=provider,
        model=model,
        parameters=document.read((*path, "parameters"), mapping, _NOTHING),
        timeout_seconds=document.read(
            (*path, "timeout"), positive(seconds), shipped.timeout_seconds
        ),
        first_token_seconds=document.read(
            (*path, "first_token"), positive(seconds), shipped.first_token_seconds
        ),
        price=document.read(
            (*path, "price"), _price, None, "price: {input: $2.50, output: $10}  # a million tokens"
        ),
    )


def _price(value: Any) -> Price:
    if not isinstance(value, dict) or value.keys() != {"input", "output"}:
        raise ValueError("a price has input and output, in dollars for a million tokens")
    return Price(
        input_nanos=nanos(value["input"]) // 1_000_000,
        output_nanos=nanos(value["output"]) // 1_000_000,
    )


def undated(document: Document, models: Chains) -> list[str]:
    """What a person is told of names that the provider may change: file, line, and the dated id."""
    return [
        f"{document.file}:{document.line(('models', alias, index))}: {undated_pin(pin)}"
        for alias, chain in models.items()
        for index, pin in enumerate(chain)
        if undated_pin(pin)
    ]


def undated_pin(pin: ModelPin) -> str | None:
    """Why a pin is none: a name without a date is whatever the provider makes of it tomorrow."""
    if pin.provider in _UNDATED_PROVIDERS or _DATED.search(pin.model):
        return None
    dated = DATED_IDS.get(pin.model)
    choice = f"Pin {pin.provider}/{dated}." if dated else "Pin a dated id."
    return (
        f"{pin.provider}/{pin.model} is not dated: the provider may change what it stands for."
        f" {choice}"
    )
