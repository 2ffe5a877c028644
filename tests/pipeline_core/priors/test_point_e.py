"""The published parameter table, the layout of attention, and parity with the ``point_e`` package where it is."""

import importlib.util
import math

import pytest
import torch

from pipeline_core.errors import ModelNotFound
from pipeline_core.priors.karras import guided_denoiser, karras_sigmas, sample_heun
from pipeline_core.priors.point_e import Attention, PointEBase, PointEUpsampler, load_network
from pipeline_core.priors.points import cosine_schedule, linear_schedule

W = 512


def linear(name, out, width):
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def norm(name, width=W):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def shared():
    """Keys and shapes that both published checkpoints have."""
    table = {
        **linear("time_embed.c_fc", 2048, W),
        **linear("time_embed.c_proj", W, 2048),
        **norm("ln_pre"),
        **norm("ln_post"),
        **linear("input_proj", W, 6),
        **linear("output_proj", 12, W),
    }
    for i in range(12):
        block = f"backbone.resblocks.{i}"
        table |= linear(f"{block}.attn.c_qkv", 1536, W) | linear(f"{block}.attn.c_proj", W, W)
        table |= linear(f"{block}.mlp.c_fc", 2048, W) | linear(f"{block}.mlp.c_proj", W, 2048)
        table |= norm(f"{block}.ln_1") | norm(f"{block}.ln_2")
    return table


PUBLISHED = {
    PointEBase: (40_333_836, 158, shared() | linear("clip_embed", W, 768)),
    PointEUpsampler: (
        40_470_552,
        164,
        shared()
        | {"channel_scales": (6,), "channel_biases": (6,)}
        | linear("cond_point_proj", W, 6)
        | norm("clip_embed.0", 1024)
        | linear("clip_embed.1", W, 1024),
    ),
}


@pytest.mark.parametrize("network", PUBLISHED)
def test_parameters_have_the_published_names_and_shapes(network):
    parameters, tensors, table = PUBLISHED[network]
    with torch.device("meta"):
        model = network()
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == table
    assert len(table) == tensors
    assert sum(value.numel() for value in model.state_dict().values()) == parameters


def test_attention_splits_queries_keys_and_values_head_by_head():
    layer = Attention(128, 2).double()
    x = torch.randn(2, 5, 128, dtype=torch.float64)
    qkv = layer.c_qkv(x).reshape(2, 5, 2, 3, 64)  # [B, L, heads, (q, k, v), 64]
    q, k, v = qkv.unbind(3)
    weight = torch.einsum("bthc,bshc->bhts", q * 64**-0.25, k * 64**-0.25).softmax(-1)
    want = layer.c_proj(torch.einsum("bhts,bshc->bthc", weight, v).reshape(2, 5, 128))
    torch.testing.assert_close(layer(x), want)


def test_a_cloud_is_a_set():
    model = PointEBase(64, 2, 24).double()
    x, t, clip = torch.randn(2, 6, 30, dtype=torch.float64), torch.tensor([5, 900]), torch.randn(2, 24).double()
    order = torch.randperm(30)
    out = model(x, t, clip)
    assert out.shape == (2, 12, 30)
    torch.testing.assert_close(model(x[..., order], t, clip), out[..., order])
    assert not torch.allclose(model(x, t, clip * 0), out)


def test_upsampler_scales_what_it_is_given():
    model = PointEUpsampler(64, 1, 40)
    low = torch.rand(1, 6, 16)
    low[:, 3:] *= 255
    tokens = []
    model.cond_point_proj.register_forward_pre_hook(lambda layer, inputs: tokens.append(inputs[0]))
    model(torch.randn(1, 6, 8), torch.tensor([3]), low)
    want = torch.cat([low[:, :3] * 2, low[:, 3:] / 127.5 - 1], dim=1).transpose(1, 2)
    torch.testing.assert_close(tokens[0], want)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_sizes_are_read_from_the_tensors(checkpoint, suffix):
    folder = checkpoint("point-e" if suffix == ".safetensors" else "point-e-pt")
    base, upsampler = (load_network(folder / f"{name}{suffix}") for name in ("base_40m_textvec", "upsample_40m"))
    assert isinstance(base, PointEBase) and base.width == 64 and len(base.backbone["resblocks"]) == 2
    assert isinstance(upsampler, PointEUpsampler) and upsampler.clip_embed[1].in_features == 40
    assert not base.training and not any(p.requires_grad for p in base.parameters())


class Payload:
    """What a pickle could run."""

    def __reduce__(self):
        return print, ("code of a checkpoint was run",)


@pytest.mark.parametrize("content", ["html", "code", "other"])
def test_files_that_are_not_the_checkpoint_are_refused(tmp_path, content, capsys):
    path = tmp_path / "base_40m_textvec.pt"
    if content == "html":
        path.write_text("<html>404</html>")
    else:
        torch.save(Payload() if content == "code" else {"weight": torch.zeros(3)}, path)
    with pytest.raises(ModelNotFound, match=r"base_40m_textvec.pt: not a Point-E base40M-textvec or upsample"):
        load_network(path)
    assert "was run" not in capsys.readouterr().out


