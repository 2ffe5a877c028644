"""Tiny checkpoints of every family, made once (checkpoints.py)."""

import shutil
from pathlib import Path

import pytest

from pipeline_core.priors.image import load_image_prior
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


@pytest.fixture(scope="module")
def prior(checkpoint):
    """``prior(name)``: the tiny checkpoint of that name, loaded once."""
    loaded = {}

    def get(name):
        if name not in loaded:
            loaded[name] = load_image_prior(str(checkpoint(name)))
        return loaded[name]

    return get


@pytest.fixture(scope="module")
def pipeline(checkpoint):
    """``pipeline(name)``: the same checkpoint in diffusers' own pipeline."""
    from diffusers import DiffusionPipeline

    loaded = {}

    def get(name):
        if name not in loaded:
            absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3-without-t5" else {}
            loaded[name] = DiffusionPipeline.from_pretrained(str(checkpoint(name)), local_files_only=True, **absent)
        return loaded[name]

    return get


@pytest.fixture
def copy(checkpoint, tmp_path):
    """``copy(name)``: a copy of a tiny checkpoint, to be damaged."""
    return lambda name: shutil.copytree(checkpoint(name), tmp_path / name)


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
