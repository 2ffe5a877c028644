"""Each variant against its paper's formula in float64, where the prior's scores are known in closed form."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from pipeline_core.config import RECIPES, Distill
from pipeline_core.guidance.prompts import encode_text, text_of_all
from pipeline_core.guidance.variants import VARIANTS, Views, deviation, together
from pipeline_core.priors.process import Diffusion, RectifiedFlow
from tests.gaussian_toy import GaussianPrior, gaussian

ALPHAS = torch.linspace(0.9999, 0.003, 1000).square()
PROCESSES = {
    "epsilon": Diffusion(ALPHAS),
    "v": Diffusion(ALPHAS, "v_prediction"),
    "flow": RectifiedFlow(shift=3.0),
}
PROMPT, SCALE, VIEWS = "a red mug", 7.5, 3
LEVEL = torch.tensor([0.05, 0.37, 0.62])
DATA = {PROMPT: gaussian(0), "": gaussian(1)}


def views_of(process, **settings):
    """Three views at three levels, of a prior that knows :data:`DATA`."""
    prior = GaussianPrior(process, DATA)
    text, angle = encode_text(prior, PROMPT, view_prompts=False), torch.zeros(VIEWS)
    noise, latents = torch.randn(2, VIEWS, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    level, generator = prior.nearest(LEVEL), torch.Generator().manual_seed(1)
    stage = Distill(**{"guidance_scale": SCALE, **settings})
    return Views(prior, text, stage, latents, noise, level, (angle, angle), generator)


def run(views):
    """Noise, target, and the rows of each call."""
    asking, counts = VARIANTS[views.stage.guidance](views), []
    rows = next(asking)
    while True:
        counts.append(len(rows))
        try:
            rows = asking.send(views.prior.predict(rows.latents, rows.t, rows.embeddings))
        except StopIteration as end:
            return *end.value, counts


class Twin:
    """The same prior, in float64, from means and covariances alone."""

    def __init__(self, views):
        self.process = views.prior.process
        self.x0, self.noise = views.latents.double(), views.noise.double()
        self.level = views.level

    def at(self, level):
        """Signal and sigma [B, 1, 1, 1]."""
        return (value.double().reshape(-1, 1, 1, 1) for value in self.process.signal_and_sigma(level))

    def noised(self, level):
        signal, sigma = self.at(level)
        return signal * self.x0 + sigma * self.noise

    def eps(self, x, level, scale):
        conditional, unconditional = (
            DATA[prompt].posterior(x, *self.process.signal_and_sigma(level))[1] for prompt in (PROMPT, "")
        )
        return unconditional + scale * (conditional - unconditional)

    def onward(self, x, eps, level, following):
        (signal, sigma), (signal_next, sigma_next) = self.at(level), self.at(following)
        return signal_next * (x - sigma * eps) / signal + sigma_next * eps

    def inverted(self, until, scale, stride):
        """Row by row: its own steps, the last of which is shorter."""
        first = self.process.nearest(torch.zeros(1))
        rows = []
        for row in range(VIEWS):
            alone = object.__new__(Twin)
            alone.process, alone.x0, alone.noise = self.process, self.x0[row][None], self.noise[row][None]
            x, level, count = alone.noised(first), first, 0
            while level < until[row]:
                count += 1
                following = torch.minimum(self.process.nearest(torch.tensor([count * stride])), until[row])
                x, level = alone.onward(x, alone.eps(x, level, scale), level, following), following
            rows.append(x)
        return torch.cat(rows)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_the_published_formula(variant, process):
    views = views_of(PROCESSES[process], guidance=variant, inversion_noise=0.0)
    noise, target, counts = run(views)
    twin, t = Twin(views), views.level
    if variant == "sds":
        expected = twin.eps(twin.noised(t), t, SCALE) - twin.noise
    elif variant == "csd":
        x = twin.noised(t)
        expected = SCALE * (twin.eps(x, t, 1.0) - twin.eps(x, t, 0.0))
    elif variant == "ism":
        s = views.prior.nearest((t - 0.08).clamp(min=0))
        x_s = twin.inverted(s, 0.0, 0.2)
        score = twin.eps(x_s, s, 0.0)
        expected = twin.eps(twin.onward(x_s, score, s, t), t, SCALE) - score
    elif variant == "multistep":
        x, levels = twin.noised(t), [views.prior.nearest(t * share) for share in (1.0, 0.75, 0.5, 0.25)]
        for level, following in pairwise(levels):
            x = twin.onward(x, twin.eps(x, level, SCALE), level, following)
        (signal, sigma), (signal_t, sigma_t) = twin.at(levels[-1]), twin.at(t)
        clean = (x - sigma * twin.eps(x, levels[-1], SCALE)) / signal
        expected = (twin.noised(t) - signal_t * clean) / sigma_t - twin.noise
    else:
        x = twin.inverted(t, -6.5, 0.1)
        signal, sigma = twin.at(t)
        expected = twin.eps(x, t, SCALE) - (x - signal * twin.x0) / sigma
    torch.testing.assert_close((noise - target).double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    calls = {"sds": [6], "csd": [6], "ism": [3] * 3 + [3] + [6], "sdi": [6] * 7 + [6], "multistep": [6] * 4}
    assert counts == calls[variant]  # the inversion of ism is unconditional: half the rows


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_along_it_leads_towards_the_prompt(variant):
    """From what the prior expects of no prompt, in the mean over views."""
    views = views_of(PROCESSES["epsilon"], guidance=variant, inversion_noise=0.0)
    views.latents[:] = DATA[""].mean.float()
    noise, target, _ = run(views)
    ahead = (DATA[PROMPT].mean - DATA[""].mean).float()
    along = ((target - noise) * ahead).flatten(1).sum(1).mean() / ahead.square().sum()
    assert along > (0.05 if variant != "sds" else 0.0)


def test_the_classifiers_score_needs_no_guidance_scale():
    """At scale 1 the unconditional rows are asked for all the same."""
    noise, target, counts = run(views_of(PROCESSES["v"], guidance="csd", guidance_scale=1.0))
    larger, of_the_same, _ = run(views_of(PROCESSES["v"], guidance="csd", guidance_scale=4.0))
    assert counts == [6] and torch.equal(target, of_the_same)
    torch.testing.assert_close(larger - target, 4 * (noise - target), rtol=1e-3, atol=1e-4)


def test_the_noise_of_an_inversion_is_ddims():
    """The deviation is that of diffusers' scheduler (eta 1), and grows the difference by itself only."""
    a, b = ALPHAS[100], ALPHAS[300]
    s, t = torch.tensor([0.1]), torch.tensor([0.3])
    wanted = ((1 - a) / (1 - b) * (1 - b / a)).sqrt()
    torch.testing.assert_close(deviation(Diffusion(ALPHAS), s, t), wanted[None])
    assert float(deviation(RectifiedFlow(), s, s)) == pytest.approx(0.0, abs=1e-6)
    quiet, loud = (run(views_of(PROCESSES["flow"], guidance="sdi", inversion_noise=eta))[1] for eta in (0.0, 0.3))
    assert 0.05 < float((loud - quiet).square().mean().sqrt()) < 1.0


