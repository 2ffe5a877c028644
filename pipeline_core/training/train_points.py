"""The starter point prior: what it is trained on and its loss.

There are two networks (``network``). ``set`` ties points together by a set of tokens: the loss is the mean squared
noise error of points given text and tokens ~ q(tokens | cloud), plus ``kl`` times KL(q || N(0, 1)), plus the squared
error of the flow that draws such tokens from the text. ``independent`` has one latent z: a conditional VAE's loss
around a diffusion, the noise error given text and z ~ q(z | cloud, text), plus ``kl`` times KL(q || p(z | text)).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPTokenizer

from pipeline_core.errors import RequestError
from pipeline_core.files import write_json
from pipeline_core.priors.independent_points import BIAS, SCALE, TIMESTEPS, IndependentPointDiffusion
from pipeline_core.priors.set_points import SetPointDiffusion
from pipeline_core.training.data import POINTS, Chunk, ChunkPool, visible_chunks, write_cloud_chunk
from pipeline_core.training.resident import TEXTS, ResidentSteps, pick, uniform
from pipeline_core.training.tokenizer import build_tokenizer, embeddings_by_token, tokenize
from pipeline_core.training.words import vary, words


@dataclass(frozen=True)
class PointSettings:
    """Architecture and data of the point prior; what ships differs, see its card."""

    network: Literal["set", "independent"] = "independent"
    channels: int = 8
    """Numbers of a point: xyz, rgb, and with 8 metallic and roughness."""
    width: int = 256
    depth: int = 10
    set_size: int = 32
    """Tokens of an object (``set``)."""
    latent: int = 16
    """Numbers of a token (8 were tried), or of the only latent."""
    flow_width: int = 256
    flow_depth: int = 6
    """Of the transformer that draws tokens (``set``)."""
    couplings: int = 6
    """Of the flow that draws the latent (``independent``)."""
    frequencies: int = 6
    encoder_frequencies: int = 4
    encoder_width: int = 64
    tokens: int = 24
    text_width: int = 128
    points: int = 64
    """Points of an object denoised per step."""
    context: int = 256
    """Other points of the same object that the encoder sees. At 256 what it says varies with their draw by a third of
    what it varies from object to object (docs/LOG.md)."""
    kl: float = 1e-5
    """Weight of the latent's bits. At 2e-4 it said one number about an object, and shapes were means over many."""
    flow_weight: float = 0.3
    """Weight of the error of the flow that draws tokens, which is about four times that of the noise."""
    fresh_latent: bool = False
    """With ``start``: keep what it knows of text and points, and begin anew with the latent and its encoder."""
    low_noise: float = 1.5
    """t = T u^low_noise with u uniform: above 1, more of the small noise levels that sharpen thin parts."""
    chunks: int = 12
    chunk_size: int = 2048
    first_chunks: int = 8
    fresh: float = 0.05
    """New clouds per cloud trained on, until all chunks are in use."""
    drop_condition: float = 0.1
    synonyms: float = 0.06
    nonsense: float = 0.06


