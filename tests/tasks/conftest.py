"""Prefect's engine in this process, for the few tests that need it."""

import pytest


@pytest.fixture
def prefect_here(prefect_url):
    """This process pointed at the session's server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_url}):
        yield prefect_url
