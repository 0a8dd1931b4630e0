"""Measurements of the engine without a network: `headway bench engine`, or `python -m headway_engine.bench`."""
