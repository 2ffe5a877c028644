"""A new family of priors: one file and one row, and resolving, checking, loading and guiding carry it."""

import json
import sys
from types import ModuleType

import pytest
import torch

from pipeline_core import models
from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors import families
from pipeline_core.priors.families import FAMILIES, Family, family_of
from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.interface import ImagePrior
from pipeline_core.priors.process import OwnsNoise, RectifiedFlow
from pipeline_core.priors.resolve import folder_id, model_id


class Grey(OwnsNoise):
    """To this prior everything is grey."""

    dtype, size, latent_channels, latent_size = torch.float32, 8, 3, 8
    background, camera, num_views = None, "none", 1

    def __init__(self, model_id):
        super().__init__(RectifiedFlow())
        self.model_id = model_id

    def encode_prompts(self, prompts):
        return torch.zeros(len(prompts), 1, 1)

    def encode(self, images):
        return images * 2 - 1

    def decode(self, latents):
        return latents / 2 + 0.5

    def predict(self, x_t, t, embeddings, cameras=None):
        return self.noise_of(x_t, torch.zeros_like(x_t), t)


def load(ref, folder, *, device, dtype, allow_remote_code):
    """The loader of the family."""
    return Grey(folder_id(ref, folder))


@pytest.fixture
def grey(tmp_path, monkeypatch):
    """A folder of the new family, with its row and its module in place."""
    module = ModuleType("pipeline_core.priors.grey")
    module.load = load
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row = Family("image", "the grey one", "grey.load", "model_index.json", ("GreyPipeline",), ("scheduler",))
    monkeypatch.setattr(families, "FAMILIES", (row, *FAMILIES))
    folder = tmp_path / "grey"
    (folder / "scheduler").mkdir(parents=True)
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    index = {"_class_name": "GreyPipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_its_folder_is_checked_and_loaded_by_its_row(grey, monkeypatch):
    prior = load_image_prior(str(grey))
    assert isinstance(prior, ImagePrior) and prior.model_id == model_id(str(grey), "image")
    monkeypatch.setenv(models.DEVICE, "cpu")
    assert isinstance(models.image_prior(str(grey)), Grey)
    (grey / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"scheduler_config\.json is missing"):
        load_image_prior(str(grey))


def test_the_others_are_recognised_as_before(grey, checkpoint):
    for name in ("sd", "sdxl", "pixel", "mvdream", "starter-image"):
        assert family_of(checkpoint(name), "image").loader == "image.load_diffusers", name
    assert family_of(checkpoint("starter-points"), "points").loader == "points.load_single_points"
    assert family_of(checkpoint("point-e-pt"), "points").loader == "points.load_point_e"


def test_rows_name_loaders_that_are_there_and_a_stranger_is_refused(tmp_path):
    assert all(callable(row.load) for row in FAMILIES)
    with pytest.raises(RequestError, match="network None is not known; splatmill knows diffusers' U-Nets"):
        family_of(tmp_path, "image")
