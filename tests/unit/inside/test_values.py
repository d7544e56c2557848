from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import uuid
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import BaseModel

from penstock.inside.values import jsonable


class Colour(enum.Enum):
    RED = 1


class Word(enum.StrEnum):
    YES = "yes"


@dataclass
class Point:
    x: int
    y: object


class Model(BaseModel):
    when: dt.date
    inner: list[Word]


class TestValues:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ((1, {2}, [None]), [1, [2], [None]]),
            (Colour.RED, 1),
            (Word.YES, "yes"),
            (True, True),
            (float("nan"), None),
            (Point(1, Point(2, ())), {"x": 1, "y": {"x": 2, "y": []}}),
            (
                Model(when=dt.date(2026, 1, 2), inner=["yes"]),
                {"when": "2026-01-02", "inner": ["yes"]},
            ),
            (dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC), "2026-01-02T03:00:00+00:00"),
            (decimal.Decimal("1.50"), "1.50"),
            (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            (b"bytes", "bytes"),
            ({1: "a", None: "b", Colour.RED: "c"}, {"1": "c", "None": "b"}),
            (Point, str(Point)),
        ],
    )
    def test_values_of_python_as_json(self, value, expected):
        assert jsonable(value) == expected

    def test_messages_as_the_chat_apis_write_them(self):
        call = {"name": "look", "args": {"n": 1}, "id": "c1", "type": "tool_call"}
        messages = [
            HumanMessage("hi"),
            AIMessage("", tool_calls=[call]),
            ToolMessage("found", tool_call_id="c1"),
        ]
        assert jsonable(messages) == [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "found", "tool_call_id": "c1"},
        ]

    def test_what_refers_to_itself_ends(self):
        loop = []
        loop.append(loop)
        json.dumps(jsonable(loop))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
            max_leaves=10,
        )
    )
    def test_the_result_is_always_json(self, value):
        json.dumps(jsonable(value), allow_nan=False)
