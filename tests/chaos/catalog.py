"""Kill catalogue writers and the compactor at random for a minute, and count rows.

    python -m tests.chaos.catalog --seconds 60

Four writer processes append, and note each event id in a file once ``append`` has returned: these rows are
*acknowledged*. A compactor loops with a grace of two seconds, another process brings the snapshot up to date. All are
killed -9 at random and started again. Two readers loop: every read must show every row acknowledged before it began,
and none twice; a third reads the snapshot, which must always open, hold no row twice and never fewer than before. At
the end rows read = rows acknowledged, but for the at most one batch per killed writer that was published and not yet
noted, and the snapshot, brought up to date from whatever the kills left, holds the same rows. Last line: JSON;
exit code 1 unless nothing was lost, doubled or refused, 2 when the machine was too slow to compact anything between
kills even in three times the time (raise --pace and --seconds).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from catalog import compact, listing, query, snapshot  # noqa: E402
from catalog.fsck import fsck  # noqa: E402
from catalog.schema import StageRun  # noqa: E402
from catalog.store import LeaseHeld, open_store  # noqa: E402
from catalog.writer import append  # noqa: E402

POLICY = compact.Policy(grace_s=2.0, orphan_s=5.0, fan_in=4, checkpoint_every=12, files_per_seal=100)
WRITERS, READERS, BATCH = 4, 2, 3


def write(library: str, noted: str) -> None:
    """Append until killed; ids go to the file ``noted`` when their rows are durable."""
    log = os.open(noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = 0
    while True:
        number += 1
        runs = [
            StageRun(
                run_id="chaos", asset_id=f"a{os.getpid()}-{number}", stage="evaluate", status="ok", metrics={"n": 1}
            )
            for _ in range(1 + number % BATCH)
        ]
        append(library, runs)
        os.write(log, "".join(run.event_id + "\n" for run in runs).encode())
        time.sleep(0.02)


def compact_forever(library: str) -> None:
    """Compact until killed."""
    while True:
        with contextlib.suppress(LeaseHeld):
            compact.compact(library, POLICY)


def snapshot_forever(library: str) -> None:
    """Build snapshots until killed."""
    while True:
        with contextlib.suppress(LeaseHeld):
            snapshot.build(library, threads=1)


class Chaos:
    """The processes, what they acknowledged, and what readers saw."""

    def __init__(self, library: str, notes: str) -> None:
        self.library, self.notes = library, Path(notes)
        self.context = multiprocessing.get_context("forkserver")  # a restart costs a fork, not an import
        self.context.set_forkserver_preload(["catalog.compact", "catalog.snapshot"])
        self.processes: dict[str, multiprocessing.Process] = {}
        self.kills = {"writer": 0, "compactor": 0, "snapshot": 0}
        self.reads = self.snapshot_reads = self.missing = self.doubled = self.started = 0
        self.failed: list[str] = []
        self.over = threading.Event()

    def start(self, name: str) -> None:
        """Start writer or compactor ``name``."""
        self.started += 1
        if name.startswith("writer"):
            target, arguments = write, (self.library, str(self.notes / f"{self.started}.txt"))
        else:
            target, arguments = compact_forever if name.startswith("compactor") else snapshot_forever, (self.library,)
        self.processes[name] = self.context.Process(target=target, args=arguments)
        self.processes[name].start()

    def kill(self, name: str) -> None:
        """kill -9, then start anew."""
        self.processes[name].kill()
        self.processes[name].join()
        self.kills[name.split("-")[0]] += 1
        self.start(name)

    def compactions(self) -> int:
        """Index files ever committed."""
        return max(listing.index_numbers(open_store(self.library)), default=0)

    def acknowledged(self) -> set[str]:
        """Ids noted so far; a line that a kill cut short counts as none."""
        found: set[str] = set()
        for path in self.notes.iterdir():
            text = path.read_text()
            found.update(text[: text.rfind("\n") + 1].split())
        return found

    def read(self) -> None:
        """Read until it is over; judge every read."""
        while not self.over.is_set():
            before = self.acknowledged()
            try:
                rows = [row["event_id"] for row in query.rows(self.library, "select event_id from events")]
            except Exception as error:  # any failed read is a finding
                self.failed.append(f"{type(error).__name__}: {error}")
                continue
            self.reads += 1
            self.missing += len(before.difference(rows))
            self.doubled += len(rows) - len(set(rows))


    def read_snapshot(self) -> None:
        """Read the snapshot until it is over."""
        most = 0
        while not self.over.is_set():
            try:
                with query.connect(self.library, live=False) as con:
                    sql = "select count(*), count(distinct event_id) from stage_runs"
                    total, different = con.execute(sql).fetchone()
            except query.NoSnapshot:
                continue  # the first one is still being made
            except Exception as error:
                self.failed.append(f"snapshot: {type(error).__name__}: {error}")
                continue
            finally:
                time.sleep(0.05)
            self.snapshot_reads += 1
            self.missing += max(0, most - total)
            self.doubled += total - different
            most = max(most, total)


def run(seconds: float, pace: float, seed: int) -> dict:
    """The whole test; returns the report."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as library, tempfile.TemporaryDirectory() as notes:
        chaos = Chaos(library, notes)
        names = [f"writer-{i}" for i in range(WRITERS)] + ["compactor-0", "snapshot-0"]
        for name in names:
            chaos.start(name)
        readers = [threading.Thread(target=chaos.read) for _ in range(READERS)]
        readers.append(threading.Thread(target=chaos.read_snapshot))
        for reader in readers:
            reader.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end or (time.monotonic() < end + 2 * seconds and chaos.compactions() < 5):
            time.sleep(rng.uniform(0.1, 2 * pace))
            chaos.kill(rng.choice(names))
        chaos.over.set()
        for reader in readers:
            reader.join()
        for process in chaos.processes.values():
            process.kill()
            process.join()
        return report(chaos, seed)


