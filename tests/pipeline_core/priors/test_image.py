"""One loader for every published kind of folder; conversions against closed forms; the same numbers as diffusers."""

import importlib.util
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline_core.cameras import orbit
from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors.image import (
    camera_embedding,
    load_image_prior,
    load_process,
    pack_pooled,
    unpack_pooled,
)
from pipeline_core.priors.interface import ImagePrior
from pipeline_core.priors.multiview import MultiViewUNet, mvdream_cameras
from pipeline_core.priors.process import Diffusion
from pipeline_core.priors.text import load_text_network
from tests.pipeline_core.priors.checkpoints import PRUNED, SSD_1B, VEGA

KINDS = ["sd", "sd-v", "sdxl", "pixel", "mvdream", "starter-image"]


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def rows(prior, n=4, seed=0):
    """Random latents, timesteps and cameras for one call."""
    g = torch.Generator().manual_seed(seed)
    latents = torch.randn(n, prior.latent_channels, prior.latent_size, prior.latent_size, generator=g)
    t = torch.randint(20, 980, (n,), generator=g)
    return latents, t, (torch.arange(n) * 90.0, torch.full((n,), 15.0))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_folder_goes_through_the_same_calls(prior, kind):
    p = prior(kind)
    latents, t, cameras = rows(p)
    embeddings = p.encode_prompts(["a red mug", "a blue mug", "a mug", ""])
    eps = p.predict(latents, t / 1000, embeddings, cameras)
    images = p.decode(p.encode(torch.rand(4, 3, p.size, p.size)))
    assert eps.shape == latents.shape and eps.dtype == torch.float32 and eps.isfinite().all() and eps.std() > 0.01
    assert images.shape == (4, 3, p.size, p.size) and images.min() >= 0 and images.max() <= 1
    table = p.process.alphas_cumprod
    assert table.shape == (1000,) and len(p.process) == 1000
    assert (table[1:] < table[:-1]).all() and isinstance(p, ImagePrior)
    assert p.size == {"pixel": 8}.get(kind, 16) and p.latent_size == 8
    assert not any(q.requires_grad for net in (p.unet, p.vae) if net is not None for q in net.parameters())


def test_what_differs_is_read_from_the_folder(prior):
    assert [prior(kind).camera for kind in KINDS] == ["none", "none", "none", "none", "mvdream", "angles"]
    assert [prior(kind).background for kind in ("sd", "starter-image")] == [None, (1.0, 1.0, 1.0)]
    assert prior("pixel").vae is None and prior("pixel").latent_channels == 3
    assert prior("mvdream").num_views == 4 and prior("sd").num_views == 1


# ------------------------------------------------------------------------------------------ against diffusers


def diffusers_pipeline(folder, name):
    import diffusers

    return getattr(diffusers, name).from_pretrained(str(folder), use_safetensors=True, local_files_only=True)


def test_stable_diffusion_embeddings_and_noise_equal_diffusers(prior, checkpoint):
    p = prior("sd")
    pipe = diffusers_pipeline(checkpoint("sd"), "StableDiffusionPipeline")
    positive, negative = pipe.encode_prompt("a red mug", "cpu", 1, True)
    ours = p.encode_prompts(["a red mug", ""])
    torch.testing.assert_close(ours, torch.cat([positive, negative]))
    latents, t, _ = rows(p, 2)
    theirs = pipe.unet(latents, t, encoder_hidden_states=ours).sample
    torch.testing.assert_close(p.predict(latents, t / 1000, ours), theirs)
    image = torch.rand(2, 3, 16, 16)
    theirs = pipe.vae.encode(image * 2 - 1).latent_dist.mean * pipe.vae.config.scaling_factor
    torch.testing.assert_close(p.encode(image), theirs)


