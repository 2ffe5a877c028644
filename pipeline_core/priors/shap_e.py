"""Shap-E (Jun and Nichol, arXiv 2305.02463) in diffusers' format: a prompt becomes a surface, and points on it.

A transformer samples a latent; the renderer's projection turns that into weights of a small network, which knows at any
place of the cube [-1, 1]^3 how far the surface is (positive inside) and which colour is there. It only samples: its
latents are of networks, not of points, so it cannot say how points should move.

Its things are z-up with their front towards -y, as Point-E's are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mcubes
import numpy as np
import torch
from torch import Tensor

from pipeline_core.config import Named
from pipeline_core.errors import DivergedError, RequestError
from pipeline_core.io.surface import Surface, sample
from pipeline_core.priors.points import Space
from pipeline_core.priors.resolve import folder_id
from pipeline_core.priors.text import load_pretrained, load_tokenizer, quiet_libraries, read_json
from pipeline_core.priors.wording import plain
from pipeline_core.types import PointCloud

GRID = 128
"""Samples of the distance along each side, as published."""
CHUNK = 65_536
"""Places that are asked about at once."""
POINTS = 4096
SPACE = Space(axes="z_up", fit="cube")


class ShapEPrior:
    """An ``interface.PointPrior`` that samples, and does not guide.

    Attributes:
        pipeline: diffusers' ``ShapEPipeline``, frozen, in float32
        grid: samples of the distance along each side of the cube
    """

    num_points = POINTS

    def __init__(self, pipeline: Any, *, model_id: str, grid: int = GRID) -> None:
        self.pipeline, self.model_id, self.grid = pipeline, model_id, grid

    def encode_object(self, prompt: str, xyz: Tensor, rgb: Tensor) -> Tensor:
        """Refuses: there is nothing to distil from."""
        raise RequestError(f"the point prior {self.model_id} (Shap-E) only samples; set point_weight to 0")

    @torch.no_grad()
    def sample(
        self,
        prompts: list[str],
        generators: Sequence[torch.Generator],
        *,
        guidance_scale: float = 15.0,
        guidance_sigma_min: float = 0.0,
        steps: int = 64,
        num_points: int | None = None,
    ) -> list[PointCloud]:
        """One cloud a prompt: our axes, centred on its bounding box, bounding radius OBJECT_RADIUS; on the CPU.

        Raises RequestError where guidance shall act at some noise levels only, DivergedError where there is no surface.
        """
        if guidance_sigma_min:
            raise RequestError(
                f"init.guidance_sigma_min={guidance_sigma_min:g}: the point prior {self.model_id} (Shap-E) is guided "
                "at all noise levels; set it to 0"
            )
        count = num_points or self.num_points
        clouds = []
        for prompt, generator in zip(map(plain, prompts), generators, strict=True):
            latent = self._latent(prompt, generator, guidance_scale, steps)
            drawn = self._surface_points(prompt, latent, count, generator)
            clouds.append(PointCloud(SPACE.denormalise(SPACE.to_world(drawn.xyz)), drawn.rgb))
        return clouds

    def _latent(self, prompt: str, generator: torch.Generator, guidance_scale: float, steps: int) -> Tensor:
        """[1, embeddings, width]."""
        config = self.pipeline.prior.config
        noise = torch.randn(1, config.num_embeddings * config.embedding_dim, generator=generator)
        with quiet_libraries():  # its words about a prompt that is too long: tokens are counted before
            latent: Tensor = self.pipeline(
                prompt, num_inference_steps=steps, guidance_scale=guidance_scale, latents=noise, output_type="latent"
            ).images
        return latent

    def _surface_points(self, prompt: str, latent: Tensor, count: int, generator: torch.Generator) -> PointCloud:
        """In the network's own axes and units, uniform by area."""
        field = self._field(latent)
        grid = torch.cartesian_prod(*(torch.linspace(-1, 1, self.grid),) * 3)
        distance = field(grid)[:, 0].reshape(self.grid, self.grid, self.grid)
        if not bool(distance.isfinite().all()):
            raise DivergedError(f"{prompt!r}: Shap-E's field is not finite: try another seed")
        closed = torch.nn.functional.pad(distance, (1,) * 6, value=-1.0)  # what reaches the cube's side ends there
        vertices, faces = mcubes.marching_cubes(closed.double().numpy(), 0.0)
        if not len(faces):
            raise DivergedError(f"{prompt!r}: Shap-E's sample has no surface: try another seed")
        corners = ((vertices - 1) / (self.grid - 1) * 2 - 1)[faces]
        drawn = sample(f"the surface of {prompt!r}", [Surface(corners, np.zeros_like(corners))], count, generator)
        rgb = field(drawn.xyz.clamp(-1, 1))[:, 1:]
        return PointCloud(drawn.xyz, rgb.clamp(0, 1))

    def _field(self, latent: Tensor) -> Callable[[Tensor], Tensor]:
        """What the latent's network knows: places [N, 3] to distance and display-referred colour [N, 4], on the CPU."""
        renderer = self.pipeline.shap_e_renderer
        weights = renderer.params_proj(latent)
        for name, parameter in renderer.mlp.state_dict().items():
            if (key := f"nerstf.{name}") in weights:
                parameter.copy_(weights[key][0])

        def field(places: Tensor) -> Tensor:
            answers = []
            for part in places.split(CHUNK):
                where = part[None].to(latent.device)
                out = renderer.mlp(position=where, direction=None, ts=None, nerf_level="fine", rendering_mode="stf")
                answers.append(torch.cat([out.signed_distance, out.channels], dim=-1)[0].float().cpu())
            return torch.cat(answers)

        return field


def load_shap_e(
    ref: Named, folder: Path, *, device: torch.device | str, dtype: torch.dtype, allow_remote_code: bool
) -> ShapEPrior:
    """Shap-E out of a diffusers folder, in float32: it samples once an asset."""
    from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEPipeline
    from diffusers.pipelines.shap_e import ShapERenderer
    from transformers import CLIPTextModelWithProjection

    named = read_json(folder / "scheduler" / "scheduler_config.json").get("_class_name")
    if named != "HeunDiscreteScheduler":
        raise RequestError(f"{folder}/scheduler: {named!r}; Shap-E is sampled with its HeunDiscreteScheduler")

    def part(cls: Any, name: str, stem: str = "diffusion_pytorch_model") -> Any:
        model = load_pretrained(cls, folder / name, stem, torch.float32)
        return model.to(device).requires_grad_(False).eval()

    pipeline = ShapEPipeline(
        prior=part(PriorTransformer, "prior"),
        text_encoder=part(CLIPTextModelWithProjection, "text_encoder", "model"),
        tokenizer=load_tokenizer(folder / "tokenizer"),
        scheduler=HeunDiscreteScheduler.from_pretrained(str(folder / "scheduler"), local_files_only=True),
        shap_e_renderer=part(ShapERenderer, "shap_e_renderer"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return ShapEPrior(pipeline, model_id=folder_id(ref, folder))
