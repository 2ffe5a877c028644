"""One Prefect server for all tests that need one: it takes seconds to start, so it is started at most once.

Where there is no NVIDIA driver, Triton's kernels run in its interpreter; it reads that when it is first imported.
"""

import os
from pathlib import Path

import pytest

if not Path("/proc/driver/nvidia").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory):
    """Address of a Prefect server that ends with the session."""
    from flows.server import own_server

    with own_server(tmp_path_factory.mktemp("prefect")) as url:
        yield url
