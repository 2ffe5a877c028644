"""Aesthetic predictors: what the published files compute, and what they lack, by name."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline_core.errors import ModelNotFound
from pipeline_core.metrics.aesthetic import load_predictor
from pipeline_core.priors.resolve import model_id
from tests.pipeline_core.priors.checkpoints import write_predictor

IMAGES = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("widths", "name"),
    [((), "AestheticsPredictorV1"), ((8, 4), "AestheticsPredictorV2Linear"), ((8, 4), "AestheticsPredictorV2ReLU")],
)
def test_a_rating_is_what_the_layers_make_of_the_embedding(tmp_path, widths, name):
    weights = write_predictor(tmp_path, widths, name, bias=0.3)
    predictor = load_predictor(str(tmp_path))
    expected = predictor.eye(IMAGES)
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(3))
    for i, weight in enumerate(weights):
        expected = (expected.relu() if i and "ReLU" in name else expected) @ weight.T + 0.3
    torch.testing.assert_close(predictor(IMAGES), expected[:, 0])
    assert model_id(str(tmp_path), "aesthetic").startswith(f"{tmp_path.name}@")


@pytest.mark.parametrize(
    ("lost", "message"),
    [("predictor.", "no head rates what it sees"), ("visual_projection.", "missing")],
)
def test_what_a_folder_lacks_is_named(tmp_path, lost, message):
    write_predictor(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if not name.startswith(lost)}, file)
    with pytest.raises(ModelNotFound, match=message):
        load_predictor(str(tmp_path))


def test_layers_that_do_not_fit_are_named(tmp_path):
    write_predictor(tmp_path, (8, 4), "AestheticsPredictorV2Linear")
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"layers.2.weight": torch.zeros(4, 9)}, file)
    with pytest.raises(ModelNotFound, match=r"layers\.2\.weight reads 9 numbers where 8 come"):
        load_predictor(str(tmp_path))
