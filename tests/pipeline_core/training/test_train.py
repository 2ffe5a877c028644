"""The trainer: exact resume, reproducibility, schedules, data chunks and exports, at sizes that take seconds."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
from transformers import CLIPTextModel, CLIPTokenizer

from pipeline_core.errors import RequestError
from pipeline_core.priors.image import camera_embedding, kind_embedding, load_image_prior
from pipeline_core.priors.independent_points import IndependentPointDiffusion
from pipeline_core.priors.patch_autoencoder import PatchAutoencoder
from pipeline_core.props.props import CATEGORIES, COLOURS, is_heldout
from pipeline_core.training import data, pictures, train_points
from pipeline_core.training.pictures import as_planes, over
from pipeline_core.training.recorded import RecordedLoss
from pipeline_core.training.resident import ResidentChunks
from pipeline_core.training.tokenizer import tokenize
from pipeline_core.training.train import (
    Averaged,
    Optimisation,
    Progress,
    _plan,
    build_part,
    export_checkpoint,
    load_checkpoint,
    parse_settings,
    rate,
    save_checkpoint,
    train_part,
)
from pipeline_core.training.train_image import (
    MIDDLE,
    HalfGroupNorm,
    build_scheduler,
    normalise_in_half,
    timestep_share,
)
from pipeline_core.training.words import vary

TINY = {
    "image": {
        "widths": (16, 16), "attention": (False, True), "norm_groups": 4, "text_width": 32, "text_layers": 1,
        "channels": 4, "size": 16, "chunks": 2, "chunk_size": 16, "first_chunks": 1, "fresh": 1.0,
    },
    "points": {
        "width": 16, "depth": 1, "set_size": 3, "latent": 2, "flow_width": 16, "flow_depth": 1, "text_width": 32,
        "points": 8, "chunks": 2, "chunk_size": 16, "first_chunks": 1,
    },
    "flow": {
        "width": 32, "depth": 2, "heads": 1, "text_width": 32, "channels": 4, "size": 16, "chunks": 2, "chunk_size": 16,
        "first_chunks": 1, "fresh": 1.0,
    },
}  # fmt: skip
FAST = Optimisation(batch=4, lr=1e-3, warmup=2, ema=0.9)


INDEPENDENT = {"network": "independent", "channels": 6}


def run(name, tmp_path, run_name, *, steps, stop_at=None, changes=None, **options):
    part = build_part(name, tmp_path / "data", seed=3, batch=FAST.batch, **TINY[name] | (changes or {}))
    part.steps.pool.ahead = 0
    part.grid = lambda modules: np.zeros((4, 4, 3), np.uint8)  # sampling has its own test
    calls = iter(range(1, 1000))
    try:
        progress = train_part(
            part, tmp_path / run_name, seed=3, optimisation=FAST, steps=steps, log_every=1, checkpoint_every=1000,
            should_stop=lambda: next(calls) == stop_at, **options,
        )  # fmt: skip
    finally:
        part.steps.pool.close()
    return part, progress


@pytest.fixture(scope="module", params=list(TINY))
def whole_and_resumed(request, tmp_path_factory):
    """Six steps at once, and the same six in two sittings."""
    tmp_path = tmp_path_factory.mktemp(request.param)
    whole = run(request.param, tmp_path, "whole", steps=6)
    half = run(request.param, tmp_path, "halves", steps=6, stop_at=3)
    resumed = run(request.param, tmp_path, "halves", steps=6)
    return request.param, tmp_path, whole, half, resumed


def test_resume_is_exact(whole_and_resumed):
    name, tmp_path, (_, whole), (_, half), (_, resumed) = whole_and_resumed
    assert half.step == 3 and whole.step == resumed.step == 6
    a = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    b = load_file(tmp_path / "halves" / "checkpoint.safetensors")
    assert set(a) == set(b)
    assert all(torch.equal(a[key], b[key]) for key in a)
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / r / "curve.jsonl").read_text().splitlines()]
        for r in ("whole", "halves")
    ]
    assert len(losses[0]) == 6 and losses[0] == losses[1]


def test_worker_processes_draw_the_same_batches(tmp_path):
    part, _ = run("points", tmp_path, "here", steps=3)
    run("points", tmp_path, "workers", steps=3, workers=2)
    a, b = (load_file(tmp_path / folder / "checkpoint.safetensors") for folder in ("here", "workers"))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", list(TINY))
def test_resident_data_resumes_exactly_and_is_written_meanwhile(name, tmp_path):
    run(name, tmp_path, "whole", steps=6, resident=True, workers=1)
    run(name, tmp_path, "halves", steps=6, stop_at=3, resident=True)
    run(name, tmp_path, "halves", steps=6, resident=True)
    a, b = (load_file(tmp_path / folder / "checkpoint.safetensors") for folder in ("whole", "halves"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_chunk_that_cannot_be_read_ends_resident_training(tmp_path):
    def read(index):
        raise OSError("no such chunk")

    chunks = ResidentChunks(2, 4, lambda index: True, read, torch.device("cpu"))
    with pytest.raises(OSError, match="no such chunk"):
        chunks.require(1)
    chunks.close()


@pytest.mark.parametrize(
    ("parts", "pair", "message"),
    [
        (("image",), "chunk=1", "'chunk' must be one of .*chunks"),
        (("image",), "chunks=many", "'many' is not JSON"),
        (("image", "points"), "chunks=1", "give --part"),
        (("flow",), "widths=[8]", "'widths' must be one of .*width"),
    ],
)
def test_settings_are_checked(parts, pair, message):
    assert parse_settings(("image",), ["chunks=7"]) == {"chunks": 7}
    with pytest.raises(RequestError, match=message):
        parse_settings(parts, [pair])


def test_export_is_half_precision_safetensors_with_a_card(whole_and_resumed):
    name, tmp_path, *_ = whole_and_resumed
    folder = tmp_path / "whole" / "model"
    files = list(folder.rglob("*.safetensors"))
    assert not list(folder.rglob("*.bin")) and not list(folder.rglob("*.pt"))
    networks = [f for f in files if f.parent.name != "vae"]
    assert networks and all(v.dtype == torch.float16 for f in networks for v in load_file(f).values())
    card = (folder / "README.md").read_text()
    for text in ("commit", "seed", "sha256", "samples seen | 24 in 6 steps of 4"):
        assert text in card
    if name == "points":
        assert IndependentPointDiffusion.from_pretrained(folder).config.latent == 2
        assert json.loads((folder / "config.json").read_text())["channels"] == 8
        CLIPTokenizer.from_pretrained(folder / "tokenizer")
        return
    assert json.loads((folder / "splatmill.json").read_text())["background"] == [0.5, 0.5, 0.5]
    if name == "flow":
        return  # diffusers' pipeline reads it: test_train_flow.py
    assert UNet2DConditionModel.from_pretrained(folder / "unet").config.class_embed_type == "projection"
    assert CLIPTextModel.from_pretrained(folder / "text_encoder").config.hidden_size == 32
    assert PatchAutoencoder.from_pretrained(folder / "vae").config.latent_channels == 4
    assert DDIMScheduler.from_pretrained(folder / "scheduler").config.prediction_type == "v_prediction"
    assert "unet" in json.loads((folder / "model_index.json").read_text())


def test_exporting_a_checkpoint_gives_the_finished_runs_weights(whole_and_resumed, tmp_path):
    name, run_path, *_ = whole_and_resumed
    part = build_part(name, run_path / "data", seed=3, batch=FAST.batch, **TINY[name])
    progress = export_checkpoint(part, run_path / "whole", tmp_path, seed=3, optimisation=FAST, note="A remark.")
    part.steps.pool.close()
    assert progress.step == 6
    assert "A remark." in (tmp_path / "README.md").read_text()
    for file in (run_path / "whole" / "model").rglob("*.safetensors"):
        a, b = load_file(file), load_file(tmp_path / file.relative_to(run_path / "whole" / "model"))
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_the_folder_says_its_kinds_and_a_prior_is_told_them(whole_and_resumed):
    name, tmp_path, (part, _), *_ = whole_and_resumed
    if name != "image":
        return
    folder = tmp_path / "whole" / "model"
    prior = load_image_prior(str(folder), dtype=torch.float32)
    assert prior.kinds == ("unlit", "lit", "normals")
    half = build_part("image", tmp_path / "data", seed=3, batch=2, start=folder, **TINY["image"])  # as it was written
    half.steps.pool.close()
    x, t, cameras = torch.randn(1, 4, 4, 4), torch.tensor([0.3]), (torch.tensor([10.0]), torch.tensor([20.0]))
    embeddings = prior.encode_prompts(["a red crate"])
    found = [prior.predict(x, t, embeddings, cameras, torch.tensor([kind])) for kind in (0, 1)]
    assert torch.equal(found[0], prior.predict(x, t, embeddings, cameras))
    text = half.encode(half.modules, tokenize(half.tokenizer, ["a red crate"]))
    for kind, noise in enumerate(found):
        labels = half.steps.labels(*cameras, torch.tensor([kind]))
        with torch.no_grad():
            answer = half.denoise(half.modules, x, torch.tensor([300]), text, labels)
        assert_close(noise, part.process.x0_and_noise(x, answer, t)[1], atol=1e-5, rtol=1e-4)
    assert not torch.equal(found[0], found[1])


def test_samples_are_finite_and_follow_the_seed(whole_and_resumed):
    name, _, (part, _), *_ = whole_and_resumed
    part.modules.eval()
    if name != "points":
        az = torch.zeros(9)
        draw = lambda seed: part.sample(part.modules, ["a red crate"] * 9, az, az, seed=seed, steps=2)  # noqa: E731
        shape = (9, 3, 16, 16)
    else:
        draw = lambda seed: part.sample(part.modules, ["a red crate"] * 9, points=5, steps=2, seed=seed)  # noqa: E731
        shape = (9, 5, 8)
    first = draw(0)
    assert first.shape == shape and bool(first.isfinite().all())
    assert_close(first, draw(0), atol=0, rtol=0)
    assert (first - draw(1)).abs().max() > 1e-3


def test_checkpoint_of_another_seed_is_refused(whole_and_resumed):
    name, tmp_path, (part, _), *_ = whole_and_resumed
    average = Averaged(part.modules, 0.9)
    optimiser = torch.optim.AdamW(part.modules.parameters())
    with pytest.raises(RequestError, match="seed 3, not 4"):
        load_checkpoint(tmp_path / "whole" / "checkpoint.safetensors", part.modules, average, optimiser, 4)


def test_checkpoint_round_trip(tmp_path):
    def objects():
        modules = nn.ModuleDict({"net": nn.Linear(3, 2)})
        return modules, Averaged(modules, 0.5), torch.optim.AdamW(modules.parameters(), lr=0.1)

    torch.manual_seed(0)
    modules, average, optimiser = objects()
    modules["net"](torch.ones(1, 3)).sum().backward()
    optimiser.step()
    average.update(modules, 100)
    progress = Progress(step=7, seconds=1.5, samples=28, sittings=2, loss=0.25, decay_from=5, steps=9)
    save_checkpoint(tmp_path / "c.safetensors", modules, average, optimiser, progress, 0)
    twin, twin_average, twin_optimiser = objects()
    assert load_checkpoint(tmp_path / "c.safetensors", twin, twin_average, twin_optimiser, 0) == progress
    assert all(torch.equal(a, b) for a, b in zip(modules.parameters(), twin.parameters(), strict=True))
    assert all(torch.equal(average.values[k], twin_average.values[k]) for k in average.values)
    state, twin_state = optimiser.state_dict()["state"], twin_optimiser.state_dict()["state"]
    assert {i: set(v) for i, v in state.items()} == {i: set(v) for i, v in twin_state.items()}
    assert all(torch.equal(state[i][k], twin_state[i][k]) for i in state for k in state[i])


def test_rate_warms_up_holds_and_falls_to_zero():
    factors = [rate(s, 4, 8, 12) for s in range(13)]
    assert factors == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    assert rate(10**6, 4, None, None) == 1


def test_average_follows_the_closed_form():
    modules = nn.ModuleDict({"net": nn.Linear(1, 1, bias=False)})
    modules["net"].weight.data.fill_(0.0)
    average = Averaged(modules, 0.9)
    modules["net"].weight.data.fill_(1.0)
    for _ in range(5):
        average.update(modules, 10**6)
    assert_close(average.values["net.weight"], torch.full((1, 1), 1 - 0.9**5))
    with average.applied(modules):
        assert_close(modules["net"].weight.data, torch.full((1, 1), 1 - 0.9**5))
    assert_close(modules["net"].weight.data, torch.ones(1, 1))


def test_a_time_budget_fixes_the_decay_once(tmp_path):
    part, progress = run("points", tmp_path, "timed", steps=None, minutes=1e-9)
    assert progress.decay_from is not None and progress.step == progress.steps <= 2


def test_a_chunk_may_have_some_categories_only(tmp_path):
    data.write_image_chunk(tmp_path, seed=1, index=0, count=32, size=8, twins=False, categories=("chest", "mug"))
    captions = data.Chunk.open(tmp_path, 0, ("rgba",)).captions
    assert {word for texts in captions for text in texts for word in text.split()} & set(CATEGORIES) == {"chest", "mug"}
    with pytest.raises(RequestError, match="categories: spoon must be among crate, barrel"):
        build_part("flow", tmp_path, seed=0, batch=2, **TINY["flow"] | {"categories": ["mug", "spoon"]})


def test_chunks_are_functions_of_seed_and_index_and_hold_nothing_out_of_training(tmp_path):
    for folder in ("a", "b"):
        data.write_image_chunk(tmp_path / folder, seed=1, index=0, count=64, size=16)
        data.write_cloud_chunk(tmp_path / folder / "clouds", seed=1, index=0, count=64, points=8)
    a, b = (data.Chunk.open(tmp_path / f, 0, ("rgba", "twins", "cameras")) for f in ("a", "b"))
    assert all(np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays) and a.captions == b.captions
    assert a.arrays["rgba"].shape == (64, 16, 16, 4) and len(a.captions) == 64
    clouds = data.Chunk.open(tmp_path / "a" / "clouds", 0, ("points",))
    assert clouds.arrays["points"].shape == (64, 8, data.POINT_CHANNELS)
    assert np.abs(clouds.arrays["points"][..., :3]).max() < 0.72
    assert set(np.unique(clouds.arrays["points"][..., 6])) == {0, 1} and clouds.arrays["points"][..., 7].min() > 0
    pairs = {
        (category, colour)
        for captions in (*a.captions, *clouds.captions)
        for text in captions
        for category in CATEGORIES
        for colour in COLOURS
        if f"{text} ".startswith((f"a {colour} {category} ", f"an {colour} {category} "))
    }
    assert pairs and not any(is_heldout(category, colour) for category, colour in pairs)


def test_renders_of_a_chunk_are_of_three_kinds_and_twins_of_the_same(tmp_path):
    data.write_image_chunk(tmp_path, seed=3, index=0, count=512, size=16)
    chunk = data.Chunk.open(tmp_path, 0, ("rgba", "twins", "kinds")).arrays
    assert chunk["kinds"].shape == (512,) and chunk["kinds"].dtype == np.uint8
    np.testing.assert_allclose(np.bincount(chunk["kinds"]) / 512, data.KIND_SHARES, atol=0.08)
    both = (chunk["rgba"][..., 3] == 255) & (chunk["twins"][..., 3] == 255)
    lengths = np.linalg.norm(chunk["rgba"][..., :3].astype(float) / 127.5 - 1, axis=-1)
    for kind, is_normal in enumerate((False, False, True)):
        rows = chunk["kinds"] == kind
        assert (np.median(np.abs(lengths[rows][both[rows]] - 1)) < 0.02) == is_normal
    gap = np.abs(chunk["rgba"].astype(int) - chunk["twins"])[..., :3].max(-1)
    assert all(np.median(gap[chunk["kinds"] == kind][both[chunk["kinds"] == kind]]) <= 8 for kind in range(3))
    data.write_image_chunk(tmp_path / "one", seed=3, index=0, count=64, size=16, twins=False, kind_shares=(1, 0, 0))
    assert not data.Chunk.open(tmp_path / "one", 0, ("kinds",)).arrays["kinds"].any()


def test_shifted_cosine_schedule():
    """At the middle of the cosine schedule signal equals noise; the shift multiplies their ratio."""
    for shift in (1.0, 0.3):
        alphas_cumprod = build_scheduler("v_prediction", shift).alphas_cumprod.double()
        ratio = (alphas_cumprod / (1 - alphas_cumprod)).sqrt()
        t = torch.tensor([100, 250, 500, 750, 900])
        assert_close(ratio[t - 1], shift / torch.tan(torch.pi / 2 * t.double() / 1000), rtol=1e-4, atol=0)
        assert alphas_cumprod[-1] < 1e-6


def test_view_words():
    words = {(0, 0): "front", (-44, 10): "front", (90, 0): "right side", (-90, 0): "left side", (180, 0): "back",
             (-179, 0): "back", (10, 80): "overhead"}  # fmt: skip
    assert {key: data.view_word(*key) for key in words} == words


def test_over_a_background():
    rgba = torch.tensor([[[[255, 0, 0, 255], [0, 0, 0, 0]]]], dtype=torch.uint8)
    planes = as_planes(rgba)
    assert_close(over(planes, (1.0, 1.0, 1.0))[0, :, 0], torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]]))
    assert_close(over(planes, (0.0, 0.5, 1.0))[0, :, 0, 1], torch.tensor([-1.0, 0.0, 1.0]))


def test_vary_changes_nothing_by_default_and_keeps_the_words_otherwise():
    rng = np.random.default_rng(0)
    assert vary("a grey crate", rng, synonyms=0, nonsense=0) == "a grey crate"
    assert vary("a grey crate", rng, synonyms=1, nonsense=0) in {f"a gray {w}" for w in ("box",)}
    assert len(vary("a grey crate", rng, synonyms=0, nonsense=1).split()) == 4


def test_half_of_the_timesteps_come_from_the_middle_as_well():
    t = timestep_share(torch.linspace(0, 1, 10_001), 0.5)
    low, high = MIDDLE
    inside = ((t > low) & (t < high)).double().mean()
    assert_close(inside, torch.tensor(0.5 + 0.5 * (high - low)).double(), atol=1e-3, rtol=0)
    assert_close(timestep_share(torch.linspace(0, 1, 11), 0.0), torch.linspace(0, 1, 11))
    assert (t.diff() > 0).all() and t[0] == 0 and t[-1] == 1


def image_part(tmp_path, start=None, **changes):
    part = build_part("image", tmp_path / "data", seed=3, batch=4, start=start, **(TINY["image"] | changes))
    part.steps.pool.ahead = 0
    return part


def test_some_images_are_seen_degraded_and_only_where_noise_is_not_finest(tmp_path):
    part = image_part(tmp_path, degraded=1.0, faulty=0.6)
    try:
        batches = [part.steps[step] for step in range(60)]
        plain = image_part(tmp_path, degraded=0.0).steps[0]
    finally:
        part.steps.pool.close()
    seen, clean, t = (torch.cat([b[name] for b in batches]) for name in ("seen", "images", "t"))
    rough = (seen != clean).flatten(1).any(1)
    noisy = part.steps.variance[t] >= 0.05  # a twin's fault may be on the far side, and one of colour is in no normals
    assert not (rough & ~noisy).any() and rough.sum() > 0.85 * noisy.sum() and not rough.all()
    assert torch.equal(plain["seen"], plain["images"])


def test_the_target_of_a_degraded_image_is_the_clean_one(tmp_path):
    """A network that answers with the clean image, in v, has no loss; one that answers with the plain v has."""
    part = image_part(tmp_path, degraded=1.0, words_weight=0.0)
    try:
        inputs = part.steps[0]
        part.prepare(torch.device("cpu"))
    finally:
        part.steps.pool.close()
    scale = part.vae.config.scaling_factor
    clean, seen = (part.vae.encode(inputs[k]).latent_dist.mean * scale for k in ("images", "seen"))
    noisy = part.scheduler.add_noise(seen, inputs["noise"], inputs["t"])
    a = part.scheduler.alphas_cumprod[inputs["t"]].reshape(-1, 1, 1, 1)
    answers = iter([(a.sqrt() * noisy - clean) / (1 - a).sqrt(), a.sqrt() * inputs["noise"] - (1 - a).sqrt() * seen])
    part.modules["unet"] = Answer(answers)
    assert part.loss(inputs, contextlib.nullcontext) < 1e-6
    assert part.loss(inputs, contextlib.nullcontext) > 1e-2


def test_guidance_is_distilled_out_of_the_network_that_training_begins_with(tmp_path):
    run("image", tmp_path, "first", steps=4)
    start = tmp_path / "first" / "model"
    old, new = image_part(tmp_path / "old", start=start), image_part(tmp_path / "new", start=start, guidance=[1, 8])
    inputs = new.steps[0]
    for part in (old, new):
        part.steps.pool.close()
        part.prepare(torch.device("cpu"))
    camera, scale = inputs["camera"][:, :-1], inputs["camera"][:, -1].reshape(-1, 1, 1, 1)
    assert 0 < (scale == 1).sum() < len(scale) and scale.max() <= 8
    latents = new.latents(inputs["images"])
    noisy = new.add_noise(latents, inputs["noise"], inputs["t"])
    found = new.target(latents, noisy, inputs, contextlib.nullcontext)
    blind = torch.cat([torch.zeros_like(camera[:, :8]), camera[:, 8:]], dim=1)
    with torch.no_grad():
        text, empty = (old.encode(old.modules, ids) for ids in (inputs["ids"], tokenize(old.tokenizer, [""] * 4)))
        c = old.denoise(old.modules, noisy, inputs["t"], text, camera)
        u = old.denoise(old.modules, noisy, inputs["t"], empty, blind)
    wanted = torch.where(scale > 1, old.clean(noisy, u + scale * (c - u), inputs["t"]), latents)
    assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    with pytest.raises(RequestError, match="name its folder with --start"):
        image_part(tmp_path / "none", guidance=[1, 8])


def test_a_network_with_guidance_says_so_in_its_folder_and_begins_as_it_was(tmp_path):
    run("image", tmp_path, "first", steps=2)
    part = image_part(tmp_path / "new", start=tmp_path / "first" / "model", guidance=[1, 8])
    part.steps.pool.close()
    part.prepare(torch.device("cpu"))
    part.export(part.modules, tmp_path / "model")
    before, after = (load_image_prior(str(tmp_path / name), dtype=torch.float32) for name in ("first/model", "model"))
    assert before.guidance_scales is None and after.guidance_scales == (1.0, 8.0)
    x, t, cameras = torch.randn(1, 4, 4, 4), torch.tensor([0.3]), (torch.tensor([10.0]), torch.tensor([20.0]))
    text = after.encode_prompts(["a red crate"])
    for scales in (None, torch.tensor([6.0])):
        assert torch.equal(after.predict(x, t, text, cameras, scales=scales), before.predict(x, t, text, cameras))


class Answer(nn.Module):
    """A network that says what it was given."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def forward(self, *args, **kwargs):
        return SimpleNamespace(sample=next(self.answers))


