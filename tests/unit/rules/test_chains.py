from __future__ import annotations

import pytest

from penstock.domain.exchanges import LinkAttempt
from penstock.rules import chains


def attempt(outcome: str, status: int | None = None, detail: str = "why") -> LinkAttempt:
    return LinkAttempt(
        provider="p", model="m", outcome=outcome, detail=detail, status=status, duration_us=1
    )


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529, 599])
def test_what_may_go_better_elsewhere_falls_back(status: int) -> None:
    assert chains.falls_back("status", status)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_request_that_is_wrong_is_not_tried_elsewhere(status: int) -> None:
    assert not chains.falls_back("status", status)


@pytest.mark.parametrize("outcome", ["skipped", "connect", "timeout", "stall", "cut", "invalid"])
def test_a_link_without_an_answer_falls_back(outcome: str) -> None:
    assert chains.falls_back(outcome, None)


def test_an_answer_does_not_fall_back() -> None:
    assert not chains.falls_back("ok", 200)


@pytest.mark.parametrize(
    ("attempts", "status"),
    [
        ([attempt("status", 429)], 429),
        ([attempt("status", 500), attempt("timeout")], 504),
        ([attempt("timeout"), attempt("connect")], 502),
        ([attempt("status", 503), attempt("skipped")], 503),
        ([attempt("skipped"), attempt("skipped")], 503),
    ],
)
def test_the_last_link_that_was_asked_decides_the_status(
    attempts: list[LinkAttempt], status: int
) -> None:
    assert chains.final_status(attempts) == status


def test_a_dead_chain_names_every_link_and_why() -> None:
    text = chains.explain("main", [attempt("timeout", detail="not answered after 5 s")])
    assert text == "No model of the chain `main` answered. p/m: not answered after 5 s"