class PointSteps:
    """What each step trains on, by (seed, step) alone; a map-style dataset, so a loader's workers may draw it.

    Item ``step``, in model coordinates, C channels: context [B, N, C], points to denoise x0 [B, C, P], token ids
    [B, L], used [B, 1] bool (the caption is not empty), noise [B, C, P], timesteps [B], draw [B, (set_size,) latent]
    (normal); for ``set`` also flow_noise, like draw, and flow_t [B] in [0, 1].
    """

    def __init__(self, settings: PointSettings, folder: Path, *, seed: int, batch: int) -> None:
        self.settings, self.seed, self.size = settings, seed, batch
        self.pool = ChunkPool(
            folder, write_cloud_chunk, ("points",), seed=seed, limit=settings.chunks, count=settings.chunk_size,
            points=POINTS,
        )  # fmt: skip
        self.tokenizer = build_tokenizer(words(), max_length=settings.tokens)
        self.scale, self.bias = (torch.tensor(v[: settings.channels]) for v in (SCALE, BIAS))

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return self.assemble(*self.draw(step), torch.Generator().manual_seed(self.seed * 1_000_003 + step))

    def assemble(self, clouds: Tensor, ids: Tensor, used: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """A step's inputs from what :meth:`draw` gives; nothing here waits for a device."""
        s, size, device = self.settings, self.size, clouds.device
        self.scale, self.bias = self.scale.to(device), self.bias.to(device)  # once: a transfer waits for the device
        clouds = clouds[..., : s.channels].float() * self.scale + self.bias
        x0 = clouds[:, -s.points :].transpose(1, 2)
        noise = torch.randn(x0.shape, generator=generator, device=device)
        u = ((torch.arange(size, device=device) + uniform(size, generator)) / size) ** s.low_noise  # stratified
        shape = (size, s.set_size, s.latent) if s.network == "set" else (size, s.latent)
        draw = torch.randn(shape, generator=generator, device=device)
        t = (u * TIMESTEPS).long()
        inputs = {"context": clouds[:, : -s.points], "x0": x0, "ids": ids, "used": used, "noise": noise, "t": t,
                  "draw": draw}  # fmt: skip
        if s.network == "set":
            inputs["flow_noise"] = torch.randn(shape, generator=generator, device=device)
            inputs["flow_t"] = torch.randn(size, generator=generator, device=device).sigmoid()
        return inputs

    def visible(self, step: int) -> int:
        """How many chunks step ``step`` draws from."""
        return visible_chunks(self.settings, step * self.size)

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Clouds [B, C + P, 6] (the last P are to be denoised), token ids [B, L], [B, 1] whether there is a caption."""
        s, size = self.settings, self.size
        rng = np.random.default_rng([self.seed, 3, step])
        visible = self.visible(step)
        clouds, captions = [], []
        for chunk_index, row in zip(
            rng.integers(0, visible, size).tolist(), rng.integers(0, s.chunk_size, size).tolist(), strict=True
        ):
            chunk: Chunk = self.pool[chunk_index]
            cloud = chunk.arrays["points"][row]
            # Rows of a chunk's clouds are independent draws, so any run of them is a random subset.
            start = int(rng.integers(0, len(cloud)))
            clouds.append(cloud[(start + np.arange(s.context + s.points)) % len(cloud)])
            text = chunk.captions[row][int(rng.integers(len(chunk.captions[row])))]
            text = vary(text, rng, synonyms=s.synonyms, nonsense=s.nonsense)
            captions.append("" if rng.random() < s.drop_condition else text)
        used = torch.tensor([[text != ""] for text in captions])
        return torch.from_numpy(np.stack(clouds)), tokenize(self.tokenizer, captions), used

    def read(self, index: int) -> dict[str, np.ndarray]:
        """A chunk's arrays for :class:`ResidentChunks`: points [n, N, C] and token ids ``ids`` [n, TEXTS, L]."""
        s, chunk = self.settings, Chunk.open(self.pool.folder, index, self.pool.names)
        rng = np.random.default_rng([self.seed, 5, index])
        texts = [
            vary(captions[int(rng.integers(len(captions)))], rng, synonyms=s.synonyms, nonsense=s.nonsense)
            for captions in chunk.captions
            for _ in range(TEXTS)
        ]
        ids = tokenize(self.tokenizer, texts).reshape(-1, TEXTS, s.tokens)
        return chunk.arrays | {"ids": ids.to(torch.int16).numpy()}

    def resident(self, device: torch.device) -> ResidentClouds:
        """The same steps from chunks that are kept on ``device``."""
        return ResidentClouds(self, device)


class ResidentClouds(ResidentSteps):
    """Steps of a :class:`PointSteps` on a device."""

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        steps, s, size = self.steps, self.steps.settings, self.steps.size
        generator, rows = self.begin(step)
        columns = pick(size, POINTS, generator)[:, None] + torch.arange(s.context + s.points, device=self.device)
        clouds = self.chunks["points"][rows[:, None], columns % POINTS]
        used = uniform(size, generator)[:, None] >= s.drop_condition
        ids = torch.where(used, self.ids(rows, generator), self.empty)
        return steps.assemble(clouds, ids, used, generator)


class PointPart:
    """What :func:`pipeline_core.training.train.train_part` needs to train the point prior."""

    name = "points"
    summary = "Text to coloured points by diffusion over single points, tied together by latents of the object."

    def __init__(
        self, settings: PointSettings, data_dir: Path, *, seed: int, batch: int, start: Path | None = None
    ) -> None:
        self.settings, self.start = settings, start
        self.steps = PointSteps(settings, data_dir / "clouds", seed=seed, batch=batch)
        self.tokenizer = self.steps.tokenizer
        torch.manual_seed(seed)  # weight initialisation only; nothing else reads the global generator
        model = build_network(settings, self.tokenizer)
        if start is not None and isinstance(model, SetPointDiffusion):
            raise RequestError(f"--start {start}: the network with tokens (network=set) begins from nothing")
        if start is not None:
            grow(model, start, self.tokenizer, fresh_latent=settings.fresh_latent)
        self.modules = nn.ModuleDict({"model": model})
        self.scheduler = DDIMScheduler(
            num_train_timesteps=model.config.num_train_timesteps, beta_schedule=model.config.beta_schedule,
            prediction_type="epsilon", timestep_spacing="trailing",
            clip_sample=True, clip_sample_range=2.1,  # noise prediction says nothing about x0 where there is only noise
        )  # fmt: skip

    def prepare(self, device: torch.device) -> None:
        """Nothing to fit."""

    def compilable(self) -> list[nn.Module]:
        """What ``--compile`` compiles: of the network with tokens the blocks, which repeat, so that one of each kind is
        compiled; of the other its denoiser."""
        model = self.modules["model"]
        if not isinstance(model, SetPointDiffusion):
            return [model]
        return [*model.encoder.blocks, *model.flow.blocks, *model.unpack, *model.blocks]

    def loss(self, inputs: dict[str, Tensor], autocast) -> Tensor:
        """Noise error plus weighted KL of one step's inputs, an item of :class:`PointSteps` on the model's device."""
        losses = set_losses if self.settings.network == "set" else independent_losses
        noisy = self.scheduler.add_noise(inputs["x0"], inputs["noise"], inputs["t"])
        noise_error, others = losses(self.modules["model"], inputs, noisy, self.settings, autocast)
        return noise_error + others

    @torch.no_grad()
    def sample(
        self, modules: nn.ModuleDict, prompts: list[str], *, points: int = 1024, steps: int = 40,
        guidance_scale: float = 2.0, seed: int = 0,
    ) -> Tensor:  # fmt: skip
        """DDIM samples [B, points, C] of ``prompts``: object units, the rest in [0, 1]."""
        model = cast(Any, modules["model"])
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(seed)
        n = len(prompts)
        cond = model.condition(tokenize(self.tokenizer, prompts).to(device), [generator] * n)
        uncond = model.condition(tokenize(self.tokenizer, [""]).to(device)).expand_as(cond)
        channels = self.settings.channels
        x = torch.randn(n, channels, points, generator=generator).to(device)
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            rows = t.to(device).expand(n)
            weak = model(x, rows, uncond)
            eps = weak + guidance_scale * (model(x, rows, cond) - weak)
            x = self.scheduler.step(eps, t, x).prev_sample
        clouds = (x.transpose(1, 2).cpu() - torch.tensor(BIAS[:channels])) / torch.tensor(SCALE[:channels])
        return torch.cat([clouds[..., :3], clouds[..., 3:].clamp(0, 1)], dim=-1)

    def grid(self, modules: nn.ModuleDict) -> np.ndarray:
        """Contact sheet uint8 [H, W, 3]: a column per prompt of :data:`GRID_PROMPTS`, rows from front and side."""
        clouds = self.sample(modules, list(GRID_PROMPTS)).numpy()
        rows = [np.concatenate([draw_cloud(c, azimuth) for c in clouds], axis=1) for azimuth in (25.0, 115.0)]
        return np.concatenate(rows)

    def export(self, modules: nn.ModuleDict, folder: Path) -> None:
        """Write config.json, model weights in fp16, tokenizer/ and the licence (splatmill.json)."""
        folder.mkdir(parents=True, exist_ok=True)
        model = cast(IndependentPointDiffusion | SetPointDiffusion, modules["model"])
        twin = type(model).from_config(model.config)
        twin.load_state_dict(model.state_dict())
        twin.half().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder / "tokenizer")
        write_json(folder / "splatmill.json", {"licence": "Apache-2.0"})

    def facts(self) -> dict:
        """Settings for the model card."""
        return asdict(self.settings)