def test_training_may_go_on_from_a_model(tmp_path):
    part, _ = run("image", tmp_path, "first", steps=2)
    folder = tmp_path / "first" / "model"
    again = build_part("image", tmp_path / "other", seed=5, batch=4, start=folder, **TINY["image"])
    exported = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(v, exported[k].float()) for k, v in again.modules["unet"].state_dict().items())
    assert torch.equal(again.vae.basis, part.vae.basis) and again.start == folder
    again.vae.save_pretrained(tmp_path / "vae")
    assert str(tmp_path) not in (tmp_path / "vae" / "config.json").read_text()


def test_a_model_that_knew_one_kind_and_fewer_words_goes_on_as_the_same_function(tmp_path, monkeypatch):
    """Labels that are new weigh nothing, words keep their embeddings wherever they now stand, the readout fits."""
    whole = pictures.words()
    monkeypatch.setattr(pictures, "words", lambda: [word for word in whole if word not in ("mug", "barrel")])
    run("image", tmp_path, "first", steps=2, changes={"kinds": False, "words_weight": 0.0})
    folder = tmp_path / "first" / "model"
    old = image_part(tmp_path / "old", start=folder, kinds=False, words_weight=0.0)
    monkeypatch.undo()
    new = image_part(tmp_path / "other", start=folder)
    new.steps.pool.close()
    texts, x, t = ["a red crate with white bands", ""], torch.randn(2, 4, 4, 4), torch.tensor([30, 800])
    answers = []
    for part, kinds in ((old, None), (new, -1), (new, 0), (new, 2)):
        camera = camera_embedding(torch.tensor([10.0, torch.nan]), torch.tensor([20.0, 0.0]))
        if kinds is not None:
            camera = torch.cat([camera, kind_embedding(torch.full((2,), kinds), 3)], dim=1)
        text = part.encode(part.modules.eval(), tokenize(part.tokenizer, texts))
        with torch.no_grad():
            answers.append(part.denoise(part.modules, x, t, text, camera))
    assert len(new.tokenizer) > len(old.tokenizer)
    for answer in answers[2:]:
        assert torch.equal(answer, answers[1])
    assert_close(answers[1], answers[0], atol=1e-5, rtol=1e-4)
    ids = tokenize(new.tokenizer, ["a red crate", "a blue mug with green handle"])
    assert new.word_loss(new.encode(new.modules, ids)[0], ids) < 20  # of a readout that is new: 70
    with pytest.raises(RequestError, match=r"the settings ask for .*cannot be gone on from"):
        image_part(tmp_path / "wide", start=folder, widths=(16, 32))


