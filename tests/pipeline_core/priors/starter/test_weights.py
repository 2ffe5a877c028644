"""The weights that ship: small, described by their cards, and trained."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from pipeline_core.config import RECIPES, Densify, Init, LearningRates
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.gaussian_job import GaussianJob
from pipeline_core.gaussians.initialise import from_points
from pipeline_core.priors.checks import KINDS
from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.points import load_point_prior
from pipeline_core.priors.resolve import resolve_model
from pipeline_core.props.props import PropSpec, build
from pipeline_core.props.raycast import render, sample_points
from pipeline_core.types import Gaussians

ROOT = resolve_model("starter")


def test_size_and_format():
    files = [p for p in ROOT.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 40e6
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".md"}


@pytest.mark.parametrize("part", ["image", "points"])
def test_card_names_the_weights_by_hash(part):
    card = (ROOT / part / "README.md").read_text()
    listed = dict(re.findall(r"`([^`]+\.safetensors)`.*sha256 `([0-9a-f]{64})`", card))
    found = {
        str(p.relative_to(ROOT / part)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in (ROOT / part).rglob("*.safetensors")
    }
    assert listed == found


def test_image_prior_prefers_the_right_prompt_and_camera():
    """Noise on a true render is predicted best with its own colour, category and camera, on average over props."""
    prior = load_image_prior("starter")
    generator = torch.Generator().manual_seed(0)
    specs = [("crate", "blue"), ("pine", "yellow"), ("mushroom", "red"), ("house", "green")]
    props = [build(PropSpec(category, colour, seed=5)) for category, colour in specs]
    rgba = torch.from_numpy(render(props, np.full(4, 30.0), np.full(4, 15.0), threads=1)).permute(0, 3, 1, 2) / 255
    latents = prior.encode(rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:])
    t = torch.full((4,), 0.6)
    noise = torch.randn(latents.shape, generator=generator)
    noisy = prior.add_noise(latents, noise, t)

    def error(prompts: list[str]) -> float:
        cameras = (torch.full((4,), 30.0), torch.full((4,), 15.0))
        return float((prior.predict(noisy, t, prior.encode_prompts(prompts), cameras) - noise).square().mean())

    right = error([f"a {colour} {category}" for category, colour in specs])
    assert right < error([f"a {specs[i - 1][1]} {category}" for i, (category, _) in enumerate(specs)])
    assert right < error([f"a {colour} {specs[i - 1][0]}" for i, (_, colour) in enumerate(specs)])


@pytest.mark.parametrize("kind", range(3))
def test_image_prior_knows_renders_of_each_kind_by_its_label(kind):
    prior = load_image_prior("starter")
    specs = [("crate", "blue"), ("pine", "yellow"), ("mug", "white"), ("house", "green")]
    props = [build(PropSpec(category, colour, seed=5)) for category, colour in specs]
    angles, light = torch.full((4,), 30.0), np.full((4, 3), (-0.8, 0.0, 0.6))
    rgba = render(props, angles.numpy(), angles.numpy(), kind=np.full(4, kind), light=light, threads=1)
    rgba = torch.from_numpy(rgba).permute(0, 3, 1, 2) / 255
    latents = prior.encode(rgba[:, :3] * rgba[:, 3:] + 0.5 * (1 - rgba[:, 3:]))
    t = torch.full((4,), 0.6)
    embeddings = prior.encode_prompts([f"a {colour} {category}" for category, colour in specs])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noisy = prior.add_noise(latents, noise, t)
    errors = [
        float((prior.predict(noisy, t, embeddings, (angles, angles), torch.full((4,), told)) - noise).square().mean())
        for told in range(3)
    ]
    assert prior.kinds == KINDS and min(errors) == errors[kind], errors


def test_point_prior_prefers_the_right_prompt():
    prior = load_point_prior("starter")
    specs = [("crate", "blue"), ("pine", "yellow"), ("mushroom", "red"), ("sword", "green")]
    clouds = [sample_points(build(PropSpec(c, k, seed=5)), 512, np.random.default_rng(0)) for c, k in specs]
    x = torch.stack([prior.to_model(torch.from_numpy(xyz), torch.from_numpy(rgb)) for xyz, rgb in clouds])
    t = torch.full((4,), 500 / 1024)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    noisy = prior.add_noise(x, noise, t)

    def error(prompts: list[str]) -> float:
        return float((prior.predict(noisy, t, prior.encode_prompts(prompts)) - noise).square().mean())

    right = error([f"a {colour} {category}" for category, colour in specs])
    assert right < error([f"a {specs[i - 1][1]} {category}" for i, (category, _) in enumerate(specs)])
    assert right < error([f"a {colour} {specs[i - 1][0]}" for i, (_, colour) in enumerate(specs)])


def test_3d_guidance_leads_towards_the_clouds_in_the_starters_window_and_away_in_the_published_one(checkpoint):
    """docs/LOG.md, The papers at the starter's scale. Distances from a shaken cloud to those of other seeds."""
    points, image = load_point_prior("starter"), load_image_prior(str(checkpoint("starter-image")))
    points.num_points, prompt = 256, "a blue table with red stripes"
    generators = [torch.Generator().manual_seed(seed) for seed in range(6)]
    own, *others = points.sample([prompt] * 6, generators, guidance_scale=1.0, steps=8, num_points=256)
    tree = cKDTree(torch.cat([other.xyz for other in others]).numpy())

    def apart(gaussians: Gaussians) -> float:
        return float(tree.query(gaussians.means.detach().numpy())[0].mean())

    begun = from_points(own, Init(num_points=256), generators[0])
    begun = replace(begun, means=begun.means + 0.04 * torch.randn(256, 3, generator=generators[0]))
    alone = {"image_weight": 0.0, "point_weight": 1.0, "point_draws": 1, "densify": Densify(every=0)}
    alone |= {"point_subset": "opacity", "lr": LearningRates(means=0.002, means_final=0.002)}
    moved = {}
    for recipe, steps in (("gsgen-starter", 60), ("gsgen", 160)):  # of the 60 and 2000 that they have
        engine = DistillationEngine(image, points)
        job = GaussianJob(begun, prompt, RECIPES[recipe].geometry.model_copy(update=alone | {"steps": steps}), seed=0)
        moved[recipe] = apart(engine.submit(job).result(timeout=100)[0])
        engine.close()
    assert moved["gsgen-starter"] < 0.95 * apart(begun) and moved["gsgen"] > 1.1 * apart(begun), (apart(begun), moved)
