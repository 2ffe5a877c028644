"""The image prior: any diffusers folder behind one small set of functions.

    prior = load_image_prior("starter")                      # or a folder, or a hub id
    emb   = prior.encode_prompts(["a red mushroom", ""])     # [2, L, D]
    z     = prior.encode(images)                             # images [B, 3, H, W] in [0, 1] -> latents [B, C, h, w]
    z_t   = prior.add_noise(z, noise, t)                     # t in (0, 1): share of the noise schedule
    p     = prior.predict(z_t, t, emb_rows, cameras)
    z_0, eps = prior.x0_and_noise(z_t, p, t)

Stable Diffusion 1.5 and 2.1 (epsilon and v-prediction), SDXL (two text encoders, pooled vector, time ids), pixel-space
priors such as DeepFloyd IF (no ``vae``, T5, learned variance), MVDream in diffusers format (four views a row group) and
the starter go through the class that is here; what differs is read from the folder's own configuration files. Folders
with a ``transformer`` go through ``flow.py``. The classes that may be instantiated are listed: nothing in a folder is
executed unless ``allow_remote_code`` is given.

``splatmill.json`` in the folder may say what diffusers has no field for: ``background`` (the colour the prior was
trained on), ``camera`` (``"angles"``: :func:`camera_embedding` as class labels), ``kinds`` (the kinds of render that it
draws, of which it is told one behind the angles: :func:`kind_embedding`), ``guidance_scales`` (from and to, that were
distilled into it: :func:`scale_embedding`) and ``size`` in pixels.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from pipeline_core.config import ModelRef, Named
from pipeline_core.device import default_dtype
from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors.checks import check_unet, diffusion_problem, taught_scales
from pipeline_core.priors.compiled import compile_when_it_pays
from pipeline_core.priors.encoder import load_encoder
from pipeline_core.priors.families import family_of
from pipeline_core.priors.interface import Camera, ImagePrior
from pipeline_core.priors.latents import LatentPrior, pack_pooled, unpack_pooled, vae_factor
from pipeline_core.priors.lora import merge
from pipeline_core.priors.multiview import MultiViewUNet, mvdream_cameras
from pipeline_core.priors.patch_autoencoder import PatchAutoencoder
from pipeline_core.priors.process import Diffusion
from pipeline_core.priors.reading import reads_in_windows
from pipeline_core.priors.resolve import folder_id, resolve_model
from pipeline_core.priors.text import (
    TEXT_NETWORKS,
    Encoder,
    TextEncoder,
    load_pretrained,
    load_text_network,
    load_tokenizer,
    read_json,
)

COMPILED_ROWS = 12
"""Rows of the U-Net from which on compiling pays: below, the GPU waits for launches."""


def camera_embedding(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """[B, 8] float32: sin, cos of azimuth, sin, cos of twice the azimuth, and the same of the elevation.

    ``azimuth``, ``elevation`` [B] in degrees (cameras.py); rows where either is NaN are zeros: no camera given.
    """
    az, el = torch.deg2rad(azimuth.float()), torch.deg2rad(elevation.float())
    parts = [f(k * angle) for angle in (az, el) for k in (1, 2) for f in (torch.sin, torch.cos)]
    return torch.where(torch.isnan(az + el)[:, None], 0.0, torch.stack(parts, dim=-1))


def kind_embedding(kinds: Tensor, count: int) -> Tensor:
    """[B, count] float32: one-hot of ``kinds`` [B] (any integers); rows of a negative kind are zeros: none is told."""
    return (kinds[:, None] == torch.arange(count, device=kinds.device)).float()


def scale_embedding(scales: Tensor, width: int) -> Tensor:
    """[B, width] float32: sines and cosines of guidance scales [B], as latent consistency models have them (Luo et al.
    2023; ``get_guidance_scale_embedding`` of diffusers, whose w is s - 1)."""
    rate = torch.exp(-torch.arange(width // 2, device=scales.device) * (math.log(10_000.0) / (width // 2 - 1)))
    angles = 1000.0 * (scales.float() - 1.0)[:, None] * rate
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@dataclass(frozen=True)
class Parts:
    """What a folder holds, loaded. ``vae`` None = the prior works on pixels; ``process`` is the U-Net's own."""

    unet: Any
    encoders: Sequence[Encoder]
    vae: Any | None
    process: Diffusion
    camera: Camera
    background: tuple[float, float, float] | None
    size: int
    zero_empty_prompt: bool
    kinds: tuple[str, ...] = ()
    guidance_scales: tuple[float, float] | None = None


