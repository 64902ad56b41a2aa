"""Fixtures of the example suite; a suite of your own starts the same way."""

import pytest


@pytest.fixture(scope="module")
def shared_guest(session_guest_factory):
    """One guest for all tests of a module: quick, but each test sees what the one before left."""
    with session_guest_factory(name="shared") as guest:
        yield guest
