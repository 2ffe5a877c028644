"""Catalogue rows that say what was asked for, and with which models."""

from __future__ import annotations

import getpass
import os
from typing import Any

from catalog import schema
from catalog.schema import StageRun
from pipeline_core.models import licence, part_licence
from pipeline_core.priors.resolve import name_of
from pipeline_core.version import code_version
from tasks.journey import Journey

USER = "SPLATMILL_USER"
"""Environment variable: who asks, in the catalogue; unset: the user's name on this machine."""


def user() -> str | None:
    """Who asks; None where this machine has no name for its user."""
    try:
        return os.environ.get(USER, "").strip()[:64] or getpass.getuser()[:64]
    except (OSError, KeyError):  # a user id without a name, as containers have
        return None


def request_rows(journeys: list[Journey], asked_by: str | None = None) -> list[StageRun]:
    """One row for each asset that was asked for, and one for each model that will be used.

    ``asked_by``: who asks, where it is not this process's user.
    """
    rows = [
        schema.request(
            each.run_id,
            each.asset_id,
            each.spec.to_json() | each.told(),
            recipe=each.spec.recipe.name,
            seed=each.spec.seed,
            tags=each.spec.tags,
            code_version=code_version(),
            asked_by=asked_by or user(),
        )
        for each in journeys
    ]
    used = {(kind, each.models[kind], ref) for each in journeys for kind, ref in each.spec.recipe.model_refs().items()}
    for kind, name, ref in sorted(used, key=str):
        told: dict[str, Any] = licence(ref, kind).to_json()
        parts = [_part(of, part) for of, part in ref.parts(kind)]
        if len(parts) > 1:
            told["parts"] = parts
        rows.append(schema.model(name, kind="point" if kind == "points" else kind, **told))
    return rows


def _part(kind: str, ref: str) -> dict[str, str]:
    """What the catalogue keeps of one thing that a model is made of."""
    return {"kind": kind, "name": name_of(ref), **part_licence(ref, kind).to_json()}
