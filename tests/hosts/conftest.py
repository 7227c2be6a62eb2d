"""Real SSH hosts for these tests."""

from tests.testbed import own_testbed, testbeds  # noqa: F401