@pytest.mark.parametrize("kind", ["sdxl", "ssd-1b", "vega"])
def test_sdxl_embeddings_and_noise_equal_diffusers(prior, checkpoint, kind):
    p = prior(kind)
    pipe = diffusers_pipeline(checkpoint(kind), "StableDiffusionXLPipeline")
    positive, negative, pooled, negative_pooled = pipe.encode_prompt("a red mug", device="cpu")
    ours = p.encode_prompts(["a red mug", ""])
    hidden, vectors = unpack_pooled(ours, 80)
    torch.testing.assert_close(hidden, torch.cat([positive, negative]))
    torch.testing.assert_close(vectors, torch.cat([pooled, negative_pooled]))
    assert not ours[1].any()  # force_zeros_for_empty_prompt
    latents, t, _ = rows(p, 2)
    ids = pipe._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, 80).expand(2, -1)
    theirs = pipe.unet(latents, t, hidden, added_cond_kwargs={"text_embeds": vectors, "time_ids": ids}).sample
    torch.testing.assert_close(p.predict(latents, t / 1000, ours), theirs)


def test_pixel_prior_equals_diffusers_and_drops_the_learned_variance(prior):
    p = prior("pixel")
    latents, t, _ = rows(p, 2)
    tokens = p.encoders[0].tokenizer(["a red mug"], padding="max_length", max_length=77, return_tensors="pt")
    theirs = p.encoders[0].model(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    torch.testing.assert_close(p.encode_prompts([" A red MUG "]), theirs)  # stripped and lower-cased, as IF does
    full = p.unet(latents, t, theirs.expand(2, -1, -1)).sample
    assert full.shape[1] == 6
    torch.testing.assert_close(p.predict(latents, t / 1000, theirs.expand(2, -1, -1)), full[:, :3])
    image = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(p.encode(image), image * 2 - 1)
    torch.testing.assert_close(p.decode(p.encode(image)), image)


def test_text_weights_under_their_published_names_are_all_used(checkpoint, prior):
    keys = load_file(checkpoint("sd") / "text_encoder" / "model.safetensors")
    assert all(key.startswith("text_model.") for key in keys)
    loaded = prior("sd").encoders[0].model.state_dict()
    name = "encoder.layers.2.mlp.fc1.weight"
    ours = next(value for key, value in loaded.items() if key.endswith(name))
    torch.testing.assert_close(ours, keys[f"text_model.{name}"])


# -------------------------------------------------------------------------------------------------- conversions


@pytest.mark.parametrize("level", [0.9991, 0.5, 0.0047])
def test_every_prediction_type_gives_back_the_noise(level):
    g = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 2, 3, 4, 4, generator=g, dtype=torch.float64)
    a = torch.tensor(level, dtype=torch.float64)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
    outputs = {"epsilon": eps, "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * x_0, "sample": x_0}
    for kind, output in outputs.items():
        x0, noise = Diffusion(a.reshape(1), kind).x0_and_noise(x_t, output, torch.zeros(2))
        torch.testing.assert_close((x0, noise), (x_0, eps))


@pytest.mark.parametrize("kind", ["sd", "sd-v", "sd-sample"])
def test_the_scheduler_file_decides_the_conversion(prior, kind):
    p = prior(kind)
    latents, t, _ = rows(p, 2)
    embeddings = p.encode_prompts(["a mug", ""])
    raw = p.unet(latents, t, embeddings).sample
    a = p.process.alphas_cumprod[t].reshape(-1, 1, 1, 1)
    want = {
        "sd": raw,
        "sd-v": a.sqrt() * raw + (1 - a).sqrt() * latents,
        "sd-sample": (latents - a.sqrt() * raw) / (1 - a).sqrt(),
    }[kind]
    torch.testing.assert_close(p.predict(latents, t / 1000, embeddings), want)


def test_schedule_is_scaled_linear(prior):
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(prior("sd").process.alphas_cumprod.double(), (1 - beta).cumprod(0), rtol=1e-5, atol=1e-7)


def test_noise_goes_on_and_comes_off(prior):
    p = prior("sd")
    z, noise = torch.randn(2, 3, 4, 8, 8)
    t = torch.tensor([0, 0.5, 0.999])
    x0, implied = p.x0_and_noise(p.add_noise(z, noise, t), noise, t)
    torch.testing.assert_close(x0, z, rtol=1e-4, atol=1e-4)
    assert implied is noise


def test_a_schedule_that_ends_at_zero_signal_stays_finite(prior, tmp_path):
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    config |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "num_train_timesteps": 1000}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    process = load_process(tmp_path)
    assert process.prediction_type == "v_prediction" and process.alphas_cumprod[-1] < 1e-8
    v, x = torch.randn(2, 1, 4, 8, 8)
    noise = process.x0_and_noise(x, v, torch.ones(1))[1]
    torch.testing.assert_close(noise, x, rtol=0, atol=1e-3)  # all noise: x_t is the noise


