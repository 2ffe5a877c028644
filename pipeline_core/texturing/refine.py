"""Refine a texture with the image prior: its renders are noised a little, denoised, and the change is painted back.

    textured = refine_texture(textured, "a red mug", recipe.texture, engine, seed=0)

DreamGaussian's second stage fits the texture to the denoised pictures by gradient descent, which makes the texture as
sharp as the prior's pictures, and no sharper: with a 128-pixel prior that is a loss. Here only the *change* is painted:
the denoised picture minus the same picture through the autoencoder without denoising. What the prior cannot see (fine
detail, the autoencoder's own error) is in both and cancels. Every texel looks up the change in each view that sees it
and takes the mean, weighted by how squarely the view looks at it: the same point on two sides of a UV seam gets the
same change.

A weak prior answers every noise with some error of its own. So the changes of several rounds are gathered, and their
mean is shrunk by Wiener's factor mean^2 / (mean^2 + variance of the mean): what views and noises agree on stays,
speckle goes. Texels that no view sees (the bottom, deep folds) change as the texels do that look like them and lie
near, so that no border between old and new shows. An image that the row gave pulls the texels that it shows towards
its own colours, beside the prior.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, grid_sample

from pipeline_core.aside import WAITING, elsewhere, promptly
from pipeline_core.cameras import Cameras, orbit
from pipeline_core.config import Texture
from pipeline_core.device import thread_count, upload
from pipeline_core.engine.distill import wait
from pipeline_core.engine.engine import DistillationEngine, values_of
from pipeline_core.engine.jobs import Judged, Progress, Query
from pipeline_core.errors import DataError, DivergedError
from pipeline_core.guidance.prompts import TextConditioning, encode_text
from pipeline_core.guidance.schedules import linear
from pipeline_core.guidance.views import around, draw_cameras
from pipeline_core.picture import SIZE, Picture
from pipeline_core.priors.interface import ImagePrior, PointPrior
from pipeline_core.rendering.visibility import Backend, chosen_backend, visibility
from pipeline_core.texturing.bake import Texels, chart_texels, nearest_texel, view_weight
from pipeline_core.types import TexturedMesh

SUPERSAMPLE = 2
"""Rays a pixel side of the renders shown to the prior. 1 and 4 are within 0.06 dB, as
all of those below are within 0.03 (docs/LOG.md: Constants at half and double)."""
HESITATION = 0.1
"""Weight of "no change" in the mean: a texel that is hardly seen hardly changes, so no edge shows where views end."""
GROUP = 4
"""Rounds whose changes are gathered before they are painted. Painted round by round, a mushroom's error grew from 0.094
to 0.122; gathered by four and shrunk it keeps its sharpness (docs/LOG.md: Meshing and texturing)."""
ALONE = 0.5
"""Trust in a change that one view alone has seen."""
WELL_SEEN = 1.0
"""Texels whose views weigh less than this in total change, for the rest, as similar texels do: one view straight on.
Without this the error of a tinted mushroom is 0.018 for 0.006 (docs/LOG.md: Meshing and texturing)."""
LIKENESS = 1.0
"""Object units that a difference of one in colour is worth when similar texels are looked for."""
ALIKE, KNOWN = 8, 20_000
"""So many most alike texels say how one that is not seen changes, of about so many that are looked through (a bound on
the time of the search)."""
COARSEST = 16
"""Texels a side below which no mip level is made."""


def looks_ahead(device: torch.device) -> bool:
    """Whether the next round's views are rasterised while the prior denoises: where that is not work for the CPU."""
    return device.type == "cuda"


@dataclass(frozen=True)
class View:
    """Cameras, samples a pixel side (``fineness``), the same cameras of so fine pixels; of each sample where in the
    texture it looks (``uv`` [V, H, W, 2]), whether it sees anything (``mask``) and how far away; and how far apart
    samples are (UV)."""

    cameras: Cameras
    fineness: float
    fine: Cameras
    uv: Tensor
    mask: Tensor
    depth: Tensor
    spacing: float


