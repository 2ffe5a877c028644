"""The registry of models and engines: one engine for a pair of priors, made anew after it was closed."""

import threading
from concurrent.futures import CancelledError

import pytest
import torch

from pipeline_core import models
from pipeline_core.config import RECIPES
from pipeline_core.errors import RequestError
from pipeline_core.files import lock


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


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """The lock file of a GPU that this process seems to have."""
    monkeypatch.setenv("SPLATMILL_STATE", str(tmp_path))
    monkeypatch.setattr(models, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(models, "gpu_name", lambda: "GPU-1")
    models._say_that_it_is_taken.cache_clear()
    yield tmp_path / "gpus" / "GPU-1"
    for each in models._gpus.values():
        each.close()
    models._gpus.clear()


def test_a_gpu_has_one_engine_and_an_orphan_is_waited_for(gpu, caplog):
    waiting = threading.Thread(target=models.hold_gpu, args=(0.01,))
    with lock(gpu):
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive() and "another process has its engine on GPU-1" in caplog.text
    waiting.join(30)
    with lock(gpu, wait=False) as free:
        assert not free  # it is held by this process now
    models.close_engines()
    models.hold_gpu()  # and still held when its engines were closed


def test_waiting_for_a_gpu_ends_when_the_run_is_stopped(gpu, monkeypatch):
    ended = []

    def wait():
        try:
            models.hold_gpu(0.01)
        except CancelledError:
            ended.append(True)

    with lock(gpu):
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.1)
        models.close_engines()
        waiting.join(30)
        assert ended
    monkeypatch.setenv(models.SHARE_GPU, "1")
    with lock(gpu):
        models.hold_gpu()
