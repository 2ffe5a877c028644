"""What the trainers of image priors share: renders by (seed, step), the linear autoencoder, loss, samples, the folder.

A part (:class:`PicturePart`) adds its networks, its noise, and what its folder's ``model_index.json`` says:
train_image.py is the U-Net, train_flow.py the transformer.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipeline_core.errors import RequestError
from pipeline_core.guidance.prompts import view_prompt
from pipeline_core.priors.checks import KINDS
from pipeline_core.priors.image import camera_embedding, kind_embedding
from pipeline_core.priors.patch_autoencoder import PatchAutoencoder, fit_patch_autoencoder
from pipeline_core.props.captions import caption
from pipeline_core.props.props import CATEGORIES, sample_spec
from pipeline_core.training.data import (
    IMAGE_SIZE,
    KIND_SHARES,
    Chunk,
    ChunkPool,
    view_word,
    visible_chunks,
    write_image_chunk,
)
from pipeline_core.training.degrade import degrade
from pipeline_core.training.resident import TEXTS, ResidentSteps, pick, uniform
from pipeline_core.training.tokenizer import build_tokenizer, embeddings_by_token, tokenize
from pipeline_core.training.words import vary, words

TIMESTEPS = 1000
SMALLEST_DEGRADED = 0.05
"""Below this noise variance images are not degraded: the finest noise is for finding what is there."""
DEGRADED_VARIANCE = 0.2
"""Below this noise variance the error on degraded images is measured in x_0, not in v, which would grow without end."""
Text = tuple[Tensor, ...]
"""What a denoiser takes of the prompts: hidden states [B, L, D], and where it wants one a pooled vector [B, P]."""


@dataclass(frozen=True)
class PictureSettings:
    """Text, latents and data; the defaults are those of what ships."""

    text_width: int = 128
    text_layers: int = 2
    tokens: int = 24
    patch: int = 4
    channels: int = 16
    size: int = IMAGE_SIZE
    categories: tuple[str, ...] = ()
    """The categories that are rendered; none named = all. Other categories want another --out, or --data."""
    chunks: int = 96
    chunk_size: int = 2048
    first_chunks: int = 6
    fresh: float = 0.5
    """New images per image trained on: each is seen 1 / fresh times on average, until all chunks are in use."""
    drop_condition: float = 0.1
    drop_camera: float = 0.05
    kinds: bool = False
    """Whether the network is told the kind of a render, one of ``checks.KINDS``, behind the camera; else all are unlit.
    """
    drop_kind: float = 0.1
    """Share of the images without a camera whose kind is not told either."""
    view_words: float = 0.5
    synonyms: float = 0.06
    nonsense: float = 0.06
    """See :func:`pipeline_core.training.words.vary`."""
    background: tuple[float, float, float] = (0.5, 0.5, 0.5)
    jitter: int = 2
    """Images move by up to this many pixels, so that a slightly off-centre object is not out of distribution."""
    degraded: float = 0.5
    """Share of the images that are seen as an unfinished splat would show them, and asked back clean (degrade.py)."""
    faulty: float = 0.0
    """Share of those that also have something wrong (faults.py), half of them with nothing else."""
    fault_weight: float = 0.0
    """How much more than the rest those places count, in every image, that a faulty twin has wrong: small parts."""
    words_weight: float = 0.02
    """Weight of the loss of words that the text encoder forgets (:meth:`PicturePart.word_loss`)."""


def build_text_encoder(
    tokenizer: CLIPTokenizer, *, width: int, layers: int, tokens: int, kind: type[Any] = CLIPTextModel
) -> Any:
    """A tiny CLIP text transformer of class ``kind``."""
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // 32),
            max_position_embeddings=tokens,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def as_planes(rgba: Tensor) -> Tensor:
    """uint8 RGBA [B, H, W, 4] to [B, 4, H, W] in [0, 1]."""
    return rgba.permute(0, 3, 1, 2).float() / 255


def over(rgba: Tensor, background: tuple[float, float, float]) -> Tensor:
    """Straight RGBA [B, 4, H, W] in [0, 1] to RGB [B, 3, H, W] in [-1, 1] over a colour in [0, 1]."""
    colour, alpha = rgba[:, :3], rgba[:, 3:]
    # Channel by channel: a colour that is sent to a GPU in every step would wait for it.
    ground = torch.cat([level * (1 - alpha) for level in background], dim=1)
    return (colour * alpha + ground) * 2 - 1


class PictureSteps(ABC):
    """What each step trains on, by (seed, step) alone; a map-style dataset, so a loader's workers may draw it.

    Item ``step``: images [B, 3, H, W] in [-1, 1], ``seen`` of the same shape (degraded in some rows), token ids [B, L],
    cameras [B, 8] (with ``kinds`` [B, 8 + 3]), noise [B, C, h, w], timesteps ``t`` [B] as the network is told them;
    with ``fault_weight`` also ``weight`` [B, 1, h, w] of mean 1 in each row.
    """

    def __init__(self, settings: PictureSettings, folder: Path, *, seed: int, batch: int) -> None:
        if unknown := [name for name in settings.categories if name not in CATEGORIES]:
            raise RequestError(f"categories: {', '.join(unknown)} must be among {', '.join(CATEGORIES)}")
        self.settings, self.seed, self.size = settings, seed, batch
        self.twins = bool(settings.faulty or settings.fault_weight)
        names = ("rgba", "cameras", *["twins"] * self.twins, *["kinds"] * settings.kinds)
        self.pool = ChunkPool(
            folder / "twins" if self.twins else folder, write_image_chunk, names, seed=seed, limit=settings.chunks,
            count=settings.chunk_size, size=settings.size, twins=self.twins, categories=tuple(settings.categories),
            kind_shares=KIND_SHARES if settings.kinds else (1.0,),
        )  # fmt: skip
        self.tokenizer = build_tokenizer(words(), max_length=settings.tokens)

    @abstractmethod
    def times(self, u: Tensor) -> Tensor:
        """Uniform ``u`` in [0, 1] to timesteps as the network is told them, in the shares that training wants."""

    @abstractmethod
    def noise_variance(self, t: Tensor) -> Tensor:
        """Variance [B] of the noise at timesteps ``t`` [B]."""

    def view_word(self, azimuth: float, elevation: float) -> str:
        """The view in the words of the captions."""
        return view_word(azimuth, elevation)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.assemble(*self.draw(step), torch.Generator().manual_seed(self.seed * 1_000_003 + step))

    def assemble(
        self, rgba: Tensor, twins: Tensor, ids: Tensor, camera: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """A step's inputs from what :meth:`draw` gives; nothing here waits for a device."""
        s, device = self.settings, rgba.device
        side = s.size // s.patch
        noise = torch.randn((self.size, s.channels, side, side), generator=generator, device=device)
        u = (torch.arange(self.size, device=device) + uniform(self.size, generator)) / self.size  # stratified
        t = self.times(u)
        images = over(rgba, s.background)
        seen = images.clone()
        rough = torch.randperm(self.size, generator=generator, device=device)[: round(s.degraded * self.size)]
        if len(rough):
            u = uniform(len(rough), generator).reshape(-1, 1, 1, 1)
            shown = torch.where(u < s.faulty, twins[rough], rgba[rough])
            shown = torch.where(u < s.faulty / 2, shown, degrade(shown, generator))
            noisy = (self.noise_variance(t[rough]) >= SMALLEST_DEGRADED).reshape(-1, 1, 1, 1)
            seen[rough] = torch.where(noisy, over(shown, s.background), images[rough])
        inputs = {"images": images, "seen": seen, "ids": ids, "camera": camera, "noise": noise, "t": t}
        if s.fault_weight:
            wrong = (over(twins, s.background) - images).abs().mean(1, keepdim=True)
            weight = 1 + s.fault_weight * F.avg_pool2d((4 * wrong).clamp(max=1), s.patch)
            inputs["weight"] = weight / weight.mean((1, 2, 3), keepdim=True)
        return inputs

    def visible(self, step: int) -> int:
        """How many chunks step ``step`` draws from."""
        return visible_chunks(self.settings, step * self.size)

    def text(self, caption: str, azimuth: float, elevation: float, rng: np.random.Generator) -> str:
        """``caption`` as it may be asked for: other words for some, and now and then the view."""
        s = self.settings
        caption = vary(caption, rng, synonyms=s.synonyms, nonsense=s.nonsense)
        return view_prompt(caption, self.view_word(azimuth, elevation)) if rng.random() < s.view_words else caption

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Straight RGBA [B, 4, H, W] in [0, 1], faulty twins (or they again), token ids [B, L], labels [B, 8 or 11]."""
        s, size = self.settings, self.size
        rng = np.random.default_rng([self.seed, 2, step])
        chunks = rng.integers(0, self.visible(step), size)
        rows = rng.integers(0, s.chunk_size, size)
        rgba, twins, captions, cameras, kinds = [], [], [], [], []
        for chunk_index, row in zip(chunks.tolist(), rows.tolist(), strict=True):
            chunk: Chunk = self.pool[chunk_index]
            azimuth, elevation = chunk.arrays["cameras"][row].tolist()
            move = tuple(rng.integers(-s.jitter, s.jitter + 1, 2))
            text = chunk.captions[row][int(rng.integers(len(chunk.captions[row])))]
            text = self.text(text, azimuth, elevation, rng)
            drop = rng.random()
            if drop < s.drop_condition:
                text = ""
            kind = int(chunk.arrays["kinds"][row]) if s.kinds else -1
            if drop < s.drop_condition + s.drop_camera:
                azimuth = float("nan")
                if s.kinds and rng.random() < s.drop_kind:
                    kind = -1
            rgba.append(np.roll(chunk.arrays["rgba"][row], move, axis=(0, 1)))
            if self.twins:
                twins.append(np.roll(chunk.arrays["twins"][row], move, axis=(0, 1)))
            captions.append(text)
            cameras.append((azimuth, elevation))
            kinds.append(kind)
        camera = torch.tensor(cameras)
        embedding = self.labels(camera[:, 0], camera[:, 1], torch.tensor(kinds))
        images = as_planes(torch.from_numpy(np.stack(rgba)))
        faulty = as_planes(torch.from_numpy(np.stack(twins))) if self.twins else images
        return images, faulty, tokenize(self.tokenizer, captions), embedding

    def labels(self, azimuth: Tensor, elevation: Tensor, kinds: Tensor) -> Tensor:
        """What the network is told of cameras [B] degrees and kinds [B] (negative = none) [B, 8 or 11]."""
        camera = camera_embedding(azimuth, elevation)
        return torch.cat([camera, kind_embedding(kinds, len(KINDS))], dim=1) if self.settings.kinds else camera

    def read(self, index: int) -> dict[str, np.ndarray]:
        """A chunk's arrays for :class:`ResidentChunks`: as in its files, and token ids ``ids`` [n, TEXTS, L]."""
        chunk = Chunk.open(self.pool.folder, index, self.pool.names)
        rng = np.random.default_rng([self.seed, 4, index])
        texts = [
            self.text(captions[int(rng.integers(len(captions)))], azimuth, elevation, rng)
            for captions, (azimuth, elevation) in zip(chunk.captions, chunk.arrays["cameras"].tolist(), strict=True)
            for _ in range(TEXTS)
        ]
        ids = tokenize(self.tokenizer, texts).reshape(-1, TEXTS, self.settings.tokens)
        return chunk.arrays | {"ids": ids.to(torch.int16).numpy()}

    def resident(self, device: torch.device) -> ResidentPictures:
        """The same steps from chunks that are kept on ``device``."""
        return ResidentPictures(self, device)


