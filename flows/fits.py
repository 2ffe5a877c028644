"""Rows that their image prior cannot use are refused before anything is made of them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_core.errors import ManifestError
from pipeline_core.manifest import Manifest
from pipeline_core.priors.takes import misfit
from tasks.journey import Journey


def refuse_misfits(manifest: Manifest, journeys: Sequence[Journey], *, skip_invalid: bool) -> list[Journey]:
    """The journeys that give their image prior what it takes; the others' rows become problems of ``manifest``.

    Raises :class:`ManifestError` where there are such rows, unless ``skip_invalid`` and not all of them are.
    """
    fitting: list[Journey] = []
    for each in journeys:
        problem = misfit(each.spec)
        if problem is None:
            fitting.append(each)
        else:
            manifest.refuse(each.asset_id, *problem)
    if len(fitting) < len(journeys) and (not skip_invalid or not fitting):
        raise ManifestError(manifest.told())
    return fitting
