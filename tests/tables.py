"""What tests read off the table of stages, so that a row more changes none of them."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline_core import stages


def renewed_with(changed: Iterable[str]) -> list[str]:
    """Those stages and all whose keys follow from theirs, in order."""
    found = set(changed)
    for row in stages.STAGES:
        if found & set(row.key_upstream):
            found.add(row.name)
    return [name for name in stages.names() if name in found]