class ResidentPictures(ResidentSteps):
    """Steps of a :class:`PictureSteps` on a device."""

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        steps, s, size = self.steps, self.steps.settings, self.steps.size
        generator, rows = self.begin(step)
        move = pick(2 * size, 2 * s.jitter + 1, generator).reshape(2, size, 1) - s.jitter
        y, x = (torch.arange(s.size, device=self.device) - move).remainder(s.size)
        rgba, twins = (
            as_planes(self.chunks[name][rows[:, None, None], y[:, :, None], x[:, None, :]])
            for name in ("rgba", "twins" if steps.twins else "rgba")
        )
        drop = uniform(size, generator)
        ids = torch.where(drop[:, None] < s.drop_condition, self.empty, self.ids(rows, generator))
        azimuth, elevation = self.chunks["cameras"][rows].unbind(1)
        blind = drop < s.drop_condition + s.drop_camera
        azimuth, kinds = torch.where(blind, torch.nan, azimuth), rows
        if s.kinds:
            untold = blind & (uniform(size, generator) < s.drop_kind)
            kinds = torch.where(untold, -1, self.chunks["kinds"][rows].long())
        return steps.assemble(rgba, twins, ids, steps.labels(azimuth, elevation, kinds), generator)


class PicturePart(ABC):
    """What :func:`pipeline_core.training.train.train_part` needs to train an image prior."""

    name: str
    summary: str
    scheduler: Any
    """diffusers' own, of the noise that is trained on."""
    smallest_variance = 1e-4
    """The error of x_0 is divided by the variance of the noise, by this where there is less."""

    def __init__(
        self, settings: Any, steps: PictureSteps, networks: Mapping[str, nn.Module], *, start: Path | None
    ) -> None:
        self.settings, self.steps, self.start = settings, steps, start
        self.tokenizer = steps.tokenizer
        self.modules = nn.ModuleDict(networks)
        if settings.words_weight:  # training only
            self.modules["readout"] = nn.Linear(self.text_dim, 3 * len(self.tokenizer))
        self.vae: PatchAutoencoder | None = None
        if start is not None:
            for name, network in networks.items():
                kind: Any = type(network)
                known = kind.from_pretrained(start / name, use_safetensors=True, local_files_only=True)
                go_on_from(network, known.float().state_dict(), self.tokenizer, start)
            vae = PatchAutoencoder.from_pretrained(start / "vae", use_safetensors=True, local_files_only=True)
            c = vae.config  # a fresh one, or the folder's path would be exported with it
            self.vae = PatchAutoencoder(c.patch_size, c.latent_channels, c.scaling_factor, c.sample_size)
            self.vae.load_state_dict(vae.state_dict())
            if settings.words_weight:
                self.fit_readout(torch.Generator().manual_seed(0))

    @property
    @abstractmethod
    def text_dim(self) -> int:
        """D of the hidden states."""

    @abstractmethod
    def encode(self, modules: nn.ModuleDict, ids: Tensor) -> Text:
        """What the denoiser takes of token ids [B, L]; hidden states come first."""

    @abstractmethod
    def denoise(self, modules: nn.ModuleDict, x_t: Tensor, t: Tensor, text: Text, camera: Tensor) -> Tensor:
        """The denoiser's answer [B, C, h, w] in its own terms; ``t`` [B], ``camera`` [B, 8]."""

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t [B, C, h, w]."""

    @abstractmethod
    def clean(self, x_t: Tensor, answer: Tensor, t: Tensor) -> Tensor:
        """The x_0 [B, C, h, w] that the denoiser's ``answer`` implies."""

    @abstractmethod
    def index(self) -> dict[str, Any]:
        """What ``model_index.json`` says beside the autoencoder."""

    def asked(self, prompts: list[str], azimuth: Tensor, elevation: Tensor) -> list[str]:
        """``prompts`` as the network was trained to be asked for cameras [B] degrees."""
        return prompts

    def prepare(self, device: torch.device) -> None:
        """Fit the autoencoder on the first chunk, unless it came with the weights to start from."""
        if self.vae is None:
            rgba = torch.from_numpy(np.array(self.steps.pool[0].arrays["rgba"][:2048]))
            images = over(as_planes(rgba), self.settings.background)
            self.vae = fit_patch_autoencoder(images, patch=self.settings.patch, channels=self.settings.channels)
        self.vae = self.vae.to(device).requires_grad_(False).eval()

    def latents(self, images: Tensor) -> Tensor:
        """Latents [B, C, h, w] of images [B, 3, H, W] in [-1, 1], of mean square 1."""
        assert self.vae is not None
        return self.vae.encode(images).latent_dist.mean * self.vae.config.scaling_factor

    def compilable(self) -> list[nn.Module]:
        """What ``--compile`` compiles: the networks, each as a whole."""
        return list(self.modules.values())

    def loss(self, inputs: dict[str, Tensor], autocast) -> Tensor:
        """Error of one step's inputs, an item of :class:`PictureSteps` on the modules' device, over the noise's own.

        The target is what leads from the noisy latents of what is *seen* to the clean image. For a diffusion, x_t =
        sqrt(a) x' + sqrt(1 - a) eps, that is v = (sqrt(a) x_t - x_0) / sqrt(1 - a), Salimans and Ho's v where x' = x_0;
        for a flow, x_t = (1 - s) x' + s eps, it is the velocity (x_t - x_0) / s.
        """
        t, latents = inputs["t"], self.latents(inputs["images"])
        noisy = self.add_noise(self.latents(inputs["seen"]), inputs["noise"], t)
        with autocast():
            text = self.encode(self.modules, inputs["ids"])
            out = self.denoise(self.modules, noisy, t, text, inputs["camera"]).float()
        answer, latents = self.clean(noisy, out, t), self.target(latents, noisy, inputs, autocast)
        variance = self.steps.noise_variance(t).reshape(-1, 1, 1, 1)
        rough = (inputs["seen"] != inputs["images"]).flatten(1).any(1).reshape(-1, 1, 1, 1)
        floor = torch.where(rough, DEGRADED_VARIANCE, self.smallest_variance)
        error = ((answer - latents).square() / variance.maximum(floor) * inputs.get("weight", 1.0)).mean()
        if not self.settings.words_weight:
            return error
        return error + self.settings.words_weight * self.word_loss(text[0].float(), inputs["ids"])

    def target(self, latents: Tensor, noisy: Tensor, inputs: dict[str, Tensor], autocast) -> Tensor:
        """What the x_0 of ``noisy`` should be [B, C, h, w]: the clean ``latents``."""
        return latents

    def word_loss(self, text: Tensor, ids: Tensor) -> Tensor:
        """Whether the text encoder's outputs [B, L, D] still tell each token, the one before, and at the end all.

        Pixels alone teach it late: the colour of a handle is a few pixels' worth, and after 500 thousand images "green"
        and "red" before "handle" were the same vector to one part in twenty.
        """
        vocabulary = len(self.tokenizer)
        own, before, every = self.modules["readout"](text).split(vocabulary, -1)
        end = (ids == self.tokenizer.eos_token_id).int().argmax(1)
        inside = torch.arange(ids.shape[1], device=ids.device)[None, 1:] <= end[:, None]
        told = F.cross_entropy(own[:, 1:].transpose(1, 2), ids[:, 1:], reduction="none")
        told = told + F.cross_entropy(before[:, 1:].transpose(1, 2), ids[:, :-1], reduction="none")
        loss = (told * inside).sum() / inside.sum()
        there = torch.zeros(len(ids), vocabulary, device=ids.device).scatter_(1, ids, 1.0)
        at_end = every[torch.arange(len(ids), device=ids.device), end]
        return loss + vocabulary / 8 * F.binary_cross_entropy_with_logits(at_end, there)

    def fit_readout(self, generator: torch.Generator, *, captions: int = 2048, steps: int = 60) -> None:
        """Train the readout alone on the text encoder as it is: a new one would have it forget what it knows."""
        rng = np.random.default_rng(0)
        texts = [caption(sample_spec(rng, split="train"), rng) for _ in range(captions)]
        ids = tokenize(self.tokenizer, texts)
        with torch.no_grad():
            text = torch.cat([self.encode(self.modules, part)[0] for part in ids.split(256)])
        readout = self.modules["readout"]
        optimiser = torch.optim.Adam(readout.parameters(), lr=0.03)
        for _ in range(steps):
            rows = pick(64, captions, generator)
            self.word_loss(text[rows], ids[rows]).backward()
            optimiser.step()
            optimiser.zero_grad()

    @torch.no_grad()
    def sample(
        self, modules: nn.ModuleDict, prompts: list[str], azimuth: Tensor, elevation: Tensor, *, seed: int = 0,
        steps: int = 25, guidance_scale: float = 3.0, kind: int = 0,
    ) -> Tensor:  # fmt: skip
        """Samples [B, 3, H, W] in [0, 1] of ``prompts`` from cameras [B] degrees, by the scheduler's own steps.

        ``kind`` is the place in ``checks.KINDS`` of what to draw, for a network that is told.
        """
        assert self.vae is not None
        s = self.settings
        device = next(modules.parameters()).device
        n = len(prompts)
        side = s.size // s.patch
        x = torch.randn(n, s.channels, side, side, generator=torch.Generator().manual_seed(seed)).to(device)
        texts = [*self.asked(prompts, azimuth, elevation), *[""] * n]
        text = self.encode(modules, tokenize(self.tokenizer, texts).to(device))
        blind = torch.full_like(azimuth, torch.nan)
        told = torch.full((n,), kind)
        camera = torch.cat([self.steps.labels(a, elevation, told) for a in (azimuth, blind)]).to(device)
        self.scheduler.set_timesteps(steps)
        at_once = 8 if device.type == "cpu" else 256
        for t in self.scheduler.timesteps:
            out = []
            for i in range(0, n, at_once):
                rows = torch.arange(i, min(i + at_once, n), device=device)
                both = torch.cat([rows, n + rows])
                times = t.to(device).expand(len(both))
                each = tuple(part[both] for part in text)
                answer = self.denoise(modules, x[rows].repeat(2, 1, 1, 1), times, each, camera[both])
                cond, uncond = answer.chunk(2)
                out.append(uncond + guidance_scale * (cond - uncond))
            x = self.scheduler.step(torch.cat(out), t, x).prev_sample
        images = self.vae.decode(x / self.vae.config.scaling_factor).sample
        return (images.cpu() / 2 + 0.5).clamp(0, 1)

    def grid(self, modules: nn.ModuleDict) -> np.ndarray:
        """Contact sheet uint8 [H, W, 3]: a row per view and one per further kind, a column per :data:`GRID_PROMPTS`."""
        views = [(20.0, 15.0, 0), (110.0, 15.0, 0), (200.0, 30.0, 0)]
        if self.settings.kinds:
            views += [(20.0, 15.0, kind) for kind in range(1, len(KINDS))]
        count, size, rows = len(GRID_PROMPTS), self.settings.size, []
        for azimuth, elevation, kind in views:
            angles = torch.full((count,), azimuth), torch.full((count,), elevation)
            images = self.sample(modules, list(GRID_PROMPTS), *angles, kind=kind)
            rows.append(images.permute(2, 0, 3, 1).reshape(size, count * size, 3))
        return (torch.cat(rows).numpy() * 255 + 0.5).astype(np.uint8)

    def export(self, modules: nn.ModuleDict, folder: Path) -> None:
        """Write a diffusers folder in fp16."""
        assert self.vae is not None
        folder.mkdir(parents=True, exist_ok=True)
        for name, network in modules.items():
            if name != "readout":
                _copy_half(network).save_pretrained(folder / name)
        self.vae.save_pretrained(folder / "vae")
        self.scheduler.save_pretrained(folder / "scheduler")
        index = self.index() | {"vae": ["pipeline_core.priors.patch_autoencoder", "PatchAutoencoder"]}
        for name, (library, _) in ((k, v) for k, v in index.items() if k.startswith("tokenizer")):
            if library is not None:
                self.tokenizer.save_pretrained(folder / name)
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        (folder / "splatmill.json").write_text(json.dumps(self.side_facts(), indent=2) + "\n")

    def side_facts(self) -> dict[str, Any]:
        """What ``splatmill.json`` says."""
        facts = {"background": self.settings.background, "size": self.settings.size, "licence": "Apache-2.0"}
        return facts | ({"kinds": KINDS} if self.settings.kinds else {})

    def facts(self) -> dict:
        """Settings for the model card."""
        return asdict(self.settings)