def test_other_schedules_are_refused(tmp_path):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({"prediction_type": "flow"}))
    with pytest.raises(RequestError, match="prediction_type 'flow' is not one of"):
        load_process(tmp_path)
    path.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"}))
    with pytest.raises(RequestError, match="flow-matching"):
        load_process(tmp_path)


@pytest.mark.parametrize("depths, millions", [(SSD_1B, 1331), (VEGA, 745)])
def test_sdxls_kin_have_the_published_sizes(depths, millions):
    """By the numbers of parameters on their cards: 1.3 and 0.74 billion."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128, block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048, addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816, **PRUNED, **depths,
        )  # fmt: skip
    assert sum(p.numel() for p in unet.parameters()) // 1_000_000 == millions


def test_pooled_vectors_travel_as_tokens():
    hidden, pooled = torch.randn(5, 8), torch.randn(19)
    packed = pack_pooled(hidden, pooled)
    assert packed.shape == (8, 8)
    back, vector = unpack_pooled(packed[None], 19)
    assert torch.equal(back[0], hidden) and torch.equal(vector[0], pooled)


# ------------------------------------------------------------------------------------------------- encode, decode


@pytest.mark.parametrize("kind", ["sd", "pixel", "starter-image"])
@pytest.mark.parametrize("pixels", [10, 16, 40])
def test_gradient_of_encode_is_the_finite_difference(prior, kind, pixels):
    p = prior(kind)
    g = torch.Generator().manual_seed(3)
    images = torch.rand(2, 3, pixels, pixels, generator=g) * 0.6 + 0.2
    weights = torch.randn(2, p.latent_channels, p.latent_size, p.latent_size, generator=g)
    direction = torch.randn(images.shape, generator=g)

    def loss(x):
        return (p.encode(x, generators(1, 2)) * weights).sum()

    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    h = 2e-3
    numeric = (loss(images + h * direction) - loss(images - h * direction)) / (2 * h)
    analytic = (gradient * direction).sum()
    assert abs(numeric - analytic) < 0.01 * (gradient.norm() * direction.norm()) / math.sqrt(images.numel())


def test_posterior_noise_is_drawn_row_by_row(prior):
    p = prior("sd")
    images = torch.rand(3, 3, 16, 16)
    batch = p.encode(images, generators(7, 8, 9))
    for i in range(3):
        alone = p.encode(images[i : i + 1], generators(7 + i))
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    posterior = p.vae.encode(images * 2 - 1).latent_dist
    noise = torch.randn(4, 8, 8, generator=generators(8)[0])
    want = (posterior.mean[1] + posterior.std[1] * noise) * 0.18215
    torch.testing.assert_close(batch[1], want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(p.encode(images), posterior.mean * 0.18215)


def test_starter_encode_and_decode_are_a_projection(prior):
    p = prior("starter-image")
    once = p.decode(p.encode(torch.rand(2, 3, 16, 16) * 0.2 + 0.4))
    torch.testing.assert_close(p.decode(p.encode(once)), once, rtol=1e-4, atol=1e-4)


def test_prompts_are_encoded_once_and_alone(prior, monkeypatch):
    p = prior("sd")
    calls = []
    inner = type(p.encoders[0]).__call__
    monkeypatch.setattr(type(p.encoders[0]), "__call__", lambda self, text: calls.append(text) or inner(self, text))
    many = p.encode_prompts(["one", "two", "one", "three"])
    again = p.encode_prompts(["three"])
    assert calls == ["one", "two", "three"]
    assert torch.equal(many[3], again[0]) and torch.equal(many[0], many[2]) and not torch.equal(many[0], many[1])


def test_prompt_cache_is_bounded(checkpoint, monkeypatch):
    monkeypatch.setattr("pipeline_core.priors.latents.PROMPT_CACHE", 2)
    p = load_image_prior(str(checkpoint("starter-image")))
    first = p.encode_prompts(["p"])
    p.encode_prompts(["q", "r", "s"])
    assert len(p._prompts) == 2 and torch.equal(p.encode_prompts(["p"]), first)


@pytest.mark.parametrize("kind", ["sd", "sdxl", "pixel", "mvdream", "starter-image"])
def test_half_precision_is_close_and_answers_in_float32(prior, checkpoint, kind):
    exact, half = prior(kind), load_image_prior(str(checkpoint(kind)), dtype=torch.bfloat16)
    latents, t, cameras = rows(exact)
    prompts = ["a red mug"] * 4
    want = exact.predict(latents, t / 1000, exact.encode_prompts(prompts), cameras)
    got = half.predict(latents, t / 1000, half.encode_prompts(prompts), cameras)
    assert got.dtype == torch.float32 and half.unet.dtype == torch.bfloat16
    assert (got - want).norm() < 0.05 * want.norm()
    images = torch.rand(2, 3, 16, 16)
    latents = half.encode(images)
    assert latents.dtype == torch.float32 and (latents - exact.encode(images)).norm() < 0.05 * latents.norm()


def test_precision_follows_the_folder(checkpoint):
    sdxl = load_image_prior(str(checkpoint("sdxl")), dtype=torch.float16)
    assert sdxl.vae.dtype == torch.float32 and sdxl.unet.dtype == torch.float16  # its file says force_upcast
    sd = load_image_prior(str(checkpoint("sd")), dtype=torch.float16)
    assert sd.vae.dtype == torch.float16
    pixel = load_image_prior(str(checkpoint("pixel")), dtype=torch.float16)
    assert pixel.encoders[0].model.dtype == torch.float32  # on a CPU, where a prompt is encoded once
    text = load_text_network(checkpoint("pixel") / "text_encoder", torch.float16)
    assert text.dtype == torch.bfloat16  # T5 overflows float16


# --------------------------------------------------------------------------------------------------------- cameras


def test_camera_embedding_is_sines_and_cosines():
    e = camera_embedding(torch.tensor([0.0, 90.0, math.nan, 10.0]), torch.tensor([30.0, 0.0, 0.0, math.nan]))
    half, root = 0.5, math.sqrt(3) / 2
    torch.testing.assert_close(e[0], torch.tensor([0, 1, 0, 1, half, root, root, half]))
    torch.testing.assert_close(e[1], torch.tensor([1, 0, 0, -1, 0, 1, 0, 1.0]), rtol=0, atol=1e-6)
    assert not e[2:].any()


def test_the_starter_sees_the_camera_and_stable_diffusion_does_not(prior):
    for kind, seen in (("starter-image", True), ("sd", False)):
        p = prior(kind)
        latents, t, cameras = rows(p, 1)
        e = p.encode_prompts(["a mug"])
        front = p.predict(latents, t / 1000, e, cameras)
        back = p.predict(latents, t / 1000, e, (cameras[0] + 180, cameras[1]))
        assert torch.equal(front, back) is not seen
        none = p.predict(latents, t / 1000, e)
        nan = p.predict(latents, t / 1000, e, (torch.tensor([math.nan]), cameras[1]))
        assert torch.equal(none, nan)


def test_mvdream_camera_vectors():
    """Camera-to-world in Blender axes, from our own look-at; our front (+Z) is MVDream's azimuth 90 (+x)."""
    az, el = torch.tensor([0.0, 40.0, -90.0, math.nan]), torch.tensor([0.0, 20.0, 10.0, 0.0])
    vectors = mvdream_cameras(az, el).reshape(4, 4, 4)
    torch.testing.assert_close(vectors[0, :3, 3], torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0)
    turned = orbit(az[:3] + 90, el[:3], size=8, distance=1.0)
    c2w = torch.linalg.inv(turned.viewmats) @ torch.diag(torch.tensor([1.0, -1, -1, 1]))  # OpenCV to OpenGL camera axes
    to_blender = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    torch.testing.assert_close(vectors[:3], to_blender @ c2w, atol=1e-5, rtol=0)
    assert not vectors[3].any()


