"""The registry of models and engines: one engine for a pair of priors, made anew after it was closed."""

import pytest
import torch

from pipeline_core import models
from pipeline_core.config import RECIPES
from pipeline_core.errors import RequestError


class Prior:
    dtype, size, num_views = torch.float32, 8, 1


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(models, "image_prior", lambda ref: Prior())
    monkeypatch.setattr(models, "device", lambda: torch.device("cpu"))
    yield
    models.close_engines()


def test_one_engine_for_a_pair_of_priors(monkeypatch):
    monkeypatch.setenv(models.MAX_ACTIVE, "3")
    first = models.engine(RECIPES["factory"])
    assert models.engine(RECIPES["draft"]) is first and first.max_active == 3
    assert models.engine(RECIPES["gsgen"]) is not first
    models.close_engines()
    assert first.closed and models.engine(RECIPES["factory"]) is not first


@pytest.mark.parametrize("text", ["0", "many", "-1"])
def test_a_silly_number_of_assets_is_refused(monkeypatch, text):
    monkeypatch.setenv(models.MAX_ACTIVE, text)
    with pytest.raises(RequestError, match=r"SPLATMILL_MAX_ACTIVE=.* is not a number of assets"):
        models.engine(RECIPES["factory"])


def test_a_gpu_gets_its_rasteriser_before_its_engine(monkeypatch):
    built = []
    monkeypatch.setattr(models, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr("pipeline_core.rendering.gsplat_build.build", lambda: built.append(True))
    models.prepare_device.cache_clear()
    models.prepare_device()
    models.prepare_device()
    models.prepare_device.cache_clear()
    assert built == [True]
