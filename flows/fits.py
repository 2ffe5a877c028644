"""Rows whose models are not there, cannot guide or cannot use them are refused before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline_core.config import ModelRef
from pipeline_core.errors import ManifestError, ModelNotFound, RequestError
from pipeline_core.manifest import Manifest
from pipeline_core.priors.takes import problem_of
from pipeline_core.spec import AssetSpec
from tasks.journey import Journey

FIELD = {
    "image": "image_prior",
    "points": "init.point_prior",
    "judge": "evaluate.judge",
    "aesthetic": "evaluate.aesthetic",
}


def refuse_missing_models(
    manifest: Manifest, specs: Sequence[AssetSpec], resolve: Callable[[ModelRef, Any], str], *, skip_invalid: bool
) -> list[AssetSpec]:
    """The specs whose models ``resolve``; the others' rows become problems of ``manifest``.

    Raises :class:`RequestError` where there are such rows, unless ``skip_invalid`` and not all of them are;
    :class:`ModelNotFound` where a model is not there.
    """
    lacking: dict[tuple[str, ModelRef], RequestError] = {}
    for kind, ref in {pair for spec in specs for pair in spec.recipe.model_refs().items()}:
        try:
            resolve(ref, kind)
        except RequestError as error:
            lacking[kind, ref] = error
    if not lacking:
        return list(specs)
    there = []
    for spec in specs:
        wrong = [pair for pair in spec.recipe.model_refs().items() if pair in lacking]
        for kind, ref in wrong:
            manifest.refuse(spec.asset_id, FIELD[kind], str(ref), str(lacking[kind, ref]))
        if not wrong:
            there.append(spec)
    if not skip_invalid or not there:
        gone = any(isinstance(error, ModelNotFound) for error in lacking.values())
        raise (ModelNotFound if gone else RequestError)(manifest.told(), problems=manifest.problems)
    return there


def refuse_misfits(manifest: Manifest, journeys: Sequence[Journey], *, skip_invalid: bool) -> list[Journey]:
    """The journeys that give their models what they take; the others' rows become problems of ``manifest``.

    Raises :class:`ManifestError` where there are such rows, unless ``skip_invalid`` and not all of them are.
    """
    fitting: list[Journey] = []
    for each in journeys:
        problem = problem_of(each.spec)
        if problem is None:
            fitting.append(each)
        else:
            manifest.refuse(each.asset_id, *problem)
    if len(fitting) < len(journeys) and (not skip_invalid or not fitting):
        raise ManifestError(manifest.told(), problems=manifest.problems)
    return fitting
