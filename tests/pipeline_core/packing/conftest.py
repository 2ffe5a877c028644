"""Finished assets that tests only read."""

import pytest

from pipeline_core.packing.finished import Finished
from tests.finished_asset import HOSTILE, finished


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """An asset with everything, and a prompt that means harm."""
    return Finished(finished(tmp_path_factory.mktemp("whole"), prompt=HOSTILE))


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """An asset as of long ago: no levels, no collision, one map."""
    return Finished(finished(tmp_path_factory.mktemp("plain"), "old-box", maps=False, parts=False))
