"""Prompts become rows: several windows and weights where the prior allows, else the cut; nothing asked for, nothing."""

import pytest
import torch

from pipeline_core.guidance.prompts import encode_text
from pipeline_core.priors.families import FAMILIES, family_of
from pipeline_core.priors.latents import unpack_pooled
from tests.pipeline_core.priors.test_guiding import STAGE, run

LONG = "a red mug and a blue mug by a mushroom, " * 4  # some 130 letters, each a token
WINDOWED = ["sd-77", "sdxl-77"]
EVERY = ["sd", "sdxl", "pixel", "mvdream", "starter-image", "sd3", "sd3-without-t5", "sana", "flux2", "z-image"]


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_long_prompt_is_the_windows_that_it_fills(prior, kind):
    p, letters = prior(kind), "abcdefghij" * 12
    texts = [letters[:75], letters[75:]]
    whole, first, second = p.encode_prompts([letters])[0], *p.encode_prompts(texts)
    if kind == "sd-77":
        # the tokenizer ends a word at its last letter only, so the parts' tokens are given
        ids = p.encoders[0].tokenizer(letters, add_special_tokens=False).input_ids
        windows = [p.encoders[0]._window([(i, 1.0) for i in part])[0] for part in (ids[:75], ids[75:])]
        torch.testing.assert_close(whole, torch.cat(windows))
    assert len(whole) == len(first) + 77 == len(second) + 77
    one = p.encode_prompts([letters[:20]])[0]
    assert torch.equal(p.encode_prompts([letters[:20], letters])[0][:77], one[:77])  # the first window is the prompt's


@pytest.mark.parametrize("kind", WINDOWED)
def test_shorter_prompts_are_filled_up_with_windows_of_the_empty_prompt(prior, kind):
    p = prior(kind)
    rows = p.encode_prompts([LONG, "a red mug", ""])
    one, none = p.encode_prompts(["a red mug", ""])
    if kind == "sd-77":
        assert rows.shape[1] == 2 * 77
        assert torch.equal(rows[1], torch.cat([one, none])) and torch.equal(rows[2], torch.cat([none, none]))
    else:
        (hidden, pooled), (short, vector) = unpack_pooled(rows, 80), unpack_pooled(one[None], 80)
        empty = torch.cat([encoder("")[0] for encoder in p.encoders], dim=-1)
        assert torch.equal(hidden[1], torch.cat([short[0], empty])) and torch.equal(pooled[1], vector[0])
        assert not rows[2].any() and torch.equal(pooled[0], p.encoders[1](LONG)[1])


