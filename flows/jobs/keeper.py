"""Brings accepted jobs on: starts them on this machine, or opens them on the farm, and tells webhooks of their ends.

    keeper = Keeper("library", farm=False)
    threading.Thread(target=keeper.work, args=(stop,)).start()

It remembers nothing that a file does not tell, so it may be killed anywhere: the next one starts what is not over and
posts what has not arrived. A job's process on this machine outlives it, and is found again by its lock.

A job's end is posted at least once: until the receiver has answered with 2xx, after 5 s, 10 s, 20 s, up to an hour.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

from flows.farm.alerts import WEBHOOK
from flows.farm.runs import REQUEST, open_run
from flows.jobs import book
from flows.jobs.book import LOCK, LOG, STARTS, TOLD, Job
from flows.post import post
from pipeline_core import python
from pipeline_core.errors import RequestError
from pipeline_core.files import lock, write_json
from pipeline_core.secrets import redact

MOST_STARTS = 5
"""A job whose process ended so often without a word is given up."""
TICK_S = 1.0
FIRST_S, LONGEST_S = 5.0, 3600.0
POSTS = 8
"""So many receivers are posted to at once."""

log = logging.getLogger("splatmill")


def start_here(job: Job) -> subprocess.Popen[bytes]:
    """Start the process of a job on this machine (``flows.jobs.child``). It has a session of its own."""
    with (job.folder / LOG).open("ab") as said:
        return subprocess.Popen(
            python.command("flows.jobs.child", job.request.library, job.name), env=python.environment(),
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip


def open_on_farm(job: Job) -> None:
    """Open a job's run on the farm, and queue its shards if the farm's server answers."""
    from flows.farm.commands import bring_on

    open_run(job.request)
    bring_on(job.folder)


class Keeper:
    """The jobs of one library. ``start`` and ``open_`` are what is done with a job, on this machine or on a farm."""

    def __init__(
        self, library: str, *, farm: bool, start: Callable[[Job], Any] = start_here,
        open_: Callable[[Job], None] = open_on_farm,
    ) -> None:  # fmt: skip
        self.library, self.farm, self.start, self.open = library, farm, start, open_
        self.wake = threading.Event()
        self._alone = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._done: set[str] = set()
        self._child: tuple[Job, Any] | None = None

    def work(self, stop: threading.Event) -> None:
        """Bring jobs on until ``stop`` is set."""
        posts = threading.Thread(target=self._every, args=(self.tell_ends, stop), name="webhooks", daemon=True)
        posts.start()
        self._every(self.bring_on, stop)
        posts.join()

    def _every(self, do: Callable[[], None], stop: threading.Event) -> None:
        said = ""
        while not stop.is_set():
            try:
                do()
                words = ""
            except Exception as error:  # a full disk, a library that is away: it may be better next time
                words = f"{type(error).__name__}: {redact(str(error))}"
            if words and words != said:
                log.warning("jobs: %s", words)
            said = words
            self.wake.wait(TICK_S)
            self.wake.clear()

    def jobs(self) -> list[Job]:
        """The jobs that are not over or not told, in the order in which they are taken."""
        with self._alone:
            for name in book.names(self.library):
                if name not in self._jobs and name not in self._done:
                    try:
                        job = book.find(self.library, name)
                    except (ValueError, KeyError, TypeError) as error:
                        log.warning("job %s cannot be read (%s); it is passed over", name, type(error).__name__)
                        self._done.add(name)
                        continue
                    if job:
                        self._jobs[name] = job
            return sorted(self._jobs.values(), key=lambda each: (each.request.priority, each.at))

    # --- making ------------------------------------------------------------------------------------------------------

    def bring_on(self) -> None:
        """Start or open what is not over."""
        waiting = [job for job in self.jobs() if not job.over]
        for job in waiting:
            if self.farm and not (job.folder / REQUEST).exists():
                self._open(job)
        if not self.farm:
            self._make(waiting)

    def _open(self, job: Job) -> None:
        if job.cancelled:
            book.end_unbegun(job)
            return
        try:
            self.open(job)
        except RequestError as error:
            book.give_up(job, redact(str(error)))

    def _make(self, waiting: list[Job]) -> None:
        """Have one job made at a time, the first in order; those that were cancelled before they began are ended."""
        at_work = [job.name for job in waiting if self._has_process(job)]
        for job in waiting:
            if job.name in at_work or job.over:  # it may have ended a moment ago
                continue
            if job.cancelled:
                book.end_unbegun(job)
            elif not at_work and self._may_start(job):
                self._child = job, self.start(job)
                at_work.append(job.name)

    def _may_start(self, job: Job) -> bool:
        """Count a start; False, and the job is given up, where the last ones ended without a word or a new asset."""
        before, made = book.read(job.folder / STARTS), book.document(job)["assets"]["made"]
        starts = before["starts"] if before.get("made") == made else 0
        if starts >= MOST_STARTS:
            what = f"its process ended {starts} times without a word or an asset"
            book.give_up(job, f"{what}; {job.folder / LOG} has what it said")
            return False
        write_json(job.folder / STARTS, {"starts": starts + 1, "made": made})
        return True

    def _has_process(self, job: Job) -> bool:
        """Whether a process makes this job: our child, or one that holds its lock."""
        if self._child and self._child[0].name == job.name and self._child[1].poll() is None:
            return True
        if not (job.folder / STARTS).exists():
            return False
        with lock(job.folder / LOCK, wait=False) as free:
            return not free

    def stop_child(self) -> None:
        """End the process that this one started, in order: it keeps checkpoints, and the job goes on another time."""
        if self._child and self._child[1].poll() is None:
            self._child[1].terminate()
            self._child[1].wait()

    # --- telling -----------------------------------------------------------------------------------------------------

    def tell_ends(self) -> None:
        """Post the ends that have not arrived and are due; jobs that are over and told are forgotten."""
        due = [job for job in self.jobs() if job.over and not self._is_told(job)]
        with ThreadPoolExecutor(max_workers=POSTS, thread_name_prefix="post") as pool:
            list(pool.map(self._tell, due))

    def _is_told(self, job: Job) -> bool:
        told = book.read(job.folder / TOLD)
        if told and (told["sent"] or not told["wanted"]):
            with self._alone:
                self._done.add(job.name)
                self._jobs.pop(job.name, None)
            return True
        return bool(told) and told["next"] > time.time()

    def _tell(self, job: Job) -> None:
        told = book.read(job.folder / TOLD) or self._put_down(job)
        if not told["wanted"]:
            return
        address = job.webhook or os.environ.get(WEBHOOK, "").strip()
        told |= {"tries": told["tries"] + 1}
        try:
            if not address:
                raise ValueError(f"{WEBHOOK} is no longer set")
            post(address, told["body"], f"{job.name}-ended")
            told |= {"sent": True, "error": ""}
        except (OSError, ValueError, HTTPException) as error:
            wait_s = min(LONGEST_S, FIRST_S * 2 ** min(told["tries"] - 1, 20))
            told |= {"next": time.time() + wait_s, "error": redact(str(error)) or type(error).__name__}
        write_json(job.folder / TOLD, told, durable=True)

    def _put_down(self, job: Job) -> dict[str, Any]:
        """What is told of a job's end: written before it is posted, so that it is the same however often it is."""
        seen = book.document(job)
        body = {name: seen[name] for name in ("id", "state", "ok", "user", "submitted_at", "seconds", "assets", "why")}
        counts = ", ".join(f"{count} {name}" for name, count in seen["assets"].items() if count)
        body |= {"kind": "ended", "at": time.time(), "text": f"Job {job.name}: {seen['state']}. {counts}"}
        wanted = bool(job.webhook or os.environ.get(WEBHOOK, "").strip())
        told = {"wanted": wanted, "sent": False, "tries": 0, "next": 0.0, "error": "", "body": body}
        write_json(job.folder / TOLD, told, durable=True)
        return told


def cancel(job: Job, by: str, farm: bool) -> bool:
    """Cancel a job; False where it is over already. Nothing of it begins, and what is under way stops."""
    from flows.farm import beats, marks
    from flows.farm.commands import bring_on

    if job.over:
        return False
    marks.put(job.folder, marks.CANCELLED, by=by)
    live = [beat.name for beat in beats.read(job.folder).values() if beat.state == "live"]
    for name in live if farm else ["here"]:  # its process may be about to begin
        beats.fence(job.folder, name)
    if farm and (job.folder / REQUEST).exists():
        bring_on(job.folder)
    return True
