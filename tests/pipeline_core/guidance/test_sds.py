import pytest
import torch

from pipeline_core.guidance.point_sds import farthest, point_guide, point_rows, subset
from pipeline_core.guidance.sds import implied_noise, sds_gradient, sds_loss
from pipeline_core.priors.process import Diffusion

ALPHA = torch.tensor([0.9, 0.3]).reshape(2, 1, 1, 1)
PROCESS, T = Diffusion(ALPHA.flatten()), torch.tensor([0.0, 0.5])


def test_the_loss_has_exactly_the_sds_gradient():
    latents = torch.randn(2, 3, 4, 4, requires_grad=True)
    gradient = torch.randn(2, 3, 4, 4)
    loss = sds_loss(latents, gradient)
    loss.backward()
    torch.testing.assert_close(latents.grad, gradient / 2)
    torch.testing.assert_close(loss.detach(), gradient.square().sum() / 4)


def test_weightings():
    eps, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(sds_gradient(eps, noise, PROCESS.weight(T, "sds"))[0], (1 - ALPHA) * (eps - noise))
    torch.testing.assert_close(sds_gradient(eps, noise, PROCESS.weight(T, "uniform"))[0], eps - noise)
    latents = torch.randn(2, 3, 4, 4)
    latents_t = ALPHA.sqrt() * latents + (1 - ALPHA).sqrt() * noise
    x0 = (latents_t - (1 - ALPHA).sqrt() * eps) / ALPHA.sqrt()
    got, _ = sds_gradient(eps, noise, PROCESS.weight(T, "x0"))
    torch.testing.assert_close(got, latents - x0, atol=1e-5, rtol=1e-4)


def test_a_row_with_a_nan_is_dropped_as_a_whole():
    eps = torch.ones(2, 3, 4, 4)
    eps[1, 0, 0, 0] = torch.nan
    gradient, finite = sds_gradient(eps, torch.zeros_like(eps), PROCESS.weight(T, "sds"))
    assert finite.tolist() == [True, False]
    assert gradient[1].abs().sum() == 0 and gradient[0].abs().sum() > 0


def test_clip_bounds_each_latent_pixel_and_keeps_its_direction():
    eps = torch.randn(2, 3, 8, 8) * 5
    free, _ = sds_gradient(eps, torch.zeros_like(eps), torch.ones(2))
    clipped, _ = sds_gradient(eps, torch.zeros_like(eps), torch.ones(2), clip=1.5)
    norms = clipped.norm(dim=1)
    assert norms.max() <= 1.5 + 1e-5
    small = free.norm(dim=1) < 1.5
    torch.testing.assert_close(norms[small], free.norm(dim=1)[small])
    torch.testing.assert_close(torch.cosine_similarity(clipped, free, dim=1), torch.ones(2, 8, 8))


def test_rescale_restores_the_deviation_of_x0():
    conditional, latents_t = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    guided = conditional + 10 * torch.randn(2, 3, 8, 8)

    def x0(eps):
        return (latents_t - (1 - ALPHA).sqrt() * eps) / ALPHA.sqrt()

    full = implied_noise(PROCESS, latents_t, T, guided, conditional, 1.0)
    torch.testing.assert_close(x0(full).std((1, 2, 3)), x0(conditional).std((1, 2, 3)), rtol=1e-3, atol=1e-3)
    half = implied_noise(PROCESS, latents_t, T, guided, conditional, 0.5)
    torch.testing.assert_close(x0(half), 0.5 * x0(full) + 0.5 * x0(guided), rtol=1e-3, atol=1e-3)
    assert implied_noise(PROCESS, latents_t, T, guided, conditional, 0.0) is guided


