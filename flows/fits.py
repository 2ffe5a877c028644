"""Rows that their image prior cannot use are refused before anything is made of them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_core.errors import ManifestError
from pipeline_core.manifest import Manifest
from pipeline_core.priors.takes import misfit
from pipeline_core.spec import AssetSpec


def refuse_misfits(manifest: Manifest, specs: Sequence[AssetSpec], *, skip_invalid: bool) -> list[AssetSpec]:
    """The specs that give their image prior what it takes; the others' rows become problems of ``manifest``.

    Raises :class:`ManifestError` where there are such rows, unless ``skip_invalid`` and not all of them are.
    """
    fitting: list[AssetSpec] = []
    for spec in specs:
        problem = misfit(spec)
        if problem is None:
            fitting.append(spec)
        else:
            manifest.refuse(spec.asset_id, *problem)
    if len(fitting) < len(specs) and (not skip_invalid or not fitting):
        raise ManifestError(manifest.told())
    return fitting
