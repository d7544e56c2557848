"""The money and the tokens of one task while its calls are on their way."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.rules import budgets


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What a task has used up; or what one call may use, or what all may."""

    nanos: int = 0
    tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Caps:
    """What a task may use up; ``None``: as much as it likes."""

    nanos: int | None = None
    tokens: int | None = None


class Budget:
    """What a task has spent, and what its calls in flight have set aside."""

    __slots__ = ("reserved", "spent")

    def __init__(self, spent: Spent) -> None:
        self.spent = spent
        self.reserved = Spent()

    def reservation(self) -> Reservation:
        """A reservation of nothing yet, for one call."""
        return Reservation(self)

    def has_spent(self, total: Spent) -> None:
        """Take over what the store says; commits may be heard of out of order."""
        self.spent = Spent(
            nanos=max(self.spent.nanos, total.nanos), tokens=max(self.spent.tokens, total.tokens)
        )


class Reservation:
    """What one call has set aside; it moves with the link that is asked."""

    __slots__ = ("_budget", "amount")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.amount = Spent()

    def change_to(self, estimate: Spent, *, caps: Caps) -> str | None:
        """Set ``estimate`` aside instead; or nothing, and say which cap forbids it."""
        self.release()
        budget = self._budget
        for limit, cap, spent, reserved, more in (
            ("cost", caps.nanos, budget.spent.nanos, budget.reserved.nanos, estimate.nanos),
            ("tokens", caps.tokens, budget.spent.tokens, budget.reserved.tokens, estimate.tokens),
        ):
            if not budgets.admit(cap=cap, spent=spent, reserved=reserved, estimate=more):
                return limit
        budget.reserved = Spent(
            nanos=budget.reserved.nanos + estimate.nanos,
            tokens=budget.reserved.tokens + estimate.tokens,
        )
        self.amount = estimate
        return None

    def release(self) -> None:
        """Give back what was set aside."""
        reserved = self._budget.reserved
        self._budget.reserved = Spent(
            nanos=reserved.nanos - self.amount.nanos, tokens=reserved.tokens - self.amount.tokens
        )
        self.amount = Spent()

    def settle(self, total: Spent | None) -> None:
        """Replace the reservation by what the task has used in all, as the store says."""
        if total is not None:
            self._budget.has_spent(total)
        self.release()
