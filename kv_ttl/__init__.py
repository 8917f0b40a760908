"""Retention: how long a paused program's KV is kept.

Owns the model of function-call durations, the TTL decision and the ledger of leases, all pure: no I/O, no clock.
"""
