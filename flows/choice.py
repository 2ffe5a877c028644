"""Which of several beginnings of an asset is finished, and whether its start is delivered in its place.

    journey, made = choose(journey)      # of choice.candidates seeds the best; of it and its start the better

Candidates make their clouds and the first steps of the geometry stage at the same time, so that the engine runs them
in one batch; then the judge compares them, and the best goes on from where it stands. Who fails is dropped, while one
remains. What is chosen is a plain journey: its seed and its recipe make the same asset without candidates.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline_core import stages
from pipeline_core.config import Choice
from pipeline_core.errors import error_class
from tasks import halt
from tasks.audition import forget, go_on
from tasks.journey import Journey, in_place_of
from tasks.policy import Made, come_through, forgetting
from tasks.progress import board
from tasks.rules import candidates
from tasks.stage import told_by

log = logging.getLogger("splatmill")

TIE = 0.02
"""Candidates whose caption margins are so near are told apart by their Janus scores."""
PLAIN = Choice()


@dataclass(eq=False)
class Candidate:
    """One seed of an asset, and what is known of it: references by stage, scores, and why it was dropped."""

    journey: Journey
    made: Made = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None

    def to_json(self) -> dict[str, Any]:
        """What ``asset.json`` tells of it."""
        stages_made = {name: each["key"] for name, each in self.made.items()}
        told: dict[str, Any] = {"seed": self.journey.spec.seed, "stages": stages_made}
        if self.scores.get("judged"):
            told |= {"margin": self.scores["caption_margin"], "janus": self.scores.get("janus_score")}
        return told if self.error is None else told | {"dropped": f"{type(self.error).__name__}: {self.error}"}


def choose(journey: Journey) -> tuple[Journey, Made]:
    """The journey that is to be finished, and what it has come to: ``journey`` itself where its recipe has no choice.

    Raises what stopped the first candidate, where none remains.
    """
    settings = journey.spec.recipe.choice
    if settings.candidates == 1:
        return keep_start(journey, settings.start_margin)
    board.choosing(journey.asset_id, aside := stages.share_aside(journey.spec.recipe))
    tried = [Candidate(each) for each in candidates(journey)]
    together(tried, lambda each: hear(each, "init_points"))
    together(tried, audition)
    board.update(journey.asset_id, aside_done=aside)
    for best in ranked(tried):
        try:
            chosen, made = finish(best, tried, settings.start_margin)
        except Exception as error:
            drop(best, error, tried)
            continue
        for each in tried:
            forget(each.journey)
        return chosen, made
    raise AssertionError("a candidate remains, or its error was raised")


def together(tried: Sequence[Candidate], work: Callable[[Candidate], None]) -> None:
    """Do ``work`` for all that remain, at the same time."""
    left = [each for each in tried if each.error is None]
    with ThreadPoolExecutor(len(left), thread_name_prefix="candidate") as pool:
        futures = [pool.submit(contextvars.copy_context().run, work, each) for each in left]
        try:
            errors = [future.exception() for future in futures]
        except BaseException:
            halt.pull()  # the engine lets go of them, and the threads end
            raise
    for each, error in zip(left, errors, strict=True):
        if error is not None:
            drop(each, error, tried)


def drop(candidate: Candidate, error: BaseException, tried: Sequence[Candidate]) -> None:
    """Go on without a candidate that failed. Raises ``error`` where it is not the candidate's fault, and that of the
    first where it was the last."""
    if not isinstance(error, Exception) or isinstance(error, CancelledError) or error_class(error) == "transient":
        raise error
    candidate.error = error
    forget(candidate.journey)
    seed = candidate.journey.spec.seed
    log.warning("%s: the candidate of seed %d is dropped: %s", candidate.journey.asset_id, seed, error)
    if all(each.error for each in tried):
        raise tried[0].error or error


@forgetting
def hear(candidate: Candidate, stage: str) -> None:
    """Have a candidate come through a stage."""
    come_through(candidate.journey, candidate.made, stage)


def audition(candidate: Candidate) -> None:
    """Have a candidate come through its audition, and read what the judge saw."""
    hear(candidate, "audition")
    candidate.scores = told_by(candidate.journey, candidate.made["audition"], "scores.json")


def ranked(tried: Sequence[Candidate]) -> list[Candidate]:
    """Those that remain, the best first; in their order where nothing can judge the prompt.

    The best has the largest caption margin; of those that are within :data:`TIE` of it, the least Janus score.
    """
    left = [each for each in tried if each.error is None]
    if not all(each.scores["judged"] for each in left):
        log.warning("%s: nothing can judge the prompt: its first candidate is taken", left[0].journey.asset_id)
        return left
    best = max(each.scores["caption_margin"] for each in left)

    def place(each: Candidate) -> tuple[bool, float, float]:
        margin = each.scores["caption_margin"]
        near = margin >= best - TIE
        return not near, each.scores.get("janus_score", 0.0) if near else 0.0, -margin

    return sorted(left, key=place)


def finish(best: Candidate, tried: Sequence[Candidate], start_margin: float | None) -> tuple[Journey, Made]:
    """The journey of the best candidate, travelled as far as it is measured."""
    recipe = best.journey.spec.recipe
    plain = in_place_of(best.journey, recipe=recipe.model_copy(update={"choice": PLAIN}))
    told = [each.to_json() | {"taken": each is best} for each in tried]
    kept = tuple(each.made["audition"]["key"] for each in tried if "audition" in each.made)
    before = dict(best.made)
    for stage in before:  # its rows are the asset's latest
        come_through(best.journey, best.made, stage, anew=True)
    assert best.made == before
    go_on(best.journey)
    chosen, made = keep_start(replace(plain, chosen={"candidates": told}, kept=kept), start_margin)
    return chosen, made or measured(chosen)


# --- the start -------------------------------------------------------------------------------------------------------


def keep_start(journey: Journey, margin: float | None) -> tuple[Journey, Made]:
    """The journey, or that of its start without distillation where distillation made it worse by more than ``margin``.

    Both are travelled as far as they are measured, and the better one is taken. None = it is not looked at, nor made.
    """
    recipe = journey.spec.recipe
    if margin is None or not (recipe.geometry.steps or recipe.appearance.steps):
        return journey, {}
    made = measured(journey)
    scores = read(journey, made)
    if not is_worse(scores, margin):
        return journey, made
    still = {name: getattr(recipe, name).model_copy(update={"steps": 0}) for name in ("geometry", "appearance")}
    start = in_place_of(journey, recipe=recipe.model_copy(update=still | {"choice": PLAIN}))
    try:
        begun = measured(start)
    except Exception as error:
        if isinstance(error, CancelledError) or error_class(error) == "transient":
            raise
        log.warning("%s: its start cannot be delivered: %s", journey.asset_id, error)
        return journey, made
    of_start = read(start, begun)
    better = of_start["fidelity"] > scores["fidelity"]
    taken, taken_made, other = (start, begun, made) if better else (journey, made, begun)
    if taken is journey:
        measured(journey, anew=True)  # its rows are the asset's latest
    told = {
        "delivered_from": "start" if taken is start else "distilled",
        "fidelity_distilled": scores["fidelity"],
        "fidelity_start": of_start["fidelity"],
    }
    what = f"the {'start' if taken is start else 'distilled one all the same'} is delivered"
    log.warning("%s: distillation made it worse than its start: %s", journey.asset_id, what)
    kept = (*journey.kept, other["evaluate"]["key"])
    return replace(taken, chosen=journey.chosen | told, kept=kept), taken_made


def is_worse(scores: dict[str, float], margin: float) -> bool:
    """Whether an asset shows its prompt less than its own start does."""
    if not scores["judged"]:
        return False
    lost = scores["r_precision"] == 0 and scores["control_r_precision"] == 1
    return lost or scores["start_gain"] < -margin


@forgetting
def measured(journey: Journey, *, anew: bool = False) -> Made:
    """Travel as far as an asset is measured; ``anew``: every stage leaves a row, though its output is there."""
    made: Made = {}
    for stage in stages.STAGES:
        come_through(journey, made, stage.name, anew=anew)
        if stage.name == "evaluate":
            break
    return made


def read(journey: Journey, made: Made) -> dict[str, float]:
    """What was measured of an asset."""
    return told_by(journey, made["evaluate"], "metrics.json")