def build_network(settings: PointSettings, tokenizer: Any) -> SetPointDiffusion | IndependentPointDiffusion:
    """The network of ``settings``, its weights drawn from torch's global generator."""
    s = settings
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer), "width": s.width, "depth": s.depth, "latent": s.latent,
        "frequencies": s.frequencies, "encoder_frequencies": s.encoder_frequencies, "text_width": s.text_width,
        "tokens": s.tokens, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "channels": s.channels, "scale": SCALE[: s.channels], "bias": BIAS[: s.channels],
    }  # fmt: skip
    if s.network == "set":
        return SetPointDiffusion(
            set_size=s.set_size, flow_width=s.flow_width, flow_depth=s.flow_depth, **shared
        )  # fmt: skip
    return IndependentPointDiffusion(
        couplings=s.couplings, encoder_width=s.encoder_width, context=s.context, **shared
    )  # fmt: skip


def set_losses(
    model: nn.Module, inputs: dict[str, Tensor], noisy: Tensor, settings: PointSettings, autocast: Any
) -> tuple[Tensor, Tensor]:
    """Noise error, and what else a :class:`SetPointDiffusion` is trained by, weighted."""
    net, used = cast(SetPointDiffusion, model), inputs["used"]
    with autocast():
        words = net.encode_text(inputs["ids"])
        mean, log_variance = (v.float() for v in net.encoder(inputs["context"]))
        latent = mean + (0.5 * log_variance).exp() * inputs["draw"]
        out = net(noisy, inputs["t"], net.join(words, latent.masked_fill(~used[..., None], 0.0))).float()
        # The flow learns what the encoder says, and does not change it.
        clean, noise, t = latent.detach(), inputs["flow_noise"], inputs["flow_t"][:, None, None]
        velocity = net.flow((1 - t) * clean + t * noise, inputs["flow_t"], words).float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=(1, 2))
    flow_error = (velocity - (noise - clean)).square().mean()
    others = settings.kl * (kl * used[:, 0]).mean() + settings.flow_weight * flow_error
    return (out - inputs["noise"]).square().mean(), others