def test_a_window_ends_behind_a_comma(prior):
    encoder = prior("sd-77").encoders[0]
    comma = encoder.tokenizer.convert_tokens_to_ids(",</w>")
    windows = encoder._split("a" * 70 + ", " + "b" * 20)
    assert [len(window) for window in windows] == [71, 20] and windows[0][-1][0] == comma
    assert [len(window) for window in encoder._split("a" * 30 + ", " + "b" * 100)] == [75, 56]


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_weight_scales_what_its_words_say(prior, kind):
    p = prior(kind)
    none, plain, more, less = p.encode_prompts(["", "a red mug", "a (red:2) mug", "a (red:0) mug"])
    if kind == "sd-77":
        red = slice(2, 5)  # begin, a, r e d
        torch.testing.assert_close(more[red] - none[red], 2 * (plain[red] - none[red]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(less[red], none[red], rtol=1e-4, atol=1e-5)
        rest = [i for i in range(77) if not 2 <= i < 5]
        torch.testing.assert_close(more[rest], plain[rest], rtol=1e-4, atol=1e-5)
    else:
        (hidden, pooled), (other, vector) = unpack_pooled(more[None], 80), unpack_pooled(plain[None], 80)
        assert not torch.allclose(hidden, other) and torch.equal(pooled, vector)
    assert torch.equal(*p.encode_prompts(["a (red:1.0) mug", "a red mug"]))


@pytest.mark.parametrize("kind", [*EVERY, *WINDOWED])
def test_only_a_written_weight_is_a_weight(prior, kind):
    p = prior(kind)
    rows = p.encode_prompts(["a (red) mug", "a red mug", "(a red mug:1.3)", "[a red mug]"])
    assert len(torch.unique(rows, dim=0)) == len(rows) - (kind not in WINDOWED)
    if kind not in WINDOWED:  # weights are left out, and said to be
        assert torch.equal(rows[1], rows[2])


@pytest.mark.parametrize("kind", [kind for kind in [*EVERY, *WINDOWED] if kind not in ("mvdream", "starter-image")])
def test_front_side_and_back_of_a_long_prompt_differ(prior, kind):
    p = prior(kind)
    views = encode_text(p, "a red mug. " * 60).views
    words = ["front", "view"] if kind in ("pixel", "sana", "sd3") else []
    assert len(torch.unique(torch.stack(list(views.values())), dim=0)) >= (2 if words else 4)


def as_sd(pipe, p):
    """Stable Diffusion's pipeline with the text encoder of ``p``, which was trained with it."""
    from diffusers import StableDiffusionPipeline

    text = {"text_encoder": p.encoders[0].model, "tokenizer": p.encoders[0].tokenizer}
    return StableDiffusionPipeline(**{**pipe.components, **text}, requires_safety_checker=False)


def as_if(p):
    """DeepFloyd IF's pipeline with the parts of ``p``."""
    from diffusers import DDPMScheduler, IFPipeline

    encoder = p.encoders[0]
    return IFPipeline(encoder.tokenizer, encoder.model, p.unet, DDPMScheduler(), None, None, None, False)


def sd_negative(pipe, p, negative):
    return as_sd(pipe("sd"), p).encode_prompt("a red mug", "cpu", 1, True, negative)[1]


def sd3_negative(name, pipe, negative):
    _, hidden, _, pooled = pipe(name).encode_prompt("a red mug", None, None, negative_prompt=negative)
    return hidden, pooled


def sdxl_negative(pipe, p, negative):
    _, hidden, _, pooled = pipe("sdxl").encode_prompt("a red mug", device="cpu", negative_prompt=negative)
    return hidden, pooled


def sana_negative(pipe, p, negative):
    _, _, hidden, mask = pipe("sana").encode_prompt("a red mug", negative_prompt=negative or "")
    return hidden, mask.to(hidden)


def z_image_negative(pipe, p, negative):
    _, (own,) = pipe("z-image").encode_prompt("a red mug", "cpu", negative_prompt=negative or "")
    hidden = torch.zeros(1, 512, own.shape[-1])
    hidden[0, : len(own)] = own
    return hidden, (torch.arange(512) < len(own)).float()[None]


NEGATIVE = {
    "sd": (sd_negative, 0),
    "mvdream": (sd_negative, 0),
    "starter-image": (sd_negative, 0),
    "pixel": (lambda pipe, p, negative: as_if(p).encode_prompt("a red mug", negative_prompt=negative)[1], 0),
    "sdxl": (sdxl_negative, 80),
    "sd3": (lambda pipe, p, negative: sd3_negative("sd3", pipe, negative), 112),
    "sd3-without-t5": (lambda pipe, p, negative: sd3_negative("sd3-without-t5", pipe, negative), 112),
    "sana": (sana_negative, 300),
    "flux2": (lambda pipe, p, negative: pipe("flux2").encode_prompt(negative or "", "cpu")[0], 0),
    "z-image": (z_image_negative, 512),
}
"""By family: the negative row of its pipeline, and how much of it is packed behind the text. A new one adds its own."""


@pytest.mark.parametrize("negative", [None, "a blue mug"])
@pytest.mark.parametrize("kind", EVERY)
def test_the_negative_row_is_that_of_its_pipeline(prior, pipeline, kind, negative):
    p, (theirs, packed) = prior(kind), NEGATIVE[kind]
    ours = encode_text(p, "a red mug", negative or "").negative[None]
    ours = unpack_pooled(ours, packed) if packed else ours
    torch.testing.assert_close(ours, theirs(pipeline, p, negative), rtol=1e-5, atol=1e-5)


def test_every_family_of_image_priors_has_its_negative_row_tested(checkpoint):
    tested = {family_of(checkpoint(kind), "image").name for kind in NEGATIVE}
    tested.add("single files of Stable Diffusion")  # test_single_file.py: its rows are those of the folder
    assert tested == {row.name for row in FAMILIES if row.kind == "image" and not row.shown}


@pytest.mark.parametrize("kind", [*WINDOWED, "mvdream-77"])
def test_long_and_short_prompts_guide_side_by_side(prior, kind):
    p = prior(kind)
    alone, _ = run(p, None, [STAGE], prompts=[LONG])
    beside, _ = run(p, None, [STAGE, STAGE], prompts=[LONG, "a red mug"], fixed_sizes=True)
    for name, value in alone.tensors().items():
        torch.testing.assert_close(beside.tensors()[name], value, rtol=1e-3, atol=1e-3, msg=name)
