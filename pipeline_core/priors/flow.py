"""Rectified-flow transformers: what their families share. ``sd3.py`` and ``sana.py`` are families.

A diffusers folder has the network in ``transformer/``. It predicts the velocity noise - x_0 at x_t = (1 - s) x_0 + s
noise, where s follows from t by the scheduler's ``shift``. A family says which classes its folders hold, how a prompt
becomes one row [L, D], and how the transformer is called; and, where they differ, how latents are packed.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from pipeline_core.config import ModelRef, Named
from pipeline_core.errors import RequestError
from pipeline_core.priors.checks import SOLVERS, flow_problem
from pipeline_core.priors.image import AUTOENCODERS, load_network, place
from pipeline_core.priors.latents import LatentPrior, vae_factor
from pipeline_core.priors.patch_autoencoder import PatchAutoencoder
from pipeline_core.priors.process import RectifiedFlow
from pipeline_core.priors.resolve import folder_id
from pipeline_core.priors.text import Encoder, read_json


class FlowPrior(LatentPrior):
    """An ``interface.ImagePrior`` whose predictions are velocities."""

    network: ClassVar[str]
    """diffusers' class of the transformer."""
    autoencoders: ClassVar[Sequence[str]] = AUTOENCODERS
    """diffusers' classes of the autoencoder."""
    half: ClassVar[torch.dtype] = torch.bfloat16
    """Precision of the transformer where float16 is asked for: those are trained in bfloat16, and have its range."""
    vae_half: ClassVar[torch.dtype] = torch.float16
    """The same of the autoencoder."""
    packing: ClassVar[int] = 1
    """Channels of the transformer for each channel of the autoencoder: latents that are packed in squares have more."""
    vae: Any
    process: RectifiedFlow

    def __init__(
        self,
        folder: Path,
        *,
        transformer: Any,
        vae: Any,
        encoders: Sequence[Encoder],
        size: int | None = None,
        **common: Any,
    ) -> None:
        self.transformer, self.vae = transformer, vae
        side = read_json(folder / "splatmill.json") if (folder / "splatmill.json").exists() else {}
        channels = int(transformer.config.in_channels)
        if channels != int(vae.config.latent_channels) * self.packing:
            raise RequestError(
                f"{folder}: the transformer takes {channels} channels but latents have "
                f"{int(vae.config.latent_channels) * self.packing}; inpainting and control models cannot guide: "
                "use the base text-to-image model with its own vae"
            )
        super().__init__(
            RectifiedFlow(), vae=vae, encoders=encoders,
            latent_channels=channels, size=int(size or side.get("size") or self.native_size()),
            background=tuple(side["background"]) if side.get("background") else None, **common,
        )  # fmt: skip
        tokens = (self.size // vae_factor(vae) // self.patch) ** 2
        scheduler = folder / "scheduler" / "scheduler_config.json"
        self.process, self.train_steps = load_flow(scheduler, lambda config: self.dynamic_shift(tokens, config))
        said_in = "splatmill.json" if side.get("size") else "transformer/config.json"
        self._check_size("image_size" if size else folder / said_in)
        self.check(folder)

    @classmethod
    def load(cls, ref: Named, folder: Path, *, device: Any, dtype: torch.dtype, allow_remote_code: bool) -> Self:
        """A prior out of a complete folder of this family, whose own code is never needed.

        Raises :class:`RequestError` for a part of another kind, :class:`ModelNotFound` for weights that do not fit.
        """
        half, vae_dtype = (cls.half, cls.vae_half) if dtype == torch.float16 else (dtype, dtype)
        if read_json(folder / "vae" / "config.json").get("_class_name") == PatchAutoencoder.__name__:
            vae_dtype = torch.float32
        return cls(
            folder,
            transformer=place(load_network(folder, "transformer", half, (cls.network,)), device),
            vae=place(load_network(folder, "vae", vae_dtype, cls.autoencoders), device),
            encoders=cls.load_encoders(folder, device, half),
            model_id=folder_id(ref, folder), device=device, dtype=half, size=ModelRef.of(ref).size,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ of each family

    @classmethod
    @abstractmethod
    def load_encoders(cls, folder: Path, device: torch.device | str, dtype: torch.dtype) -> Sequence[Encoder]:
        """The text encoders, in the order of their folders."""

    @abstractmethod
    def velocity(self, x: Tensor, s: Tensor, embeddings: Tensor) -> Tensor:
        """The transformer's answer noise - x_0, [B, C, h, w] (or more channels: the first C count).

        ``x`` [B, C, h, w] and ``embeddings`` [B, L, D] in the network's precision, ``s`` [B] float32 in (0, 1).
        """

    def check(self, folder: Path) -> None:
        """Raise :class:`RequestError` where the parts do not fit each other (:meth:`must_fit`)."""

    @property
    def patch(self) -> int:
        """Codes of the autoencoder a side of one token."""
        return int(self.transformer.config.patch_size)

    def native_size(self) -> int:
        """Pixels a side that the network was trained at."""
        return int(self.transformer.config.sample_size) * vae_factor(self.vae)

    def largest_size(self) -> float:
        """Pixels a side that its positions reach."""
        return math.inf

    def dynamic_shift(self, tokens: int, scheduler: dict[str, Any]) -> float:
        """The shift where the scheduler leaves it to the number of tokens of a picture, as diffusers' pipelines do."""
        few, many = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
        low, high = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
        mu = low + (high - low) * (tokens - few) / (many - few)
        return mu if scheduler.get("time_shift_type") == "linear" else math.exp(mu)

    # ------------------------------------------------------------------------------------------------ denoiser

    @torch.no_grad()
    def predict(
        self, x_t: Tensor, t: Tensor, embeddings: Tensor, cameras: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Velocities [B, C, h, w] float32: see ``interface.ImagePrior``."""
        x = self._for_network(x_t, self.transformer)
        s = self.process.timestep(t.to(x.device, torch.float32))
        return self.velocity(x, s, embeddings.to(x.device, x.dtype))[:, : self.latent_channels].float()

    # ------------------------------------------------------------------------------------------------- checks

    def _check_size(self, said_in: Path | str) -> None:
        step, largest = vae_factor(self.vae) * self.patch, self.largest_size()
        if self.size % step or self.size > largest:
            raise RequestError(
                f"{said_in}: a size of {self.size} pixels does not fit the network, which takes multiples of {step} "
                f"up to {largest}; choose another (image_size of the recipe, size in splatmill.json)"
            )

    @staticmethod
    def must_fit(part: Path, what: str, said: int, wanted: int) -> None:
        """Raise :class:`RequestError` where ``what`` of a text encoder's folder is not what the transformer wants."""
        if said != wanted:
            raise RequestError(
                f"{part}: {what} of {said} does not fit the transformer, which wants {wanted}; "
                "the parts are of different models: download the folder again"
            )


def load_flow(path: Path, dynamic_shift: Callable[[dict[str, Any]], float]) -> tuple[RectifiedFlow, int]:
    """The noise of a ``scheduler_config.json``, and how many timesteps its network counts from s = 0 to 1.

    ``dynamic_shift`` of the configuration is the shift where that says ``use_dynamic_shifting``.
    """
    config = read_json(path)
    if problem := flow_problem(config):
        raise RequestError(f"{path}: {problem}")
    steps = int(config.get("num_train_timesteps", 1000))
    if config.get("use_dynamic_shifting"):
        return RectifiedFlow(dynamic_shift(config)), steps
    return RectifiedFlow(float(config.get("flow_shift" if config["_class_name"] in SOLVERS else "shift", 1.0))), steps
