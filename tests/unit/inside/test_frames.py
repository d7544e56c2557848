from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.inside.frames import MAX_FRAME, Decoder, FrameError, encode

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False)
)
headers = st.dictionaries(
    st.text().filter(lambda key: key != "b"), scalars | st.lists(scalars, max_size=3), max_size=5
)
frames = st.lists(st.tuples(headers, st.lists(st.binary(max_size=50), max_size=4)), max_size=5)


def _frame(header, blobs=b""):
    body = len(header).to_bytes(4, "big") + header + blobs
    return len(body).to_bytes(4, "big") + body


class TestFrames:
    @given(frames, st.integers(1, 64))
    def test_frames_cut_anywhere_come_out_as_they_went_in(self, sent, size):
        stream = b"".join(encode(header, blobs) for header, blobs in sent)
        decoder = Decoder()
        received = []
        for start in range(0, len(stream), size):
            received += decoder.feed(stream[start : start + size])
        assert received == sent

    def test_the_layout_is_the_documented_one(self):
        header = b'{"t":"x","b":[2]}'
        assert encode({"t": "x"}, [b"ab"]) == (
            (4 + len(header) + 2).to_bytes(4, "big")
            + len(header).to_bytes(4, "big")
            + header
            + b"ab"
        )

    def test_a_lone_surrogate_survives(self):
        assert Decoder().feed(encode({"text": "\ud800"})) == [({"text": "\ud800"}, [])]

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
    def test_what_json_lacks_is_refused(self, value):
        with pytest.raises(FrameError, match="must be JSON"):
            encode({"value": value})

    def test_a_frame_that_is_too_large_is_refused_on_both_sides(self):
        with pytest.raises(FrameError, match="at most"):
            encode({}, [bytes(MAX_FRAME)])
        with pytest.raises(FrameError, match="cannot be"):
            Decoder().feed((MAX_FRAME + 1).to_bytes(4, "big"))

    @pytest.mark.parametrize(
        "data",
        [
            (3).to_bytes(4, "big") + b"abc",
            (4).to_bytes(4, "big") + (9).to_bytes(4, "big"),
            _frame(b"nonsense"),
            _frame(b"[]"),
            _frame(b'{"b":[1]}'),
            _frame(b"{}", b"left over"),
            _frame(b'{"b":[-1,2]}', b"x"),
            _frame(b'{"b":["1"]}', b"x"),
            _frame(b'{"b":7}', b"x"),
            _frame(b"[" * 100_000),
        ],
    )
    def test_bytes_that_are_no_frame_are_an_error(self, data):
        with pytest.raises(FrameError):
            Decoder().feed(data)

    def test_the_length_list_does_not_leak_into_the_header(self):
        header, blobs = Decoder().feed(encode({"t": "x"}, [b"", b"1"]))[0]
        assert json.dumps(header) == '{"t": "x"}'
        assert blobs == [b"", b"1"]
