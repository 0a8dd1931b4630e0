"""The engine's pure core: what a request is, which tokens run next, where their keys and values live.

Nothing here knows torch, gRPC, a clock or randomness: time comes in as `now` (seconds, monotonic), seeds come in with
the request. That makes the scheduler a state machine that tests can drive for hundreds of thousands of steps.
"""
