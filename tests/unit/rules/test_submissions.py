"""What may be asked of a task before there is one."""

from __future__ import annotations

import pytest

from penstock.domain.errors import Invalid
from penstock.domain.tasks import MultitaskStrategy
from penstock.rules.submissions import check_together, due, request_digest

NOW = 1_800_000_000_000_000
ORDINARY = {
    "priority": 0, "strategy": MultitaskStrategy.ENQUEUE, "later": False, "stateless": False,
    "session_id": None,
}  # fmt: skip


def test_a_moment_is_one_whatever_its_offset():
    moments = ("2027-01-15T08:00:01Z", "2027-01-15T09:00:01+01:00", "2027-01-15T08:00:01.000Z")
    assert {due(delay_seconds=0, run_at=text, now_us=NOW) for text in moments} == {NOW + 1_000_000}


def test_without_a_moment_only_the_delay_counts():
    assert due(delay_seconds=5, run_at=None, now_us=NOW) == 0


@pytest.mark.parametrize(
    ("delay", "run_at", "says"),
    [
        (-1, None, "between 0 and a year"),
        (400 * 86_400, None, "between 0 and a year"),
        (float("nan"), None, "between 0 and a year"),
        (5, "2027-01-15T08:00:00Z", "either"),
        (0, "tomorrow", "no moment"),
        (0, "2027-01-15T08:00:00", "no moment"),
        (0, "2027-01-15", "no moment"),
        (0, "2029-01-15T08:00:00Z", "more than a year"),
    ],
)
def test_what_is_no_time_to_run_is_refused(delay, run_at, says):
    with pytest.raises(Invalid, match=says):
        due(delay_seconds=delay, run_at=run_at, now_us=NOW)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"priority": 101}, "priority"),
        ({"priority": -101}, "priority"),
        ({"strategy": MultitaskStrategy.ROLLBACK, "later": True}, "to run later"),
        ({"strategy": MultitaskStrategy.REJECT, "later": True}, "to run later"),
        ({"stateless": True, "session_id": "ses_1"}, "stateless"),
    ],
)
def test_what_contradicts_itself_is_refused(asked, says):
    check_together(**ORDINARY)
    with pytest.raises(Invalid, match=says):
        check_together(**{**ORDINARY, **asked})


def test_a_digest_knows_content_and_no_order():
    one = request_digest({"a": 1, "b": {"c": [1, 2], "d": "ü\ud800"}})
    assert one == request_digest({"b": {"d": "ü\ud800", "c": [1, 2]}, "a": 1})
    assert one != request_digest({"a": 1, "b": {"c": [2, 1], "d": "ü\ud800"}})
    assert request_digest({"a": 1 << 80}) != request_digest({"a": (1 << 80) + 1})