class TextureJob:
    """Texture refinement of one asset as a job of the engine (``engine/jobs.py``). The result is a TexturedMesh.

    One round draws ``settings.views`` cameras, renders, encodes, noises to a share ``strength`` of the schedule,
    takes steps down to zero (one engine step each) and paints the change. ``step`` counts engine steps.
    """

    checkpoint_path: Path | None
    even_over = "sphere"
    """What the cameras' elevations are spread evenly over."""
    fineness: float = SUPERSAMPLE
    """Samples a pixel side of this round's renders."""

    def __init__(
        self,
        textured: TexturedMesh,
        prompt: str,
        settings: Texture,
        *,
        negative_prompt: str = "",
        picture: Picture | None = None,
        seed: int = 0,
        name: str = "",
        checkpoint_path: Path | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        self.name = name or prompt
        self.textured, self.settings = textured, settings
        self.prompt, self.negative_prompt, self.picture = prompt, negative_prompt, picture
        self.checkpoint_path, self.on_progress = checkpoint_path, on_progress
        self.generator = torch.Generator().manual_seed(seed)
        self.rounds = [self._levels(i) for i in range(settings.steps)]
        self.step, self.steps = 0, sum(len(levels) for levels in self.rounds)
        self.round, self.phase, self.change = 0, 0, 0.0
        self._identity = [settings.fingerprint(), prompt, negative_prompt, seed, digest(textured)]
        self._identity += [] if picture is None else [picture.digest]
        size = textured.texture.shape[0]
        texels, nearest = elsewhere(
            texels_of, textured.vertices, textured.faces, textured.uvs, textured.normals, size
        )
        self._nearest = torch.from_numpy(nearest)
        promptly(_load)
        self._position, self._normal = torch.from_numpy(texels.position), torch.from_numpy(texels.normal)
        row, column = texels.index.T
        self.colours = torch.from_numpy(np.ascontiguousarray(textured.texture[row, column]))
        self._before = self.colours.clone()
        # Sums over the views of a group: w * change [3], w * |change|^2, w, w^2.
        self.gathered = torch.zeros(len(self.colours), 6)
        self._broken: list[Tensor] = []  # of each round of a group: its number if its pictures are not finite, else 0
        self._numbers: Callable[[], list[list[float]]] = list  # of what was painted: its change, and those numbers
        self.attention = torch.zeros(len(self.colours))  # total weight of the views that saw each texel

    def _levels(self, index: int) -> list[float]:
        """Noise levels (shares of the schedule) of the DDIM steps of round ``index``, from strength towards zero."""
        strength = linear(self.settings.strength, index / max(self.settings.steps - 1, 1))
        count = max(round(strength * self.settings.denoise_steps), 1)
        return [strength * (count - i) / count for i in range(count)]

    # -- the protocol: see engine/jobs.py ------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    def start(self, image_prior: ImagePrior, point_prior: Callable[[], PointPrior], device: torch.device) -> None:
        self.prior, self.device = image_prior, device
        if self.settings.views % image_prior.num_views:
            raise DataError(
                f"texture.views={self.settings.views} must be a multiple of {image_prior.num_views} "
                "for a multi-view prior"
            )
        self.text: TextConditioning = encode_text(
            image_prior, self.prompt, self.negative_prompt, picture=self.picture,
            view_prompts=self.settings.view_prompts, perp_neg=self.settings.perp_neg,
            front_words=self.settings.front_words, distilled=self.settings.distilled_guidance,
        )  # fmt: skip
        identity = [*self._identity, image_prior.model_id, str(image_prior.dtype)]
        self.fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        for name in ("_nearest", "_position", "_normal", "_before", "colours", "attention", "gathered"):
            setattr(self, name, getattr(self, name).to(device))
        counts = self.picture is not None and self.settings.reference_weight
        self._shown = self._look_up(self.picture) if self.picture is not None and counts else None
        self.x: Tensor | None = None
        self.clean: Tensor | None = None
        self._ahead: tuple[Future[View], Tensor] | None = None
        if looks_ahead(device) and self.rounds:
            self._look_ahead()

    def draw(self) -> Tensor | None:
        if self.phase:
            return None
        if self._ahead is None:
            self._look_from(self._view(*self._draw_round(self.generator)))
        else:
            view, state = self._ahead
            self._look_from(view.result())
            self.generator.set_state(state)
            self._ahead = None
        return self._render()

    def ask(self, latents: Tensor | None) -> Query:
        t = self._t(self.phase)
        if latents is not None:
            self.clean = latents.detach()
            noise = upload(torch.randn(latents.shape, generator=self.generator), self.device)
            self.x = self.prior.add_noise(self.clean, noise, t)
            if looks_ahead(self.device) and self.round + 1 < len(self.rounds):
                self._look_ahead()
        assert self.x is not None
        scale = self.settings.guidance_scale
        return Query(self.text.rows(self.x, t, *self.angles, scale=scale))

    def receive(self, image: Tensor | Judged | None, points: Tensor | None) -> Tensor | None:
        assert isinstance(image, Tensor) and self.x is not None and self.clean is not None
        guided, _ = self.text.guide(image.float(), *self.angles, scale=self.settings.guidance_scale)
        x, t = self.x.float(), self._t(self.phase)
        if self.phase + 1 < len(self.rounds[self.round]):
            self.x = self.prior.step(x, guided, t, self._t(self.phase + 1))
            return None
        x0, _ = self.prior.x0_and_noise(x, guided, t)
        return torch.cat([x0, self.clean])

    def loss(self, images: Tensor | None) -> None:
        if images is None:
            return
        denoised, same = images.float().chunk(2)
        self._gather(denoised - same)
        if (self.round + 1) % GROUP == 0 or self.round + 1 == len(self.rounds):
            self._paint()

    def update(self) -> None:
        self._take_numbers()
        self.step, self.phase = self.step + 1, self.phase + 1
        if self.phase == len(self.rounds[self.round]):
            self.round, self.phase, self.x, self.clean = self.round + 1, 0, None, None

    def report(self) -> dict[str, float]:
        return {"loss": self.change}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {name: getattr(self, name) for name in ("colours", "attention", "gathered")}
        tensors["generator"] = self.generator.get_state()
        if self.phase:
            tensors |= {"x": self.x, "clean": self.clean, "azimuth": self.cameras.azimuth}
            tensors |= {"viewmats": self.cameras.viewmats, "Ks": self.cameras.Ks, "elevation": self.cameras.elevation}
        values = {"step": self.step, "round": self.round, "phase": self.phase, "change": self.change}
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}, values

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        for name in ("colours", "attention", "gathered"):
            setattr(self, name, tensors[name].to(self.device, copy=True))
        self.generator.set_state(tensors["generator"])
        self.step, self.round, self.phase, self.change = (values[k] for k in ("step", "round", "phase", "change"))
        self.x = self.clean = self._ahead = None
        self._broken, self._numbers = [], list
        if self.phase:
            self.x, self.clean = (tensors[k].to(self.device, copy=True) for k in ("x", "clean"))
            size = self.settings.resolution
            viewmats, Ks, azimuth, elevation = (tensors[k] for k in ("viewmats", "Ks", "azimuth", "elevation"))
            self._look_from(self._view(Cameras(viewmats, Ks, azimuth, elevation, size, size), self.fineness))

    def result(self) -> TexturedMesh:
        share = self.attention / WELL_SEEN
        spread = elsewhere(spread_change, self._before, self.colours, self._position, share)
        self.colours = spread.to(self.device)
        return self._finished()

    # -- parts ---------------------------------------------------------------------------------------------------

    def _t(self, phase: int) -> Tensor:
        """Share of the schedule [V] of this round's step ``phase``."""
        level = torch.tensor([self.rounds[self.round][phase]], dtype=torch.float64)
        return torch.full((len(self.cameras),), float(self.prior.nearest(level)), device=self.device)

    def _draw_round(self, generator: torch.Generator) -> tuple[Cameras, float]:
        """The next round's cameras and fineness."""
        s = self.settings
        elevation = s.elevation if self.picture is None else around(s.elevation, self.picture.elevation)
        cameras = draw_cameras(
            s.views, s.resolution, generator, elevation=elevation, distance=s.distance, fovy=s.fovy,
            even_over=self.even_over, group=self.prior.num_views,
        )  # fmt: skip
        return cameras, self.fineness

    def _look_up(self, picture: Picture) -> tuple[Tensor, Tensor]:
        """The colours [T, 3] that ``picture`` has of the texels, and the weight [T, 1] with which it shows them."""
        s, elevation = self.settings, torch.tensor([picture.elevation])
        cameras = orbit(torch.zeros(1), elevation, size=SIZE, distance=s.distance, fovy=s.fovy)
        view = self._view(cameras, self.fineness)
        depth, fine = view.depth.to(self.device), view.fine.to(self.device)
        seen, uv, w = view_weight(self._position, self._normal, depth[0], fine, 0)
        rgba = torch.from_numpy(picture.rgba).to(self.device).permute(2, 0, 1)[None] / 255
        layers = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)  # what is transparent has no colour
        sample = grid_sample(layers, uv[None, None], align_corners=False, padding_mode="border")[0, :, 0].T
        colours, weight = self.colours.clone(), self.colours.new_zeros(len(self.colours), 1)
        colours[seen] = sample[:, :3] / sample[:, 3:].clamp(min=0.5)
        weight[seen] = w[:, None] * (2 * sample[:, 3:] - 1).clamp(min=0)
        return colours, weight

    def _look_ahead(self) -> None:
        """Begin to rasterise the next round's views. The job's generator stands still until they are used."""
        generator = torch.Generator()
        generator.set_state(self.generator.get_state())
        self._ahead = WAITING.submit(self._view, *self._draw_round(generator)), generator.get_state()

    def _samples(self, fineness: float) -> int:
        """Samples a side of a render."""
        return round(fineness * self.settings.resolution)

    def _view(self, cameras: Cameras, fineness: float) -> View:
        """Rasterise the mesh for ``cameras``, at the samples of a render of this ``fineness``."""
        pixels = self._samples(fineness) * cameras.width // self.settings.resolution
        k = pixels / cameras.width
        scale = torch.tensor([[k, 1, k], [1, k, k], [1, 1, 1]], dtype=torch.float32)
        fine = Cameras(cameras.viewmats, cameras.Ks * scale, cameras.azimuth, cameras.elevation, pixels, pixels)
        mesh, backend = self.textured, chosen_backend(self.device)
        if backend != "numba":  # that one needs the GPU
            return View(cameras, fineness, fine, *samples_of(mesh.vertices, mesh.faces, mesh.uvs, fine, backend))
        return View(cameras, fineness, fine, *promptly(samples_of, mesh.vertices, mesh.faces, mesh.uvs, fine))

    def _look_from(self, view: View) -> None:
        cameras = view.cameras
        self._uv, self._mask, self._depth = (upload(part, self.device) for part in (view.uv, view.mask, view.depth))
        self._fine, self._spacing, self.fineness = view.fine.upload(self.device), view.spacing, view.fineness
        self.cameras, self.angles = cameras, (cameras.azimuth, cameras.elevation)  # words are chosen on the CPU

    def _texture(self) -> Tensor:
        """The whole texture [S, S, 3]: every texel outside the charts is its nearest neighbour inside."""
        return self.colours[self._nearest]

    def _finished(self) -> TexturedMesh:
        t, texture = self.textured, self._texture().cpu().numpy()
        return TexturedMesh(t.vertices, t.faces, t.normals, t.uvs, texture, lightmap_uvs=t.lightmap_uvs)

    def _on_background(self, colour: Tensor) -> Tensor:
        """Samples ``colour`` [V, 3, H, W], and the prior's background where they miss the mesh."""
        background = upload(torch.tensor(self.prior.background or (1.0, 1.0, 1.0)), self.device).reshape(1, 3, 1, 1)
        mask = self._mask[:, None].float()
        return colour * mask + background * (1 - mask)

    def _render(self) -> Tensor:
        """Images [V, 3, H, W] on the prior's background."""
        texture = sharp_enough(self._texture().permute(2, 0, 1)[None], self._spacing)
        texture = texture.expand(len(self.cameras), -1, -1, -1)
        colour = grid_sample(texture, self._uv * 2 - 1, align_corners=False, padding_mode="border")
        return avg_pool2d(self._on_background(colour), SUPERSAMPLE)

    def _gather(self, change: Tensor) -> None:
        """Note ``change`` [V, 3, h, w] at the texels that see it."""
        self._broken.append((self.round + 1) * (~change.isfinite().all()))  # looked at when it is painted
        coverage = adaptive_avg_pool2d(self._mask[:, None].float(), (change.shape[-2], change.shape[-1]))
        layers = torch.cat([change, coverage], dim=1)
        for view in range(len(self.cameras)):
            seen, uv, w = view_weight(self._position, self._normal, self._depth[view], self._fine, view)
            sample = grid_sample(
                layers[view][None], uv[None, None], align_corners=False, padding_mode="border"
            )[0, :, 0].T  # fmt: skip
            # Pixels on the outline hold background too, and what the prior thinks of the outline: not of the texture.
            w = (w * (2 * sample[:, 3] - 1).clamp(min=0))[:, None]
            colour = sample[:, :3]
            energy = colour.square().sum(dim=1, keepdim=True)
            self.gathered.index_add_(0, seen, torch.cat([w * colour, w * energy, w, w * w], dim=1))

    def _paint(self) -> None:
        """Add the gathered changes to the texture, and begin a new group."""
        weight = self.gathered[:, 4]
        delta = self.settings.rate * agreed_change(self.gathered)
        self._numbers, self._broken = values_of([torch.stack([delta.abs().mean(), *self._broken])]), []
        if self._shown is not None:
            delta, weight = self._beside_the_picture(delta, weight, *self._shown)
        self.colours = (self.colours + delta).clamp(0, 1)
        self.attention += weight
        self.gathered = torch.zeros_like(self.gathered)

    def _take_numbers(self) -> None:
        """Those of this step: the one wait for a GPU, which has the losses of all jobs and the backward by now."""
        for change, *broken in self._numbers():
            self.change = change
            if any(broken) or not math.isfinite(change):  # the latter after a checkpoint within the group
                first = round(next(filter(None, broken), self.round + 1))
                raise DivergedError(f"{self.name}: the prior's pictures in round {first} are not finite")
        self._numbers = list

    def _beside_the_picture(self, delta: Tensor, weight: Tensor, shown: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the prior's change ``delta`` [T, 3] of ``weight`` [T] and that towards the picture's colours."""
        w = self.settings.reference_weight * (self.round % GROUP + 1) * w
        whole = weight[:, None] + w
        towards = self.settings.rate * (shown - self.colours)
        return (weight[:, None] * delta + w * towards) / whole.clamp(min=1e-12), whole[:, 0]


def agreed_change(gathered: Tensor) -> Tensor:
    """Change [T, 3] that the views agree on, from their sums [T, 6]: w c (3), w |c|^2, w, w^2.

    The weighted mean times mean^2 / (mean^2 + variance / (n - 1)), n = (sum w)^2 / sum w^2 the effective number of
    views; one view alone has no variance, and is trusted by :data:`ALONE`.
    """
    total, energy, weight, square = gathered[:, :3], gathered[:, 3], gathered[:, 4], gathered[:, 5]
    mean = total / weight.clamp(min=1e-12)[:, None]
    power = mean.square().sum(dim=1)
    views = weight.square() / square.clamp(min=1e-20)
    variance = (energy / weight.clamp(min=1e-12) - power).clamp(min=0)
    error = variance / (views - 1).clamp(min=1e-3)
    trust = power / (power + error).clamp(min=1e-12) * torch.where(views > 1.01, 1.0, ALONE)
    return (trust * weight / (weight + HESITATION))[:, None] * mean


def texels_of(
    vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, normals: np.ndarray, size: int
) -> tuple[Texels, np.ndarray]:
    """The texels of an atlas, and which of them is nearest to each place of the texture."""
    texels = chart_texels(vertices, faces, uvs, normals, size)
    return texels, nearest_texel(texels)


def _load() -> None:
    """Have a process that rasterises views load what that takes: the GPU would wait for it in the first round."""
    corners = np.eye(3, dtype=np.float32)
    samples_of(corners, np.arange(3)[None], corners[:, :2], orbit(torch.zeros(1), torch.zeros(1), size=8))


def samples_of(
    vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, fine: Cameras, backend: Backend = "numba"
) -> tuple[Tensor, Tensor, Tensor, float]:
    """``uv``, ``mask``, ``depth`` and ``spacing`` of a :class:`View`."""
    seen = visibility(vertices, faces, uvs, fine, backend=backend)
    return seen.uv, seen.mask, seen.depth, spacing(seen.uv, seen.mask)


def spacing(uv: Tensor, mask: Tensor) -> float:
    """Median distance of neighbouring samples ``uv`` [V, H, W, 2] where ``mask`` [V, H, W]; 0 where there are none."""
    step = (uv[:, :, 1:] - uv[:, :, :-1]).norm(dim=-1)[mask[:, :, 1:] & mask[:, :, :-1]]
    return float(step.median()) if len(step) else 0.0


def sharp_enough(texture: Tensor, apart: float) -> Tensor:
    """The mip level of ``texture`` [1, 3, S, S] at which samples so far ``apart`` in UV are a texel apart."""
    texels = apart * texture.shape[-1]
    while texels > 2 and texture.shape[-1] > COARSEST:
        texture, texels = avg_pool2d(texture, 2), texels / 2
    return texture


def spread_change(before: Tensor, after: Tensor, position: Tensor, share: Tensor) -> Tensor:
    """``after`` [T, 3], with texels of ``share`` [T] < 1 changed by that share of their own change, and for the rest
    by the mean change of the :data:`ALIKE` most alike texels of share 1.

    Alike = near in position [T, 3] and in colour ``before`` [T, 3] together.
    """
    hidden, known = (share < 1).nonzero()[:, 0], (share >= 1).nonzero()[:, 0]
    if not len(hidden) or not len(known):
        return after
    known = known[:: max(len(known) // KNOWN, 1)]
    place = torch.cat([position, LIKENESS * before], dim=1).cpu().numpy()
    tree = cKDTree(place[known.cpu().numpy()])
    _, alike = tree.query(place[hidden.cpu().numpy()], k=min(ALIKE, len(known)), workers=thread_count())
    alike = known[torch.from_numpy(alike.reshape(len(hidden), -1)).to(known.device)]
    change, own = after - before, share[hidden, None]
    result = after.clone()
    result[hidden] = (before[hidden] + own * change[hidden] + (1 - own) * change[alike].mean(dim=1)).clamp(0, 1)
    return result


def digest(textured: TexturedMesh) -> str:
    """First 16 hex digits of the sha256 of geometry and texture."""
    sha = hashlib.sha256()
    for array in (textured.vertices, textured.faces, textured.uvs, textured.texture):
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:16]


def texture_job(textured: TexturedMesh, prompt: str, settings: Texture, **options: Any) -> TextureJob:
    """What refines ``textured`` by ``settings.method``: painted, or fitted as published (``fit.py``)."""
    from pipeline_core.texturing.fit import FitJob

    return (FitJob if settings.method == "fit" else TextureJob)(textured, prompt, settings, **options)


def refine_texture(
    textured: TexturedMesh,
    prompt: str,
    settings: Texture,
    engine: DistillationEngine,
    *,
    negative_prompt: str = "",
    picture: Picture | None = None,
    seed: int = 0,
    name: str = "",
    on_progress: Progress | None = None,
    checkpoint_path: Path | None = None,
) -> TexturedMesh:
    """Refine the texture of ``textured`` on ``engine``; blocks until done, other threads' calls share its batches.

    Geometry and UVs stay as they are. Raises DivergedError when the prior answers NaN.
    """
    job = texture_job(
        textured, prompt, settings, negative_prompt=negative_prompt, picture=picture, seed=seed, name=name,
        checkpoint_path=checkpoint_path, on_progress=on_progress,
    )  # fmt: skip
    return wait(engine.submit(job))