def independent_losses(
    model: nn.Module, inputs: dict[str, Tensor], noisy: Tensor, settings: PointSettings, autocast: Any
) -> tuple[Tensor, Tensor]:
    """Noise error, and the weighted KL of an :class:`IndependentPointDiffusion`."""
    net, used = cast(IndependentPointDiffusion, model), inputs["used"]
    with autocast():
        text = net.encode_text(inputs["ids"])
        mean, log_variance = (v.float() for v in net.encoder(inputs["context"], text))
        latent = mean + (0.5 * log_variance).exp() * inputs["draw"]
        given = latent.masked_fill(~used, 0.0)
        out = net(noisy, inputs["t"], torch.cat([text, given], dim=-1)).float()
    # KL by its one-sample estimate: through a flow there is no closed form.
    log_posterior = -0.5 * (log_variance + inputs["draw"].square()).sum(dim=1)
    kl = log_posterior - net.log_prior(latent, text.float())
    return (out - inputs["noise"]).square().mean(), settings.kl * (kl * used[:, 0]).mean()


def grow(
    model: IndependentPointDiffusion, start: Path, tokenizer: CLIPTokenizer, *, fresh_latent: bool = False
) -> None:
    """Give ``model`` the weights of the folder ``start``, so that it begins as the same function: a network of fewer
    blocks, octaves, channels or words.

    Further blocks have a gate of zero; further sines, cosines and channels a weight of zero; embeddings go by the
    token. With ``fresh_latent`` the encoder, the prior of z and what reads z stay as they are initialised, and may
    have another size: a latent that has collapsed (a posterior that says nothing, and a network that has learnt not to
    listen) seldom comes back.
    """
    smaller = IndependentPointDiffusion.from_pretrained(start, use_safetensors=True, local_files_only=True)
    known, own = smaller.state_dict(), model.state_dict()
    few, many = smaller.config.channels, model.config.channels
    for name in [name for name in known if name.endswith("token_embedding.weight")]:
        known[name] = embeddings_by_token(tokenizer, known[name], start)
    for name in ("embed_point.weight", "encoder.points.0.weight"):
        if not (fresh_latent and name.startswith("encoder.")):
            known[name] = _more_channels(known[name], own[name], few, many)
    for name in ("out.weight", "out.bias"):
        known[name] = torch.cat([known[name], own[name][few:]])  # zeros
    if fresh_latent:
        text = own["embed_cond.weight"].clone()
        text[:, : -model.config.latent] = known["embed_cond.weight"][:, : -smaller.config.latent]
        known = {k: v for k, v in known.items() if not k.startswith(("encoder.", "prior.", "flow."))}
        known["embed_cond.weight"] = text
    model.load_state_dict(own | known)


