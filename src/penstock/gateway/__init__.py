"""One model call: admit, route, call, fall back, settle, record.

Agents reach it over HTTP at an SDK's base URL, so any framework is recorded, limited and pinned
without a change of its code. Not a provider, and not a judge of what a model says.
"""
