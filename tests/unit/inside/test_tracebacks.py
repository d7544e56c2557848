"""What is said of an agent's error: the author's own lines and words."""

from __future__ import annotations

import asyncio

from penstock.inside import tracebacks


async def failing(text):
    raise ValueError(text)


async def grouped(*texts):
    async with asyncio.TaskGroup() as inner:
        for text in texts:
            inner.create_task(failing(text))


async def nested():
    async with asyncio.TaskGroup() as outer:
        outer.create_task(grouped("no money"))


def told(work):
    try:
        asyncio.run(work)
    except BaseExceptionGroup as error:
        return tracebacks.describe(error, __file__.rpartition("/")[0])
    raise AssertionError("nothing was raised")


def test_an_error_that_groups_have_wrapped_is_told_as_itself():
    said = told(nested())
    assert (said["type"], said["message"]) == ("ValueError", "no money")
    assert said["where"].startswith("test_tracebacks.py:")
    assert "in failing" in said["traceback"]


def test_a_group_of_several_errors_names_each():
    said = told(grouped("no money", "no time"))
    assert said["type"] == "ExceptionGroup"
    assert "ValueError: no money" in said["traceback"]
    assert "ValueError: no time" in said["traceback"]
    assert (
        said["message"] == "unhandled errors in a TaskGroup (2 sub-exceptions): no money; no time"
    )
