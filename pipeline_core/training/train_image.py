"""The starter image prior: a latent U-Net conditioned on text and camera, and what it is trained on.

Text reaches the U-Net twice: token by token through cross-attention, and pooled into the timestep embedding
(diffusers' ``addition_embed_type="text"``), which is what a small model learns first. The camera is an 8-d embedding
through ``class_embed_type="projection"``, and behind it the kind of render (unlit, lit, normals) is one-hot. Zeros
stand for "no camera" and "no kind"; unconditional rows have neither text nor camera, and mostly a kind.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline_core.errors import RequestError
from pipeline_core.priors.checks import CAMERA_DIM, KINDS
from pipeline_core.priors.image import scale_embedding
from pipeline_core.priors.process import Diffusion, PredictionType
from pipeline_core.training.pictures import (
    TIMESTEPS,
    PicturePart,
    PictureSettings,
    PictureSteps,
    Text,
    build_text_encoder,
)
from pipeline_core.training.resident import uniform
from pipeline_core.training.tokenizer import tokenize

MIDDLE = (0.04, 0.4)
"""Timesteps as shares of the schedule."""
SCALE_DIM = 64
"""Numbers that say the guidance scale."""
GUIDED = 0.5
"""Share of the images whose target is guided, where guidance is distilled."""


@dataclass(frozen=True)
class ImageSettings(PictureSettings):
    """Architecture and data of the image prior; the defaults are what ships."""

    widths: tuple[int, ...] = (48, 96, 128, 192)
    attention: tuple[bool, ...] = (False, False, True, True)
    layers: int = 1
    norm_groups: int = 16
    prediction: PredictionType = "v_prediction"
    noise_shift: float = 0.15
    kinds: bool = True
    middle: float = 0.5
    """Share of the timesteps that are drawn from MIDDLE, where distillation works; the rest are from everywhere."""
    guidance: tuple[float, float] | None = None
    """The lowest and highest guidance scale that are distilled into the network, of half of the images; None = none.
    What guides is the network that training begins with (``--start``)."""


def build_unet(settings: ImageSettings) -> UNet2DConditionModel:
    """The U-Net with zero-initialised residual outputs."""
    s = settings
    unet = UNet2DConditionModel(
        sample_size=s.size // s.patch,
        in_channels=s.channels,
        out_channels=s.channels,
        block_out_channels=s.widths,
        down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in s.attention],
        up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(s.attention)],
        layers_per_block=s.layers,
        cross_attention_dim=s.text_width,
        attention_head_dim=[max(1, w // 32) for w in s.widths],  # diffusers' name for the *number* of heads
        norm_num_groups=s.norm_groups,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="projection",
        projection_class_embeddings_input_dim=CAMERA_DIM + len(KINDS) * s.kinds,
        encoder_hid_dim=None,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        time_cond_proj_dim=SCALE_DIM if s.guidance else None,
    )
    nn.init.zeros_(unet.conv_out.weight)
    if s.guidance:
        nn.init.zeros_(unet.time_embedding.cond_proj.weight)
    for module in unet.modules():
        if type(module).__name__ == "ResnetBlock2D":
            nn.init.zeros_(module.conv2.weight)
    return unet


class HalfGroupNorm(nn.GroupNorm):
    """Group norm that answers in the precision of its input, where autocast would have it and all behind it in float32:
    statistics are of float32 in either case, and the convolution that follows rounds."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


def normalise_in_half(network: nn.Module) -> None:
    """Make every group norm of ``network`` a :class:`HalfGroupNorm`, in place: a third of a GPU's traffic of memory."""
    for module in network.modules():
        if type(module) is nn.GroupNorm:
            module.__class__ = HalfGroupNorm


