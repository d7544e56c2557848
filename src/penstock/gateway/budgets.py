"""The money of one task while its calls are on their way."""

from __future__ import annotations

from penstock.rules import budgets


class Budget:
    """What a task has spent, and what its calls in flight have set aside."""

    __slots__ = ("reserved", "spent")

    def __init__(self, spent: int) -> None:
        self.spent = spent
        self.reserved = 0

    def reservation(self) -> Reservation:
        """A reservation of nothing yet, for one call."""
        return Reservation(self)

    def has_spent(self, total: int) -> None:
        """Take over what the store says; commits may be heard of out of order."""
        self.spent = max(self.spent, total)


class Reservation:
    """What one call has set aside; it moves with the link that is asked."""

    __slots__ = ("_budget", "amount")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.amount = 0

    def change_to(self, estimate: int, *, cap: int | None) -> bool:
        """Set ``estimate`` aside instead; false, and nothing is set aside, if the cap forbids."""
        self.release()
        budget = self._budget
        if not budgets.admit(
            cap=cap, spent=budget.spent, reserved=budget.reserved, estimate=estimate
        ):
            return False
        budget.reserved += estimate
        self.amount = estimate
        return True

    def release(self) -> None:
        """Give back what was set aside."""
        self._budget.reserved -= self.amount
        self.amount = 0

    def settle(self, total: int | None) -> None:
        """Replace the reservation by what the task has cost in all, as the store says."""
        if total is not None:
            self._budget.has_spent(total)
        self.release()