def test_mvdreams_reconstruction_loss():
    """MVDream-threestudio, multiview_diffusion_guidance.py, ``recon_loss`` with ``recon_std_rescale`` 0.5: the mean
    over views of half the squared distance to an x0 whose deviation is that of the four views of a rig together."""
    alphas = torch.tensor(0.3)
    process, t = Diffusion(alphas[None]), torch.zeros(8)
    latents, noise, text, uncond = torch.randn(4, 8, 4, 6, 6)
    latents.requires_grad_()
    latents_t = process.add_noise(latents.detach(), noise, t)
    guided = uncond + 50.0 * (text - uncond)

    recon, plain = ((latents_t - (1 - alphas).sqrt() * eps) / alphas.sqrt() for eps in (guided, text))
    rigs = [x.view(-1, 4, *x.shape[1:]) for x in (plain, recon)]
    plain_std, recon_std = (x.std([1, 2, 3, 4], keepdim=True) + 1e-8 for x in rigs)
    adjusted = recon * (plain_std / recon_std).squeeze(1).repeat_interleave(4, dim=0)
    target = 0.5 * adjusted + 0.5 * recon
    published = 0.5 * torch.nn.functional.mse_loss(latents, target, reduction="sum") / latents.shape[0]
    (expected,) = torch.autograd.grad(published, latents)

    eps = implied_noise(process, latents_t, t, guided, text, 0.5, 4)
    gradient, _ = sds_gradient(eps, noise, process.weight(t, "x0"))
    ours = sds_loss(latents, gradient)
    (got,) = torch.autograd.grad(ours, latents)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours, published, rtol=1e-4, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_rescaled_guidance_is_finite_where_no_signal_is_left(prediction):
    """The last step of a schedule that ends at zero signal, and its first, which may end at zero noise."""
    process = Diffusion(torch.tensor([1.0, 0.5, 0.0]), prediction)
    t = torch.tensor([0.0, 1 / 3, 2 / 3])
    latents_t, guided, text = (torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(i)) for i in range(3))
    for rescale in (0.0, 0.7):
        assert implied_noise(process, latents_t, t, 100 * guided, text, rescale).isfinite().all()


def test_point_rows_are_noised_and_doubled_for_guidance():
    x, noise, t = torch.randn(1, 6, 8), torch.randn(1, 6, 8), torch.tensor([0.4])
    condition = torch.tensor([[1.0], [0.0]])
    process = Diffusion(torch.linspace(0.99, 0.01, 100))
    rows = point_rows(process, x, t, noise, condition, 10.0)
    a = process.alphas_cumprod[40]
    torch.testing.assert_close(rows.x[0], a.sqrt() * x[0] + (1 - a).sqrt() * noise[0])
    assert (
        len(rows) == 2 and rows.condition[:, 0].tolist() == [1.0, 0.0] and process.timestep(rows.t).tolist() == [40, 40]
    )
    assert len(point_rows(process, x, t, noise, condition, 1.0)) == 1
    eps = torch.randn(2, 6, 8)
    torch.testing.assert_close(point_guide(eps, 10.0), eps[1:] + 10 * (eps[:1] - eps[1:]))
    assert point_guide(eps, 1.0) is eps


@pytest.mark.parametrize(("rows", "count"), [(50, 20), (10, 20)])
def test_points_are_drawn_by_opacity(rows, count):
    weights = torch.zeros(rows)
    weights[:5] = 1.0
    chosen = subset(weights, count, torch.Generator().manual_seed(0))
    assert len(chosen) == count
    if rows >= count:
        assert len(chosen.unique()) == count and set(range(5)) <= set(chosen.tolist())
    else:
        assert (chosen < 5).float().mean() > 0.9


def test_farthest_points_cover_the_shape():
    """Most points crowd at one end of a stick, and yet the chosen ones are spread over it; the same seed, the same."""
    means = torch.zeros(400, 3)
    means[:, 0] = torch.cat([torch.linspace(0, 0.1, 300), torch.linspace(0.1, 1, 100)])
    chosen = farthest(means, 100, torch.Generator().manual_seed(0))
    assert len(chosen.unique()) == 100 and (means[chosen, 0] > 0.5).sum() >= 40
    assert torch.equal(chosen, farthest(means, 100, torch.Generator().manual_seed(0)))
    sparse = farthest(means, 11, torch.Generator().manual_seed(1))
    assert means[sparse, 0].sort().values.diff().max() < 0.25
    few = farthest(means[:5], 12, torch.Generator().manual_seed(0))
    assert len(few) == 12 and len(few.unique()) == 5


@pytest.mark.parametrize("rows", [40, 400])
def test_draws_follow_the_weights(rows):
    """Of 1000 draws of a tenth (or, from fewer rows, with replacement): one weight in ten times the other's share."""
    weights = torch.ones(rows)
    weights[: rows // 2] = 10.0
    generator, count = torch.Generator().manual_seed(0), 40 if rows == 400 else 50
    heavy = sum(int((subset(weights, count, generator) < rows // 2).sum()) for _ in range(1000)) / (1000 * count)
    # without replacement the heavy half is used up a little: sum over the draws, to first order
    assert abs(heavy - 10 / 11) < (0.005 if count > rows else 0.02)