def test_kinds_are_told_but_for_some_rows_without_a_camera(tmp_path):
    part = image_part(tmp_path, drop_condition=0.5, drop_kind=0.5)
    try:
        rows = torch.cat([part.steps[step]["camera"] for step in range(50)])
        part.steps.pool.wait_for(0)
        resident = part.steps.resident(torch.device("cpu"))
        more = torch.cat([resident[step]["camera"] for step in range(50)])
        resident.close()
    finally:
        part.steps.pool.close()
    for labels in (rows, more):
        assert labels.shape == (200, 11)
        camera, kind = labels[:, :8].any(1), labels[:, 8:]
        assert (kind.sum(1)[camera] == 1).all() and kind[camera].any(0).all()
        assert 0.25 < kind.sum(1)[~camera].mean() < 0.75


def test_a_budget_of_time_has_the_rate_fall_with_time():
    o, progress = Optimisation(warmup=1, decay_share=0.5), Progress(step=10)
    factors = []
    for seconds in (0, 20, 30, 45, 60, 70):
        progress.seconds = seconds
        factors.append(_plan(progress, None, 1.0, o))
        progress.step += 1
    assert factors == [1, 1, 1, 0.5, 0, 0]
    assert (progress.decay_from, progress.steps) == (12, 15)
    assert _plan(progress, None, 3.0, o) == 1 and progress.steps is None  # a larger budget goes on