def build_scheduler(prediction: str, shift: float) -> DDIMScheduler:
    """1000 steps of the cosine schedule with its signal-to-noise amplitude multiplied by ``shift``.

    sqrt(a / (1 - a)) = shift cot(pi t / 2) (Hoogeboom et al. 2023, eq. 3). Images of one object on white have strong
    low frequencies: unshifted, silhouettes are settled within the noisiest 7 % of the steps, which are then all that
    teaches the model shapes.
    """
    t = torch.arange(1, TIMESTEPS + 1, dtype=torch.float64) / TIMESTEPS
    ratio = (shift / (torch.pi / 2 * t).tan()).square()
    alphas_cumprod = torch.cat([torch.ones(1, dtype=torch.float64), ratio / (1 + ratio)])
    betas = (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(max=0.999)
    return DDIMScheduler(
        num_train_timesteps=TIMESTEPS, trained_betas=betas.float().tolist(), prediction_type=prediction,
        clip_sample=False, set_alpha_to_one=True, steps_offset=1, timestep_spacing="trailing",
    )  # fmt: skip


def timestep_share(u: Tensor, middle: float) -> Tensor:
    """Uniform ``u`` in [0, 1] to shares of the schedule, ``middle`` of which fall on MIDDLE and the rest anywhere."""
    low, high = MIDDLE
    below, above = (1 - middle) * low, (1 - middle) * high + middle  # the distribution function at low and high
    inside = low + (u - below) * ((high - low) / (above - below))
    outside = torch.where(u < below, u, u - middle) / max(1 - middle, 1e-9)
    return torch.where((u < below) | (u > above), outside, inside)


class ImageSteps(PictureSteps):
    """Steps of the U-Net: whole timesteps of a diffusion."""

    settings: ImageSettings

    def __init__(self, settings: ImageSettings, folder: Path, *, seed: int, batch: int) -> None:
        super().__init__(settings, folder, seed=seed, batch=batch)
        self.variance = 1 - build_scheduler(settings.prediction, settings.noise_shift).alphas_cumprod

    def times(self, u: Tensor) -> Tensor:
        return (timestep_share(u, self.settings.middle) * TIMESTEPS).long().clamp(max=TIMESTEPS - 1)

    def noise_variance(self, t: Tensor) -> Tensor:
        self.variance = self.variance.to(t.device)
        return self.variance[t]

    def labels(self, azimuth: Tensor, elevation: Tensor, kinds: Tensor) -> Tensor:
        """With ``guidance`` there is one number more: its scale, 1 here."""
        labels = super().labels(azimuth, elevation, kinds)
        return F.pad(labels, (0, 1), value=1.0) if self.settings.guidance else labels

    def assemble(
        self, rgba: Tensor, twins: Tensor, ids: Tensor, camera: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        inputs = super().assemble(rgba, twins, ids, camera, generator)
        if self.settings.guidance:
            low, high = self.settings.guidance
            scale = low + (high - low) * uniform(self.size, generator)
            guided = uniform(self.size, generator) < GUIDED
            inputs["camera"] = torch.cat([camera[:, :-1], torch.where(guided, scale, 1.0)[:, None]], dim=1)
        return inputs


class ImagePart(PicturePart):
    """The U-Net of the starter."""

    name = "image"
    summary = "Text- and camera-conditioned latent diffusion of 128 px game props on grey, in diffusers' folder format."

    def __init__(
        self, settings: ImageSettings, data_dir: Path, *, seed: int, batch: int, start: Path | None = None
    ) -> None:
        steps = ImageSteps(settings, data_dir / "images", seed=seed, batch=batch)
        self.scheduler = build_scheduler(settings.prediction, settings.noise_shift)
        self.process = Diffusion(self.scheduler.alphas_cumprod, settings.prediction)
        self.smallest_variance = 1e-4 if settings.prediction == "v_prediction" else 0.05
        torch.manual_seed(seed)  # weight initialisation only; nothing else reads the global generator
        networks = {
            "unet": build_unet(settings),
            "text_encoder": build_text_encoder(
                steps.tokenizer, width=settings.text_width, layers=settings.text_layers, tokens=settings.tokens
            ),
        }
        super().__init__(settings, steps, networks, start=start)
        self.teacher: nn.ModuleDict | None = None
        if settings.guidance:
            if start is None:
                raise RequestError("guidance is distilled out of a trained network: name its folder with --start")
            self.teacher = copy.deepcopy(nn.ModuleDict({name: self.modules[name] for name in networks}))
            self.teacher.requires_grad_(False)

    @property
    def text_dim(self) -> int:
        return self.settings.text_width

    def prepare(self, device: torch.device) -> None:
        if device.type == "cpu":
            # Flash attention's backward costs three times plain matrix products at these tiny sizes.
            cast(UNet2DConditionModel, self.modules["unet"]).set_attn_processor(AttnProcessor())
        else:
            normalise_in_half(self.modules["unet"])
        self.process = self.process.to(device)
        if self.teacher is not None:
            self.teacher.to(device)
            self.empty = tokenize(self.tokenizer, [""]).to(device)  # here: a recorded step may not wait for a copy
        super().prepare(device)

    def encode(self, modules: nn.ModuleDict, ids: Tensor) -> Text:
        return (modules["text_encoder"](ids).last_hidden_state,)

    def denoise(self, modules: nn.ModuleDict, x_t: Tensor, t: Tensor, text: Text, camera: Tensor) -> Tensor:
        told: dict[str, Tensor] = {"class_labels": camera}
        if self.settings.guidance:
            told = {"class_labels": camera[:, :-1], "timestep_cond": scale_embedding(camera[:, -1], SCALE_DIM)}
        return modules["unet"](x_t, t, text[0], **told).sample

    @torch.no_grad()
    def target(self, latents: Tensor, noisy: Tensor, inputs: dict[str, Tensor], autocast) -> Tensor:
        """The clean ``latents``; with ``guidance``, of what has a scale above 1, what the network that training began
        with says, guided by it (Meng et al. 2023, eq. 7)."""
        if self.teacher is None:
            return latents
        camera, t, ids = inputs["camera"], inputs["t"], inputs["ids"]
        plain = torch.cat([camera[:, :-1], torch.ones_like(camera[:, -1:])], dim=1)
        blind = torch.cat([torch.zeros_like(camera[:, :CAMERA_DIM]), plain[:, CAMERA_DIM:]], dim=1)
        with autocast():
            (words,) = self.encode(self.teacher, torch.cat([ids, self.empty]))
            text = (torch.cat([words[:-1], words[-1:].expand_as(words[:-1])]),)
            both = self.denoise(self.teacher, noisy.repeat(2, 1, 1, 1), t.repeat(2), text, torch.cat([plain, blind]))
        conditional, unconditional = both.float().chunk(2)
        scale = camera[:, -1].reshape(-1, 1, 1, 1)
        guided = self.clean(noisy, unconditional + scale * (conditional - unconditional), t)
        return torch.where(scale > 1, guided, latents)

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return self.process.add_noise(latents, noise, t / TIMESTEPS)

    def clean(self, x_t: Tensor, answer: Tensor, t: Tensor) -> Tensor:
        return self.process.x0_and_noise(x_t, answer, t / TIMESTEPS)[0]

    def index(self) -> dict[str, Any]:
        return {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
        }

    def side_facts(self) -> dict[str, Any]:
        facts = super().side_facts() | {"camera": "angles"}
        return facts | ({"guidance_scales": list(self.settings.guidance)} if self.settings.guidance else {})
