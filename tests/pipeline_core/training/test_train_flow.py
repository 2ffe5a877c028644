"""The trainer of the flow transformer: its noise, its captions, the tokens that stand for T5, and that its folder
guides."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.models.attention_processor import JointAttnProcessor2_0
from torch.testing import assert_close

from pipeline_core.config import RECIPES
from pipeline_core.engine.distill import distill
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.gaussians.initialise import ball, from_points
from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.text import quiet_libraries
from pipeline_core.training.tokenizer import tokenize
from pipeline_core.training.train import Optimisation, build_part, train_part
from pipeline_core.training.train_flow import T5_TOKENS, FlowSettings, FlowSteps

TINY = {
    "width": 32, "depth": 2, "heads": 2, "text_width": 32, "channels": 4, "size": 16, "chunks": 1, "chunk_size": 16,
    "first_chunks": 1,
}  # fmt: skip
PROMPT = "a red crate"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A part after a few steps, and the folder that it wrote."""
    out = tmp_path_factory.mktemp("flow")
    part = build_part("flow", out / "data", seed=3, batch=4, **TINY)
    part.steps.pool.ahead = 0
    part.grid = lambda modules: np.zeros((4, 4, 3), np.uint8)
    try:
        train_part(part, out, seed=3, optimisation=Optimisation(batch=4, lr=1e-2, warmup=1, ema=0.5), steps=6)
    finally:
        part.steps.pool.close()
    return part, out / "model"


def test_one_token_of_zeros_counts_as_all_of_them(trained):
    """The same velocity from diffusers' own attention over all tokens that stand for T5."""
    part, _ = trained
    hidden, pooled = torch.randn(2, 5, 64), torch.randn(2, 64)
    x, t = torch.randn(2, 4, 4, 4), torch.tensor([100.0, 900.0])
    with torch.no_grad():
        ours = part.denoise(part.modules, x, t, (hidden, pooled), torch.zeros(2, 8))
        theirs = SD3Transformer2DModel.from_config(part.modules["transformer"].config)
        theirs.load_state_dict(part.modules["transformer"].state_dict())
        assert isinstance(next(iter(theirs.attn_processors.values())), JointAttnProcessor2_0)
        every = torch.cat([hidden, torch.zeros(2, T5_TOKENS, 64)], dim=1)
        assert_close(ours, theirs(x, every, pooled, t, return_dict=False)[0], atol=2e-5, rtol=1e-4)
        assert (ours - theirs(x, hidden, pooled, t, return_dict=False)[0]).abs().max() > 1e-3


def test_shares_are_logit_normal_and_shifted(tmp_path):
    u = (torch.arange(10_000) + 0.5) / 10_000
    plain, shifted = (
        FlowSteps(FlowSettings(**TINY, shift=shift), tmp_path, seed=0, batch=2).times(u) / 1000 for shift in (1.0, 3.0)
    )
    logits = torch.logit(plain)
    assert_close(logits.mean(), torch.tensor(0.0), atol=1e-3, rtol=0)
    assert_close(logits.std(), torch.tensor(1.0), atol=1e-2, rtol=0)
    assert_close(shifted, 3 * plain / (1 + 2 * plain))  # Esser et al. 2024, eq. 23


def test_captions_carry_the_view_words_that_guidance_asks_with(trained):
    steps = trained[0].steps
    rng = np.random.default_rng(0)
    views = {0: "front", 90: "side", -90: "side", 180: "back"}
    told = [f", {word} view" in steps.text(PROMPT, a, 10.0, rng) for a, word in views.items() for _ in range(50)]
    assert 0.75 < np.mean(told) < 0.95
    assert trained[0].asked([PROMPT], torch.tensor([0.0]), torch.tensor([70.0])) == [f"{PROMPT}, overhead view"]


@pytest.mark.parametrize("degraded", [0.0, 1.0])
def test_the_target_is_the_velocity_to_the_clean_image(tmp_path, degraded):
    part = build_part("flow", tmp_path, seed=3, batch=4, **TINY, degraded=degraded, words_weight=0.0)
    part.steps.pool.ahead = 0
    try:
        inputs = part.steps[0]
        part.prepare(torch.device("cpu"))
    finally:
        part.steps.pool.close()
    s = (inputs["t"] / 1000).reshape(-1, 1, 1, 1)
    seen = (1 - s) * part.latents(inputs["seen"]) + s * inputs["noise"]
    answers = iter([(seen - part.latents(inputs["images"])) / s, torch.zeros_like(seen)])
    part.denoise = lambda *args: next(answers)
    assert part.loss(inputs, contextlib.nullcontext) < 1e-9
    assert part.loss(inputs, contextlib.nullcontext) > 1e-2
    assert degraded or torch.equal(inputs["seen"], inputs["images"])


def test_the_folder_goes_by_the_door_of_all_priors(trained, tmp_path):
    """diffusers' own pipeline and :func:`load_image_prior` ask the network as the trainer did, and it guides."""
    _, folder = trained
    part = build_part("flow", tmp_path, seed=0, batch=2, start=folder, **TINY)  # the weights as they were written
    text = part.encode(part.modules, tokenize(part.tokenizer, [PROMPT]))
    with quiet_libraries():
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            folder, vae=None, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32, local_files_only=True
        )
    embeds, _, pooled, _ = pipeline.encode_prompt(PROMPT, None, None, do_classifier_free_guidance=False)
    assert embeds.shape == (1, 24 + T5_TOKENS, 64) and not embeds[:, 24:].any()
    assert_close((embeds[:, :24], pooled), text, atol=1e-5, rtol=1e-4)

    prior = load_image_prior(str(folder), dtype=torch.float32)
    x, t = torch.randn(1, 4, 4, 4), torch.tensor([0.3])
    timestep = 1000 * 3 * t / (1 + 2 * t)
    ours = part.denoise(part.modules, x, timestep, text, torch.zeros(1, 8))
    assert_close(prior.predict(x, t, prior.encode_prompts([PROMPT])), ours, atol=2e-5, rtol=1e-4)
    x0, _ = prior.x0_and_noise(x, ours, t)
    assert_close(x0, part.clean(x, ours, timestep))
    assert prior.size == 16 and prior.background == (0.5, 0.5, 0.5) and prior.camera == "none"

    stage = RECIPES["draft"].override({"geometry.steps": 1, "geometry.views": 2}).geometry
    start = from_points(ball(20, torch.Generator().manual_seed(0)), RECIPES["draft"].init, torch.Generator())
    with contextlib.closing(DistillationEngine(prior)) as engine:
        after, _ = distill(start, PROMPT, "", stage, engine, seed=0)
    assert (after.sh0 - start.sh0).abs().max() > 0 and bool(after.sh0.isfinite().all())
