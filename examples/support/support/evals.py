"""Whether a session did what the customer came for, judged from its record and the shop's data."""

import json
import re
from typing import Any

from support.tools import lookup_order

NUMBER = re.compile(r"\b\d{4}\b")
DAMAGED = re.compile(r"refund|damaged|broken", re.IGNORECASE)


def resolved(record: dict[str, Any]) -> bool:
    """Every question of the session got an answer that the records bear out."""
    return bool(record["tasks"]) and all(answered(task) for task in record["tasks"])


def answered(task: dict[str, Any]) -> bool:
    """The right tool was used on the right order, and the answer carries its facts."""
    output = task["output"] or {}
    given = task["input"]
    question = str(given.get("question", "") if isinstance(given, dict) else given)
    asked = NUMBER.search(question)
    answer = str(output.get("answer", ""))
    if not answer or asked is None:
        return False
    order = lookup_order(asked[0])
    if "error" in order:
        return not any(word in answer.lower() for word in ("delivered", "in transit", "returned"))
    if DAMAGED.search(question):
        return ("refund_order", asked[0]) in calls(output)
    return order["status"] in answer.lower() and order["date"] in answer


def calls(output: dict[str, Any]) -> set[tuple[str, str]]:
    """Which tools were called for which order."""
    found = set()
    for message in output.get("messages", []):
        for call in message.get("tool_calls") or []:
            try:
                arguments = json.loads(call["function"]["arguments"])
            except ValueError:
                continue
            found.add((call["function"]["name"], str(arguments.get("order_id"))))
    return found