def test_a_target_of_one_step_is_that_of_sds():
    one, sds = (run(views_of(PROCESSES["v"], guidance=kind, target_steps=1)) for kind in ("multistep", "sds"))
    torch.testing.assert_close(one[0], sds[0])
    assert torch.equal(one[1], sds[1]) and one[2] == sds[2]


def test_strides_scales_and_intervals_are_fields():
    views = views_of(PROCESSES["v"], guidance="ism", inversion_stride=0.1, inversion_scale=1.0, ism_interval=0.02)
    assert run(views)[2] == [3] * 6 + [3] + [6]
    assert run(views_of(PROCESSES["v"], guidance="sdi", inversion_stride=1.0, inversion_scale=0.0))[2] == [3, 6]


def test_the_field_is_new_and_named_in_errors():
    assert {"guidance", "ism_interval", "inversion_noise"}.isdisjoint(Distill().model_dump())
    assert Distill(guidance="ism").model_dump()["guidance"] == "ism"
    with pytest.raises(ValidationError, match=r"geometry\.guidance\n.*'sds', 'csd', 'ism', 'sdi' or 'multistep'"):
        RECIPES["draft"].override({"geometry.guidance": "vsd"})


def test_a_clip_that_grows_begins_somewhere():
    with pytest.raises(ValidationError, match=r"geometry\.grad_clip_last\n.*needs grad_clip above 0"):
        RECIPES["draft"].override({"geometry.grad_clip_last": 2.0})
    growing = RECIPES["draft"].override({"geometry.grad_clip": 0.5, "geometry.grad_clip_last": 2.0}).geometry
    assert (growing.grad_clip, growing.grad_clip_last) == (0.5, 2.0)


@pytest.mark.parametrize("settings", [{}, {"guidance": "csd"}, {"guidance_rescale": 0.5}, {"grad_clip": 0.1}])
def test_views_of_two_jobs_as_one_come_to_what_each_comes_to(settings):
    """Losses, gradients on the latents, and which rows are finite."""
    found = []
    for as_one in (False, True):
        jobs = [views_of(PROCESSES["v"], **settings) for _ in range(2)]
        jobs[1] = replace(jobs[1], drawn=jobs[1].drawn.flip(0))
        jobs = [replace(job, encoded=job.encoded.clone().requires_grad_(), clip=job.stage.grad_clip) for job in jobs]
        assert jobs[0].kind == jobs[1].kind is not None
        groups = [together(jobs, text_of_all([job.text for job in jobs], VIEWS))] if as_one else jobs
        judged = [each for views in groups for each in views.judged(run(views)[:2])]
        torch.stack([each.loss for each in judged]).sum().backward()
        pairs = zip(judged, jobs, strict=True)
        found.append([(each.loss.detach(), each.finite, job.encoded.grad) for each, job in pairs])
    for alone, one in zip(*found, strict=True):
        for wanted, got in zip(alone, one, strict=True):
            torch.testing.assert_close(got, wanted)
    assert not torch.equal(found[0][0][2], found[0][1][2])
