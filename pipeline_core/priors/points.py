"""The point prior: coloured point clouds from a prompt, and the noise prediction that 3D score distillation needs.

    prior  = load_point_prior("starter")                  # or point-e, a folder, or a hub id
    clouds = prior.sample(["a red mushroom"], [generator], guidance_scale=3.0, steps=64)
    x      = prior.to_model(points, colours)              # [C, N], differentiable: the door back in, for 3D SDS
    p      = prior.predict(x_t, t, condition)             # t in (0, 1): share of the noise schedule

Point-E and the starter differ in what :class:`Space` and :class:`Schedule` say and in the network; everything else is
shared. Point-E is z-up with its front towards -y; the turn to our axes (+Y up, front +Z) is made once, in
:meth:`Space.to_world`, and undone when points go back in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from pipeline_core.config import Named
from pipeline_core.device import default_dtype
from pipeline_core.priors.families import family_of, json_object
from pipeline_core.priors.interface import PointPrior
from pipeline_core.priors.karras import guided_denoiser, karras_sigmas, sample_heun, sample_multistep
from pipeline_core.priors.noise import row_noise
from pipeline_core.priors.point_e import POINTS_BASE, POINTS_UPSAMPLED, PointEUpsampler, load_network
from pipeline_core.priors.process import Diffusion, OwnsNoise
from pipeline_core.priors.resolve import CLIP_ID, POINT_E_FILES, folder_id, resolve_model
from pipeline_core.priors.text import TextEncoder, load_pretrained, load_tokenizer, tokenize
from pipeline_core.types import OBJECT_RADIUS, PointCloud

Condition = Callable[[str, torch.Generator | None], Tensor]
"""Prompt -> condition tensor of one row; the empty prompt -> the null condition. With a generator, what the network
leaves open given the text (the starter's per-object latent) is drawn from it; without, it is the mean."""
PLAIN = (0.0, 0.7)
"""Metallic and roughness of what is shown to a network without any."""
Recognise = Callable[[str, Tensor], Tensor]
"""Prompt and a cloud [C, N] in network channels -> condition tensor of one row that is true to this cloud."""


@dataclass(frozen=True)
class Space:
    """Where a network's points live.

    Network channels = value * ``scales`` + ``biases``, values being x, y, z, and r, g, b in [0, 1]; of a network with
    eight, also metallic and roughness in [0, 1].

    Args:
        axes: "z_up" (Point-E: z up, front -y) or "y_up" (ours)
        fit: how training clouds were normalised: "cube" (Point-E: longest side of the bounding box 1, centred), or
            "object" (object units already, as the starter)
        limits: x_0 is kept within +- these while sampling, network units
    """

    scales: tuple[float, ...] = (2.0,) * 6
    biases: tuple[float, ...] = (0.0, 0.0, 0.0, -1.0, -1.0, -1.0)
    axes: Literal["z_up", "y_up"] = "z_up"
    fit: Literal["cube", "object"] = "cube"
    limits: tuple[float, ...] = (1.0,) * 6

    def to_world(self, xyz: Tensor) -> Tensor:
        """[..., 3] from the network's axes to ours."""
        if self.axes == "y_up":
            return xyz
        x, y, z = xyz.unbind(-1)
        return torch.stack([x, z, -y], dim=-1)

    def from_world(self, xyz: Tensor) -> Tensor:
        """Inverse of :meth:`to_world`."""
        if self.axes == "y_up":
            return xyz
        x, y, z = xyz.unbind(-1)
        return torch.stack([x, -z, y], dim=-1)

    def normalise(self, xyz: Tensor) -> Tensor:
        """[..., N, 3] object units, brought to the size of training clouds; centre and scale carry no gradient."""
        if self.fit == "object":
            return xyz
        centre, extent, _ = _bounds(xyz.detach())
        return (xyz - centre) / extent

    def denormalise(self, xyz: Tensor) -> Tensor:
        """[N, 3] of a sample to object units: centred, bounding radius OBJECT_RADIUS.

        Where the network's units are object units already, only strays outside that sphere are pulled onto it, so
        that one of them does not shrink the rest.
        """
        if self.fit == "object":
            return _inside(xyz)
        centre, _, radius = _bounds(xyz)
        return (xyz - centre) * (OBJECT_RADIUS / radius)


@dataclass(frozen=True)
class Schedule:
    """A diffusion process and how it is sampled (Point-E base: cosine, T = 1024, Heun, sigma 1e-3 to 120, churn 3)."""

    alphas_cumprod: np.ndarray
    sigma_min: float = 1e-3
    sigma_max: float = 120.0
    s_churn: float = 3.0
    solver: Callable[..., Tensor] = sample_heun


SIGMAS = 0.03, 10.0
"""Noise levels between which the starter's format is sampled. Its clouds have a deviation of about 1, and its first
timestep is at 0.006: of Point-E's levels from 120 to 0.001 half are where nothing happens. Ten of Heun's steps between
these, without churn, gain 0.014 of the F-score at 2 % over 16 of those, for 19 calls in place of 31; down to 0.06 alone
loses 0.003, to 0.1 0.02. Twelve of the multistep solver's are as near the limit of many steps as those ten, for 12
calls (docs/LOG.md: Clouds whose encoder sees more; More points)."""


def cosine_schedule(steps: int = 1024) -> np.ndarray:
    """alphas_cumprod [T] float64 of beta_i = min(1 - f((i + 1) / T) / f(i / T), 0.999), with
    f(t) = cos^2(pi / 2 (t + 0.008) / 1.008)."""
    level = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - level[1:] / level[:-1], 0.999))


