"""One Prefect server for all tests that need one: it takes seconds to start, so it is started at most once.

Where there is no NVIDIA driver, Triton's kernels run in its interpreter; it reads that when it is first imported.
"""

import logging
import os
from pathlib import Path

import pytest

if not Path("/proc/driver/nvidia").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_ENABLED", "false")  # Prefect would start a server for who names none


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory):
    """Address of a Prefect server that ends with the session."""
    from flows.server import own_server

    with own_server(tmp_path_factory.mktemp("prefect")) as url:
        yield url


@pytest.fixture
def prefect_here(prefect_url):
    """This process pointed at the session's server."""
    from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_url, PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield prefect_url


@pytest.fixture(scope="session")
def s3_server():
    """Address of moto's S3 on loopback, with the bucket ``farm``."""
    pytest.importorskip("moto.server", reason="needs moto[server]")
    s3fs = pytest.importorskip("s3fs", reason="needs s3fs")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        point_at(patch, f"http://{host}:{port}")
        s3fs.S3FileSystem().mkdir("farm")
        s3fs.S3FileSystem.clear_instance_cache()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def bucket(s3_server, tmp_path_factory):
    """``s3://farm``, and an environment in which this process and its children find it."""
    import s3fs

    with pytest.MonkeyPatch.context() as patch:
        point_at(patch, s3_server)
        patch.setenv("SPLATMILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        s3fs.S3FileSystem.clear_instance_cache()
        yield "s3://farm"
        s3fs.S3FileSystem.clear_instance_cache()


def point_at(patch, url):
    """Set the environment of S3's clients."""
    settings = {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"}
    for name, value in (settings | {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}).items():
        patch.setenv(name, value)
