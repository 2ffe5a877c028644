"""Progress of a run: a live panel on a terminal, plain lines elsewhere. Both read ``tasks.progress.board``."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipeline_core import logs
from pipeline_core.stages import share_before, share_of
from tasks.progress import Position, board


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[None]:
    """Show progress on standard error while the block runs."""
    board.clear()
    if quiet or logs.as_json():
        yield
        return
    show = _Panel() if sys.stderr.isatty() else _Lines()
    ended = threading.Event()
    thread = threading.Thread(target=_loop, args=(show, ended, time.monotonic()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        show.close()


def _loop(show: Any, ended: threading.Event, began: float) -> None:
    while not ended.wait(0.25):
        show.update(board.positions(), time.monotonic() - began)
    show.update(board.positions(), time.monotonic() - began)


def share_done(position: Position) -> float:
    """Share of an asset's work that is done, 0 to 1."""
    if position.state in ("done", "cached", "failed"):
        return 1.0
    if not position.stage:
        return 0.0
    within = position.step / position.steps if position.steps else 0.0
    own = share_before(position.stage) + share_of(position.stage) * within
    return (own + position.aside_done) / (1 + position.aside)


def seconds_left(positions: list[Position], seconds: float) -> float | None:
    """The seconds that are left if the rest goes as fast as what was done; None while too little is done to tell."""
    open_ones = [p for p in positions if p.state != "cached"]
    done = sum(map(share_done, open_ones))
    return None if done < 0.05 else seconds * (len(open_ones) - done) / done


def describe(position: Position) -> str:
    """One asset on its way, in a few words."""
    text = position.stage.replace("_", " ")
    if position.steps:
        text += f" {position.step}/{position.steps}"
    if position.loss is not None:
        text += f", loss {position.loss:.3g}"
    return text


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class _Lines:
    """Prints a line whenever an asset enters a stage or ends; it is for logs and pipes."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[str, str]] = {}

    def update(self, positions: list[Position], seconds: float) -> None:
        finished = sum(p.state in ("done", "cached", "failed") for p in positions)
        for position in positions:
            now = (position.state, position.stage if position.state == "running" else "")
            if self.seen.get(position.asset_id) == now or position.state in ("waiting", "cached"):
                continue
            self.seen[position.asset_id] = now
            what = now[1] or position.state + (f": {position.error}" if position.error else "")
            print(
                f"[{clock(seconds)}] {finished}/{len(positions)} {position.asset_id}: {what}",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        return


class _Panel:
    """Shows how many assets are in each stage, and a line for each asset on its way."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self.live.start()

    def update(self, positions: list[Position], seconds: float) -> None:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        counts = Counter(p.state for p in positions)
        left = seconds_left(positions, seconds)
        head = Text.assemble(
            (f"{counts['done'] + counts['cached']}", "bold green"), f"/{len(positions)} assets",
            (f"  {counts['failed']} failed" if counts["failed"] else "", "bold red"),
            f"  {clock(seconds)} gone", f", about {clock(left)} left" if left is not None else "",
        )  # fmt: skip
        stages = Counter(p.stage for p in positions if p.state == "running")
        table = Table.grid(padding=(0, 2))
        for position in [p for p in positions if p.state == "running"][:12]:
            table.add_row(Text(position.asset_id[:48], style="cyan"), Text(describe(position)))
        by_stage = "  ".join(f"{stage.replace('_', ' ')} {count}" for stage, count in stages.items())
        self.live.update(Group(head, Text(by_stage, style="dim"), table), refresh=True)

    def close(self) -> None:
        self.live.stop()
