"""Writes orders.sqlite: python data/make_orders.py."""

import sqlite3
from pathlib import Path

STATUS = ["delivered", "in transit", "returned", "delayed"]
CARRIERS = ["Hermes", "PostNord", "DHL"]

path = Path(__file__).with_name("orders.sqlite")
path.unlink(missing_ok=True)
orders = sqlite3.connect(path)
with orders:
    orders.execute(
        "create table orders"
        " (order_id text primary key, status text, carrier text, date text, amount text)"
    )
    orders.executemany(
        "insert into orders values (?, ?, ?, ?, ?)",
        [
            (
                str(number),
                STATUS[number * 7 % 4],
                CARRIERS[number % 3],
                f"2026-{number % 12 + 1:02}-{number * 5 % 28 + 1:02}",
                f"${number % 90 + 9}.{number * 13 % 100:02}",
            )
            for number in range(1000, 1200)
        ],
    )
orders.execute("vacuum")
orders.close()