def linear_schedule(steps: int = 1024) -> np.ndarray:
    """alphas_cumprod [T] float64 of the linear betas of Ho et al., 1e-4 to 0.02 for 1000 steps, scaled to ``steps``."""
    scale = 1000 / steps
    return np.cumprod(1 - np.linspace(scale * 1e-4, scale * 0.02, steps))


class DiffusionPointPrior(OwnsNoise):
    """An ``interface.PointPrior`` that predicts noise, in one stage or (Point-E) two.

    Attributes:
        num_points: points of the first stage, which is the one that distils: N of :meth:`predict`
        any_number: True where the network draws any number of points at once, so that samples need no resampling
        sample_points: points that :meth:`sample` returns when not asked for another number
        channels: C, numbers of a point: 6, or 8 with metallic and roughness
        dtype: precision of :meth:`predict`, that is, of distillation
        sample_dtype: precision of the noise predictions of :meth:`sample`, whose steps are float32
    """

    process: Diffusion

    def __init__(
        self,
        network: nn.Module,
        condition: Condition,
        space: Space,
        schedule: Schedule,
        *,
        model_id: str,
        num_points: int,
        any_number: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        sample_dtype: torch.dtype = torch.float32,
        upsampler: PointEUpsampler | None = None,
        recognise: Recognise | None = None,
    ) -> None:
        super().__init__(Diffusion(torch.tensor(schedule.alphas_cumprod, dtype=torch.float32, device=device)))
        self.network, self.upsampler = network.to(device), upsampler.to(device) if upsampler is not None else None
        self.space, self.schedule, self.model_id = space, schedule, model_id
        self.device, self.dtype, self.sample_dtype = torch.device(device), dtype, sample_dtype
        self.channels = len(space.scales)
        self.num_points, self.any_number = num_points, any_number
        self.sample_points = POINTS_UPSAMPLED if upsampler is not None else num_points
        self._condition, self._recognise = condition, recognise
        self._prompts: dict[str, Tensor] = {}
        self._scales = torch.tensor(space.scales, device=device)
        self._biases = torch.tensor(space.biases, device=device)
        self._limits = torch.tensor(space.limits, device=device)[:, None]

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str], generators: Sequence[torch.Generator] | None = None) -> Tensor:
        """Condition rows [B, ...]; the empty prompt gives the null condition. Encoded one at a time.

        Without ``generators`` a row is a function of its prompt, and kept; with one a row, see :data:`Condition`.
        """
        if generators is not None:
            rows = [self._condition(prompt, g) for prompt, g in zip(prompts, generators, strict=True)]
            return torch.stack(rows).to(self.device)
        for prompt in prompts:
            if prompt not in self._prompts:
                self._prompts[prompt] = self._condition(prompt, None).to(self.device)
        return torch.stack([self._prompts[prompt] for prompt in prompts])

    @torch.no_grad()
    def encode_object(self, prompt: str, xyz: Tensor, rgb: Tensor) -> Tensor:
        """Condition rows [2, ...] for distilling one object: the prompt's, and the null condition.

        What the network leaves open given the text it reads off the cloud, points ``xyz`` [N, 3] in our axes and
        colours ``rgb`` [N, 3] in [0, 1]: distillation then makes it a better one of *this* shape, where the mean over
        all shapes would wear it down. Point-E leaves nothing open, so there it is the prompt's row.
        """
        rows = self.encode_prompts([prompt, ""])
        if self._recognise is not None:
            rows[0] = self._recognise(prompt, self.to_model(xyz.detach(), rgb.detach()).to(self.device))
        return rows

    @torch.no_grad()
    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predicted noise [B, C, N] float32: see ``interface.PointPrior``."""
        return self._predict(x_t, self.process.timestep(t), condition, self.dtype)

    def _predict(self, x: Tensor, timesteps: Tensor, condition: Tensor, dtype: torch.dtype) -> Tensor:
        inputs = (x.to(self.device, torch.float32), timesteps.to(self.device), condition.to(self.device))
        with nullcontext() if dtype == torch.float32 else torch.autocast(self.device.type, dtype):
            return self.network(*inputs)[:, : self.channels].float()

    def to_model(self, xyz: Tensor, rgb: Tensor) -> Tensor:
        """Network input [..., C, N] of points [..., N, 3] in our axes and colours [..., N, 3] in [0, 1]; with a graph.

        Undoes the turn of :meth:`sample`, and brings the points to the scale that the network was trained at, about
        the centre of their bounding box: an object of any size and place is seen as a training cloud. A network that
        knows materials is shown :data:`PLAIN`.
        """
        values = torch.cat([self.space.normalise(self.space.from_world(xyz)), rgb], dim=-1)
        if self.channels > 6:
            values = torch.cat([values, values.new_tensor(PLAIN).expand(*values.shape[:-1], -1)], dim=-1)
        return (values * self._scales.to(xyz.device) + self._biases.to(xyz.device)).transpose(-1, -2)

    def sample(
        self,
        prompts: list[str],
        generators: Sequence[torch.Generator],
        *,
        guidance_scale: float = 3.0,
        guidance_sigma_min: float = 0.0,
        steps: int = 64,
        num_points: int | None = None,
    ) -> list[PointCloud]:
        """One cloud a prompt: our axes, centred on its bounding box, bounding radius OBJECT_RADIUS; on the CPU.

        Row i draws from ``generators[i]`` only. ``num_points``: fewer = a random choice, more = jittered copies;
        the second stage is run only when it is needed. Guidance acts at noise levels sigma >= ``guidance_sigma_min``
        only: there it decides what the thing is, below it would only pile points up where the density is highest.
        """
        condition, null = self.encode_prompts(prompts, generators), self.encode_prompts([""] * len(prompts))
        points = num_points if num_points and self.any_number else self.num_points
        denoise = guided_denoiser(
            partial(self._predict, dtype=self.sample_dtype), self.schedule.alphas_cumprod, condition, null,
            guidance_scale, self._limits, guidance_sigma_min,
        )  # fmt: skip
        values = self._unscale(self._run(denoise, self.schedule, points, steps, generators))
        if self.upsampler is not None and (num_points is None or num_points > points):
            values = torch.cat([values, self._upsample(values, steps, generators)], dim=-1)
        count = num_points or self.sample_points
        return [self._cloud(row, count, generator) for row, generator in zip(values.cpu(), generators, strict=True)]

    def _run(
        self, denoise: Any, schedule: Schedule, points: int, steps: int, generators: Sequence[torch.Generator]
    ) -> Tensor:
        x = row_noise((len(generators), self.channels, points), generators, self.device) * schedule.sigma_max
        sigmas = karras_sigmas(steps, schedule.sigma_min, schedule.sigma_max)
        return schedule.solver(denoise, x, sigmas, generators, schedule.s_churn)

    def _unscale(self, x: Tensor) -> Tensor:
        return (x - self._biases[:, None]) / self._scales[:, None]

    @torch.no_grad()
    def _upsample(self, coarse: Tensor, steps: int, generators: Sequence[torch.Generator]) -> Tensor:
        """3072 more points [B, 6, 3072] (values, rgb in [0, 1]) for ``coarse`` [B, 6, 1024]; not guided, no churn."""
        upsampler = self.upsampler
        assert upsampler is not None
        low_res = torch.cat([coarse[:, :3], coarse[:, 3:] * 255], dim=1)
        schedule = Schedule(linear_schedule(), sigma_max=160.0, s_churn=0.0)
        denoise = guided_denoiser(
            lambda x, t, low: upsampler(x, t, low)[:, :6],
            schedule.alphas_cumprod,
            low_res,
            low_res,
            0.0,
            self._limits,
        )
        return self._unscale(self._run(denoise, schedule, POINTS_UPSAMPLED - POINTS_BASE, steps, generators))

    def _cloud(self, values: Tensor, count: int, generator: torch.Generator) -> PointCloud:
        """``values`` [C, N] (network axes, rgb in [0, 1]) to a normalised cloud of ``count`` points."""
        xyz = self.space.denormalise(self.space.to_world(values[:3].T.contiguous()))
        rgb = (values[3:6].T * 255).round().clamp(0, 255) / 255
        finish = values[6:].T.clamp(0, 1).contiguous() if self.channels > 6 else None
        return resample(PointCloud(xyz, rgb, finish), count, generator)


def _bounds(xyz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre [..., 1, 3] of the bounding box of [..., N, 3], its longest side [..., 1, 1], and the largest distance
    from that centre [..., 1, 1]; sizes are kept above 1e-6."""
    low, high = xyz.amin(-2, keepdim=True), xyz.amax(-2, keepdim=True)
    centre = (low + high) / 2
    radius = (xyz - centre).norm(dim=-1, keepdim=True).amax(-2, keepdim=True)
    return centre, (high - low).amax(-1, keepdim=True).clamp(min=1e-6), radius.clamp(min=1e-6)