def test_impatient_training_goes_on_with_the_data_that_is_there(tmp_path):
    part = image_part(tmp_path, chunks=3, first_chunks=1, fresh=100.0)
    pool = part.steps.pool
    pool.patient = False
    data.write_image_chunk(pool.folder, seed=3, index=0, **pool.options)
    resident = part.steps.resident(torch.device("cpu"))
    try:
        assert resident[5]["images"].shape == (4, 3, 16, 16) and resident.chunks.there == 1
    finally:
        resident.close()
        pool.close()


def test_group_norm_in_half_precision_is_group_norm(tmp_path):
    unet = build_part("image", tmp_path, seed=0, batch=2, **TINY["image"]).modules["unet"]
    x, t = torch.randn(2, 4, 4, 4), torch.tensor([3, 700])
    text, camera = torch.randn(2, 24, 32), torch.randn(2, 11)
    answers = []
    nn.init.normal_(unet.conv_out.weight, std=0.1)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            answers.append(unet(x, t, text, class_labels=camera).sample.float())
        normalise_in_half(unet)
    assert any(isinstance(module, HalfGroupNorm) for module in unet.modules())
    assert_close(answers[1], answers[0], atol=0.05 * float(answers[0].std()), rtol=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records a CUDA graph")
def test_a_recorded_step_has_the_losses_and_gradients_of_the_step(tmp_path):
    part = image_part(tmp_path)
    device = torch.device("cuda")
    try:
        inputs = [{name: value.to(device) for name, value in part.steps[step].items()} for step in range(3)]
    finally:
        part.steps.pool.close()
    part.modules.to(device)
    part.prepare(device)
    recorded = RecordedLoss(part, contextlib.nullcontext, inputs[0])
    for each in inputs:
        loss = recorded(each)
        found = [p.grad.clone() for p in part.modules.parameters()]
        expected = part.loss(each, contextlib.nullcontext)
        assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-5)
        grads = torch.autograd.grad(expected, list(part.modules.parameters()))
        assert_close(found, list(grads), rtol=1e-2, atol=1e-4)


