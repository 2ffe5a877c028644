"""A Prefect server for the few tests that need Prefect's engine."""

import os

import pytest


@pytest.fixture(scope="session")
def prefect_session(tmp_path_factory):
    """This process pointed at a server of its own."""
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    from flows.server import own_server

    home = tmp_path_factory.mktemp("prefect")
    with own_server(home) as url, temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: home}):
        yield url
    assert not os.path.exists(home / "prefect.pid")
