"""Shap-E: its surface in our axes and colours, by its own decoder; it samples, and is refused where it should guide."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from flows.batch import BatchRequest, prepare
from pipeline_core.config import RECIPES
from pipeline_core.errors import DivergedError, ModelNotFound, RequestError
from pipeline_core.priors.families import family_of
from pipeline_core.priors.points import load_point_prior
from pipeline_core.priors.resolve import COMPONENTS, model_id, resolve_model, select_files
from pipeline_core.priors.shap_e import ShapEPrior
from pipeline_core.types import OBJECT_RADIUS


@pytest.fixture(scope="module")
def prior(checkpoint):
    prior = load_point_prior(str(checkpoint("shap-e")))
    prior.grid = 32
    return prior


def sample(prior, *prompts, seeds=(0, 1), **options):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds[: len(prompts)]]
    return prior.sample(list(prompts), generators, **{"guidance_scale": 3.0, "steps": 3, "num_points": 300} | options)


class Mushroom:
    """A field that is known: a red cap on top (z), a white stem below, a blue nose towards -y."""

    device = torch.device("cpu")

    def __call__(self, *, position, **options):
        x, y, z = position.unbind(-1)
        cap = 0.5 - torch.stack([x, y, (z - 0.4) * 2]).norm(dim=0)
        stem = 0.2 - torch.maximum(torch.stack([x, y]).norm(dim=0), (z + 0.2).abs() - 0.4)
        nose = 0.15 - torch.stack([x, y + 0.6, z - 0.4]).norm(dim=0)
        parts = torch.stack([cap, stem, nose])
        colours = torch.tensor([[0.8, 0, 0], [1, 1, 1], [0, 0, 0.9]])[parts.argmax(0)]
        return SimpleNamespace(signed_distance=parts.amax(0)[..., None], channels=colours)

    def state_dict(self):
        return {}


class KnownPipeline:
    """A pipeline whose every latent is of one field."""

    def __init__(self, mlp):
        self.prior = SimpleNamespace(config=SimpleNamespace(num_embeddings=2, embedding_dim=3))
        self.shap_e_renderer = SimpleNamespace(mlp=mlp, params_proj=lambda latent: {})

    def __call__(self, prompt, *, latents, **options):
        return SimpleNamespace(images=latents)


def test_its_up_is_ours_its_front_too_and_colours_are_what_one_sees():
    [cloud] = sample(ShapEPrior(KnownPipeline(Mushroom()), model_id="known", grid=64), "a mushroom", num_points=2000)
    low, high = cloud.xyz.amin(0), cloud.xyz.amax(0)
    assert len(cloud) == 2000 and torch.allclose(low, -high, atol=1e-5)
    assert float(cloud.xyz.norm(dim=1).max()) == pytest.approx(OBJECT_RADIUS)
    mean = {
        name: cloud.xyz[(cloud.rgb - torch.tensor(rgb)).abs().amax(1) < 1e-5].mean(0)
        for name, rgb in {"cap": (0.8, 0, 0), "stem": (1.0, 1, 1), "nose": (0, 0, 0.9)}.items()
    }
    assert mean["cap"][1] > mean["stem"][1] + 0.2
    assert mean["nose"][2] > mean["cap"][2] + 0.2 and mean["nose"][2] > abs(mean["nose"][0]) + 0.2


def test_points_lie_on_the_surface_that_the_renderer_knows_in_its_colours(prior):
    """What its network, given the latent as the renderer gives it, says at the points: no distance, and this colour.

    Random weights of the highest frequencies would make a field that no grid sees: only the two lowest are left.
    """

    def smooth(module, latent, weights):
        kept = torch.zeros(93)
        kept[:9] = kept[48:54] = 1  # places, then sines and cosines, each of 15 octaves of three axes
        return weights | {"nerstf.mlp.0.weight": weights["nerstf.mlp.0.weight"] * kept}

    renderer = prior.pipeline.shap_e_renderer
    hook = renderer.params_proj.register_forward_hook(smooth)
    latent = prior._latent("a red mug", torch.Generator().manual_seed(0), 3.0, 3)
    places = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    middle = prior._field(latent)(places)[:, 0].clamp(-0.999, 0.999).atanh().median()
    with torch.no_grad():
        renderer.mlp.mlp[-1].bias[0] -= middle
    cloud = prior._surface_points("a red mug", latent, 300, torch.Generator().manual_seed(0))
    projected = {name: value[0] for name, value in renderer.params_proj(latent).items()}
    own = dict(renderer.mlp.named_parameters())
    assert all(torch.equal(own[name.removeprefix("nerstf.")], value) for name, value in projected.items())
    hook.remove()
    stf = {"direction": None, "ts": None, "nerf_level": "fine", "rendering_mode": "stf"}
    out = renderer.mlp(position=cloud.xyz.clamp(-1, 1)[None], **stf)
    everywhere = renderer.mlp(position=places[None], **stf).signed_distance
    with torch.no_grad():
        renderer.mlp.mlp[-1].bias[0] += middle
    inside = cloud.xyz.abs().amax(1) < 0.98  # the rest lies where a thing is cut off by the cube
    assert inside.sum() > 50
    assert float(out.signed_distance[0, inside].abs().median()) < 0.05 * float(everywhere.std())
    assert torch.allclose(cloud.rgb, out.channels[0], atol=1e-5)


def test_a_latent_is_the_pipeline_s(prior):
    latent = prior._latent("a red mug", torch.Generator().manual_seed(0), 3.0, 3)
    noise = torch.Generator().manual_seed(0)
    theirs = prior.pipeline(
        "a red mug", num_inference_steps=3, guidance_scale=3.0, generator=noise, output_type="latent"
    ).images
    assert latent.shape == (1, 32, 16) and torch.equal(latent, theirs)


def test_alone_as_beside_others_and_every_seed_another(prior):
    both = sample(prior, "a red mug", "a blue chair")
    [alone] = sample(prior, "a blue chair", seeds=(1,))
    assert torch.equal(both[1].xyz, alone.xyz) and torch.equal(both[1].rgb, alone.rgb)
    [other] = sample(prior, "a blue chair", seeds=(2,))
    assert not torch.equal(alone.xyz, other.xyz)
    [plain] = sample(prior, "a blue chair", seeds=(1,), guidance_scale=0.0)
    assert not torch.equal(alone.xyz, plain.xyz)


def test_no_surface_and_nonsense_are_told():
    class Nothing(Mushroom):
        value = -1.0

        def __call__(self, **options):
            out = super().__call__(**options)
            out.signed_distance.fill_(self.value)
            return out

    with pytest.raises(DivergedError, match="'a mug': Shap-E's sample has no surface: try another seed"):
        sample(ShapEPrior(KnownPipeline(Nothing()), model_id="known", grid=8), "a mug")
    Nothing.value = float("nan")
    with pytest.raises(DivergedError, match="not finite"):
        sample(ShapEPrior(KnownPipeline(Nothing()), model_id="known", grid=8), "a mug")


def test_its_folder_is_recognised_checked_and_known_by_all_its_weights(checkpoint, tmp_path):
    folder = tmp_path / "shap-e"
    shutil.copytree(checkpoint("shap-e"), folder)
    assert family_of(folder, "points").name == "Shap-E" and not family_of(folder, "points").guides
    before = model_id(str(folder), "points")
    config = folder / "shap_e_renderer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"background": [0.5, 0.5, 0.5]}))
    assert model_id(str(folder), "points") != before
    (folder / "prior" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"prior/diffusion_pytorch_model\.safetensors is missing"):
        load_point_prior(str(folder))
    with pytest.raises(ModelNotFound, match=r"a point prior: init\.point_prior takes it"):
        model_id(str(folder), "image")


def test_another_scheduler_is_refused(checkpoint, tmp_path):
    shutil.copytree(checkpoint("shap-e"), tmp_path / "other")
    config = tmp_path / "other" / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("HeunDiscreteScheduler", "DDIMScheduler"))
    with pytest.raises(RequestError, match="other/scheduler: 'DDIMScheduler'; Shap-E is sampled with"):
        load_point_prior(str(tmp_path / "other"))


def test_of_the_hub_s_repository_what_is_read_is_fetched():
    wanted = ["model_index.json"]
    for part in ("prior", "shap_e_renderer"):
        wanted += [f"{part}/config.json", f"{part}/diffusion_pytorch_model.fp16.safetensors"]
    wanted += ["scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.fp16.safetensors"]
    wanted += [f"tokenizer/{name}" for name in ("merges.txt", "vocab.json")]
    left = ["README.md", "prior/diffusion_pytorch_model.bin", "prior/diffusion_pytorch_model.safetensors"]
    left += ["shap_e_renderer/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"]
    assert select_files([*wanted, *left], "points") == sorted(wanted)
    assert {"prior", "shap_e_renderer"} < set(COMPONENTS)


@pytest.mark.parametrize("name", ["geometry", "appearance"])
def test_it_is_refused_by_name_before_work_where_it_should_guide(checkpoint, prior, tmp_path, name):
    manifest = tmp_path / "props.jsonl"
    manifest.write_text(json.dumps({"id": "mug", "prompt": "a blue mug", f"{name}.point_weight": 0.01}))
    shap_e = {"init.point_prior": str(checkpoint("shap-e"))}
    request = BatchRequest(manifest=str(manifest), library=str(tmp_path / "library"), overrides=shap_e)
    says = rf"props\.jsonl, row 1, {name}\.point_weight, 0\.01: 0, since init\.point_prior .* \(Shap-E\) only samples"
    with pytest.raises(RequestError, match=says):
        prepare(request)
    manifest.write_text(json.dumps({"id": "mug", "prompt": "a blue mug"}))
    assert len(prepare(request).todo.missing) == 1
    with pytest.raises(RequestError, match="only samples; set point_weight to 0"):
        prior.encode_object("a mug", torch.zeros(3, 3), torch.zeros(3, 3))
    with pytest.raises(RequestError, match=r"guidance_sigma_min=0\.5"):
        sample(prior, "a mug", guidance_sigma_min=0.5)


def test_a_prior_of_the_other_kind_is_told_its_place(checkpoint):
    with pytest.raises(ModelNotFound, match=r"that of Shap-E, a point prior: init\.point_prior takes it"):
        resolve_model(str(checkpoint("shap-e")), "image")
    with pytest.raises(ModelNotFound, match="that of an image prior, which image_prior takes"):
        resolve_model(str(checkpoint("sd")), "points")


def test_its_recipe_samples_as_its_release_does():
    recipe = RECIPES["dreamgaussian-shap-e"]
    assert (recipe.init.point_prior, recipe.init.guidance_scale, recipe.init.start) == ("openai/shap-e", 15.0, "prior")
    assert recipe.init.sampler_steps == 64 and not recipe.geometry.point_weight and not recipe.appearance.point_weight