def test_a_larger_point_network_begins_as_the_smaller_one(tmp_path, monkeypatch):
    """Of more blocks, octaves, words and channels; embeddings are those of the words wherever they now stand."""
    whole = train_points.words()
    monkeypatch.setattr(train_points, "words", lambda: [word for word in whole if word not in ("mug", "barrel")])
    run("points", tmp_path, "first", steps=3, changes=INDEPENDENT)
    monkeypatch.undo()
    folder = tmp_path / "first" / "model"
    small = IndependentPointDiffusion.from_pretrained(folder).float()
    bigger = TINY["points"] | INDEPENDENT | {"depth": 3, "frequencies": 7, "channels": 8}
    part = build_part("points", tmp_path / "other", seed=9, batch=4, start=folder, **bigger)
    large = part.modules["model"]
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 8, 5, generator=generator), torch.tensor([10, 900])
    texts = ["a red crate with white bands", ""]
    cond = large.recognise(tokenize(part.tokenizer, texts), x)
    few = small.recognise(tokenize(CLIPTokenizer.from_pretrained(folder / "tokenizer"), texts), x[:, :6])
    assert len(part.tokenizer) > small.config.vocab_size
    assert large.config.depth == 3 and large.embed_point.weight.shape[1] == 8 * 15
    assert_close(cond, few)
    assert_close(large(x, t, cond)[:, :6], small(x[:, :6], t, few))


