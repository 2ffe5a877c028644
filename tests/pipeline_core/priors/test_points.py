"""The door between networks' coordinates and ours, conditions, and whole samples of both kinds of point prior."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors.points import (
    DiffusionPointPrior,
    Schedule,
    Space,
    cosine_schedule,
    load_point_prior,
    resample,
)
from pipeline_core.types import OBJECT_RADIUS, PointCloud


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(scope="module")
def prior(checkpoint):
    loaded = {}

    def get(name):
        if name not in loaded:
            loaded[name] = load_point_prior(str(checkpoint(name)))
        return loaded[name]

    return get


def exact_prior(cloud, **space):
    """A point prior whose network knows that x_0 is ``cloud`` [6, N] (network units): every sample must be it."""
    table = torch.tensor(cosine_schedule(), dtype=torch.float64)

    class Oracle(torch.nn.Module):
        def forward(self, x, t, condition):
            a = table[t].reshape(-1, 1, 1)
            eps = (x.double() - a.sqrt() * cloud) / (1 - a).sqrt()
            return torch.cat([eps, eps], dim=1).float()

    return DiffusionPointPrior(
        Oracle(),
        lambda prompt, generator: torch.zeros(1),
        Space(**space),
        Schedule(cosine_schedule()),
        model_id="exact",
        num_points=cloud.shape[1],
    )


# ------------------------------------------------------------------------------------------------------------ axes


def test_point_e_up_and_front_become_ours():
    space = Space()
    world = space.to_world(torch.eye(3))  # rows: x, y, z of Point-E
    assert torch.equal(world[2], torch.tensor([0.0, 1, 0]))  # z up -> +Y up
    assert torch.equal(world[1], torch.tensor([0.0, 0, -1]))  # front is -y -> front is +Z
    assert math.isclose(torch.linalg.det(world), 1)  # a turn, not a mirror
    xyz = torch.randn(4, 7, 3)
    assert torch.equal(space.from_world(space.to_world(xyz)), xyz)
    own = Space(axes="y_up")
    assert torch.equal(own.to_world(xyz), xyz) and torch.equal(own.from_world(xyz), xyz)


def test_a_cloud_goes_out_and_comes_back(prior):
    """What the sampler makes of a training-like cloud, to_model undoes exactly: centre, scale, axes and colours."""
    g = torch.Generator().manual_seed(0)
    xyz = torch.rand(200, 3, generator=g) * torch.tensor([1.0, 0.4, 0.7])
    xyz = (xyz - (xyz.amax(0) + xyz.amin(0)) / 2) / (xyz.amax(0) - xyz.amin(0)).max()  # longest side 1, centred
    rgb = torch.randint(0, 256, (200, 3), generator=g) / 255
    network = torch.cat([xyz * 2, rgb * 2 - 1], dim=1).T
    p = exact_prior(network)
    (cloud,) = p.sample(["x"], generators(1), guidance_scale=3.0, steps=8)
    assert math.isclose(cloud.xyz.norm(dim=1).max(), OBJECT_RADIUS, rel_tol=1e-5)
    assert (cloud.xyz.amax(0) + cloud.xyz.amin(0)).abs().max() < 1e-5
    torch.testing.assert_close(cloud.rgb, rgb)
    turned = torch.stack([xyz[:, 0], xyz[:, 2], -xyz[:, 1]], dim=1)
    torch.testing.assert_close(cloud.xyz, turned * (OBJECT_RADIUS / turned.norm(dim=1).max()), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(p.to_model(cloud.xyz, cloud.rgb), network, atol=1e-4, rtol=1e-3)


def test_to_model_does_not_depend_on_size_or_place(prior):
    p = prior("point-e")
    xyz, rgb = torch.rand(2, 50, 3), torch.rand(2, 50, 3)
    x = p.to_model(xyz, rgb)
    assert x.shape == (2, 6, 50)
    torch.testing.assert_close(p.to_model(xyz * 3 + torch.tensor([1.0, -2, 0.5]), rgb), x, atol=1e-5, rtol=1e-4)
    sides = x[:, :3].amax(-1) - x[:, :3].amin(-1)
    torch.testing.assert_close(sides.amax(-1), torch.full((2,), 2.0))
    torch.testing.assert_close(x[:, 3:], (rgb * 2 - 1).transpose(1, 2))


@pytest.mark.parametrize("kind", ["point-e", "starter-points"])
def test_gradient_of_to_model_is_the_turn_and_the_scale(prior, kind):
    p = prior(kind)
    xyz = torch.rand(20, 3, dtype=torch.float64).requires_grad_()
    rgb = torch.rand(20, 3, dtype=torch.float64).requires_grad_()
    weights = torch.randn(6, 20, dtype=torch.float64)
    (p.to_model(xyz, rgb) * weights).sum().backward()
    scale = torch.tensor(p.space.scales, dtype=torch.float64)[:, None]
    size = (xyz.amax(0) - xyz.amin(0)).max().detach() if kind == "point-e" else 1.0
    turned = p.space.to_world((scale[:3] * weights[:3]).T) / size
    torch.testing.assert_close(xyz.grad, turned)
    torch.testing.assert_close(rgb.grad, (scale[3:] * weights[3:]).T)


def test_strays_do_not_shrink_an_object():
    space = Space(fit="object", axes="y_up")
    xyz = torch.tensor([[0.1, 0.2, 0.3], [0.0, 1.4, 0.0], [0.0, 0.0, -0.7]])
    want = torch.tensor([[0.1, 0.2, 0.3], [0.0, 0.7, 0.0], [0.0, 0.0, -0.7]])
    torch.testing.assert_close(space.denormalise(xyz), want)


# ------------------------------------------------------------------------------------------------------ conditions


def test_point_e_condition_is_the_unit_clip_vector(prior, checkpoint):
    from transformers import AutoTokenizer, CLIPModel

    folder = checkpoint("point-e") / "clip"
    model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(["a red mug"], padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        features = model.get_text_features(tokens.input_ids)
    features = features if isinstance(features, torch.Tensor) else features.pooler_output  # transformers 4 | 5
    got = prior("point-e").encode_prompts(["a red mug", "a blue mug", ""])
    torch.testing.assert_close(got[:1], features / features.norm())
    torch.testing.assert_close(got[1].norm(), torch.tensor(1.0))
    assert got.shape == (3, 24) and not got[2].any()


def test_starter_condition_draws_the_latent_only_for_samples(prior):
    p = prior("starter-points")
    mean = p.encode_prompts(["a red mug", ""])
    drawn = p.encode_prompts(["a red mug"] * 2 + [""], generators(1, 2, 3))
    assert torch.equal(p.encode_prompts(["a red mug"])[0], mean[0])
    torch.testing.assert_close(drawn[:, :32], mean[[0, 0, 1], :32])  # the text
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], mean[0])
    torch.testing.assert_close(drawn[2], mean[1])  # the empty prompt has no latent
    again = p.encode_prompts(["a red mug"], generators(1))
    torch.testing.assert_close(again[0], drawn[0])


def test_an_object_is_conditioned_on_its_own_shape(prior):
    p = prior("starter-points")
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor([(0.5, 0.1, 0.5), (0.1, 0.5, 0.1)])
    flat, tall = torch.randn(2, 300, 3, generator=generator) * shapes[:, None]
    rgb = torch.full((300, 3), 0.5)
    mean = p.encode_prompts(["a red mug", ""])
    for_flat, for_tall = p.encode_object("a red mug", flat, rgb), p.encode_object("a red mug", tall, rgb)
    assert for_flat.shape == mean.shape and not torch.equal(for_flat[0], for_tall[0])
    torch.testing.assert_close(for_flat[0, :32], mean[0, :32])  # the text
    torch.testing.assert_close(for_flat[1], mean[1])  # the null condition has no shape
    assert torch.equal(p.encode_prompts(["a red mug"])[0], mean[0])  # what is kept for the prompt is not touched


def test_point_e_leaves_nothing_open_given_the_prompt(prior):
    p = prior("point-e")
    rows = p.encode_object("a red mug", torch.randn(10, 3), torch.rand(10, 3))
    assert torch.equal(rows, p.encode_prompts(["a red mug", ""]))


# ---------------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("kind", ["point-e", "starter-points"])
def test_rows_of_a_sample_do_not_depend_on_each_other(prior, kind):
    p = prior(kind)
    arguments = {"guidance_scale": 3.0, "steps": 4, "num_points": 500}
    together = p.sample(["a red mug", "a mushroom"], generators(1, 2), **arguments)
    (alone,) = p.sample(["a mushroom"], generators(2), **arguments)
    assert len(alone) == 500 and alone.xyz.dtype == torch.float32
    torch.testing.assert_close(together[1].xyz, alone.xyz, atol=1e-4, rtol=1e-3)
    assert (together[1].rgb - alone.rgb).abs().max() <= 1 / 255 + 1e-6  # a colour may round the other way
    assert not torch.allclose(together[0].xyz, alone.xyz, atol=0.05)
    for cloud in together:
        assert cloud.xyz.norm(dim=1).max() <= OBJECT_RADIUS * 1.0001
        assert cloud.rgb.min() >= 0 and cloud.rgb.max() <= 1


def test_second_stage_adds_to_the_first(prior):
    p = prior("point-e")
    first = p.sample(["a mug"], generators(5), steps=2, num_points=1024)[0]
    both = p.sample(["a mug"], generators(5), steps=2)[0]
    assert len(first) == 1024 and len(both) == p.sample_points == 4096 and p.num_points == 1024
    torch.testing.assert_close(both.rgb[:1024], first.rgb)


def test_guidance_acts_only_from_its_least_noise_level_on(prior):
    p = prior("point-e")

    def sample(scale, least):
        settings = {"guidance_scale": scale, "guidance_sigma_min": least, "steps": 4, "num_points": 64}
        return p.sample(["a mug"], generators(5), **settings)[0].xyz

    assert torch.equal(sample(5.0, 1000.0), sample(1.0, 0.0))
    assert not torch.equal(sample(5.0, 1.0), sample(5.0, 0.0)) and not torch.equal(sample(5.0, 1.0), sample(1.0, 0.0))


def test_the_prediction_is_the_first_half_and_has_no_graph(prior):
    p = prior("point-e")
    x, t = torch.randn(2, 6, 1024, requires_grad=True), torch.tensor([3, 700])
    condition = p.encode_prompts(["a mug", ""])
    eps = p.predict(x, t / 1024, condition)
    assert eps.shape == (2, 6, 1024) and not eps.requires_grad
    torch.testing.assert_close(eps, p.network(x, t, condition)[:, :6])
    noise = torch.randn_like(x)
    a = torch.tensor(cosine_schedule()[[3, 700]], dtype=torch.float32).reshape(2, 1, 1)
    torch.testing.assert_close(p.add_noise(x, noise, t / 1024), a.sqrt() * x + (1 - a).sqrt() * noise)


def test_limits_keep_large_coordinates(prior):
    """Object units times 3 exceed Point-E's +-1: the starter's limits must let them through."""
    p = prior("starter-points")
    torch.testing.assert_close(p._limits[:3, 0], torch.full((3,), 3 * OBJECT_RADIUS))
    far = torch.zeros(6, 10)
    far[1] = torch.linspace(-0.69, 0.69, 10) * 3
    exact = exact_prior(far, scales=(3.0,) * 3 + (2.0,) * 3, axes="y_up", fit="object", limits=(2.1,) * 3 + (1.0,) * 3)
    (cloud,) = exact.sample([""], generators(0), guidance_scale=0.0, steps=6)
    torch.testing.assert_close(cloud.xyz[:, 1], torch.linspace(-0.69, 0.69, 10), atol=1e-3, rtol=0)


def test_resample_gives_the_number_that_was_asked_for():
    g = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(300, 3, generator=g), dim=1)
    cloud = PointCloud(direction * OBJECT_RADIUS, torch.rand(300, 3, generator=g))
    known = {tuple(p) for p in cloud.xyz.tolist()}
    fewer = resample(cloud, 100, generators(1)[0])
    assert len(fewer) == 100 and len({tuple(p) for p in fewer.xyz.tolist()} & known) == 100
    assert torch.equal(resample(cloud, 300, generators(1)[0]).xyz, cloud.xyz)
    more = resample(cloud, 1000, generators(1)[0])
    assert len(more) == 1000 and torch.equal(more.xyz[:300], cloud.xyz)
    assert more.xyz.norm(dim=1).max() <= OBJECT_RADIUS * 1.0001
    nearest = torch.cdist(more.xyz[300:], cloud.xyz).amin(1)
    assert 0 < nearest.mean() < 0.1 and torch.equal(more.xyz, resample(cloud, 1000, generators(1)[0]).xyz)


# ---------------------------------------------------------------------------------------------- folders with faults


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("point-e", "base_40m_textvec.safetensors", r"so is base_40m_textvec.safetensors \(or base_40m_textvec.pt"),
        ("point-e", "clip/model.safetensors", "model.safetensors is missing"),
        ("point-e", "clip/vocab.json", "tokenizer.json is missing"),
        ("point-e", "clip", "openai/clip-vit-large-patch14.*HF_HUB_OFFLINE is set"),
        ("starter-points", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors is missing"),
        ("starter-points", "tokenizer/merges.txt", r"tokenizer/tokenizer.json is missing"),
    ],
)
def test_the_missing_file_is_named(checkpoint, tmp_path, kind, name, message):
    folder = shutil.copytree(checkpoint(kind), tmp_path / kind)
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ModelNotFound, match=message):
        load_point_prior(str(folder))


def test_point_e_without_its_second_stage(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("point-e"), tmp_path / "base-only")
    (folder / "upsample_40m.safetensors").unlink()
    p = load_point_prior(str(folder))
    (cloud,) = p.sample(["a mug"], generators(0), steps=2)
    assert len(cloud) == p.sample_points == 1024


def test_unknown_networks_and_tensors_are_refused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("starter-points"), tmp_path / "points")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": "Diffuser9000"}))
    with pytest.raises(RequestError, match="network 'Diffuser9000' is not known"):
        load_point_prior(str(folder))
    folder = shutil.copytree(checkpoint("point-e"), tmp_path / "point-e")
    tensors = load_file(folder / "base_40m_textvec.safetensors")
    del tensors["ln_post.bias"]
    save_file(tensors, folder / "base_40m_textvec.safetensors")
    with pytest.raises(ModelNotFound, match=r"base_40m_textvec.safetensors: not a Point-E"):
        load_point_prior(str(folder))


def test_pickle_and_safetensors_are_the_same_model(prior):
    x, t, c = torch.randn(1, 6, 64), torch.tensor([9]), torch.randn(1, 24)
    assert torch.equal(prior("point-e").predict(x, t / 1024, c), prior("point-e-pt").predict(x, t / 1024, c))
    assert prior("point-e").model_id != prior("point-e-pt").model_id


def test_schedule_tables_are_decreasing():
    table = cosine_schedule()
    assert table.shape == (1024,) and (np.diff(table) < 0).all() and 0 < table[-1] < 1e-4 < 0.999 < table[0] < 1


def test_the_starter_draws_the_same_cloud_in_half_the_bits():
    """Each point within a fraction of what lies between neighbours of where float32 has it."""
    clouds = [
        load_point_prior("starter", dtype=dtype).sample(
            ["a red mug"], [torch.Generator().manual_seed(0)], guidance_scale=1.0, steps=16, num_points=512
        )[0]
        for dtype in (torch.float32, torch.bfloat16)
    ]
    moved = (clouds[1].xyz - clouds[0].xyz).norm(dim=1)
    apart = torch.cdist(clouds[0].xyz, clouds[0].xyz).topk(2, largest=False).values[:, 1]
    assert 0 < moved.median() < 0.2 * apart.median()
    assert (clouds[1].rgb - clouds[0].rgb).abs().mean() < 0.01
