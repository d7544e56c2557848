"""One process with store, worker, controllers, gateway and API: the only place that picks drivers.

* ``wiring``: which part gets what, and in which order they start and stop.
* ``running``: from the start to the signal that ends it.
* ``listening``, ``keys``, ``outside``: the socket, shared secrets, what is reached outside.
"""

from penstock.server.running import run
from penstock.server.wiring import Role, Server

__all__ = ["Role", "Server", "run"]