def test_a_collapsed_latent_may_begin_anew(tmp_path):
    run("points", tmp_path, "first", steps=3, changes=INDEPENDENT)
    folder = tmp_path / "first" / "model"
    small = IndependentPointDiffusion.from_pretrained(folder).float()
    anew = TINY["points"] | INDEPENDENT | {"fresh_latent": True, "latent": 4, "encoder_width": 8}
    model = build_part("points", tmp_path / "other", seed=9, batch=4, start=folder, **anew).modules["model"]
    width, before = model.config.latent, small.config.latent
    theirs, own = small.state_dict(), model.state_dict()
    kept = [name for name in own if name.startswith(("embed_point.", "blocks.", "text_encoder."))]
    assert len(kept) > 10 and all(torch.equal(own[name], theirs[name]) for name in kept)
    assert (before, width) == (2, 4) and own["encoder.points.0.weight"].shape[0] == 8
    assert torch.equal(own["embed_cond.weight"][:, :-width], theirs["embed_cond.weight"][:, :-before])
    assert not torch.equal(own["embed_cond.weight"][:, -before:], theirs["embed_cond.weight"][:, -before:])
    assert not torch.equal(own["encoder.head.0.weight"], theirs["encoder.head.0.weight"])
    # The posterior is narrow to begin with: the latent says something before the network learns not to listen.
    _, log_variance = model.encoder(torch.randn(3, 20, 6), torch.randn(3, model.config.text_width))
    latent, text = torch.randn(1, width), torch.randn(1, model.config.text_width)
    assert log_variance.mean() < -3
    assert_close(model.log_prior(latent, text), -0.5 * latent.square().sum(1))  # the standard normal


