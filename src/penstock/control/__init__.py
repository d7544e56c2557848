"""Loops that make wishes true: gather facts, call one pure rule, record the decision.

They are not in the path of any request: when they stand still, what is deployed goes on serving.
"""
