"""Fixtures for all tests."""

pytest_plugins = ["headway_pytest"]