def test_mvdream_views_of_an_object_see_each_other_and_no_other_object(prior):
    p = prior("mvdream")
    latents, t, cameras = rows(p, 8)
    t = t[:1].expand(8)
    cameras = (torch.tensor([0.0, 90, 180, 270]).repeat(2), cameras[1])
    e = p.encode_prompts(["a mug"] * 8)
    before = p.predict(latents, t / 1000, e, cameras)
    latents[2] += 1
    after = p.predict(latents, t / 1000, e, cameras)
    changed = (after - before).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert changed.tolist() == [True] * 4 + [False] * 4
    with pytest.raises(AssertionError, match="groups of 4"):
        p.predict(latents[:3], t[:3] / 1000, e[:3], (cameras[0][:3], cameras[1][:3]))


def test_mvdream_network_has_the_published_tensors():
    config = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_head_channels": 64}
    config |= {"attention_resolutions": [4, 2, 1], "num_res_blocks": 2, "channel_mult": [1, 2, 4, 4]}
    config |= {"transformer_depth": 1, "context_dim": 1024, "camera_dim": 16}
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in MultiViewUNet(config).state_dict().items()}
    assert len(shapes) == 690 and sum(math.prod(shape) for shape in shapes.values()) == 867_572_164
    block = "output_blocks.11.1.transformer_blocks.0."
    for key, shape in {
        "camera_embed.0.weight": (1280, 16),
        "time_embed.2.weight": (1280, 1280),
        "input_blocks.0.0.weight": (320, 4, 3, 3),
        "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "input_blocks.1.0.in_layers.2.weight": (320, 320, 3, 3),
        "input_blocks.1.0.emb_layers.1.weight": (320, 1280),
        "middle_block.1.proj_in.weight": (1280, 1280),
        "middle_block.2.out_layers.3.bias": (1280,),
        "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "output_blocks.5.2.conv.bias": (1280,),
        block + "attn1.to_q.weight": (320, 320),
        block + "attn2.to_k.weight": (320, 1024),
        block + "attn2.to_out.0.bias": (320,),
        block + "ff.net.0.proj.weight": (2560, 320),
        block + "ff.net.2.weight": (320, 1280),
        block + "norm3.weight": (320,),
        "out.2.weight": (4, 320, 3, 3),
    }.items():
        assert shapes[key] == shape, key


