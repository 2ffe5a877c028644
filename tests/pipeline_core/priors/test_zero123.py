"""Zero-1-to-3: the published layouts, its camera, its picture, and that both reach the U-Net as they should."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline_core.config import RECIPES, Densify, Texture
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.gaussian_job import GaussianJob
from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.picture import Picture
from pipeline_core.priors.families import family_of
from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.interface import ImagePrior, PicturePrior
from pipeline_core.priors.resolve import content_hash, select_files
from pipeline_core.priors.zero123 import relative_camera
from pipeline_core.texturing.bake import chart_texels
from pipeline_core.texturing.refine import refine_texture
from tests.pipeline_core.metrics.test_mesh_health import box
from tests.pipeline_core.priors.test_guiding import grey_ball

KINDS = ["zero123-xl", "zero1to3-community", "stable-zero123"]


def picture(seed=0, elevation=0.0):
    generator = np.random.default_rng(seed)
    rgba = np.zeros((256, 256, 4), np.uint8)
    rgba[50:200, 60:190] = [*generator.integers(0, 255, 3), 255]
    rgba[80:120, 80:150, :3] = generator.integers(0, 255, (40, 70, 3))
    return Picture(rgba, elevation)


@pytest.mark.parametrize("kind", KINDS)
def test_published_layouts_are_loaded_by_the_same_door(prior, checkpoint, kind):
    p = prior(kind)
    assert isinstance(p, ImagePrior) and isinstance(p, PicturePrior) and family_of(checkpoint(kind), "image").shown
    assert (p.camera, p.num_views, p.latent_channels, p.latent_size, p.size) == ("angles", 1, 4, 8, 16)
    assert p.parts.stable == (kind == "stable-zero123")
    with pytest.raises(RequestError, match="is shown a picture and reads no prompt"):
        p.encode_prompts(["a red mug"])


def test_the_camera_is_the_published_one():
    """zero123's ldm get_T: change of the polar angle, sine and cosine of that of the azimuth, change of distance;
    Stable Zero123's as threestudio has it: polar angles are 90 - elevation, and the picture's is the last number."""
    azimuth, elevation = torch.tensor([0.0, 90.0, -120.0]), torch.tensor([0.0, 30.0, -10.0])
    own = torch.full((3,), 20.0)

    def spherical(az, el):  # cartesian_to_spherical of a z-up world, the camera's place at distance 1
        az, el = torch.deg2rad(az), torch.deg2rad(el)
        x, y, z = el.cos() * az.cos(), el.cos() * az.sin(), el.sin()
        return torch.atan2((x**2 + y**2).sqrt(), z), torch.atan2(y, x)

    theta, phi = spherical(azimuth, elevation)
    theta_own, phi_own = spherical(torch.zeros(3), own)
    turn = (phi - phi_own) % (2 * torch.pi)
    published = torch.stack([theta - theta_own, turn.sin(), turn.cos(), torch.zeros(3)], dim=1)
    torch.testing.assert_close(relative_camera(azimuth, elevation, own, stable=False), published, atol=1e-5, rtol=0)
    stable = published.clone()
    stable[:, 0] = torch.deg2rad((90 - elevation) - (90 - own))
    stable[:, 3] = torch.deg2rad(90 - own)
    torch.testing.assert_close(relative_camera(azimuth, elevation, own, stable=True), stable, atol=1e-5, rtol=0)


def test_the_picture_is_shown_as_transformers_and_diffusers_would_show_it(prior, checkpoint):
    """CLIP's own preprocessing and projection, and the autoencoder's mode without its scale."""
    from transformers import AutoImageProcessor

    p, shown = prior("zero123-xl"), picture(elevation=12.5)
    row = p.encode_image(shown)
    white = Image.fromarray(np.rint(shown.on_white() * 255).astype(np.uint8))
    processor = AutoImageProcessor.from_pretrained(checkpoint("zero123-xl") / "feature_extractor")
    pixels = processor(images=white, return_tensors="pt").pixel_values
    clip = p.parts.image_encoder(pixels).image_embeds[0]
    torch.testing.assert_close(row[0], clip, atol=1e-4, rtol=1e-4)
    small = torch.nn.functional.interpolate(
        torch.from_numpy(shown.on_white()).permute(2, 0, 1)[None], (16, 16), mode="bilinear", antialias=True
    )
    latents = p.vae.encode(small * 2 - 1).latent_dist.mode()
    known = row[1:].flatten()
    torch.testing.assert_close(known[: latents.numel()], latents.flatten(), atol=1e-5, rtol=1e-5)
    assert known[latents.numel()] == 12.5 and (known[latents.numel() + 1 :] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_what_the_published_pipeline_makes_of_them(prior, kind):
    """DreamGaussian's zero123_utils.py: projected token and latents for conditional rows, zeros for the others."""
    p = prior(kind)
    one, other = p.encode_image(picture(0, 10.0)), p.encode_image(picture(1))
    x, t = torch.randn(4, 4, 8, 8), torch.tensor([0.5, 0.5, 0.3, 0.9])
    azimuth, elevation = (
        torch.tensor([30.0, torch.nan, -90.0, torch.nan]),
        torch.tensor([20.0, torch.nan, 0.0, torch.nan]),
    )
    rows = torch.stack([one, torch.zeros_like(one), other, torch.zeros_like(other)])
    got = p.predict(x, t, rows, (azimuth, elevation))

    own = torch.tensor([10.0, 0.0, 0.0, 0.0])
    camera = relative_camera(azimuth, elevation, own, stable=p.parts.stable)
    token = p.parts.projection(torch.cat([rows[:, 0], camera], dim=1))[:, None]
    latents = rows[:, 1:].flatten(1)[:, :256].reshape(4, 4, 8, 8)
    token[[1, 3]] = 0
    latents[[1, 3]] = 0
    expected = p.unet(torch.cat([x, latents], 1), (t * 1000).long(), encoder_hidden_states=token).sample
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    singles = zip(x.split(1), t.split(1), rows.split(1), azimuth.split(1), elevation.split(1), strict=True)
    alone = torch.cat([p.predict(*row[:3], row[3:]) for row in singles])
    torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(got[0], p.predict(x[:1], t[:1], rows[:1], (azimuth[:1] + 40, elevation[:1]))[0])


