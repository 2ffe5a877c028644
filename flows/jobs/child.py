"""The process of one job on this machine: ``splatmill run`` of what was accepted.

    python -P -m flows.jobs.child /mnt/library job-0123456789abcdef01234567

It holds the job's lock while it lives, so that there is one, whoever starts it. Exit code as of ``splatmill run``.
"""

from __future__ import annotations

import sys
import time

from flows.jobs import book
from flows.jobs.book import Job
from flows.local import INTERRUPTED, run_here
from flows.summary import SUMMARY
from pipeline_core.errors import RequestError
from pipeline_core.files import ensure_home, lock
from pipeline_core.python import reach_loopback_directly
from pipeline_core.secrets import redact

TRIES, PAUSE_S = 20, 0.25


def main(library: str, name: str) -> int:
    """Make the job, unless another process does."""
    job = book.find(library, name)
    if job is None:
        raise RequestError(f"{name}: no such job in {library}")
    for _ in range(TRIES):
        with lock(job.folder / book.LOCK, wait=False) as mine:
            if mine:
                return make(job)
        time.sleep(PAUSE_S)  # whoever looks whether the job has a process holds the lock for a moment
    return 0


def make(job: Job) -> int:
    """Make a job that nobody else makes; one that is interrupted goes on when it is started again."""
    if job.over:
        return 0
    (job.folder / SUMMARY).unlink(missing_ok=True)
    try:
        code = run_here(job.request, as_json=True)
    except RequestError as error:
        book.give_up(job, redact(str(error)))
        raise
    if code == INTERRUPTED and not job.cancelled:
        (job.folder / SUMMARY).unlink(missing_ok=True)
        (job.folder / book.STARTS).unlink(missing_ok=True)
    return code


if __name__ == "__main__":
    ensure_home()
    reach_loopback_directly()
    sys.exit(main(*sys.argv[1:]))