# ---------------------------------------------------------------------------------------- parity with the package

needs_point_e = pytest.mark.skipif(
    importlib.util.find_spec("point_e") is None,
    reason="the point_e package is not installed (it is not on PyPI: pip install git+https://github.com/openai/point-e)",
)


class Clip:
    """Stands where the package would load ViT-L/14: passes embeddings through."""

    feature_dim, grid_size, grid_feature_dim = 24, 16, 40

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, batch_size, embeddings=None, **kwargs):
        return torch.stack(list(embeddings))


@pytest.fixture
def peers(monkeypatch):
    """(base, upsampler) of the package and of ours, with the same random weights."""
    from point_e.models import configs, transformer

    monkeypatch.setattr(transformer, "FrozenImageCLIP", Clip)
    torch.manual_seed(0)
    pairs = []
    for name, ours in (("base40M-textvec", PointEBase(64, 2, 24)), ("upsample", PointEUpsampler(64, 2, 40))):
        config = {**configs.MODEL_CONFIGS[name], "width": 64, "layers": 2, "heads": 1, "cond_drop_prob": 0.0}
        theirs = configs.model_from_config(config, torch.device("cpu")).eval()
        torch.nn.init.normal_(theirs.output_proj.weight, std=0.05)
        ours.load_state_dict(theirs.state_dict())
        pairs.append((theirs, ours.eval()))
    return pairs


@needs_point_e
def test_networks_equal_the_package(peers):
    (base, our_base), (up, our_up) = peers
    x, t = torch.randn(2, 6, 1024), torch.tensor([3, 1000])
    clip = torch.nn.functional.normalize(torch.randn(2, 24), dim=-1)
    with torch.no_grad():
        torch.testing.assert_close(our_base(x, t, clip), base(x, t, embeddings=clip), rtol=0, atol=1e-4)
        low, fine = torch.rand(1, 6, 1024) * 200, torch.randn(1, 6, 3072)
        torch.testing.assert_close(our_up(fine, t[:1], low), up(fine, t[:1], low_res=low), rtol=0, atol=1e-4)


@needs_point_e
@pytest.mark.parametrize("s_churn", [0.0, 3.0])
def test_samples_equal_the_package(peers, s_churn):
    """Same weights, same noise (one row: the package draws from the global generator): the same cloud."""
    from point_e.diffusion.configs import DIFFUSION_CONFIGS, diffusion_from_config
    from point_e.diffusion.k_diffusion import karras_sample

    (base, ours), _ = peers
    clip = torch.nn.functional.normalize(torch.randn(1, 24), dim=-1)
    torch.manual_seed(11)
    theirs = karras_sample(
        diffusion_from_config(DIFFUSION_CONFIGS["base40M-textvec"]),
        base,
        (1, 6, 1024),
        steps=16,
        model_kwargs={"embeddings": torch.cat([clip, torch.zeros_like(clip)])},
        device="cpu",
        sigma_min=1e-3,
        sigma_max=120,
        s_churn=s_churn,
        guidance_scale=3.0,
    )
    generator = torch.Generator().manual_seed(11)
    schedule = cosine_schedule()
    denoise = guided_denoiser(lambda x, t, c: ours(x, t, c)[:, :6], schedule, clip, torch.zeros_like(clip), 3.0)
    x = torch.randn(1, 6, 1024, generator=generator) * 120
    x_0 = sample_heun(denoise, x, karras_sigmas(16, 1e-3, 120.0), [generator], s_churn)
    scales = torch.tensor([2.0, 2, 2, 0.007843137255, 0.007843137255, 0.007843137255])[:, None]
    unscaled = (x_0 - torch.tensor([0.0, 0, 0, -1, -1, -1])[:, None]) / scales
    difference = (unscaled - theirs).abs().amax(dim=(0, 2))
    assert difference[:3].max() < 1e-4 and difference[3:].max() < 1e-4 * 255  # xyz of about +-0.5, colours of 0 to 255
    assert theirs[:, :3].std() > 0.1


@needs_point_e
def test_schedules_equal_the_package():
    from point_e.diffusion.configs import DIFFUSION_CONFIGS, diffusion_from_config

    for name, table in (("base40M-textvec", cosine_schedule()), ("upsample", linear_schedule())):
        theirs = diffusion_from_config(DIFFUSION_CONFIGS[name]).alphas_cumprod
        assert max(abs(a - b) for a, b in zip(theirs, table, strict=True)) < 1e-12
    assert math.isclose(DIFFUSION_CONFIGS["upsample"]["channel_scales"][3], 2 / 255, rel_tol=1e-9)
