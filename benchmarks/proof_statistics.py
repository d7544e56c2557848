"""``make proof-statistics``: how often a good release is rolled back, how soon a bad one is found.

Seeded simulations that drive the rules the controller uses: ``rules.evidence.fold``,
``rules.splits.fold_split``, ``rules.hard_stops`` and ``rules.rollouts.advance`` with the shipped
plan. The table does not depend on the number of processes. Beside ours, on the very same sessions:
the example of the Argo Rollouts documentation and a z-test that is looked at continuously.

What is simulated: 10 sessions a minute; completion of stable 0.92; an outcome is known at once
(the rules fold in the order of assignment, so a delay shifts every figure by the same number of
sessions). Every session that does not complete counts as a failed task for the hard stops and as
an error for the guards, which is the hardest case for a good release. Latency and cost have the
same law on both arms. No baseline is recorded, so predictable means start at 0.9.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import time
from bisect import bisect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pool

from penstock.domain.rollouts import (
    DEFAULT_PLAN,
    Arm,
    Baseline,
    Evidence,
    Facts,
    FinishedTask,
    Guard,
    HardStopFacts,
    Hold,
    Outcome,
    Phase,
    Plan,
    Rollout,
    SplitEvidence,
    Step,
)
from penstock.rules.evidence import fold, open_evidence
from penstock.rules.rollouts import advance, apply, begin
from penstock.rules.splits import fold_split
from proof_rivals import PER_MINUTE, Argo, ZTest
from proof_rows import Row, median_row, share_interval, share_row

SECOND_US = 1_000_000
DAY = 24 * 60 * PER_MINUTE  # sessions
BASE = 0.92
COST_LEVELS = 5
OVER = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK, Phase.PROMOTING, Phase.LIVE})

COMPLETION_ONLY = Plan(
    steps=(Step(weight=0.1, candidate_sessions=0),),
    guards=(Guard(metric="completion", views=("completion",)),),
    goal=None,
)
ALL_GUARDS = replace(DEFAULT_PLAN, steps=(Step(weight=0.1, candidate_sessions=0),), goal=None)


@dataclass(frozen=True)
class Scenario:
    """One row's world."""

    name: str
    plan: Plan
    stable: float = BASE
    candidate: float = BASE
    incident: bool = False  # both arms at 0.60 during the third of every six hours
    sessions: int = DAY
    every: int = 1  # sessions folded at once; peaks are latched, so only the time is coarser
    rivals: bool = False
    repetitions: int = 1000


@dataclass(frozen=True)
class Run:
    """How one repetition ended."""

    end: str  # rolled_back | promoted | undecided
    sessions: int
    candidates: int
    cause: str = ""
    signal_holds: int = 0
    argo: int | None = None  # canary sessions at the abort
    z_test: int | None = None


def _outcomes(weight: float) -> list[Outcome]:
    """Every outcome there is at one weight, made once; the index is built by ``_draw``."""
    found = []
    for arm in (Arm.STABLE, Arm.CANDIDATE):
        for completed in (0.0, 1.0):
            for latency in (0.0, 1.0):
                for level in range(COST_LEVELS):
                    metrics = {
                        "completion": completed,
                        "errors": completed,
                        "latency": latency,
                        "cost_exceedance": 0.0 if level == 0 else 1.0,
                        "cost_mean": 0.5 + 0.1 * level,
                    }
                    found.append(Outcome(arm=arm, weight=weight, position=0, metrics=metrics))
    return found


_CACHE: dict[float, list[Outcome]] = {}
_COST_CUTS = (0.03, 0.15, 0.40, 0.75)  # cumulative shares of the cost levels, dearest first