# -------------------------------------------------------------------------------- parity with MVDream's diffusers code

needs_mv_unet = pytest.mark.skipif(
    importlib.util.find_spec("mv_unet") is None,
    reason="mv_unet.py is not importable (github.com/ashawkey/mvdream_diffusers on PYTHONPATH, with xformers and kiui)",
)


@needs_mv_unet
def test_mvdream_network_equals_the_published_code(checkpoint):
    """Same weights, same rows: the class that the published folders bring as remote code."""
    import mv_unet

    config = json.loads((checkpoint("mvdream") / "unet" / "config.json").read_text())
    torch.manual_seed(0)
    theirs = mv_unet.MultiViewUNetModel(**{k: v for k, v in config.items() if not k.startswith("_")}).eval()
    for parameter in theirs.parameters():  # zero-initialised layers would hide what feeds them
        torch.nn.init.normal_(parameter, std=0.05)
    ours = MultiViewUNet(config).eval()
    ours.load_state_dict(theirs.state_dict())
    x, t = torch.randn(8, 4, 8, 8), torch.tensor([7] * 4 + [900] * 4)
    text = torch.randn(8, 77, config["context_dim"])
    cameras = mv_unet.get_camera(4, elevation=20).repeat(2, 1)
    with torch.no_grad():
        want = theirs(x, timesteps=t, context=text, camera=cameras, num_frames=4)
        got = ours(x, t, text, cameras, num_frames=4)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert want.std() > 0.05