class DiffusersPrior(LatentPrior):
    """An ``interface.ImagePrior`` out of a diffusers folder with a U-Net. See the module's docstring for the calls.

    Its predictions are noise, whatever the network predicts.
    """

    shares_start = False
    """Whether :meth:`predict` takes several texts for the same row."""

    def __init__(self, parts: Parts, model_id: str, device: torch.device | str, dtype: torch.dtype) -> None:
        super().__init__(
            Diffusion(parts.process.alphas_cumprod.to(device)),
            model_id=model_id, device=device, dtype=dtype, encoders=parts.encoders, vae=parts.vae,
            latent_channels=int(parts.unet.config.in_channels), size=parts.size, background=parts.background,
        )  # fmt: skip
        self._network_process = parts.process.to(device)
        self.unet, self.camera, self.kinds = parts.unet, parts.camera, parts.kinds
        self.guidance_scales = parts.guidance_scales
        if torch.device(device).type == "cpu" and dtype == torch.bfloat16 and parts.camera != "mvdream":
            self.unet = parts.unet.to(memory_format=torch.channels_last)  # 7 % there, nothing in float32 (docs/LOG.md)
        self.num_views = 4 if self.camera == "mvdream" else 1
        self._zero_empty_prompt = parts.zero_empty_prompt
        self._added = getattr(self.unet.config, "addition_embed_type", None)
        # SDXL: original size, crop corner, target size. A whole image at the prior's own size.
        self._time_ids = torch.tensor([self.size, self.size, 0, 0, self.size, self.size], device=device)

    def speed_up(self) -> None:
        """On a GPU: exchange what is slow in networks of known make (frozen.py), in place."""
        from diffusers import UNet2DConditionModel

        from pipeline_core.priors.frozen import shares_start, speed_up

        super().speed_up()
        if isinstance(self.unet, UNet2DConditionModel):
            speed_up(self.unet)
            self.shares_start = self.camera == "none" and shares_start(self.unet)
            compile_when_it_pays(self.unet, COMPILED_ROWS, differentiated=False)

    def _encode_prompt(self, prompt: str) -> Tensor:
        outputs = [encoder(prompt) for encoder in self.encoders]
        embedding = torch.cat([hidden for hidden, _ in outputs], dim=-1)
        if self._added == "text_time":
            pooled = outputs[-1][1]
            assert pooled is not None  # SDXL's second encoder has a projection
            embedding = pack_pooled(embedding, pooled)
        if self._zero_empty_prompt and not prompt:  # SDXL: no negative prompt is all zeros, not the empty string
            embedding = torch.zeros_like(embedding)
        return embedding

    def _filled(self, row: Tensor, length: int) -> Tensor:
        """``row`` with windows of the empty prompt before its pooled vector; zeros (SDXL's no prompt) stay zeros."""
        missing = length - len(row)
        if not missing:
            return row
        if not row.any():
            return row.new_zeros(length, row.shape[-1])
        window = torch.cat([encoder("")[0] for encoder in self.encoders], dim=-1).to(row)
        more = [window] * (missing // len(window))
        if self._added != "text_time":
            return torch.cat([row, *more])
        hidden, pooled = unpack_pooled(row[None], self.encoders[-1].model.config.projection_dim)
        return pack_pooled(torch.cat([hidden[0], *more]), pooled[0])

    # ------------------------------------------------------------------------------------------------ denoiser

    @torch.no_grad()
    def predict(
        self,
        x_t: Tensor,
        t: Tensor,
        embeddings: Tensor,
        cameras: tuple[Tensor, Tensor] | None = None,
        kinds: Tensor | None = None,
        scales: Tensor | None = None,
    ) -> Tensor:
        """Predicted noise [B, C, h, w] float32: see ``interface.ImagePrior``, ``KindPrior`` for ``kinds`` and
        ``DistilledPrior`` for ``scales``.

        Where it :attr:`shares_start`, ``embeddings`` may be k B rows, for the same B rows of the rest k times over.
        """
        x = self._for_network(x_t, self.unet)
        timesteps = self._network_process.timestep(t).to(x.device)
        embeddings = embeddings.to(x.device, x.dtype)
        if cameras is None:
            nothing = torch.full((len(x),), math.nan, device=x.device)
            cameras = (nothing, nothing)
        cameras = (cameras[0].to(x.device), cameras[1].to(x.device))
        if self.camera == "mvdream":
            assert len(x) % self.num_views == 0, f"{len(x)} rows are not whole groups of {self.num_views} views"
            views = mvdream_cameras(*cameras).to(x.dtype)
            output = self.unet(x, timesteps, embeddings, views, num_frames=self.num_views)
        else:
            output = self._denoise(x, timesteps, embeddings, self._labels(cameras, kinds, x), self._scale(scales, x))
        output = output[:, : self.latent_channels].float()  # learned-variance networks have twice the channels
        copies = len(output) // len(x_t)
        return self._network_process.x0_and_noise(x_t.float().repeat(copies, 1, 1, 1), output, t.repeat(copies))[1]

    def _labels(self, cameras: tuple[Tensor, Tensor], kinds: Tensor | None, x: Tensor) -> Tensor | None:
        """What the network is told of the camera and of the kind of render [B, 8 or more], in the precision of ``x``.

        The first kind is that of callers who name none, in rows without a camera too: guidance leads away from other
        things in the same light.
        """
        if self.camera != "angles":
            return None
        labels = camera_embedding(*cameras)
        if self.kinds:
            told = torch.zeros(len(x), device=x.device) if kinds is None else kinds.to(x.device)
            labels = torch.cat([labels, kind_embedding(told, len(self.kinds))], dim=1)
        return labels.to(x.dtype)

    def _scale(self, scales: Tensor | None, x: Tensor) -> Tensor | None:
        """What the network is told of the guidance [B, W], in the precision of ``x``."""
        if self.guidance_scales is None:
            return None
        scales = torch.ones(len(x), device=x.device) if scales is None else scales.to(x.device)
        return scale_embedding(scales, self.unet.config.time_cond_proj_dim).to(x.dtype)

    def _denoise(
        self, x: Tensor, timesteps: Tensor, embeddings: Tensor, labels: Tensor | None, scale: Tensor | None
    ) -> Tensor:
        added = None
        if self._added == "text_time":
            embeddings, pooled = unpack_pooled(embeddings, self.encoders[-1].model.config.projection_dim)
            added = {"text_embeds": pooled, "time_ids": self._time_ids.to(x.dtype).expand(len(x), 6)}
        told = {"class_labels": labels, "added_cond_kwargs": added}
        told |= {} if scale is None else {"timestep_cond": scale}
        return self.unet(x, timesteps, embeddings, **told, return_dict=False)[0]


# ------------------------------------------------------------------------------------------------------ loading


def load_image_prior(
    ref: Named, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, allow_remote_code: bool = False
) -> ImagePrior:
    """Load an image prior, frozen and in evaluation mode.

    Args:
        ref: starter, a folder of a family that families.py lists, or a hub id (resolve.py); or one of these with what
            is added to it (``Recipe.model_refs``)
        device: where it runs
        dtype: precision of the U-Net and the autoencoder; None = ``device.default_dtype``
        allow_remote_code: let the folder's own Python define a class that splatmill does not know

    Raises:
        ModelNotFound: the folder is missing or incomplete (every missing file is named), or its weights do not fit
        RequestError: the folder is complete, but of a kind that cannot guide
    """
    model = ModelRef.of(ref)
    folder, dtype = resolve_model(model, "image"), dtype or default_dtype(device)
    family = family_of(folder, "image")
    prior: Any = family.load(model, folder, device=device, dtype=dtype, allow_remote_code=allow_remote_code)
    if not isinstance(prior, LatentPrior):
        if model.loras or model.encoder:
            raise RequestError(f"model {model.ref!r}: {family.name} take neither image_lora nor image_encoder")
        return prior
    for lora in model.loras:
        merge(resolve_model(lora.path, "lora"), lora.scale, prior.networks())
    if model.encoder:
        prior.use_encoder(load_encoder(model.encoder, prior))
    if prior.device.type == "cuda":
        prior.speed_up()
    return cast(ImagePrior, prior)


def load_diffusers(
    ref: Named, folder: Path, *, device: torch.device | str, dtype: torch.dtype, allow_remote_code: bool
) -> DiffusersPrior:
    """A prior whose network is a U-Net, out of a complete diffusers folder; raises as :func:`load_image_prior`."""

    def network(name: str, wanted: torch.dtype) -> Any:
        if name.startswith("text"):
            return load_text_network(folder / name, wanted)
        return load_network(folder, name, wanted, UNETS if name == "unet" else AUTOENCODERS, allow_remote_code)

    return assemble(ref, folder, folder, network, device=device, dtype=dtype)


def assemble(
    ref: Named,
    weights: Path,
    folder: Path,
    network: Callable[[str, torch.dtype], Any],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    noise: dict[str, Any] | None = None,
) -> DiffusersPrior:
    """A prior of the networks that ``network(name, precision)`` loads out of ``weights``, a folder or a file.

    ``folder`` has the configurations; ``noise`` says what is known better than by its scheduler's file.
    """
    index = read_json(folder / "model_index.json")
    side = read_json(folder / "splatmill.json") if (folder / "splatmill.json").exists() else {}
    unet, vae = network("unet", dtype), None
    if index.get("vae", [None])[0] is not None:
        vae = network("vae", _vae_dtype(folder, index, dtype))
    factor = vae_factor(vae) if vae is not None else 1
    halvings = len(getattr(unet.config, "block_out_channels", (0,))) - 1
    step = factor * 2**halvings
    wanted = ModelRef.of(ref).size
    if wanted and wanted % step:
        raise RequestError(f"image_size={wanted} does not fit {folder}: it must be a multiple of {step}")
    parts = Parts(
        unet=place(unet, device),
        encoders=_load_encoders(folder, index, network, device, dtype),
        vae=place(vae, device) if vae is not None else None,
        process=load_process(folder / "scheduler", noise),
        camera=check_unet(folder),
        background=tuple(side["background"]) if side.get("background") else None,
        size=int(wanted or side.get("size") or _sample_size(unet) * factor),
        zero_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", False)),
        kinds=tuple(side.get("kinds", ())),
        guidance_scales=taught_scales(folder),
    )
    return DiffusersPrior(parts, folder_id(ref, weights), device, dtype)


def load_process(folder: Path, noise: dict[str, Any] | None = None) -> Diffusion:
    """The noise process of a diffusers ``scheduler`` folder, whatever its sampler; ``noise`` has the last word."""
    import diffusers

    path = folder / "scheduler_config.json"
    config = read_json(path) | (noise or {})
    if problem := diffusion_problem(config):
        raise RequestError(f"{path}: {problem}")
    name = config.get("_class_name") or "DDPMScheduler"
    # DPMSolverSDE is not importable without torchsde; Heun's begins with the same betas.
    sampler = getattr(diffusers, "HeunDiscreteScheduler" if name == "DPMSolverSDEScheduler" else name)
    told = {name: each.default for name, each in inspect.signature(sampler.__init__).parameters.items()} | config
    own = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
    scheduler = diffusers.DDPMScheduler(**{name: told[name] for name in own if name in told})
    return Diffusion(scheduler.alphas_cumprod.float(), told.get("prediction_type", "epsilon"))


def place(network: Any, device: torch.device | str) -> Any:
    return network.to(device).requires_grad_(False).eval()


def _vae_dtype(folder: Path, index: dict[str, Any], dtype: torch.dtype) -> torch.dtype:
    """Precision of the autoencoder: float32 where half precision overflows (SDXL's, unless its file says that it was
    mended; ``force_upcast`` is the default of every other file and means nothing there), or where it costs nothing
    (the linear one)."""
    config = read_json(folder / "vae" / "config.json")
    overflows = "text_encoder_2" in index and bool(config.get("force_upcast", True)) and dtype == torch.float16
    return torch.float32 if overflows or config.get("_class_name") == PatchAutoencoder.__name__ else dtype


UNETS = ("UNet2DConditionModel", "MultiViewUNetModel")
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny", "PatchAutoencoder")
"""Classes of autoencoders whose latents are those of the denoiser up to a scale and a shift."""


def load_network(
    folder: Path, name: str, dtype: torch.dtype, classes: Sequence[str], allow_remote_code: bool | None = None
) -> nn.Module:
    """A denoiser or autoencoder, one of ``classes``, by the ``_class_name`` of its own configuration.

    ``allow_remote_code``: of another class too, where the folder defines it; None = where that is no choice.
    """
    import diffusers

    class_name = read_json(folder / name / "config.json").get("_class_name", "")
    if class_name not in classes and not allow_remote_code:
        way_out = "; allow_remote_code would let the folder's own Python define it: only for a source that you trust"
        raise RequestError(
            f"{folder / name}: class {class_name!r} is not one that splatmill knows here ({', '.join(classes)})"
            + ("" if allow_remote_code is None else way_out)
        )
    if class_name == "MultiViewUNetModel":
        return MultiViewUNet.from_folder(folder / name, dtype)
    if class_name not in classes:
        cls: Any = _remote_class(folder, name, class_name)
    else:
        cls = PatchAutoencoder if class_name == PatchAutoencoder.__name__ else getattr(diffusers, class_name)
    return load_pretrained(cls, folder / name, "diffusion_pytorch_model", dtype)


def _remote_class(folder: Path, name: str, class_name: str) -> type:
    """A class that the folder's own Python defines: ``model_index.json`` names its module, beside the weights."""
    from diffusers.utils.dynamic_modules_utils import get_class_from_dynamic_module

    module = read_json(folder / "model_index.json")[name][0]
    if not (folder / name / f"{module}.py").is_file():
        raise ModelNotFound(
            f"{folder / name}: class {class_name!r} should be defined in {name}/{module}.py, which is missing"
        )
    return get_class_from_dynamic_module(
        str(folder / name), module_file=f"{module}.py", class_name=class_name, trust_remote_code=True
    )


def _load_encoders(
    folder: Path,
    index: dict[str, Any],
    network: Callable[[str, torch.dtype], Any],
    device: torch.device | str,
    dtype: torch.dtype,
) -> list[TextEncoder]:
    suffixes = ["", "_2"] if index.get("text_encoder_2", [None])[0] is not None else [""]
    output: Literal["last", "penultimate"] = "penultimate" if len(suffixes) == 2 else "last"
    encoders = []
    for suffix in suffixes:
        model = place(network(f"text_encoder{suffix}", text_dtype(device, dtype)), device)
        tokenizer = load_tokenizer(folder / f"tokenizer{suffix}")
        t5 = model.config.model_type == "t5"
        length = min(int(tokenizer.model_max_length), 77) if t5 else None  # T5 has no positions; IF was trained with 77
        windows = reads_in_windows(folder)
        encoders.append(
            TextEncoder(tokenizer, model, output=output, strip=t5, length=length, masked=t5, windows=windows)
        )
    return encoders


def text_dtype(device: torch.device | str, dtype: torch.dtype) -> torch.dtype:
    """Precision of a text encoder: a prompt is encoded once, and a CPU has nothing to gain from half precision."""
    return torch.float32 if torch.device(device).type == "cpu" else dtype


def load_text_encoder(
    folder: Path, suffix: str, device: torch.device | str, dtype: torch.dtype, classes: Sequence[str] = TEXT_NETWORKS
) -> tuple[Any, Any]:
    """The tokenizer and the network of ``tokenizer<suffix>/`` and ``text_encoder<suffix>/``, frozen."""
    part = folder / f"text_encoder{suffix}"
    model = place(load_text_network(part, text_dtype(device, dtype), classes), device)
    return load_tokenizer(folder / f"tokenizer{suffix}"), model


def _sample_size(unet: Any) -> int:
    size = getattr(unet.config, "sample_size", None) or getattr(unet.config, "image_size", None) or 64
    return int(size if isinstance(size, int) else max(size))
