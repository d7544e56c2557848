from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.exchanges import Usage
from penstock.rules import budgets
from penstock.rules.budgets import Rate

RATE = Rate(input_nanos=100, output_nanos=1_000, cached_nanos=10)
amounts = st.integers(0, 10**12)


def test_the_cached_part_of_the_input_has_its_own_price() -> None:
    usage = Usage(input_tokens=100, output_tokens=10, cached_tokens=60, reasoning_tokens=5)
    assert budgets.cost_of(usage, RATE) == 40 * 100 + 60 * 10 + 10 * 1_000


def test_an_estimate_uses_the_known_maximum() -> None:
    assert budgets.estimate(request_bytes=300, max_tokens=50, rate=RATE) == 100 * 100 + 50 * 1_000


@given(cap=amounts, spent=amounts, reserved=amounts, estimate=amounts)
def test_what_is_admitted_never_passes_the_cap(
    cap: int, spent: int, reserved: int, estimate: int
) -> None:
    admitted = budgets.admit(cap=cap, spent=spent, reserved=reserved, estimate=estimate)
    assert admitted == (spent + reserved + estimate <= cap)


def test_without_a_cap_everything_is_admitted() -> None:
    assert budgets.admit(cap=None, spent=10**18, reserved=0, estimate=10**18)


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "$0.00"),
        (500_000_000, "$0.50"),
        (1_234_000, "$0.001234"),
        (10**9, "$1.00"),
        (1, "$0.000000001"),
    ],
)
def test_dollars_are_shown_with_as_many_digits_as_they_need(nanos: int, text: str) -> None:
    assert budgets.dollars(nanos) == text