@needs_mv_unet
def test_mvdream_cameras_equal_the_published_code():
    """Its azimuth counts as ours does, and has the front at 90 degrees."""
    import mv_unet

    theirs = mv_unet.get_camera(4, elevation=20)
    azimuth = torch.tensor([0.0, 90.0, 180.0, 270.0])
    torch.testing.assert_close(mvdream_cameras(azimuth - 90.0, torch.full((4,), 20.0)), theirs, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------- folders with faults

FAULTS = [
    ("sd", "unet/diffusion_pytorch_model.safetensors", r"unet/diffusion_pytorch_model.safetensors is missing"),
    ("sd", "unet/config.json", r"unet/config.json is missing"),
    ("sd", "vae", r"vae/ is missing"),
    ("sd", "text_encoder/model.safetensors", r"text_encoder/model.safetensors is missing"),
    ("sd", "tokenizer/merges.txt", r"tokenizer/tokenizer.json is missing \(or tokenizer/vocab.json with"),
    ("sd", "scheduler/scheduler_config.json", r"scheduler/scheduler_config.json is missing"),
    ("sd", "model_index.json", r"model_index.json is missing: not a diffusers folder"),
    ("sdxl", "text_encoder_2/model.safetensors", r"text_encoder_2/model.safetensors is missing"),
    ("mvdream", "unet/diffusion_pytorch_model.safetensors", r"unet/diffusion_pytorch_model.safetensors is missing"),
]


@pytest.mark.parametrize(("kind", "name", "message"), FAULTS)
def test_the_missing_file_is_named(copy, kind, name, message):
    folder = copy(kind)
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ModelNotFound, match=message):
        load_image_prior(str(folder))


def test_all_faults_are_reported_at_once(copy):
    folder = copy("sdxl")
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    (folder / "vae/config.json").write_text("{")
    weights = folder / "text_encoder/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelNotFound) as error:
        load_image_prior(str(folder))
    text = str(error.value)
    assert "unet/diffusion_pytorch_model.safetensors is missing" in text
    assert "vae/config.json is not readable JSON" in text
    assert "text_encoder/model.safetensors is cut short" in text


def test_pickled_weights_are_not_loaded(copy):
    folder = copy("sd")
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(
        ModelNotFound, match=r"diffusion_pytorch_model.bin is there, but pickled weights are never loaded"
    ):
        load_image_prior(str(folder))


def test_a_tensor_that_is_missing_is_not_made_up(copy):
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        folder = copy("sd") if part == "unet" else copy("sd-v")
        path = folder / part / f"{name}.safetensors"
        tensors = load_file(path)
        gone = sorted(key for key in tensors if key.endswith("weight"))[0]
        save_file({k: v for k, v in tensors.items() if k != gone}, path, metadata={"format": "pt"})
        with pytest.raises(ModelNotFound, match=r"1 tensors of .* are missing and 0 have another shape"):
            load_image_prior(str(folder))


def test_a_tensor_of_another_shape_is_not_made_up(copy):
    folder = copy("sd")
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, "cross_attention_dim": 48}))
    with pytest.raises(ModelNotFound, match=r"have another shape \(first: .*attn2.to_k.weight is 32 x 32, not 32 x 48"):
        load_image_prior(str(folder))