def copied(checkpoint, tmp_path, name="zero123-xl"):
    return shutil.copytree(checkpoint("zero123-xl"), tmp_path / name)


def test_a_name_that_does_not_tell_which_training_it_is_is_asked(checkpoint, tmp_path):
    folder = copied(checkpoint, tmp_path, "novel-views")
    with pytest.raises(RequestError, match=r'"camera": "stable-zero123"} to its splatmill\.json'):
        load_image_prior(str(folder))
    (folder / "splatmill.json").write_text(json.dumps({"camera": "stable-zero123"}))
    assert load_image_prior(str(folder)).parts.stable


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("image_encoder/model.safetensors", r"image_encoder/model\.safetensors is missing"),
        ("feature_extractor/preprocessor_config.json", r"feature_extractor/preprocessor_config\.json is missing"),
        ("clip_camera_projection/diffusion_pytorch_model.safetensors", r"clip_camera_projection/.* is missing"),
    ],
)
def test_half_a_folder_is_told_by_file(checkpoint, tmp_path, missing, said):
    folder = copied(checkpoint, tmp_path)
    (folder / missing).unlink()
    with pytest.raises(ModelNotFound, match=said):
        load_image_prior(str(folder))


def test_parts_that_do_not_belong_together_are_told(checkpoint, tmp_path):
    from safetensors.torch import save_file

    folder = copied(checkpoint, tmp_path)
    file = folder / "clip_camera_projection" / "diffusion_pytorch_model.safetensors"
    save_file({"proj.weight": torch.zeros(32, 30), "proj.bias": torch.zeros(32)}, file)
    with pytest.raises(ModelNotFound, match=r"must take 36: the parts of this folder do not belong together"):
        load_image_prior(str(folder))
    save_file({"linear.weight": torch.zeros(32, 36)}, file)
    with pytest.raises(ModelNotFound, match=r"has linear\.weight; proj\.bias, proj\.weight are needed"):
        load_image_prior(str(folder))


def test_other_folders_keep_their_ids_whatever_else_lies_there(checkpoint, tmp_path):
    """Stable Diffusion's folders have a feature extractor for the safety checker, which is never read."""
    folder = shutil.copytree(checkpoint("sd"), tmp_path / "sd")
    before = content_hash(folder)
    (folder / "feature_extractor").mkdir()
    (folder / "feature_extractor" / "preprocessor_config.json").write_text("{}")
    assert content_hash(folder) == before
    shown = copied(checkpoint, tmp_path)
    before = content_hash(shown)
    (shown / "feature_extractor" / "preprocessor_config.json").write_text("{}")
    assert content_hash(shown) != before


