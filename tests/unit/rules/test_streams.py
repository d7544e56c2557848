"""What a stream carries, and where a reader goes on."""

from __future__ import annotations

import json

import pytest

from penstock.domain.errors import Invalid
from penstock.domain.tasks import Pulse, Streaming, TaskState
from penstock.rules.streams import begin_behind, bounded, mode_of, shown, split_kind, streaming

PULSE = Pulse(state=TaskState.RUNNING, outcome=None, events=7, stream=Streaming())


def test_a_task_streams_the_usual_or_what_it_was_asked_to():
    assert streaming(None, subgraphs=False) == Streaming()
    wished = streaming(["values", "debug", "values"], subgraphs=True)
    assert (wished.modes, wished.subgraphs) == (("values", "debug"), True)
    assert streaming([], subgraphs=False).modes == ()
    with pytest.raises(Invalid, match="no stream mode 'value'"):
        streaming(["value"], subgraphs=False)


def test_a_reader_sees_what_the_task_was_made_with_or_less():
    made = streaming(["updates", "values"], subgraphs=False)
    assert shown([], made) == {"events", "updates", "values"}
    assert shown(["values"], made) == {"events", "values"}
    assert shown(["events"], made) == {"events"}
    with pytest.raises(Invalid, match="does not stream messages; it was made with updates, values"):
        shown(["messages", "values"], made)
    with pytest.raises(Invalid, match="no stream mode"):
        shown(["all"], made)


@pytest.mark.parametrize(
    ("header", "after", "behind"),
    [
        (None, 0, 0),
        (None, 7, 7),
        ("3", 5, 3),
        (" 3 ", 0, 3),
        ("0", 5, 0),
        ("", 5, 5),
        ("007", 0, 7),
    ],
)
def test_a_reader_goes_on_behind_the_last_id_it_has(header, after, behind):
    assert begin_behind(header, after, PULSE) == behind


@pytest.mark.parametrize("header", ["8", "x", "-1", "1.0", "1e3", "٣", "9" * 5000, "NaN"])
def test_an_id_that_is_none_is_refused(header):
    with pytest.raises(Invalid):
        begin_behind(header, 0, PULSE)


def test_an_update_of_a_subgraph_names_it():
    assert split_kind("update|child:1|inner:2") == ("update", ["child:1", "inner:2"])
    assert mode_of("update|child:1") == mode_of("update") == "updates"
    assert mode_of("step") == mode_of("finished") == "events"


def test_what_fits_is_left_alone():
    assert bounded(b'{"a": 1}', 100) == b'{"a": 1}'


def test_the_largest_members_go_first_and_the_small_ones_stay():
    value = {"state": "completed", "output": "x" * 50_000, "log": "y" * 3000}
    short = bounded(json.dumps(value).encode(), 10_000)
    assert len(short) <= 10_000
    found = json.loads(short)
    assert (found["state"], found["log"]) == ("completed", "y" * 3000)
    assert found["output"]["truncated"] is True
    assert found["output"]["bytes"] == 50_002


@pytest.mark.parametrize(
    "value", ["é" * 5000, ["x" * 100] * 100, {str(n): n for n in range(3000)}, "\x00\u2028" * 3000]
)
def test_whatever_is_too_large_becomes_a_mark_that_fits(value):
    text = json.dumps(value, ensure_ascii=False).encode()
    short = bounded(text, 4096)
    assert len(short) <= 4096
    assert json.loads(short)["bytes"] == len(text)