def test_mvdream_weights_must_fit_the_config(copy):
    folder = copy("mvdream")
    config = json.loads((folder / "unet/config.json").read_text())
    for change, message in (
        ({"model_channels": 64}, "do not belong together"),
        ({"ip_dim": 16}, "ip_dim=16 is not supported; ImageDream"),
    ):
        (folder / "unet/config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises((ModelNotFound, RequestError), match=message):
            load_image_prior(str(folder))
    del config["camera_dim"]
    (folder / "unet/config.json").write_text(json.dumps(config))
    with pytest.raises(ModelNotFound, match=r"config.json has no 'camera_dim'"):
        load_image_prior(str(folder))


def test_models_that_cannot_guide_are_refused(copy):
    folder = copy("starter-image")
    (folder / "splatmill.json").write_text("{}")
    with pytest.raises(RequestError, match="wants class labels"):
        load_image_prior(str(folder))
    (folder / "splatmill.json").write_text(json.dumps({"camera": "fisheye"}))
    with pytest.raises(RequestError, match="camera 'fisheye' is not known; use none or angles"):
        load_image_prior(str(folder))
    folder = copy("sd")
    (folder / "splatmill.json").write_text(json.dumps({"camera": "angles"}))
    with pytest.raises(RequestError, match="it must be 'projection' of width 8"):
        load_image_prior(str(folder))
    (folder / "splatmill.json").unlink()
    config = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**config, "vae": [None, None]}))
    with pytest.raises(RequestError, match="takes 4 channels but latents have 3"):
        load_image_prior(str(folder))


def test_only_half_precision_files_and_shards_load_too(copy, prior):
    folder = copy("sd")
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(path.stem + ".fp16.safetensors"))
    unet = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    tensors = load_file(unet)
    unet.unlink()
    keys = sorted(tensors)
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, part in zip(names, (keys[::2], keys[1::2]), strict=True):
        save_file({k: tensors[k] for k in part}, unet.parent / name, metadata={"format": "pt"})
    weight_map = {key: names[i % 2] for i, key in enumerate(keys)}
    index = unet.parent / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    got, want = load_image_prior(str(folder)), prior("sd")
    latents, t, _ = rows(want, 2)
    prompts = ["a mug", ""]
    torch.testing.assert_close(
        got.predict(latents, t / 1000, got.encode_prompts(prompts)),
        want.predict(latents, t / 1000, want.encode_prompts(prompts)),
    )
    (unet.parent / names[1]).unlink()
    with pytest.raises(ModelNotFound, match=r"unet/diffusion_pytorch_model-00002-of-00002.safetensors is missing"):
        load_image_prior(str(folder))


REMOTE = """
from diffusers import UNet2DConditionModel
class OddUNet(UNet2DConditionModel):
    pass
"""


def test_remote_code_runs_only_when_it_is_allowed(copy, monkeypatch, tmp_path):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = copy("sd")
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, "_class_name": "OddUNet"}))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "unet": ["odd", "OddUNet"]}))
    with pytest.raises(RequestError, match="class 'OddUNet' is not one that splatmill knows"):
        load_image_prior(str(folder))
    with pytest.raises(ModelNotFound, match=r"should be defined in unet/odd.py, which is missing"):
        load_image_prior(str(folder), allow_remote_code=True)
    (folder / "unet/odd.py").write_text(REMOTE)
    with pytest.raises(RequestError):
        load_image_prior(str(folder))
    assert type(load_image_prior(str(folder), allow_remote_code=True).unet).__name__ == "OddUNet"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loading_leaves_the_process_default_precision_alone(checkpoint, monkeypatch, dtype):
    """Other threads compute while a prior is read: a default of bfloat16 would be in what they make."""
    from diffusers import UNet2DConditionModel

    folder, defaults = checkpoint("starter-image"), []
    monkeypatch.setattr(torch, "set_default_dtype", lambda wanted: defaults.append(wanted))
    prior = load_image_prior(str(folder), dtype=dtype)
    assert set(defaults) <= {torch.float32}
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").to(dtype)
    assert all(torch.equal(mine, prior.unet.state_dict()[name]) for name, mine in unet.state_dict().items())
