"""Every published kind of folder guides a distillation, alone and side by side, through the same engine."""

import math

import pytest
import torch
from safetensors.torch import save_file

from pipeline_core.config import RECIPES, Densify, Distill, Lora, ModelRef, Texture
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.gaussian_job import GaussianJob
from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.points import load_point_prior
from pipeline_core.texturing.refine import refine_texture
from pipeline_core.types import Gaussians
from tests.pipeline_core.metrics.test_mesh_health import box

KINDS = ["sd", "sd-v", "sdxl", "pixel", "sd3", "sana", "flux2", "z-image", "mvdream", "starter-image"]
STAGE = Distill(
    steps=2, views=4, resolution=((0.5, 12), (1.0, 24)), guidance_scale=5.0, t_max=(0.9, 0.5), t_min=(0.5, 0.1),
    densify=Densify(every=0),
)  # fmt: skip


def grey_ball(count=40):
    generator = torch.Generator().manual_seed(0)
    means = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1) * 0.5
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(count, 1)
    scales, colours = torch.full((count, 3), math.log(0.1)), torch.zeros(count, 1, 3)
    return Gaussians(means, quats, scales, torch.zeros(count), colours, torch.zeros(count, 0, 3))


def run(prior, points, stages, fixed_sizes=None, prompts=("a red mug",)):
    """Result of the first of these stages, all of which begin together; ``prompts`` in turn."""
    engine = DistillationEngine(prior, points, max_active=len(stages), fixed_sizes=fixed_sizes)
    with engine._wake:
        jobs = [GaussianJob(grey_ball(), prompts[i % len(prompts)], s, seed=i) for i, s in enumerate(stages)]
        futures = [engine.submit(job) for job in jobs]
    results = [future.result(timeout=100) for future in futures]
    engine.close()
    return results[0]


