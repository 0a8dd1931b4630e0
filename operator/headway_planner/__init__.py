"""Policies for both actuators, pure: a load window and the last decisions in, decisions with reasons out.

`policy.py` is the entry: `decide_scale` and `decide_tune`. It knows nothing of Kubernetes; `headway_operator.core`
translates.
"""
