"""How a batch ended: for the command, for ``summary.json``, and as a report for people."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from flows.prompts import shorten
from pipeline_core.bucket import Place
from pipeline_core.files import write_json, write_text

SUMMARY = "summary.json"


@dataclass
class Summary:
    """How a batch ended. Each of ``failures`` has an asset id, stage, error class, error type and message.

    ``stopped`` were interrupted or never begun because the run was stopped; ``left`` were not begun because of
    ``left_why`` (the deadline, the budget); ``quarantined`` failed before, and are tried again only when asked for.
    ``rejected`` have an asset id and why: what its contract does not accept, made or there already (it is in neither
    list), or rejected before any work. ``unjudged`` are made or there already, and lack a judge or a figure, and why.
    ``flawed`` were made and have files in which validation found errors (``findings`` in SQL).
    ``from_start`` were made, and are their starts without distillation, which had made them worse.
    ``alike`` are near-duplicates that were made (``duplicates`` in SQL), each two as ``one = other``.
    ``stopped_why``: by whom and when the run was cancelled, where it was.
    """

    run_id: str
    library: str
    manifest: str
    asked: int = 0
    made: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    stopped_why: str = ""
    left: list[str] = field(default_factory=list)
    left_why: str = ""
    quarantined: list[str] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    unjudged: list[dict[str, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    flawed: list[str] = field(default_factory=list)
    from_start: list[str] = field(default_factory=list)
    alike: list[str] = field(default_factory=list)
    seconds: float = 0.0
    first_asset_s: float | None = None

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is there, and nothing of it is rejected."""
        lacking = (self.failures, self.rejected, self.stopped, self.refused, self.left, self.quarantined)
        return not any(lacking)


def write_summary(folder: Place, summary: Summary) -> None:
    """Write ``report.md``, then ``summary.json``, which is the sign that the run is over."""
    write_text(folder / "report.md", markdown(summary) + "\n")
    write_json(folder / SUMMARY, asdict(summary))


def markdown(summary: Summary) -> str:
    """The run's report. Users' text is quoted so that it stays text."""
    lines = [
        f"# Run {summary.run_id}",
        "",
        "| asked | made | there already | rejected | failed | refused | quarantined | stopped | left | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
        f"| {summary.asked} | {len(summary.made)} | {len(summary.cached)} | {len(summary.rejected)} "
        f"| {len(summary.failures)} | {len(summary.refused)} | {len(summary.quarantined)} | {len(summary.stopped)} "
        f"| {len(summary.left)} "
        f"| {summary.seconds:.0f} |",
    ]
    if summary.stopped_why:
        lines += ["", f"The run was {summary.stopped_why}."]
    for names, words in (
        (summary.left, f"Not begun because of {summary.left_why}"),
        (summary.flawed, f"Validation found errors in files of {len(summary.flawed)}"),
        (summary.from_start, f"Distillation made {len(summary.from_start)} worse; their starts are delivered"),
        (summary.alike, f"Look alike ({len(summary.alike)} pairs)"),
    ):
        if names:
            lines += ["", f"{words}: {', '.join(names[:50])}{' ...' if len(names) > 50 else ''}"]
    if summary.warnings:
        quoted = [line.replace("`", "'") for line in shorten(summary.warnings, SUMMARY)]
        lines += ["", *(f"- `{line}`" for line in quoted)]
    for title, rows in (("rejected by its contract", summary.rejected), ("not judged", summary.unjudged)):
        if rows:
            lines += ["", f"| {title} | why |", "|---|---|", *(f"| {r['asset_id']} | {r['why']} |" for r in rows)]
    if summary.failures:
        lines += ["", "| asset | stage | class | error |", "|---|---|---|---|"]
    for each in summary.failures:
        message = each["message"].replace("|", "/").replace("`", "'").replace("\n", " ")[:200]
        lines.append(f"| {each['asset_id']} | {each['stage']} | {each['error_class']} | `{message}` |")
    return "\n".join(lines)
