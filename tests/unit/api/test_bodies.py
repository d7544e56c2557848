"""A body that a route cannot use is refused with the member that is wrong and where to look."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from penstock.api.bodies import read
from penstock.api.tasks import CreateTask
from penstock.domain.errors import Invalid


def request(body):
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"agent": "a", "input": 1, "bogus": 2}', "bogus"),
        (b'{"agent": "a", "input": 1, "priority": "high"}', "$.priority"),
        (b'{"agent": "a", "input": 1, "multitask_strategy": "maybe"}', "$.multitask_strategy"),
        (b"[]", "array"),
    ],
)
async def test_a_member_is_named_and_so_is_the_description_of_the_routes(body, named):
    with pytest.raises(Invalid) as refused:
        await read(request(body), CreateTask)
    assert named in refused.value.message
    assert "/api/v1/openapi.json" in (refused.value.hint or "")
