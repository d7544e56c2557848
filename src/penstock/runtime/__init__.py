"""The durable runtime: takes tasks from the queue and runs each attempt in a process of its own.

* ``workers``: claims, heartbeats, the reaper, drain.
* ``attempts``: one attempt from its order to its end; every write of it passes the fence
  (``journals``), and lands exactly once (``landings``).
* ``zygotes`` and ``processes``: the warmed process of each release, and its forks.
* ``identity``: which attempt is at the other end of a connection.
* ``evaluations``: runs the evaluators that judge closed sessions.

It never decides what an ending means for a task (``rules/tasks``) and never imports an agent.
"""