def report(chaos: Chaos, seed: int) -> dict:
    """Count, after a last compaction and in the snapshot too."""
    acknowledged = chaos.acknowledged()
    rows = [row["event_id"] for row in query.rows(chaos.library, "select event_id from events")]
    index = listing.visible(open_store(chaos.library)).number
    compact.compact(chaos.library, compact.Policy(grace_s=-1.0, orphan_s=60.0))
    after = [row["event_id"] for row in query.rows(chaos.library, "select event_id from events")]
    built = snapshot.build(chaos.library)
    torn = [finding for finding in fsck(chaos.library, artifacts=False) if finding.kind not in ("orphan", "left-over")]
    return {
        "seed": seed,
        "acknowledged": len(acknowledged),
        "rows": len(rows),
        "published_not_yet_acknowledged": len(set(rows) - acknowledged),
        "missing_at_end": len(acknowledged.difference(rows)) + len(set(rows).symmetric_difference(after)),
        "doubled_at_end": len(rows) - len(set(rows)) + len(after) - len(set(after)),
        "snapshot_rows": built.events,
        "writer_kills": chaos.kills["writer"],
        "compactor_kills": chaos.kills["compactor"],
        "snapshot_kills": chaos.kills["snapshot"],
        "compactions": index,
        "reads": chaos.reads,
        "snapshot_reads": chaos.snapshot_reads,
        "missing_in_reads": chaos.missing,
        "doubled_in_reads": chaos.doubled,
        "failed_reads": len(chaos.failed),
        "first_failure": chaos.failed[0] if chaos.failed else None,
        "fsck_findings": len(torn),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pace", type=float, default=1.0, help="mean seconds between kills")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    found = run(arguments.seconds, arguments.pace, arguments.seed)
    bad = ("missing_at_end", "doubled_at_end", "missing_in_reads", "doubled_in_reads", "failed_reads", "fsck_findings")
    for name, value in found.items():
        print(f"{name:32} {value}")
    print(json.dumps(found))
    wrong = any(found[name] for name in bad) or found["snapshot_rows"] != found["rows"]
    # a killed writer may have published one batch that it had not noted yet
    surplus = found["published_not_yet_acknowledged"] > BATCH * (found["writer_kills"] + WRITERS)
    idle = not (found["acknowledged"] and found["reads"] and found["compactions"])
    sys.exit(1 if wrong or surplus else 2 if idle else 0)


if __name__ == "__main__":
    main()