GRID_PROMPTS = (
    "a red mushroom", "a blue barrel", "a wooden crate", "a green pine", "a yellow house", "a purple potion",
    "a grey sword", "a brown chest", "a white mug", "an orange pumpkin", "a black anvil", "a pink chair",
)  # fmt: skip


@torch.no_grad()
def go_on_from(network: nn.Module, known: Mapping[str, Tensor], tokenizer: CLIPTokenizer, start: Path) -> None:
    """Give ``network`` the weights ``known`` of the folder ``start``, so that it begins as the same function.

    Labels may have become wider, and weigh nothing where they did, nor does a guidance scale that was not told before.
    Embeddings of tokens go by the token: those that are new are drawn as wide as the others are. Raises RequestError
    where anything else has another shape.
    """
    known = dict(known)
    for name, own in network.state_dict().items():
        theirs = known.get(name, torch.empty(0))
        if own.shape == theirs.shape and not name.endswith("token_embedding.weight"):
            continue
        if name.endswith("token_embedding.weight"):
            value = embeddings_by_token(tokenizer, theirs, start)
        elif name == "time_embedding.cond_proj.weight" and name not in known:
            value = torch.zeros_like(own)
        elif name == "class_embedding.linear_1.weight" and own.shape[1] > theirs.shape[1]:
            value = torch.zeros_like(own)
            value[:, : theirs.shape[1]] = theirs
        else:
            problem = f"{name} is {tuple(theirs.shape)}, the settings ask for {tuple(own.shape)}"
            raise RequestError(f"{start}: {problem}: it cannot be gone on from")
        known[name] = value
    network.load_state_dict(known)


def _copy_half(module: Any) -> Any:
    text = isinstance(module, CLIPTextModel | CLIPTextModelWithProjection)
    twin = type(module)(module.config) if text else type(module).from_config(module.config)
    twin.load_state_dict(module.state_dict())
    return twin.half()
