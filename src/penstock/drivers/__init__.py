"""Effects on the world outside: a protocol per kind, a file per implementation."""