def test_where_twins_are_wrong_counts_more_and_each_image_counts_the_same(tmp_path):
    part = image_part(tmp_path, fault_weight=8.0)
    try:
        weight = torch.cat([part.steps[step]["weight"] for step in range(8)])
    finally:
        part.steps.pool.close()
    assert_close(weight.mean((1, 2, 3)), torch.ones(len(weight)))
    most = weight.amax((1, 2, 3))
    assert most.min() >= 1 and (most > 1.5).float().mean() > 0.3


def test_a_text_encoder_that_forgets_words_has_a_loss(tmp_path):
    """The readout learns to tell the words from the tokens themselves, and cannot from nothing."""
    part = image_part(tmp_path, words_weight=1.0)
    part.steps.pool.close()
    ids = tokenize(part.tokenizer, ["a red crate", "a blue mug with green handle"])
    readout = part.modules["readout"]
    texts = {"all": torch.randn(*ids.shape, readout.in_features, generator=torch.Generator().manual_seed(0)), "none": 0}
    texts["none"] = torch.zeros_like(texts["all"])
    found = {}
    for name, text in texts.items():
        optimiser = torch.optim.Adam(readout.parameters(), lr=0.05)
        for _ in range(60):
            optimiser.zero_grad()
            loss = part.word_loss(text, ids)
            loss.backward()
            optimiser.step()
        found[name] = float(loss.detach())
    assert found["all"] < 0.2 < 1 < found["none"]
