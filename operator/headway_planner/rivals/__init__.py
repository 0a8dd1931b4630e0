"""Published autoscalers as policies of the simulator, each with its rule, its source and its defaults.

They see what they would see in a cluster: their metric, at their lag, at their rhythm. `catalog.py` lists them with the
target that a sweep varies.
"""
