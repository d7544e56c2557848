"""Tools that know nothing about agents: time, identifiers, loops, logs.

Not a drawer for helpers: a module comes here only if it would make sense in any other program.
"""