def test_a_hub_repository_is_fetched_with_all_that_is_read(checkpoint):
    folder = checkpoint("zero123-xl")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert set(select_files([*names, "README.md", "unet/diffusion_pytorch_model.bin"], "image")) == set(names)


# ------------------------------------------------------------------------------------------------------ guiding


def job(number, **settings):
    """An asset with a picture of its own."""
    stage = RECIPES["dreamgaussian-image"].geometry.model_copy(
        update={"steps": 2, "views": 2, "resolution": ((1.0, 24),), "densify": Densify(every=0), **settings}
    )
    return GaussianJob(
        grey_ball(), "", stage, picture=picture(number, 10.0 * number), seed=number, name=f"no. {number}"
    )


def results(prior, jobs):
    engine = DistillationEngine(prior, max_active=len(jobs))
    with engine._wake:
        futures = [engine.submit(each) for each in jobs]
    found = [future.result(timeout=100) for future in futures]
    engine.close()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_an_asset_is_alone_what_it_is_among_eight_of_other_pictures(prior, kind):
    p, sizes = prior(kind), []
    predict = p.predict
    p.predict = lambda x, *rest: sizes.append(len(x)) or predict(x, *rest)
    (alone, curves), *_ = results(p, [job(0)])
    (among, _), *others = results(p, [job(number) for number in range(8)])
    del p.predict
    assert sizes == [4, 4, 32, 32]  # two views, conditional and unconditional, of all assets in one call
    assert all(np.isfinite(curves[name]).all() for name in ("loss_image", "loss_reference"))
    for name, value in alone.tensors().items():
        torch.testing.assert_close(among.tensors()[name], value, rtol=1e-3, atol=1e-3, msg=name)
    assert not torch.equal(alone.means, grey_ball().means)
    assert not torch.allclose(alone.sh0, others[0][0].sh0, atol=1e-3)


def test_another_picture_guides_to_another_asset_even_without_its_own_loss(prior):
    settings = {"reference_weight": 0.0, "reference_mask_weight": 0.0}
    (one, _), (other, _) = results(prior("zero123-xl"), [job(0, **settings), job(0, **settings)])
    assert all(torch.equal(one.tensors()[name], other.tensors()[name]) for name in one.tensors())
    second = job(0, **settings)
    second.picture = picture(5)
    (changed, _), *_ = results(prior("zero123-xl"), [second])
    assert not torch.equal(one.sh0, changed.sh0)


def test_a_checkpoint_goes_on_with_the_same_picture_and_no_other(prior):
    p, fresh = prior("zero123-xl"), job(0, steps=4)
    whole, _ = results(p, [fresh])[0]
    first = job(0, steps=4)
    first.start(p, lambda: None, torch.device("cpu"))
    state = first.state()
    again = job(0, steps=4)
    again.start(p, lambda: None, torch.device("cpu"))
    again.restore(*state)
    other = GaussianJob(grey_ball(), "", again.stage, picture=picture(3), seed=0)
    other.start(p, lambda: None, torch.device("cpu"))
    assert first.fingerprint == again.fingerprint != other.fingerprint and len(again._sums) == 5
    assert whole.means.isfinite().all()


def test_it_refines_a_texture_and_the_picture_counts_where_it_is_seen(prior):
    rgba = np.full((256, 256, 4), [250, 10, 10, 255], np.uint8)
    settings = Texture(steps=2, views=2, resolution=32, strength=(0.5, 0.3), denoise_steps=6, guidance_scale=5.0)
    engine, plain = DistillationEngine(prior("zero123-xl")), box()
    found = {}
    for weight in (0.0, 50.0):
        weighted = settings.model_copy(update={"reference_weight": weight})
        found[weight] = refine_texture(plain, "", weighted, engine, picture=Picture(rgba))
    engine.close()
    assert 0.001 < abs(found[0.0].texture - plain.texture).mean()
    texels = chart_texels(plain.vertices, plain.faces, plain.uvs, plain.normals, len(plain.texture))
    side = {face: tuple(texels.index[texels.normal[:, 2] * face > 0.9].T) for face in (1, -1)}  # +Z faces the picture
    red = np.array([250, 10, 10]) / 255
    front, back = (
        [abs(each.texture[side[face]] - red).mean() for each in (found[0.0], found[50.0])] for face in (1, -1)
    )
    assert front[1] < 0.7 * front[0] and front[0] - front[1] > 2 * (back[0] - back[1])  # the unseen follows
