"""Audit, metrics and health over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from penstock.actions.insight import Numbers
from penstock.api.bodies import answer, items
from penstock.api.dependencies import Asked, By
from penstock.domain.errors import PenstockError

router = APIRouter(tags=["insight"])


@router.get("/livez")
async def live() -> Response:
    """Whether the process lives; calls nothing."""
    return answer({"status": "alive"})


@router.get("/readyz")
async def ready(asked: Asked) -> Response:
    """Whether the server takes work; says no more to strangers.

    One whose database can be read and takes no writes is *degraded*. It is not taken away from
    those who read, and whoever shares the database would be no better.
    """
    try:
        ok = asked.ready() and await asked.insight.answers()
    except PenstockError:
        ok = False
    if not ok:
        return answer({"status": "not ready"}, 503)
    return answer({"status": "degraded" if asked.insight.refusing else "ready"})


@router.get("/metrics")
async def metrics(asked: Asked, by: By) -> Response:
    """Counts and sums in the Prometheus text format."""
    registry = CollectorRegistry()
    registry.register(_Numbers(await asked.insight.numbers(by)))
    ProcessCollector(registry=registry)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/api/v1/audit")
async def list_audit(
    asked: Asked,
    by: By,
    object_kind: str | None = None,
    object_id: str | None = None,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Response:
    """Audit entries in order; ``after`` is the last sequence number of the page before."""
    return items(
        await asked.insight.audit(
            by, object_kind=object_kind, object_id=object_id, after=after, limit=limit
        )
    )


class _Numbers(Collector):
    """One reading of the store as Prometheus metrics."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        """Every metric."""
        tasks = GaugeMetricFamily(
            "penstock_tasks", "Tasks by state", labels=("agent", "environment", "state")
        )
        for agent, environment, state, count in self._numbers.tasks:
            tasks.add_metric((agent, environment, state.value), count)
        yield tasks
        yield from self._exchanges()
        weight = GaugeMetricFamily(
            "penstock_rollout_weight",
            "Share of new sessions that meet the candidate",
            labels=("agent", "environment", "phase"),
        )
        for rollout in self._numbers.rollouts:
            labels = (rollout.agent, rollout.environment, rollout.phase.value)
            weight.add_metric(labels, rollout.weight)
        yield weight
        capacity = GaugeMetricFamily(
            "penstock_worker_capacity", "Attempts a worker runs at once", labels=("worker",)
        )
        for worker in self._numbers.workers:
            capacity.add_metric((worker.id,), worker.capacity)
        yield capacity
        vectors = GaugeMetricFamily(
            "penstock_memory_vectors_info", "What compares vectors of memories", labels=("by",)
        )
        vectors.add_metric((self._numbers.vectors or "penstock",), 1)
        yield vectors

    def _exchanges(self) -> Iterator[Metric]:
        labels = ("agent", "provider", "model", "outcome")
        count = CounterMetricFamily("penstock_exchanges", "Model calls", labels=labels)
        tokens = CounterMetricFamily(
            "penstock_tokens", "Tokens of model calls", labels=(*labels, "direction")
        )
        cost = CounterMetricFamily("penstock_cost_dollars", "What they cost", labels=labels)
        for total in self._numbers.exchanges:
            names = (total.agent, total.provider, total.model, total.outcome)
            count.add_metric(names, total.count)
            tokens.add_metric((*names, "input"), total.input_tokens)
            tokens.add_metric((*names, "output"), total.output_tokens)
            cost.add_metric(names, total.cost_nanos / 1e9)
        yield count
        yield tokens
        yield cost
