"""A prior that guidance was distilled into: what it is told, and that guidance asks it by one row for two."""

import json

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline
from torch.testing import assert_close

from pipeline_core.engine.calls import ModelCalls
from pipeline_core.engine.clock import Clock
from pipeline_core.errors import RequestError
from pipeline_core.guidance.prompts import encode_text
from pipeline_core.priors.image import scale_embedding
from pipeline_core.priors.interface import guidance_scales_of
from pipeline_core.priors.resolve import model_id

AROUND = (torch.zeros(3), torch.zeros(3))


@pytest.fixture
def distilled(prior):
    return prior("sd-distilled")


def noisy(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, 8, 8, generator=draw), torch.rand(3, generator=draw)


def test_scales_are_told_as_latent_consistency_models_are():
    scales = torch.tensor([1.0, 7.5])
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scales - 1, embedding_dim=32)
    assert_close(scale_embedding(scales, 32), theirs, atol=1e-5, rtol=1e-5)


def test_the_network_is_told_the_scale_and_one_where_there_is_none(distilled):
    x, t = noisy()
    text = distilled.encode_prompts(["a red mug"]).expand(3, -1, -1)
    scales = torch.tensor([1.0, 4.0, 12.0])
    found = distilled.predict(x, t, text, scales=scales)
    told = distilled.unet(x, distilled._network_process.timestep(t), text, timestep_cond=scale_embedding(scales, 32))
    assert_close(found, told.sample, atol=1e-5, rtol=1e-5)
    plain = distilled.predict(x, t, text)
    assert_close(plain[:1], found[:1])
    assert (plain[1:] - found[1:]).abs().amax((1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize("fixed_sizes", [False, True])
def test_guidance_is_one_row_for_two_and_jobs_of_other_scales_share_a_call(distilled, fixed_sizes):
    assert guidance_scales_of(distilled) == (1.0, 12.0)
    text, (x, t) = encode_text(distilled, "a red mug", distilled=True), noisy()
    parts = [text.rows(x, t, *AROUND, scale=scale) for scale in (4.0, 7.5)]
    assert [(len(part), part.scale) for part in parts] == [(3, 4.0), (3, 7.5)]
    calls = ModelCalls(distilled, None, torch.device("cpu"), Clock(torch.device("cpu")), fixed_sizes)
    found = calls.predict_image(parts).split(3)
    for scale, answer in zip((4.0, 7.5), found, strict=True):
        alone = distilled.predict(x, t, parts[0].embeddings, scales=torch.full((3,), scale))
        assert_close(answer, alone, atol=1e-5, rtol=1e-4)
        guided, _ = text.guide(answer, *AROUND, scale=scale)
        assert torch.equal(guided, answer)


@pytest.mark.parametrize(
    "asked, scale, contrast",
    [
        ({"distilled": False}, 4.0, False),
        ({"distilled": True, "negative_prompt": "blue"}, 4.0, False),
        ({"distilled": True, "perp_neg": True}, 4.0, False),
        ({"distilled": True}, 20.0, False),
        ({"distilled": True}, 4.0, True),
    ],
)
def test_what_was_not_distilled_takes_two_rows_that_are_told_no_scale(distilled, asked, scale, contrast):
    text, (x, t) = encode_text(distilled, "a red mug", **asked), noisy()
    rows = text.rows(x, t, *AROUND, scale=scale, contrast=contrast)
    assert len(rows) == (12 if text.perp_neg else 6) and rows.scale == 1.0


def test_a_prior_without_is_asked_as_ever(prior):
    text = encode_text(prior("sd"), "a red mug", distilled=True)
    assert text.scales is None and len(text.rows(*noisy(), *AROUND, scale=4.0)) == 6


@pytest.mark.parametrize(
    "said, width, message",
    [
        ([12, 1], 32, r"guidance_scales \[12, 1\] must be the lowest and the highest, from 1 on"),
        ([1, 12], None, "time_cond_proj_dim is None: it is told none"),
    ],
)
def test_what_a_folder_says_is_checked(copy, said, width, message):
    folder = copy("sd-distilled")
    (folder / "splatmill.json").write_text(json.dumps({"guidance_scales": said}))
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"time_cond_proj_dim": width}))
    with pytest.raises(RequestError, match=message):
        model_id(str(folder), "image")