def _more_channels(weight: Tensor, like: Tensor, few: int, many: int) -> Tensor:
    """Weights [W, K few] of ``waves`` of ``few`` channels as those [W, L many] of ``many``, zero for what is new."""
    value = torch.zeros_like(like).unflatten(1, (-1, many))
    groups = weight.unflatten(1, (-1, few))
    value[:, : groups.shape[1], :few] = groups
    return value.flatten(1)


GRID_PROMPTS = (
    "a red mushroom with white spots", "a blue barrel", "a wooden crate", "a green pine",
    "a yellow house with a red roof", "a purple potion", "a grey sword", "a brown chest", "a white mug",
    "an orange pumpkin", "a black anvil", "a pink chair",
)  # fmt: skip


def draw_cloud(cloud: np.ndarray, azimuth: float, *, size: int = 96, elevation: float = 20.0) -> np.ndarray:
    """Painter's-algorithm picture uint8 [size, size, 3] of a cloud [N, C] on white, orthographic, 2-pixel points."""
    az, el = np.deg2rad([azimuth, elevation])
    right = np.array([np.cos(az), 0, -np.sin(az)])
    back = np.array([np.cos(el) * np.sin(az), np.sin(el), np.cos(el) * np.cos(az)])
    up = np.cross(back, right)
    x, y, depth = (cloud[:, :3] @ axis for axis in (right, up, back))
    order = np.argsort(depth)
    column = np.clip((x / 0.8 * 0.5 + 0.5) * size, 0, size - 2).astype(int)[order]
    row = np.clip((0.5 - y / 0.8 * 0.5) * size, 0, size - 2).astype(int)[order]
    colour = (cloud[order, 3:6].clip(0, 1) * 255).astype(np.uint8)
    image = np.full((size, size, 3), 255, np.uint8)
    for dy in (0, 1):
        for dx in (0, 1):
            image[row + dy, column + dx] = colour
    return image
