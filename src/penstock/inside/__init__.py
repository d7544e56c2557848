"""What runs inside an agent's own process, in its release's own environment.

Standard library only, and nothing else of Penstock: the agent's environment decides every other
package, so these modules must work beside any of them. ``frames`` is the one module the other side
(the supervisor) imports too.

* ``zygote``: imports the agent once, then forks one process per attempt.
* ``host`` and ``shared``: what a forked process does: one attempt, or many side by side.
* ``attempts``, ``channel``, ``frames``: an attempt, its link to the supervisor, the wire format.
* ``context``, ``prompts``, ``tools``: what the agent's author calls.
* ``frameworks``: how a plain function or a LangGraph graph is run.
"""
