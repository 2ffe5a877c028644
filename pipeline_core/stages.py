"""The table of stages: what an asset goes through, in order, one row a stage.

Everything that names stages derives from it: keys and folders, tasks and their time limits, progress, the farm's
estimates, the catalogue's order. Files hold a stage's name and never its place, so a row may be put anywhere below its
upstream.

To add a stage: its function in ``pipeline_core``, its task in ``tasks/<name>.py``, its row here, its test.
Loads neither torch nor Prefect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from pipeline_core.config import Recipe, Section


@dataclass(frozen=True)
class Stage:
    """One row.

    Args:
        name: folder under ``stages/``, task, and what the catalogue calls it.
        version: raised when the stage's code comes to make something else; what was made before is then made again.
        section: the section of the recipe that it reads; empty = the whole recipe.
        upstream: the stages whose outputs its task is given, in the order of the task's arguments.
        keyed_by: those of them whose keys enter its own key, where not all do: the others' are in these already.
        reads: what of the request enters its key: ``prompt``, ``negative``, ``seed``, ``image`` and ``init_file``
            where a row names one, ``parts`` where it has them, ``metres`` where the texture's size depends on them,
            ``size`` where the row gives ``size_m``, ``height`` where it gives another than a metre, ``audition`` (how
            candidates are compared), ``spec`` (all of it but its contract), ``contract`` where it has one.
        models: kinds of model that it uses, where its section does not leave them out (``Section.uses``).
        weight: its share of an asset's work, roughly; only the estimate of the time left uses it.
        hours: longest time that one attempt may take.
        outputs: files that every attempt writes.
        shown: whether the gallery shows what it measured.
    """

    name: str
    version: int
    section: str = ""
    upstream: tuple[str, ...] = ()
    keyed_by: tuple[str, ...] | None = None
    reads: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    weight: float = 0.01
    hours: float = 1.0
    outputs: tuple[str, ...] = ()
    shown: bool = True

    def settings(self, recipe: Recipe) -> Section:
        """The part of ``recipe`` that the stage reads; its fingerprint is part of the stage's key."""
        section: Section = getattr(recipe, self.section) if self.section else recipe
        return section

    def models_used(self, recipe: Recipe) -> tuple[str, ...]:
        """Kinds of model that the stage uses with these settings, in the order of its row."""
        return tuple(kind for kind in self.models if self.settings(recipe).uses(kind))

    @property
    def key_upstream(self) -> tuple[str, ...]:
        """Stages whose keys enter this one's."""
        return self.upstream if self.keyed_by is None else self.keyed_by


DISTILLED = ("splat.ply", "curves.json")
ASKED = ("prompt", "negative", "seed", "image")
DISTILLED_FOR = (*ASKED, "parts")

# fmt: off
STAGES: tuple[Stage, ...] = (
    Stage("init_points", 3, "init", reads=("prompt", "seed", "init_file", "parts"), models=("points",),
          weight=0.05, outputs=("points.ply",), shown=False),
    Stage("optimize_gaussians", 4, "geometry", ("init_points",), reads=DISTILLED_FOR, models=("image", "points"),
          weight=0.50, hours=24, outputs=DISTILLED, shown=False),
    Stage("densify_prune", 3, "appearance", ("optimize_gaussians",), reads=DISTILLED_FOR, models=("image", "points"),
          weight=0.20, hours=24, outputs=DISTILLED, shown=False),
    Stage("extract_mesh", 9, "mesh", ("densify_prune",), reads=("metres",),
          weight=0.07, outputs=("mesh.glb", "surface.npz")),
    Stage("refine_texture", 2, "texture", ("extract_mesh",), reads=ASKED, models=("image",),
          weight=0.13, hours=6, outputs=("asset.glb",)),
    Stage("dress", 1, "dress", ("init_points", "densify_prune", "extract_mesh", "refine_texture"),
          keyed_by=("refine_texture",), reads=("prompt", "size"),
          weight=0.05, outputs=("asset.glb", "material.json")),
    Stage("levels", 1, "levels", ("dress",),
          weight=0.02, outputs=("lods.glb", "collision.glb", "levels.json")),
    Stage("evaluate", 5, "evaluate", ("init_points", "optimize_gaussians", "densify_prune", "dress"),
          keyed_by=("densify_prune", "dress"), reads=("prompt", "size", "height"), models=("judge", "aesthetic"),
          weight=0.04, outputs=("preview.png", "stages.webp", "metrics.json")),
    Stage("validate", 2, "", ("densify_prune", "dress", "levels", "evaluate"), keyed_by=("levels", "evaluate"),
          reads=("spec",),
          models=("points", "image"), weight=0.01, outputs=("validation.json",), shown=False),
    Stage("accept", 1, "", ("dress", "levels", "evaluate", "validate"), keyed_by=("validate",), reads=("contract",),
          weight=0.01, outputs=("verdict.json",), shown=False),
    Stage("record", 2, "", ("densify_prune", "dress", "levels", "evaluate", "validate", "accept"), keyed_by=("accept",),
          reads=("spec",), models=("points", "image"), weight=0.01, outputs=("asset.json",)),
)
# fmt: on

AUDITION = Stage(
    "audition", 1, "geometry", ("init_points",), keyed_by=("optimize_gaussians",), reads=("audition",),
    models=("image", "points"), hours=24, outputs=("scores.json",), shown=False,
)  # fmt: skip
"""What candidates go through before the best of them goes on (``flows/choice.py``): the beginning of the geometry
stage. It is on no asset's way, which :data:`STAGES` is, and its work counts as that stage's."""

DELIVERY = "record"
"""The last stage: it publishes the deliverables, and where its output is, the asset is finished."""


def names() -> tuple[str, ...]:
    """The names of the stages on an asset's way, in order."""
    return tuple(stage.name for stage in STAGES)


def all_names() -> tuple[str, ...]:
    """Names of all that work is done under."""
    return (*names(), AUDITION.name)


def of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that have keys with this recipe, each below those whose keys it needs."""
    if recipe.choice.candidates == 1:
        return STAGES
    at = names().index("optimize_gaussians") + 1
    return (*STAGES[:at], AUDITION, *STAGES[at:])


def named(name: str) -> Stage:
    """The row of a stage. Raises ``KeyError`` for a name that is not in the table."""
    for stage in (*STAGES, AUDITION):
        if stage.name == name:
            return stage
    raise KeyError(f"{name!r} is no stage; the table has {', '.join(all_names())}")


def share_before(name: str) -> float:
    """Share of an asset's work, 0 to 1, that lies before a stage."""
    weights = [stage.weight for stage in STAGES]
    return dict(zip(names(), accumulate(weights, initial=0.0), strict=False))[_worked_at(name)] / sum(weights)


def share_of(name: str) -> float:
    """The stage's own share."""
    return named(_worked_at(name)).weight / sum(stage.weight for stage in STAGES)


def share_aside(recipe: Recipe) -> float:
    """What candidates that are not finished cost beside an asset's work, in shares of that."""
    choice = recipe.choice
    one = share_of("init_points") + choice.audition * share_of("optimize_gaussians")
    return (choice.candidates - 1) * one


def _worked_at(name: str) -> str:
    return "optimize_gaussians" if name == AUDITION.name else name


def sql_list(stages: Sequence[str]) -> str:
    """Names of stages as an SQL list: ``('init_points', 'evaluate')``. Names are ours, never a user's."""
    return "(" + ", ".join(f"'{name}'" for name in stages) + ")"
