"""Deadline and budget: may one more asset begin, if everything is to end in time?

    admission = Admission(deadline=next_time("06:00"), gpu_s=8 * 3600, asset_s=90.0, spent=lambda: 120.0)
    admission.refusal()          # "" = go on, else why nothing more is begun

An asset may begin only if it would end in time even when it takes longer than nine in ten of the assets before it. What
is running is never cut short. The estimate starts from the catalogue and follows this run's own assets.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pipeline_core.errors import RequestError

SHARE = 0.9
"""A new asset is expected to take this quantile of the times of those before it."""


def next_time(text: str, now: datetime | None = None) -> datetime:
    """The next moment at which local clocks show ``text`` (``06:00``), or the moment an ISO date and time names."""
    now = now or datetime.now().astimezone()
    try:
        if len(text) <= len("00:00:00"):
            clock = datetime.strptime(text, "%H:%M" if text.count(":") == 1 else "%H:%M:%S").time()
            # naive arithmetic on the wall clock, so that 06:00 stays 06:00 over a change to summer time
            moment = datetime.combine(now.date(), clock)
            if moment <= now.replace(tzinfo=None):
                moment += timedelta(days=1)
            return moment.replace(tzinfo=now.tzinfo) if now.tzinfo is UTC else moment.astimezone()
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RequestError(f"--deadline {text}: a time such as 06:00, or a date and time as 2026-11-23T06:00") from None
    moment = moment.astimezone()
    if moment <= now:
        raise RequestError(f"--deadline {text}: is in the past")
    return moment


@dataclass
class Admission:
    """The gate of one process. ``spent()`` gives the seconds that all processes of the run have held their devices.

    ``asset_s``: seconds that an asset takes, by the catalogue; 0 = nothing is known yet. ``processes()``: how many
    processes work on the run now; each of them will hold its device until its last asset is done. ``halted()``: why
    nothing begins for the time being, whatever it takes.
    """

    deadline: datetime | None = None
    gpu_s: float | None = None
    asset_s: float = 0.0
    spent: Callable[[], float] = lambda: 0.0
    processes: Callable[[], int] = lambda: 1
    halted: Callable[[], str] = lambda: ""
    measured: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def note(self, seconds: float) -> None:
        """Note that an asset of this run took ``seconds``."""
        with self._lock:
            self.measured.append(seconds)

    def expected_s(self) -> float:
        """The seconds that the next asset is expected to take.

        Once five assets of this run are measured, they alone count. Before, the larger counts of theirs and the
        catalogue's.
        """
        with self._lock:
            own = sorted(self.measured)
        if not own:
            return self.asset_s
        measured = own[min(len(own) - 1, int(SHARE * len(own)))]
        return measured if len(own) >= 5 else max(measured, self.asset_s)

    def refusal(self, now: datetime | None = None) -> str:
        """Say why no further asset may begin; the text is empty when one may."""
        if why := self.halted():
            return why
        need = self.expected_s()
        if self.deadline is not None:
            now = now or datetime.now(UTC)
            if now + timedelta(seconds=need) > self.deadline:
                return f"the deadline {self.deadline:%Y-%m-%d %H:%M %Z}: an asset takes about {need:.0f} s"
        if self.gpu_s is not None:
            spent = self.spent()
            if spent + need * max(1, self.processes()) > self.gpu_s:
                return (
                    f"the budget of {self.gpu_s / 3600:g} GPU hours: {spent / 3600:.2f} are spent, "
                    f"and an asset takes about {need:.0f} s"
                )
        return ""
