"""Tiny checkpoints of every family, made once (checkpoints.py)."""

from pathlib import Path

import pytest

from tests.pipeline_core.priors.checkpoints import WRITERS


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """``checkpoint(name)``: folder of the tiny checkpoint of that name in WRITERS, written once. Do not change it."""
    root, made = tmp_path_factory.mktemp("checkpoints"), {}

    def get(name) -> Path:
        if name not in made:
            made[name] = WRITERS[name](root / name)
        return made[name]

    return get


@pytest.fixture(scope="package", autouse=True)
def exact():
    """float32 on every machine: results are compared with closed forms and with other libraries'."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLATMILL_PRECISION", "float32")
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Hashes and downloads go to the test's own folder, and the hub is never asked."""
    monkeypatch.setenv("SPLATMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