@pytest.mark.parametrize("kind", KINDS)
def test_it_moves_gaussians_alike_in_any_company(checkpoint, kind):
    prior = load_image_prior(str(checkpoint(kind)))
    alone, curves = run(prior, None, [STAGE])
    beside, _ = run(prior, None, [STAGE, STAGE.model_copy(update={"steps": 1})], fixed_sizes=True)
    assert all(math.isfinite(loss) and loss > 0 for loss in curves["loss_image"])
    start = grey_ball().tensors()
    for name, value in alone.tensors().items():
        assert value.isfinite().all()
        if name in ("means", "scales", "opacities", "sh0"):
            assert not torch.equal(value, start[name])
        torch.testing.assert_close(beside.tensors()[name], value, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("kind, encoder", [("sd", "taesd"), ("ssd-1b", "taesdxl"), ("vega", None), ("sd3", None)])
def test_what_is_added_to_a_prior_guides_too(checkpoint, tmp_path, kind, encoder):
    """A LoRA and a distilled encoder change where an asset goes, and not that it is alone what it is beside others."""
    plain = load_image_prior(str(checkpoint(kind)))
    name, denoiser = next(iter(plain.networks().items()))
    layer, module = next((n, m) for n, m in denoiser.named_modules() if n.endswith("to_q"))
    rows, columns = module.weight.shape
    pair = {"A": torch.randn(2, columns), "B": torch.randn(rows, 2)}
    save_file({f"{name}.{layer}.lora_{side}.weight": x for side, x in pair.items()}, tmp_path / "style.safetensors")
    style = (Lora(path=str(tmp_path / "style.safetensors"), scale=3.0),)
    prior = load_image_prior(ModelRef(str(checkpoint(kind)), style, encoder and str(checkpoint(encoder))))
    torch.testing.assert_close(
        prior.networks()[name].get_submodule(layer).weight, module.weight + 3.0 * pair["B"] @ pair["A"]
    )
    before, alone = (run(each, None, [STAGE])[0] for each in (plain, prior))
    beside, _ = run(prior, None, [STAGE, STAGE.model_copy(update={"guidance_scale": 2.0})], fixed_sizes=True)
    assert not torch.allclose(before.means, alone.means, atol=1e-5)
    torch.testing.assert_close(beside.means, alone.means, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["sd3", "sana", "flux2", "z-image"])
def test_an_asset_guided_by_a_flow_is_alone_what_it_is_among_eight(checkpoint, kind):
    prior = load_image_prior(str(checkpoint(kind)))
    short = STAGE.model_copy(update={"steps": 1, "views": 1, "perp_neg": True})
    alone, _ = run(prior, None, [short])
    calls, predict = [], prior.predict
    prior.predict = lambda x, *rest: calls.append(len(x)) or predict(x, *rest)
    among, _ = run(prior, None, [short, *(short.model_copy(update={"guidance_scale": 2.0 + i}) for i in range(7))])
    assert calls == [32]  # one call for all: conditional, unconditional and two perpendicular negatives of eight views
    for name, value in alone.tensors().items():
        torch.testing.assert_close(among.tensors()[name], value, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_it_refines_a_texture(checkpoint, kind):
    prior = load_image_prior(str(checkpoint(kind)))
    settings = Texture(steps=2, views=4, resolution=32, strength=(0.5, 0.3), denoise_steps=6, guidance_scale=3.0)
    engine = DistillationEngine(prior)
    plain = box()
    refined = refine_texture(plain, "a red mug", settings, engine)
    engine.close()
    change = abs(refined.texture - plain.texture)
    assert 0.001 < change.mean() and refined.texture.min() >= 0 and refined.texture.max() <= 1


def test_mvdreams_recipe_guides(checkpoint):
    """Its own settings but for fewer steps and pixels: rigs of four views on one background, a camera in every row."""
    prior, rows = load_image_prior(str(checkpoint("mvdream"))), []
    predict = prior.predict
    prior.predict = lambda x, t, e, cameras: rows.append((t, cameras)) or predict(x, t, e, cameras)
    short = {"steps": 3, "resolution": ((1.0, 24),), "densify": Densify(every=0)}
    result, curves = run(prior, None, [RECIPES["mvdream"].geometry.model_copy(update=short)])
    assert all(math.isfinite(loss) and loss > 0 for loss in curves["loss_image"])
    assert not torch.equal(result.means, grey_ball().means)
    for t, (azimuth, elevation) in rows:
        assert len(t.unique()) == 1
        assert torch.equal(azimuth[:4], azimuth[4:]) and torch.equal(elevation[:4], elevation[4:])
        assert azimuth.isfinite().all() and (elevation >= 0).all() and (elevation <= 30).all()


def test_view_words_and_perp_neg_go_where_the_prior_takes_no_camera(checkpoint):
    prior = load_image_prior(str(checkpoint("sd")))
    rows, predict = [], prior.predict
    prior.predict = lambda x, *rest: rows.append(len(x)) or predict(x, *rest)
    run(prior, None, [STAGE.model_copy(update={"perp_neg": True})])
    assert rows == [16, 16]  # four views: conditional, unconditional and two perpendicular negatives
    assert {text.split(", ")[-1] for text in prior._prompts} >= {"front view", "side view", "back view"}


@pytest.mark.parametrize("kind", ["point-e", "starter-points"])
def test_point_priors_pull_centres_and_colours(checkpoint, kind):
    image = load_image_prior(str(checkpoint("starter-image")))
    points = load_point_prior(str(checkpoint(kind)))
    points.num_points = 32
    stage = STAGE.model_copy(update={"image_weight": 0.0, "point_weight": 1.0})
    result, curves = run(image, points, [stage])
    assert curves["loss_points"][-1] > 0 and result.means.isfinite().all()
    start = grey_ball()
    assert not torch.equal(result.means, start.means) and not torch.equal(result.sh0, start.sh0)
    assert torch.equal(result.scales, start.scales)  # points have no size to judge