class Simulation:
    """One rollout on simulated sessions, driven as the controller drives it."""

    def __init__(self, scenario: Scenario, seed: str) -> None:
        self.scenario = scenario
        self.rng = random.Random(seed)
        self.full = len(scenario.plan.guards) > 1
        start = begin(scenario.plan)
        self.rollout = Rollout(
            id="r", agent="a", environment="production", stable="s", candidate="c",
            plan=scenario.plan, salt="salt", baseline=Baseline(), phase=start.to_phase, hold=None,
            step=start.step, weight=start.weight, step_since=0, revision=1, assigned=0, folded=0,
            reason="", started_us=0, phase_since_us=0, ended_us=None,
        )  # fmt: skip
        self.evidence: tuple[Evidence, ...] = open_evidence(scenario.plan, Baseline())
        self.split = SplitEvidence()
        self.weight = start.weight  # goes on after the end, for the rivals
        self.batch: list[Outcome] = []
        self.candidates = 0
        self.in_step = 0
        self.run_of_failures = 0
        self.signal_holds = 0
        self.cause = ""
        self.candidate_tasks: deque[FinishedTask] = deque(maxlen=50)
        self.stable_tasks: deque[tuple[int, bool]] = deque(maxlen=500)

    def session(self, index: int) -> tuple[bool, bool]:
        """One more session; returns (met the candidate, completed)."""
        rng = self.rng.random
        weight = self.weight
        candidate = rng() < weight
        scenario = self.scenario
        rate = scenario.candidate if candidate else scenario.stable
        if scenario.incident and index // (60 * PER_MINUTE) % 6 == 2:
            rate = 0.60
        completed = rng() < rate
        key = candidate * 4 * COST_LEVELS + completed * 2 * COST_LEVELS
        if self.full:
            key += (rng() < 0.97) * COST_LEVELS + bisect(_COST_CUTS, rng())
        if weight not in _CACHE:
            _CACHE[weight] = _outcomes(weight)
        self.batch.append(_CACHE[weight][key])
        now_us = index * 60 * SECOND_US // PER_MINUTE
        if candidate:
            self.candidates += 1
            self.in_step += 1
            self.run_of_failures = 0 if completed else self.run_of_failures + 1
            self.candidate_tasks.append(FinishedTask(finished_us=now_us, failed=not completed))
        else:
            self.stable_tasks.append((now_us, not completed))
        return candidate, completed

    def tick(self, index: int) -> None:
        """What the controller's loop does: fold, gather, decide, record."""
        now_us = index * 60 * SECOND_US // PER_MINUTE
        self.evidence = tuple([fold(test, self.batch) for test in self.evidence])
        self.split = fold_split(self.split, self.batch)
        self.batch.clear()
        stops = HardStopFacts()
        if self.run_of_failures >= 6:  # a shorter run fires no rule: do not build the facts for it
            stops = HardStopFacts(
                candidate=tuple(self.candidate_tasks),
                stable=tuple(
                    FinishedTask(finished_us=at, failed=bad) for at, bad in self.stable_tasks
                ),
            )
        facts = Facts(
            evidence=self.evidence,
            split=self.split,
            candidate_in_step=self.in_step,
            last_fold_us=now_us,
            hard_stops=stops,
        )
        decision = advance(self.rollout, facts, now_us)
        if decision is None:
            return
        if decision.step != self.rollout.step:
            self.in_step = 0
        if decision.hold is Hold.SIGNAL:
            self.signal_holds += 1
        self.cause = decision.numbers.get("metric") or decision.numbers.get("cause", "")
        self.rollout = apply(self.rollout, decision, now_us)
        if self.rollout.phase not in OVER:
            self.weight = self.rollout.weight


def simulate(job: tuple[Scenario, int]) -> Run:
    """One repetition."""
    scenario, repetition = job
    simulation = Simulation(scenario, f"{scenario.name}/{repetition}")
    argo, z_test = Argo(), ZTest()
    ours: tuple[str, int, int, str] | None = None
    for index in range(scenario.sessions):
        candidate, completed = simulation.session(index)
        if scenario.rivals:
            argo.session(index, candidate=candidate, completed=completed)
            z_test.session(candidate=candidate, completed=completed)
        if ours is None and candidate:
            streak = simulation.run_of_failures >= 6
            # A held signal is looked at on every candidate session, as on arrival.
            held = simulation.rollout.hold is Hold.SIGNAL
            if streak or held or len(simulation.batch) >= scenario.every:
                simulation.tick(index)
                if simulation.rollout.phase is Phase.PROVEN:
                    simulation.tick(index)
                phase = simulation.rollout.phase
                if phase in OVER:
                    end = "promoted" if phase is Phase.PROMOTING else "rolled_back"
                    ours = (end, index + 1, simulation.candidates, simulation.cause)
        if ours is not None and not scenario.rivals:
            break
    end, sessions, candidates, cause = ours or (
        "undecided",
        scenario.sessions,
        simulation.candidates,
        "",
    )
    return Run(
        end, sessions, candidates, cause, simulation.signal_holds, argo.aborted, z_test.aborted
    )


def _found(runs: Sequence[Run]) -> list[float]:
    return [run.candidates if run.end == "rolled_back" else math.inf for run in runs]


def _rival(runs: Sequence[Run], name: str) -> list[float]:
    return [math.inf if (at := getattr(run, name)) is None else at for run in runs]


def _aborts(values: Sequence[float]) -> int:
    return sum(value < math.inf for value in values)


def false_rows(runs: Sequence[Run]) -> list[Row]:
    """Rows of a scenario in which nothing is wrong with the candidate."""
    n = len(runs)
    rows = [share_row("penstock", _aborts(_found(runs)), n, most=0.05)]
    stops = sum(run.cause == "hard_stop" for run in runs if run.end == "rolled_back")
    rows.append(share_row("  of which by a hard stop", stops, n, most=0.01))
    return rows


def false_rows_with_rivals(runs: Sequence[Run]) -> list[Row]:
    """The same, with what the rivals do on the very same sessions."""
    rivals = (("argo", "Argo docs threshold"), ("z_test", "z-test, peeking"))
    return false_rows(runs) + [
        share_row(what, _aborts(_rival(runs, name)), len(runs)) for name, what in rivals
    ]