def _inside(xyz: Tensor) -> Tensor:
    """[N, 3] with what lies outside the sphere of OBJECT_RADIUS pulled onto it."""
    return xyz * (OBJECT_RADIUS / xyz.norm(dim=-1, keepdim=True).clamp(min=OBJECT_RADIUS))


def resample(cloud: PointCloud, count: int, generator: torch.Generator) -> PointCloud:
    """Exactly ``count`` points: a random choice of them, or all and random copies, jittered by a third of the mean
    distance between neighbours and kept inside the bounding radius."""
    n = len(cloud)
    if count <= n:
        keep = torch.randperm(n, generator=generator)[:count].sort().values if count < n else torch.arange(n)
        return PointCloud(cloud.xyz[keep], cloud.rgb[keep], None if cloud.finish is None else cloud.finish[keep])
    chosen = torch.randint(n, (count - n,), generator=generator)
    spacing = math.sqrt(4 * math.pi * OBJECT_RADIUS**2 / n)  # of n points on the bounding sphere
    moved = cloud.xyz[chosen] + torch.randn((count - n, 3), generator=generator) * (spacing / 3)
    finish = None if cloud.finish is None else torch.cat([cloud.finish, cloud.finish[chosen]])
    return PointCloud(torch.cat([cloud.xyz, _inside(moved)]), torch.cat([cloud.rgb, cloud.rgb[chosen]]), finish)


