"""What validation found wrong with a file: rows that a gate, a gallery or a query can read.

>>> tally([Finding("UV_OVERLAP", "warning", "charts overlap", "asset.glb", 12)])
{'error': 0, 'warning': 1, 'info': 0}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

SEVERITIES = ("error", "warning", "info")
"""From worst to mildest. An error is what an engine stumbles over; a warning is what an artist would mend."""


@dataclass(frozen=True)
class Finding:
    """One kind of fault in one file. ``code`` is in capitals: the Khronos validator's where it has the rule."""

    code: str
    severity: str
    message: str
    file: str = ""
    count: int = 1


def tally(findings: Iterable[Finding]) -> dict[str, int]:
    """Number of findings by severity."""
    found = [each.severity for each in findings]
    return {severity: found.count(severity) for severity in SEVERITIES}


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """One finding for each code and file, worst first: with the first message and the largest count."""
    found: dict[tuple[str, str], Finding] = {}
    for each in findings:
        known = found.setdefault((each.code, each.file), each)
        found[each.code, each.file] = replace(known, count=max(known.count, each.count))
    return sorted(found.values(), key=lambda each: (SEVERITIES.index(each.severity), each.file, each.code))
