"""Score distillation onto the Gaussians of one asset, as a job of the engine (DreamGaussian; GSGen)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline_core.composition import Composed, subjects
from pipeline_core.config import Distill
from pipeline_core.device import upload
from pipeline_core.engine.adam import step_each
from pipeline_core.engine.jobs import Judged, Progress, Query
from pipeline_core.engine.reference import ReferenceView
from pipeline_core.engine.scenes import Answer, Scene, render
from pipeline_core.engine.shading import BESIDE_CAMERA, TOWARDS_CAMERA, Shading, side_lights
from pipeline_core.errors import DataError, DivergedError
from pipeline_core.gaussians.strategies import GradientStats, Optimizers, Params, fill_gaps, grow, prune
from pipeline_core.guidance import schedules
from pipeline_core.guidance.point_sds import farthest, point_guide, point_rows, subset
from pipeline_core.guidance.prompts import encode_texts, text_of_all
from pipeline_core.guidance.schedules import log_linear, resolution
from pipeline_core.guidance.sds import sds_gradient, sds_loss
from pipeline_core.guidance.variants import Views
from pipeline_core.guidance.views import around, draw_backgrounds, draw_cameras
from pipeline_core.picture import Picture
from pipeline_core.priors.interface import ImagePrior, NoiseProcess, PointPrior, kinds_of
from pipeline_core.types import Gaussians, sh0_to_rgb

CURVE_SAMPLES = 50
"""Points of the loss curves, and how often a stage looks at its numbers: each look waits for the device."""
NOT_FINITE = "{} of the Gaussians are not finite"


class GaussianJob:
    """One stage of distillation. The result is ``(Gaussians on the CPU, curves)``.

    ``curves`` has one list per name, sampled about 50 times: ``step``, ``loss_image`` and ``loss_points`` (means since
    the sample before), ``gaussians``; and ``events`` and the prior's ``precision``, which decides the last bits.
    ``seed`` feeds the job's only source of randomness, a CPU generator. ``until`` = leave after so many steps, with the
    Gaussians as they are then; the same job without it goes on from the checkpoint. With a ``picture`` the prior is
    shown that in place of the prompt, its view has a loss of its own (``engine/reference.py``), and ``curves`` a
    ``loss_reference``. Of :class:`Composed` Gaussians ``stage.part_views`` of the views see one part alone and ask by
    its prompt, and so is the result.
    """

    def __init__(
        self,
        gaussians: Gaussians,
        prompt: str,
        stage: Distill,
        *,
        negative_prompt: str = "",
        picture: Picture | None = None,
        seed: int = 0,
        until: int | None = None,
        name: str = "",
        checkpoint_path: Path | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        self.name = name or prompt
        self.prompt, self.negative_prompt, self.stage = prompt, negative_prompt, stage
        self.picture = picture
        self.step, self.steps = 0, stage.steps
        self.until = stage.steps if until is None else min(until, stage.steps)
        self.checkpoint_path, self.on_progress = checkpoint_path, on_progress
        self.generator = torch.Generator().manual_seed(seed)
        self.curves: dict[str, list[float]] = {"step": [], "loss_image": [], "loss_points": [], "gaussians": []}
        self.events = {"cloned": 0, "split": 0, "filled": 0, "pruned": 0}
        self.info: dict[str, Any] = {}  # of this step's render
        self.posterior: list[int] = []  # seeds of its latents, where they are samples
        self.judged: Judged | None = None  # what this step's views came to
        self.point_prediction: Tensor | None = None
        self.x = torch.zeros(0)  # what the point prior sees of this step, with its graph
        self._found: tuple[Tensor, list[Tensor]] | None = None  # whose each Gaussian is, and those of each part
        self.stats: GradientStats
        self.layout = gaussians.layout if isinstance(gaussians, Composed) else None
        self._initial = gaussians.detach()
        self._identity = [stage.fingerprint(), prompt, negative_prompt, seed, digest(gaussians)]
        if self.layout is not None:
            self._identity.append(self.layout.to_json())
        if picture is not None:
            self._identity.append(picture.digest)
            self.curves["loss_reference"] = []

    # -- the protocol: see engine/jobs.py ------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        return self.step >= self.until

    @property
    def complete(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.steps

    def start(self, image_prior: ImagePrior, point_prior: Callable[[], PointPrior], device: torch.device) -> None:
        self.prior, self.device = image_prior, device
        if self.stage.views % image_prior.num_views:
            raise DataError(
                f"views={self.stage.views} must be a multiple of {image_prior.num_views} "
                f"for the multi-view prior {image_prior.model_id}"
            )
        if self.stage.shown != "unlit" and self._initial.shN.shape[1]:
            raise DataError(f"shown={self.stage.shown!r} needs colours alike from everywhere: set init.sh_degree to 0")
        prompts = [self.prompt, *(self.layout.prompts if self.layout else ())]
        self.texts = encode_texts(
            image_prior, prompts, self.negative_prompt, picture=self.picture,
            view_prompts=self.stage.view_prompts, perp_neg=self.stage.perp_neg,
            turns=self.stage.view_turns, front_words=self.stage.front_words, shown=self.stage.shown,
            distilled=self.stage.distilled_guidance and not self.stage.guidance_rescale,
        )  # fmt: skip
        self.precision = str(image_prior.dtype).removeprefix("torch.")
        models = [image_prior.model_id, None]
        self.points = point_prior() if self.stage.point_weight else None
        if self.points is not None:
            models[1] = self.points.model_id
        identity = json.dumps([*self._identity, *models, self.precision])
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._start_parameters()
        if self.points is not None:
            self.point_conditions = [self._point_condition(self.points, subject) for subject in self._all()]

    def _start_parameters(self) -> None:
        initial = self._initial.to(self.device).tensors()
        self.params: Params = {name: torch.nn.Parameter(value.clone()) for name, value in initial.items()}
        rates, fused = self.stage.lr.model_dump(), self.device.type in ("cpu", "cuda")
        self.optimizers: Optimizers = {
            name: torch.optim.Adam([leaf], lr=rates[name], eps=1e-15, fused=fused)
            for name, leaf in self.params.items()
            if leaf.numel()
        }
        if isinstance(self._initial, Composed):  # follows its Gaussian wherever they are kept, grown and dropped
            self.params["part"] = torch.nn.Parameter(self._initial.part.to(self.device), requires_grad=False)
        self._new_stats()
        self.reference = ReferenceView(self.picture, self.stage, self.device) if self.picture is not None else None
        # image loss, point loss, finite rows, steps, and the reference's loss where there is one; since last look
        self._sums = torch.zeros(4 if self.picture is None else 5, device=self.device)
        self._zero, self._one = self._sums.new_zeros(()), self._sums.new_ones(())

    def draw(self) -> Tensor | None:
        scene = self.scene()
        return None if scene is None else self.show(*render_scene(scene))

    def scene(self) -> Scene | None:
        if not self.stage.image_weight:
            return None
        s, size = self.stage, resolution(self.stage.resolution, self.progress)
        elevation = s.elevation if self.picture is None else around(s.elevation, self.picture.elevation)
        cameras = draw_cameras(
            s.views, size, self.generator, elevation=elevation, distance=s.distance, framing=s.framing, fovy=s.fovy,
            fovy_jitter=s.fovy_jitter, focal=s.focal, even_over=s.even_over, target_jitter=s.target_jitter,
            group=self.prior.num_views,
        )  # fmt: skip
        if s.latents == "sample":
            self.posterior = torch.randint(2**31, (len(cameras),), generator=self.generator).tolist()
        self.angles = cameras.azimuth, cameras.elevation  # stay on the CPU: view words are chosen by them
        seen = self._subjects(s.views, self.prior.num_views)
        self.text = self.texts[0] if self.layout is None else text_of_all([self.texts[_number(k)] for k in seen])
        cameras = cameras if self.layout is None else self.layout.moved(cameras, seen)
        backgrounds = draw_backgrounds(
            s.background, self.prior.background, len(cameras), self.generator, group=self.prior.num_views
        )
        self.Ks = cameras.Ks
        groups = tuple((self._rows(k), [v for v, one in enumerate(seen) if one == k]) for k in dict.fromkeys(seen))
        return Scene(
            self.params, cameras, backgrounds, self._shading(len(cameras)),
            groups if any(rows is not None for rows, _ in groups) else (),
        )  # fmt: skip

    def _shading(self, views: int) -> Shading | None:
        if self.stage.shown == "unlit":
            return None
        lambert = not kinds_of(self.prior)
        lights = side_lights(views, self.generator, BESIDE_CAMERA if lambert else TOWARDS_CAMERA)
        return Shading(self.stage.shown, lights, lambert)

    def show(self, images: Tensor, info: dict[str, Any]) -> Tensor:
        info["Ks"] = self.Ks
        self.info = info
        return images

    def ask(self, latents: Tensor | None) -> Query:
        return Query(points=self._ask_points(), views=None if latents is None else self._views(latents))

    def receive(self, image: Tensor | Judged | None, points: Tensor | None) -> None:
        if points is not None:
            self.point_prediction = points
        if isinstance(image, Judged):
            self.judged = image

    def loss(self, images: Tensor | None) -> Tensor:
        zero, one = self._zero, self._one
        image, finite = (self.judged.loss, self.judged.finite) if self.judged is not None else (zero, one)
        points = self._point_loss() if self.point_prediction is not None else zero
        total = self.stage.image_weight * image
        if self.point_prediction is not None:
            total = total + self.stage.point_weight * points
        parts = [image.detach(), points.detach(), finite, one]
        if self.reference is not None:
            reference = self.reference.loss(self.params, (self.step + 1) / self.steps)
            total, parts = total + reference, [*parts, reference.detach()]
        self._sums += torch.stack(parts)
        return total

    def update(self) -> None:
        step_each(self.due())
        numbers = self.settle()
        if numbers is not None:
            self.look(numbers.tolist())

    def due(self) -> list[torch.optim.Optimizer]:
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = self._rate(name)
        return list(self.optimizers.values())

    def settle(self) -> Tensor | None:
        if self.stage.image_weight:
            self.stats.accumulate(self.info)
        self.forget()
        self.step += 1
        self._densify()
        if self.step % max(self.steps // CURVE_SAMPLES, 1) and not self.complete:
            return None
        finite_leaves = torch.stack([value.isfinite().all() for value in self.params.values()])
        return torch.cat([self._sums, finite_leaves])

    def forget(self) -> None:
        self.info, self.judged, self.point_prediction, self.x = {}, None, None, torch.zeros(0)

    def look(self, numbers: list[float]) -> None:
        (image, points, finite, steps, *reference), leaves = numbers[: len(self._sums)], numbers[len(self._sums) :]
        self._sums.zero_()
        steps = max(steps, 1.0)
        broken = [name for name, is_finite in zip(self.params, leaves, strict=True) if not is_finite]
        if broken or finite == 0.0:
            what = NOT_FINITE.format(", ".join(broken)) if broken else "the prior predicts no finite noise"
            raise self._diverged(what)
        sample = {"step": self.step, "loss_image": image / steps, "loss_points": points / steps}
        if reference:
            sample["loss_reference"] = reference[0] / steps
        for name, value in {**sample, "gaussians": len(self.params["means"])}.items():
            self.curves[name].append(value)

    def report(self) -> dict[str, float]:
        losses = self.curves["loss_image" if self.stage.image_weight else "loss_points"]
        loss = losses[-1] if losses else float("nan")
        return {"loss": loss, "gaussians": float(len(self.params["means"]))}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"params.{name}": value for name, value in self.params.items()}
        for name, optimizer in self.optimizers.items():
            tensors |= {f"adam.{name}.{key}": value for key, value in optimizer.state[self.params[name]].items()}
        tensors |= {f"stats.{name}": value for name, value in self.stats.tensors().items()} | {"sums": self._sums}
        tensors["generator"] = self.generator.get_state()
        return (
            {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()},
            {"step": self.step, "events": dict(self.events), "curves": {k: list(v) for k, v in self.curves.items()}},
        )

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.forget()
        for name, optimizer in self.optimizers.items():
            optimizer.state.clear()
            leaf = torch.nn.Parameter(tensors[f"params.{name}"].to(self.device, copy=True))
            prefix = f"adam.{name}."
            moments = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            if moments:
                optimizer.state[leaf] = {k: v.to(self.device, copy=True) for k, v in moments.items()}
            optimizer.param_groups[0]["params"] = [leaf]
            self.params[name] = leaf
        for name in self.params.keys() - self.optimizers.keys():
            value = tensors[f"params.{name}"].to(self.device, copy=True)
            self.params[name] = torch.nn.Parameter(value, requires_grad=value.is_floating_point())
        self.stats = GradientStats(
            **{name: tensors[f"stats.{name}"].to(self.device, copy=True) for name in self.stats.tensors()}
        )
        self._sums = tensors["sums"].to(self.device, copy=True)
        self.generator.set_state(tensors["generator"])
        self.step, self.events = values["step"], dict(values["events"])
        self.curves = {k: list(v) for k, v in values["curves"].items()}

    def result(self) -> tuple[Gaussians, dict[str, Any]]:
        if self.complete:
            self.events["pruned"] += prune(self.params, self.optimizers, self.stage.densify, last=True)
        elif broken := [name for name, value in self.params.items() if not value.isfinite().all()]:
            raise self._diverged(NOT_FINITE.format(", ".join(broken)))
        values = {name: value.detach().to("cpu", copy=True) for name, value in self.params.items()}
        gaussians = Gaussians(**values) if self.layout is None else Composed(**values, layout=self.layout)
        for subject in self._all()[1:]:
            self._rows(subject)  # none is left empty
        return gaussians, {**self.curves, "events": self.events, "precision": self.precision}

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"{self.name}: at step {self.step} of {self.steps} {what}: try another seed or lower rates"
        )

    # -- parts ---------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """0 at the first step, 1 at the last."""
        return self.step / max(self.steps - 1, 1)

    def _draw_t(
        self, prior: NoiseProcess, count: int, window: tuple[tuple[float, float], tuple[float, float]]
    ) -> Tensor:
        """Shares of the schedule of ``prior`` [count], on the CPU, from the ``window`` (bottom, top) of this step."""
        low, high = schedules.window(*window, self.progress, self.stage.t_schedule, self.stage.t_clip)
        return prior.draw_t(low, high, count, self.generator)

    def _views(self, latents: Tensor) -> Views:
        s = self.stage
        level = self._draw_t(self.prior, len(latents), (s.t_min, s.t_max))
        noise = torch.randn(latents.shape, generator=self.generator)
        clip = schedules.linear((s.grad_clip, s.grad_clip_last or s.grad_clip), self.progress)
        return Views(self.prior, self.text, s, latents, noise, level, self.angles, self.generator, clip)

    def _ask_points(self) -> Any:
        if self.points is None:
            return None
        s = self.stage
        seen = self._subjects(s.point_draws)
        self.x = torch.stack([self._cloud(self.points, subject) for subject in seen])
        window = s.point_t_min or s.t_min, s.point_t_max or s.t_max
        self.point_t = upload(self._draw_t(self.points, len(self.x), window), self.device)
        self.point_noise = upload(torch.randn(self.x.shape, generator=self.generator), self.device)
        rows = point_rows(
            self.points, self.x, self.point_t, self.point_noise, self.point_conditions[0], s.point_guidance_scale
        )
        if self.layout is not None:
            own = torch.stack([self.point_conditions[_number(subject)] for subject in seen], dim=1)  # [2, draws, ...]
            rows = replace(rows, condition=own[: len(rows) // len(seen)].flatten(0, 1))
        self.x_t = rows.x[: len(self.x)]  # the others are the same clouds, for guidance
        return rows

    def _cloud(self, prior: PointPrior, subject: int | None) -> Tensor:
        """Some of the Gaussians, as a cloud [C, P] that the point prior can judge."""
        means, opacities, sh0 = self._of(subject)
        count = prior.num_points
        if self.stage.point_subset == "farthest":
            chosen = farthest(means, count, self.generator)
        else:
            chosen = subset(opacities.sigmoid(), count, self.generator)
        colours = sh0_to_rgb(sh0[chosen])
        colours = colours if self.stage.point_colours else colours.detach()
        return prior.to_model(means[chosen] * self.stage.point_scale, colours)

    @torch.no_grad()
    def _point_condition(self, prior: PointPrior, subject: int | None) -> Tensor:
        """What the point prior is told of the whole or of a part, as it is now [2, ...]."""
        means, _, sh0 = self._of(subject)
        prompt = self.prompt if subject is None or self.layout is None else self.layout.prompts[subject]
        return prior.encode_object(prompt, means * self.stage.point_scale, sh0_to_rgb(sh0).clamp(0, 1))

    def _all(self) -> list[int | None]:
        """The whole (None), and every part."""
        return [None, *range(len(self.layout) if self.layout is not None else 0)]

    def _subjects(self, count: int, group: int = 1) -> list[int | None]:
        """What each of ``count`` views of this step sees, alike in groups of ``group``."""
        if self.layout is None:
            return [None] * count
        chosen = subjects(self.step, count // group, self.stage.part_views, len(self.layout))
        return [each for each in chosen for _ in range(group)]

    def _rows(self, subject: int | None) -> Tensor | None:
        """Numbers of a part's Gaussians; None = all. Raises DivergedError where it has none left."""
        if subject is None:
            return None
        part = self.params["part"]
        if self._found is None or self._found[0] is not part:  # to look for them waits for a GPU
            self._found = part, [part.eq(k).nonzero().squeeze(1) for k in range(len(self._all()) - 1)]
        rows = self._found[1][subject]
        if not len(rows):
            raise self._diverged(f"none of the Gaussians of parts[{subject}] is left")
        return rows

    def _of(self, subject: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Means, in the part's own frame where it is one, raw opacities, and harmonics of the whole or a part."""
        means, opacities, sh0 = (self.params[name] for name in ("means", "opacities", "sh0"))
        rows = self._rows(subject)
        if rows is None or subject is None or self.layout is None:
            return means, opacities, sh0
        return self.layout.own(subject, means[rows]), opacities[rows], sh0[rows]

    def _point_loss(self) -> Tensor:
        assert self.point_prediction is not None and self.points is not None
        guided = point_guide(self.point_prediction.float(), self.stage.point_guidance_scale)
        _, eps = self.points.x0_and_noise(self.x_t, guided, self.point_t)
        gradient, _ = sds_gradient(eps, self.point_noise, self.points.weight(self.point_t, "sds"))
        return sds_loss(self.x, gradient)

    def _rate(self, name: str) -> float:
        lr = self.stage.lr
        start = getattr(lr, name)
        end = {"means": lr.means_final, "scales": lr.scales_final}.get(name, start * lr.final_share)
        return log_linear(start, end, self.progress, lr.decay_until)

    def _densify(self) -> None:
        settings = self.stage.densify
        due = settings.every and self.step % settings.every == 0 and self.step >= settings.start
        if self.complete and not settings.last:
            return
        if due and self.step <= settings.stop * self.steps:
            filled = fill_gaps(self.params, self.optimizers, settings) if settings.compactness else 0
            gradient = torch.nn.functional.pad(self.stats.mean(), (0, filled))  # nobody has seen the new ones
            counts = grow(self.params, self.optimizers, gradient, settings, self.generator)
            for kind, count in {**counts, "filled": filled}.items():
                self.events[kind] += count
        if due or (settings.prune_every and self.step % settings.prune_every == 0):
            stats = None if due else self.stats  # at an event they are of those before it
            self.events["pruned"] += prune(self.params, self.optimizers, settings, stats=stats)
        if due:
            self._new_stats()

    def _new_stats(self) -> None:
        spread, count = self.stage.densify.prune_spread > 0, len(self.params["means"])
        self.stats = GradientStats.zeros(count, self.device, spread=spread)


def digest(gaussians: Gaussians) -> str:
    """First 16 hex digits of the sha256 of all raw tensors."""
    sha = hashlib.sha256()
    labels = [gaussians.part] if isinstance(gaussians, Composed) else []
    for value in [*gaussians.tensors().values(), *labels]:
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def _number(subject: int | None) -> int:
    """Place among the whole and the parts."""
    return 0 if subject is None else subject + 1


def render_scene(scene: Scene) -> Answer:
    """Images [V, 3, H, W] of one scene, and its info, whose ``means2d`` keeps its gradient."""
    if scene.groups:
        return scene.together([render_scene(each) for each in scene.apart()])
    device, shading = scene.params["means"].device, scene.shading
    if shading is not None:
        shading = replace(shading, lights=upload(shading.lights, device))
    colors, _, info = render(scene.params, scene.cameras.upload(device), upload(scene.backgrounds, device), shading)
    if info["means2d"].requires_grad:
        info["means2d"].retain_grad()
    return colors.permute(0, 3, 1, 2), info