def detection_rows(most: float) -> Callable[[Sequence[Run]], list[Row]]:
    """Rows of a scenario with a bad candidate: canary sessions until it is found."""

    def rows(runs: Sequence[Run]) -> list[Row]:
        return [
            median_row("penstock", _found(runs), most=most),
            median_row("Argo docs threshold", _rival(runs, "argo")),
            median_row("z-test, peeking", _rival(runs, "z_test")),
        ]

    return rows


def promotion_rows(runs: Sequence[Run]) -> list[Row]:
    """Rows of an equal release on the shipped ramp."""
    n = len(runs)
    promoted = sum(run.end == "promoted" for run in runs)
    low, high = share_interval(promoted, n)
    seen = [run.sessions if run.end == "promoted" else math.inf for run in runs]
    return [
        Row("promoted", f"{promoted / n:.1%}", f"{low:.1%} to {high:.1%}", ">= 95%",
            promoted / n >= 0.95),
        median_row("sessions until it is", seen, most=2000),
        share_row("rolled back", _aborts(_found(runs)), n, most=0.05),
    ]  # fmt: skip


def wrong_rows(runs: Sequence[Run]) -> list[Row]:
    """Rows of a release 7 points worse on the shipped ramp."""
    n = len(runs)
    return [
        share_row("wrongly promoted", sum(run.end == "promoted" for run in runs), n, most=0.02),
        median_row("candidate sessions until rolled back", _found(runs)),
        median_row(
            "all sessions until rolled back",
            [run.sessions if run.end == "rolled_back" else math.inf for run in runs],
        ),
    ]


def scenarios(scale: float) -> list[tuple[str, Scenario, Callable[[Sequence[Run]], list[Row]]]]:
    """Every scenario with its title and its rows."""

    def many(n: int) -> int:
        return max(20, round(n * scale))

    one, full = COMPLETION_ONLY, ALL_GUARDS
    return [
        (
            "False rollback in 24 h, equal releases, 10% canary, one guard at the whole risk",
            Scenario("false-one", one, every=50, rivals=True, repetitions=many(2000)),
            false_rows_with_rivals,
        ),
        (
            "... the provider fails on both arms for 1 h in every 6 (completion 0.60)",
            Scenario("incident-one", one, incident=True, every=50, rivals=True,
                     repetitions=many(2000)),
            false_rows_with_rivals,
        ),
        (
            "False rollback in 24 h, equal releases, 10% canary, the shipped guards",
            Scenario("false-full", full, every=50, repetitions=many(1000)),
            false_rows,
        ),
        (
            "... the provider fails on both arms for 1 h in every 6 (completion 0.60)",
            Scenario("incident-full", full, incident=True, every=50, repetitions=many(1000)),
            false_rows,
        ),
        (
            "Canary sessions until 0.92 -> 0.70 is found, one guard",
            Scenario("found-70-one", one, candidate=0.70, sessions=4000, rivals=True,
                     repetitions=many(2000)),
            detection_rows(22),
        ),
        (
            "Canary sessions until 0.92 -> 0.85 is found, one guard",
            Scenario("found-85-one", one, candidate=0.85, rivals=True, repetitions=many(1500)),
            detection_rows(140),
        ),
        (
            "Canary sessions until 0.92 -> 0.70 is found, the shipped guards",
            Scenario("found-70-full", full, candidate=0.70, repetitions=many(2000)),
            lambda runs: [median_row("penstock", _found(runs), most=27)],
        ),
        (
            "Canary sessions until 0.92 -> 0.85 is found, the shipped guards",
            Scenario("found-85-full", full, candidate=0.85, repetitions=many(1500)),
            lambda runs: [median_row("penstock", _found(runs), most=180)],
        ),
        (
            "Promotion on the shipped ramp, equal releases",
            Scenario("ramp-equal", DEFAULT_PLAN, sessions=20_000, repetitions=many(1000)),
            promotion_rows,
        ),
        (
            "Promotion on the shipped ramp, 0.92 -> 0.85",
            Scenario("ramp-85", DEFAULT_PLAN, candidate=0.85, sessions=20_000,
                     repetitions=many(1000)),
            wrong_rows,
        ),
    ]  # fmt: skip


def main() -> int:
    """Prints the table; returns 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--scale", type=float, default=1.0, help="of the repetitions")
    options = parser.parse_args()
    began = time.perf_counter()
    missed = 0
    print(f"{'':58}{'goal':>9}  {'seen':>20}  {'95% of the simulation':>22}")
    with Pool(options.processes) as pool:
        for title, scenario, rows in scenarios(options.scale):
            jobs = [(scenario, repetition) for repetition in range(scenario.repetitions)]
            start = time.perf_counter()
            runs = pool.map(simulate, jobs, chunksize=8)
            print(f"\n{title}  (n = {len(runs)}, {time.perf_counter() - start:.0f} s)")
            for row in rows(runs):
                mark = "" if row.met is None else ("  met" if row.met else "  MISSED")
                missed += row.met is False
                print(f"  {row.what:56}{row.goal:>9}  {row.seen:>20}  {row.interval:>22}{mark}")
    print(f"\n{time.perf_counter() - began:.0f} s; " + (f"{missed} goals MISSED" if missed else "all goals met"))  # fmt: skip  # noqa: E501
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
