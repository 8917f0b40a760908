"""The orchestrator: HTTP API, program runtime, scheduling, tools, engine clients, journal, telemetry, command line.

Owns every process-wide resource of a server. Never imports what sits above it (examples).
"""
