"""The picture of a row as a view of the asset: DreamGaussian's loss, alone and inside of a job."""

import numpy as np
import pytest
import torch

from pipeline_core.cameras import orbit
from pipeline_core.engine.distill import distill
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.reference import ReferenceView
from pipeline_core.engine.scenes import render
from pipeline_core.errors import RequestError
from pipeline_core.guidance.views import around
from pipeline_core.picture import Picture


def photograph(gaussians, elevation=0.0, distance=2.5, fovy=40.0):
    """What a camera at azimuth 0 sees of ``gaussians``, as the picture of a row."""
    cameras = orbit(torch.zeros(1), torch.tensor([elevation]), size=256, distance=distance, fovy=fovy)
    params = gaussians.tensors()
    white, alpha, _ = render(params, cameras, torch.ones(1, 3))
    alpha = alpha[0].numpy()
    colour = (white[0].numpy() - (1 - alpha)) / np.maximum(alpha, 1e-3)
    return Picture(np.rint(np.dstack([colour, alpha]).clip(0, 1) * 255).astype(np.uint8), elevation)


class Shown:
    """The exact prior of the tests, shown a picture: it believes in the asset ``name`` whatever that is of."""

    def __init__(self, prior, name):
        self.prior, self.name = prior, name

    def __getattr__(self, attribute):
        return getattr(self.prior, attribute)

    def encode_image(self, picture):
        self.seen = picture
        return self.prior.encode_prompts([self.name])[0]


def test_the_loss_is_the_published_one(make_gaussians, stage):
    """DreamGaussian's main.py: 10000 step_ratio mse(image, input) + 1000 step_ratio mse(alpha, mask), on white."""
    settings = stage(reference_weight=10_000.0, reference_mask_weight=1000.0, distance=2.0, fovy=49.1)
    params = make_gaussians(9, (0.5, 0.5, 0.5)).tensors()
    picture = photograph(make_gaussians(1, (0.9, 0.1, 0.1)), 20.0, 2.0, 49.1)
    cameras = orbit(torch.zeros(1), torch.tensor([20.0]), size=256, distance=2.0, fovy=49.1)
    colours, alpha, _ = render(params, cameras, torch.ones(1, 3))
    mse = torch.nn.functional.mse_loss
    image = mse(colours[0], torch.from_numpy(picture.on_white()))
    mask = mse(alpha[0, ..., 0], torch.from_numpy(picture.alpha))
    for share in (0.002, 0.5, 1.0):
        published = 10_000 * share * image + 1000 * share * mask
        got = ReferenceView(picture, settings, torch.device("cpu")).loss(params, share)
        torch.testing.assert_close(got, published, rtol=1e-5, atol=0)
    steady = settings.model_copy(update={"reference_ramp": False})  # image_sai.yaml: warmup_rgb_loss False
    got = ReferenceView(picture, steady, torch.device("cpu")).loss(params, 0.01)
    torch.testing.assert_close(got, 10_000 * image + 1000 * mask, rtol=1e-5, atol=0)


def test_an_asset_comes_to_look_like_its_picture_there_and_like_the_prior_elsewhere(exact_prior, make_gaussians, stage):
    picture = photograph(exact_prior.targets["red"])
    prior = Shown(exact_prior, "red")
    engine = DistillationEngine(prior, max_active=1)
    settings = stage(steps=40, reference_weight=10_000.0, reference_mask_weight=1000.0, reference_ramp=False)
    try:
        result, curves = distill(
            make_gaussians(9, (0.5, 0.5, 0.5)), "", "", settings, engine, picture=picture, seed=0, name="red"
        )
        assert prior.seen is picture and curves["loss_reference"][-1] < 0.2 * curves["loss_reference"][0]
        assert len(curves["loss_reference"]) == len(curves["step"])
        plain, without = distill(make_gaussians(9, (0.5, 0.5, 0.5)), "red", "", stage(steps=40), engine, seed=0)
        assert "loss_reference" not in without
    finally:
        engine.close()
    reference = ReferenceView(picture, settings, torch.device("cpu"))
    assert reference.loss(result.tensors(), 1.0) < reference.loss(plain.tensors(), 1.0)
    behind = orbit(torch.tensor([180.0]), torch.zeros(1), size=24)
    views = [render(each.tensors(), behind, torch.ones(1, 3))[0] for each in (result, exact_prior.targets["red"])]
    assert (views[0] - views[1]).abs().mean() < 0.05


def test_a_prior_that_is_shown_nothing_refuses_a_picture(exact_prior, make_gaussians, stage):
    engine = DistillationEngine(exact_prior, max_active=1)
    start = make_gaussians(9, (0.5, 0.5, 0.5))
    try:
        with pytest.raises(RequestError, match="exact reads a prompt and is shown no image"):
            distill(start, "red", "", stage(steps=2), engine, picture=photograph(start), seed=0)
    finally:
        engine.close()


def test_cameras_reach_as_far_around_the_picture_as_they_would_around_the_horizon():
    """main.py's min_ver and max_ver around ``elevation``, whose sign is the other way round there."""
    for own in (-40.0, 0.0, 25.0, 70.0):
        theirs = -own
        low = max(min(-30, -30 - theirs), -80 - theirs) + theirs
        high = min(max(30, 30 - theirs), 80 - theirs) + theirs
        assert around((-30.0, 30.0), own) == (-high, -low)
