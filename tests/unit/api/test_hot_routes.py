"""The routes that carry the traffic are the framework's own handlers, called without it."""

from __future__ import annotations

import inspect

import pytest

from penstock.api import hot, tasks


def match(method, path, query=b""):
    found = hot._handler({"type": "http", "method": method, "path": path, "query_string": query})
    return None if found is None else (found.func.__name__, *found.args)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (("POST", "/api/v1/tasks"), ("_create", 0.0)),
        (("POST", "/api/v1/tasks", b"wait=60"), ("_create", 60.0)),
        (("POST", "/api/v1/tasks", b"wait=2.5"), ("_create", 2.5)),
        (("GET", "/api/v1/tasks/task_1"), ("_get", "task_1")),
        (("GET", "/api/v1/tasks/task_1/wait"), ("_wait", "task_1", 30.0)),
        (("GET", "/api/v1/tasks/task_1/wait", b"seconds=1"), ("_wait", "task_1", 1.0)),
    ],
)
def test_they_are_told_from_their_line(request_, expected):
    assert match(*request_) == expected


@pytest.mark.parametrize(
    "request_",
    [
        ("GET", "/api/v1/tasks"),
        ("POST", "/api/v1/tasks/"),
        ("POST", "/api/v1/tasks", b"wait=601"),
        ("POST", "/api/v1/tasks", b"wait=-1"),
        ("POST", "/api/v1/tasks", b"wait=x"),
        ("POST", "/api/v1/tasks", b"wait=1&more=1"),
        ("POST", "/api/v1/tasks", "wait=²".encode()),
        ("POST", "/api/v1/tasks/task_1/cancel"),
        ("GET", "/api/v1/tasks/task_1/events"),
        ("GET", "/api/v1/tasks/task_1/wait", b"after=1"),
        ("GET", "/api/v1/tasks/task_1", b"x=1"),
        ("GET", "/api/v1/sessions/ses_1"),
        ("DELETE", "/api/v1/tasks/task_1"),
    ],
)
def test_everything_else_is_the_frameworks(request_):
    assert match(*request_) is None


def test_the_handlers_take_nothing_that_only_the_framework_would_give_them():
    """A new parameter of a handler must be given in ``hot``, too, or read from the request."""
    taken = {
        tasks.create_task: ["request", "asked", "by", "wait", "idempotency_key"],
        tasks.get_task: ["task_id", "asked", "by"],
        tasks.wait_for_task: ["task_id", "asked", "by", "seconds"],
    }
    for handler, names in taken.items():
        assert list(inspect.signature(handler).parameters) == names
