"""How each kind of agent is run: ``plain`` callables and ``langgraph`` graphs.

Files of this package import their framework lazily, from the release's own environment.
"""
