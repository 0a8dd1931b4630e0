"""The control loop of both actuators, pure: what was seen and what is remembered in, decisions with reasons out.

`control.py` is the entry, for the operator and for the simulator (`sim/`). It knows nothing of Kubernetes;
`headway_operator.core` translates.
"""