# ------------------------------------------------------------------------------------------------------ loading


def load_point_prior(ref: Named, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> PointPrior:
    """Load a point prior, frozen; its weights stay float32.

    Args:
        ref: starter, point-e, a folder, or a hub id (resolve.py). A folder holds either ``config.json`` with
            ``diffusion_pytorch_model.safetensors`` and ``tokenizer/`` (the starter's format), or Point-E's published
            ``base_40m_textvec`` and optionally ``upsample_40m`` (.safetensors or .pt), CLIP in ``clip/`` or on the hub
        device: where it runs
        dtype: precision of its noise predictions for distillation, and for samples where it is bfloat16 and the
            network the starter's; None = ``device.default_dtype``

    Raises:
        ModelNotFound: the folder is missing or incomplete, or its weights do not fit
        RequestError: ``config.json`` names a network that splatmill does not know
    """
    folder, dtype = resolve_model(ref, "points"), dtype or default_dtype(device)
    load = family_of(folder, "points").load
    prior: PointPrior = load(ref, folder, device=device, dtype=dtype, allow_remote_code=False)
    return prior


def load_point_e(
    ref: Named, folder: Path, *, device: torch.device | str, dtype: torch.dtype, allow_remote_code: bool
) -> DiffusionPointPrior:
    """Point-E out of a folder of its published checkpoints, with the upsampler where that is there."""
    paths = [_published(folder, name) for name in POINT_E_FILES]
    assert paths[0] is not None  # resolve_model has checked it
    return DiffusionPointPrior(
        load_network(paths[0]),
        _clip_condition(folder, device),
        Space(),
        Schedule(cosine_schedule()),
        model_id=folder_id(ref, folder),
        num_points=POINTS_BASE,
        device=device,
        dtype=dtype,
        upsampler=cast(PointEUpsampler, load_network(paths[1])) if paths[1] is not None else None,
    )


def _published(folder: Path, name: str) -> Path | None:
    """The safetensors of a published checkpoint, else its .pt, else None."""
    candidates = [(folder / name).with_suffix(".safetensors"), folder / name]
    return next((path for path in candidates if path.exists()), None)


def _clip_condition(folder: Path, device: torch.device | str) -> Condition:
    """Unit CLIP text vectors [768]; zeros for the empty prompt, which is Point-E's null condition."""
    from transformers import CLIPTextModelWithProjection

    clip = folder / "clip" if (folder / "clip").is_dir() else Path(CLIP_ID)
    clip = resolve_model(str(clip), "clip")
    model = load_pretrained(CLIPTextModelWithProjection, clip, "model", torch.float32).to(device).requires_grad_(False)
    encoder = TextEncoder(load_tokenizer(clip), model.eval())

    def condition(prompt: str, generator: torch.Generator | None) -> Tensor:
        vector = encoder(prompt)[1]
        assert vector is not None
        return vector / vector.norm() if prompt else torch.zeros_like(vector)

    return condition


def load_single_points(
    ref: Named, folder: Path, *, device: torch.device | str, dtype: torch.dtype, allow_remote_code: bool
) -> DiffusionPointPrior:
    """A network of the starter's kind in diffusers' format, with all that the sampler needs in its ``config.json``.

    Where bfloat16 is the device's precision (a CPU with instructions for it) its samples are drawn in that: points move
    by a tenth of what lies between neighbours, for a third of the time (docs/LOG.md).
    """
    from pipeline_core.priors.independent_points import IndependentPointDiffusion
    from pipeline_core.priors.set_points import SetPointDiffusion

    named = json_object(folder / "config.json").get("_class_name")
    kind = SetPointDiffusion if named == SetPointDiffusion.__name__ else IndependentPointDiffusion
    network = load_pretrained(kind, folder, "diffusion_pytorch_model", torch.float32)
    network = network.to(device).requires_grad_(False).eval()
    tokenizer = load_tokenizer(folder / "tokenizer")
    config = network.config

    def tokens(prompt: str) -> Tensor:
        ids: Tensor = tokenize(tokenizer, [prompt], config.tokens).input_ids
        return ids.to(device)

    def condition(prompt: str, generator: torch.Generator | None) -> Tensor:
        return network.condition(tokens(prompt), [generator] if generator is not None else None)[0]

    def recognise(prompt: str, x: Tensor) -> Tensor:
        return network.recognise(tokens(prompt), x[None])[0]

    alphas_cumprod = cosine_schedule(config.num_train_timesteps)
    limits = (*(OBJECT_RADIUS * abs(s) for s in config.scale[:3]), *(1.0 for _ in config.scale[3:]))
    return DiffusionPointPrior(
        network,
        condition,
        Space(tuple(config.scale), tuple(config.bias), axes="y_up", fit="object", limits=limits),
        Schedule(alphas_cumprod, *SIGMAS, s_churn=0.0, solver=sample_multistep),
        model_id=folder_id(ref, folder),
        num_points=config.num_points,
        any_number=True,
        device=device,
        dtype=dtype,
        sample_dtype=dtype if dtype == torch.bfloat16 else torch.float32,
        recognise=recognise,
    )
