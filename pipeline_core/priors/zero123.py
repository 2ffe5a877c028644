"""Zero-1-to-3 (Liu et al. 2023), a prior that is shown a picture and told how far its camera is from another one.

    prior = load_image_prior("ashawkey/zero123-xl-diffusers")
    row   = prior.encode_image(picture)                      # in place of a prompt
    p     = prior.predict(x_t, t, row.expand(B, -1, -1), (azimuth, elevation))

The U-Net of Stable Diffusion 1 with eight channels: the noisy latents, and the latents of the picture. Its only token
is the picture's CLIP embedding beside the relative camera, through one linear layer. Rows without a camera are
unconditional: both are zeros there. Published in two layouts, of ``Zero123Pipeline`` and of diffusers' community
pipeline ``Zero1to3StableDiffusionPipeline``, and in two trainings that read the camera's last number differently:
Stable Zero123 takes the picture's own height where the others take the change of distance (always 0 here). A folder
does not tell which; its name does ("stable"), or ``camera`` in its ``splatmill.json``: ``zero123``, ``stable-zero123``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline_core.config import ModelRef, Named
from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.picture import SIZE, Picture
from pipeline_core.priors.compiled import compile_when_it_pays
from pipeline_core.priors.image import COMPILED_ROWS, load_network, load_process, place
from pipeline_core.priors.latents import LatentPrior, pack_pooled, unpack_pooled, vae_factor
from pipeline_core.priors.process import Diffusion
from pipeline_core.priors.resolve import folder_id, weight_files
from pipeline_core.priors.takes import is_stable
from pipeline_core.priors.text import load_pretrained, read_json

PROJECTIONS = {"clip_camera_projection": "proj", "cc_projection": "projection"}
"""Folder of the linear layer in either layout, and what its tensors are called there."""


def relative_camera(azimuth: Tensor, elevation: Tensor, picture_elevation: Tensor, *, stable: bool) -> Tensor:
    """[B, 4] float32 of cameras [B] in degrees, the picture's at azimuth 0 and ``picture_elevation`` [B].

    The change of the polar angle (from the pole: it grows as the camera goes down), sine and cosine of that of the
    azimuth, and the change of distance, which is 0, or, where ``stable``, the polar angle of the picture's camera.
    """
    az, el, own = (torch.deg2rad(angle.float()) for angle in (azimuth, elevation, picture_elevation))
    last = torch.pi / 2 - own if stable else torch.zeros_like(az)
    return torch.stack([own - el, az.sin(), az.cos(), last], dim=-1)


@dataclass(frozen=True)
class Parts:
    """What a folder holds, loaded. ``pixels``, ``mean``, ``deviation`` [3]: of what the image encoder sees."""

    unet: Any
    vae: Any
    image_encoder: Any
    projection: nn.Linear
    process: Diffusion
    pixels: int
    mean: Tensor
    deviation: Tensor
    size: int
    stable: bool


class Zero123Prior(LatentPrior):
    """An ``interface.PicturePrior``. Its predictions are noise, whatever the network predicts."""

    def __init__(self, parts: Parts, model_id: str, device: torch.device | str, dtype: torch.dtype) -> None:
        super().__init__(
            Diffusion(parts.process.alphas_cumprod.to(device)),
            model_id=model_id, device=device, dtype=dtype, encoders=(), vae=parts.vae,
            latent_channels=int(parts.unet.config.out_channels), size=parts.size, background=None,
        )  # fmt: skip
        self._network_process = parts.process.to(device)
        self.unet, self.parts, self.camera = parts.unet, parts, "angles"

    def speed_up(self) -> None:
        """On a GPU: exchange what is slow in networks of known make (frozen.py), in place."""
        from pipeline_core.priors.frozen import speed_up

        super().speed_up()
        compile_when_it_pays(speed_up(self.unet), COMPILED_ROWS, differentiated=False)

    def _encode_prompt(self, prompt: str) -> Tensor:
        raise RequestError(f"{self.model_id} is shown a picture and reads no prompt: give the row an image")

    @torch.no_grad()
    def encode_image(self, picture: Picture) -> Tensor:
        """The row [L, D] of ``picture``: its CLIP embedding [D], then its latents and its elevation, as pack_pooled."""
        image = torch.from_numpy(picture.on_white()).permute(2, 0, 1)[None]
        image = F.interpolate(image, (self.size, self.size), mode="bilinear", antialias=self.size < SIZE)
        vae = self.parts.vae
        encoded = vae.encode(self._for_network(image * 2 - 1, vae))
        latents = encoded.latent_dist.mode().float()  # not scaled as others are: so it was trained
        known = torch.cat([latents.flatten(), latents.new_tensor([picture.elevation])])
        return pack_pooled(self._clip(picture)[None], known).to(self.device, self.dtype)

    def _clip(self, picture: Picture) -> Tensor:
        """CLIP's embedding [D] float32."""
        parts, pixels = self.parts, self.parts.pixels
        whole = Image.fromarray(np.rint(picture.on_white() * 255).astype(np.uint8))
        small = np.array(whole.resize((pixels, pixels), Image.Resampling.BICUBIC))
        x = ((torch.from_numpy(small) / 255 - parts.mean) / parts.deviation).permute(2, 0, 1)[None]
        embedding: Tensor = parts.image_encoder(x.to(self.device, parts.image_encoder.dtype)).image_embeds
        return embedding[0].float()

    @torch.no_grad()
    def predict(
        self, x_t: Tensor, t: Tensor, embeddings: Tensor, cameras: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Predicted noise [B, C, h, w] float32: see ``interface.ImagePrior``."""
        assert cameras is not None, "a picture without cameras says nothing"
        x = self._for_network(x_t, self.unet)
        azimuth, elevation = (angle.to(x.device) for angle in cameras)
        given = ~torch.isnan(azimuth + elevation)
        width = x[0].numel()
        clip, known = unpack_pooled(embeddings.to(x.device), width + 1)
        camera = relative_camera(azimuth, elevation, known[:, width], stable=self.parts.stable)
        token = self.parts.projection(torch.cat([clip[:, 0].float(), camera.nan_to_num()], dim=1).to(x.dtype))
        token = token * given[:, None]
        shown = known[:, :width].reshape(x.shape) * given[:, None, None, None]
        timesteps = self._network_process.timestep(t).to(x.device)
        output = self.unet(
            torch.cat([x, self._for_network(shown, self.unet)], dim=1), timesteps, token[:, None], return_dict=False
        )[0]
        return self._network_process.x0_and_noise(x_t.float(), output.float(), t)[1]


# ------------------------------------------------------------------------------------------------------ loading


def load_zero123(
    ref: Named, folder: Path, *, device: torch.device | str, dtype: torch.dtype, allow_remote_code: bool
) -> Zero123Prior:
    """A prior out of a complete folder of either layout; raises as ``image.load_image_prior``."""
    from transformers import CLIPVisionModelWithProjection

    side = read_json(folder / "splatmill.json") if (folder / "splatmill.json").exists() else {}
    stable = is_stable(ModelRef.of(ref).ref, folder)
    unet: Any = load_network(folder, "unet", dtype, ("UNet2DConditionModel",), allow_remote_code)
    vae: Any = load_network(folder, "vae", dtype, ("AutoencoderKL",), allow_remote_code)
    encoder_dtype = torch.float32 if torch.device(device).type == "cpu" else dtype  # it is used once for a picture
    encoder = load_pretrained(CLIPVisionModelWithProjection, folder / "image_encoder", "model", encoder_dtype)
    projection = _load_projection(folder, encoder.config.projection_dim, dtype)
    channels = int(vae.config.latent_channels)
    found = (int(unet.config.in_channels), int(unet.config.cross_attention_dim))
    if found != (2 * channels, projection.out_features):
        raise RequestError(
            f"{folder}: the U-Net takes {found[0]} channels and tokens of width {found[1]}; for a picture of "
            f"{channels} latent channels it must take {2 * channels}, and tokens of width {projection.out_features}"
        )
    told = read_json(folder / "feature_extractor" / "preprocessor_config.json")
    parts = Parts(
        unet=place(unet, device),
        vae=place(vae, device),
        image_encoder=place(encoder, device),
        projection=place(projection, device),
        process=load_process(folder / "scheduler"),
        pixels=int(encoder.config.image_size),
        mean=torch.tensor(told["image_mean"]),
        deviation=torch.tensor(told["image_std"]),
        size=int(ModelRef.of(ref).size or side.get("size") or int(unet.config.sample_size) * vae_factor(vae)),
        stable=stable,
    )
    return Zero123Prior(parts, folder_id(ref, folder), device, dtype)


def _load_projection(folder: Path, width: int, dtype: torch.dtype) -> nn.Linear:
    """The linear layer from a CLIP embedding of ``width`` and four numbers of the camera to a token."""
    name = next(name for name in PROJECTIONS if (folder / name).is_dir())
    tensors = {
        key: value
        for path in weight_files(folder / name, "diffusion_pytorch_model")
        for key, value in load_file(path).items()
    }
    wanted = {f"{PROJECTIONS[name]}.weight", f"{PROJECTIONS[name]}.bias"}
    if set(tensors) != wanted:
        raise ModelNotFound(
            f"{folder / name}: has {', '.join(sorted(tensors))}; {', '.join(sorted(wanted))} are needed"
        )
    weight, bias = (tensors[f"{PROJECTIONS[name]}.{part}"] for part in ("weight", "bias"))
    if weight.shape[1] != width + 4 or bias.shape != weight.shape[:1]:
        raise ModelNotFound(
            f"{folder / name}: a layer of {tuple(weight.shape)}; for a CLIP embedding of {width} and a camera of 4 it "
            f"must take {width + 4}: the parts of this folder do not belong together, download it again"
        )
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.load_state_dict({"weight": weight.to(dtype), "bias": bias.to(dtype)}, assign=True)
    return layer
