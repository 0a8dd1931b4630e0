"""Fixtures for all tests, and what a property test may take."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["headway_pytest"]

# An example that is slow on a busy machine has not failed.
settings.register_profile("headway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headway")
