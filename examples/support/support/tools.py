"""What the agent can do: look up an order, refund one."""

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from penstock import tool

ORDERS = Path(os.environ.get("ORDERS", "data/orders.sqlite")).absolute()
REFUNDS = Path(os.environ.get("HOME", "/tmp")) / "refunds.sqlite"  # noqa: S108 - outside of Penstock


@tool(effect="read", retry="safe")
def lookup_order(order_id: str) -> dict[str, Any]:
    """Look up one order: status, carrier, date of delivery, amount."""
    orders = sqlite3.connect(f"file:{ORDERS}?mode=ro", uri=True)
    try:
        orders.row_factory = sqlite3.Row
        row = orders.execute("select * from orders where order_id = ?", (order_id,)).fetchone()
    finally:
        orders.close()
    return {"error": f"there is no order {order_id}"} if row is None else dict(row)


@tool(effect="write", retry="keyed")
def refund_order(order_id: str, reason: str) -> dict[str, Any]:
    """Refund an order that arrived damaged or did not arrive."""
    order = lookup_order(order_id)
    if "error" in order:
        return order
    refunds = sqlite3.connect(REFUNDS, timeout=10)
    try:
        with refunds:
            refunds.execute(
                "create table if not exists refunds (order_id text primary key, reason text)"
            )
            refunds.execute(
                "insert into refunds values (?, ?) on conflict (order_id) do nothing",
                (order_id, reason),
            )
    finally:
        refunds.close()
    return {"order_id": order_id, "refunded": order["amount"], "status": "refunded"}


TOOLS = {"lookup_order": lookup_order, "refund_order": refund_order}


def _schema(name: str, **properties: str) -> dict[str, Any]:
    function = TOOLS[name]
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": function.__doc__,
            "parameters": {
                "type": "object",
                "properties": {
                    key: {"type": "string", "description": said} for key, said in properties.items()
                },
                "required": list(properties),
            },
        },
    }


SCHEMAS = [
    _schema("lookup_order", order_id="the order's number"),
    _schema("refund_order", order_id="the order's number", reason="what is wrong with it"),
]


def run(name: str, arguments: str) -> dict[str, Any]:
    """Call a tool as the model asked for it; what goes wrong is told to the model."""
    try:
        return TOOLS[name](**json.loads(arguments))
    except (KeyError, TypeError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
