"""Money and tokens of one task: what a call costs, what it may cost, whether it may be made.

All amounts are whole: nano-dollars, or tokens. Before a call its most expensive course is set aside
(*reserved*); afterwards the reservation is replaced by what it did cost (*settled*). When the
call's maximum is known the cap is never passed; when it is not, by at most the error of the
estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.domain.exchanges import Usage

UNKNOWN_OUTPUT_TOKENS = 1_024  # set aside when neither the agent nor the pin limits the answer
_BYTES_PER_TOKEN = 3  # fewer than on average: an estimate that guards a cap errs upwards


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """What a token costs, in nano-dollars."""

    input_nanos: int
    output_nanos: int
    cached_nanos: int  # for the part of the input that the provider had cached


FREE = Rate(input_nanos=0, output_nanos=0, cached_nanos=0)


def cost_of(usage: Usage, rate: Rate) -> int:
    """What a call cost."""
    cached = min(usage.cached_tokens, usage.input_tokens)
    return (
        (usage.input_tokens - cached) * rate.input_nanos
        + cached * rate.cached_nanos
        + usage.output_tokens * rate.output_nanos
    )


def estimate(*, request_bytes: int, max_tokens: int | None, rate: Rate) -> int:
    """What a call may cost at most, as far as can be known before it is made."""
    tokens_in, tokens_out = _tokens(request_bytes, max_tokens)
    return tokens_in * rate.input_nanos + tokens_out * rate.output_nanos


def estimate_tokens(*, request_bytes: int, max_tokens: int | None) -> int:
    """How many tokens a call may use at most, in and out, as far as can be known before it."""
    return sum(_tokens(request_bytes, max_tokens))


def _tokens(request_bytes: int, max_tokens: int | None) -> tuple[int, int]:
    tokens_in = -(-request_bytes // _BYTES_PER_TOKEN)
    return tokens_in, UNKNOWN_OUTPUT_TOKENS if max_tokens is None else max_tokens


def admit(*, cap: int | None, spent: int, reserved: int, estimate: int) -> bool:
    """Whether a call of this estimate fits under the cap beside what is spent and reserved."""
    return cap is None or spent + reserved + estimate <= cap


def dollars(nanos: int) -> str:
    """An amount for people, with as many digits as it needs and at least two."""
    text = f"{nanos / 1_000_000_000:.9f}".rstrip("0")
    whole, _, part = text.partition(".")
    return f"${whole}.{part:0<2}"
