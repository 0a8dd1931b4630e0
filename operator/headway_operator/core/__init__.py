"""The operator's decisions, pure: `decide(observed) -> Plan`.

Nothing here reads a clock, talks to anybody or draws a random number. A test states an `Observed` and asserts a `Plan`.
"""
