"""A night on a farm, with everything going wrong: kill, crash, fill and corrupt at random, then count what is left.

    python -m tests.chaos.farm --assets 300 --seed 1

A real Prefect server on PostgreSQL, three workers, ``splatmill submit`` and ``splatmill reconcile --every 5``; every
asset goes through all seven real stages with the starter priors, at few steps and small sizes. Faults
(``tests.chaos.faults``) come at random times until the last asset is done. A proxy that leads nowhere is set for all
of it, the batch is submitted before there is a worker, a second run (``splatmill run``) makes some of its assets in the
same library at the same time, and two more share a library in a bucket (``tests.chaos.bucket``). At the end

    lost                 assets neither whole (every sha256) nor recorded as failed with a reason
    doubled              assets or stages with more than one current row, events that lie in two files
    unexplained_repeats  stages that succeeded more often than once, and once more for each corruption of their output
                         and each interruption; and work of two processes on one asset at the same time
    engine_overlaps      processes that worked for a worker before its last one had ended: one that outlived its killed
                         worker, beside that of the worker started anew
    second_run_repeats   stages that succeeded in two runs, without a corruption or an interruption
    s3_lost              the same as lost, in the bucket; and what its fsck found
    left_behind          processes, temporary files, locks, checkpoints and findings of ``splatmill catalog fsck``

must all be zero, and ``tail_s``, from the end of the first worker's last shard to that of the last one's, below 60.
Last line: JSON; exit code 1 when they are not.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from catalog import compact, query  # noqa: E402
from catalog.fsck import fsck  # noqa: E402
from catalog.render import aligned  # noqa: E402
from flows.farm.standing import WORKER_LOST  # noqa: E402
from flows.summary import SUMMARY  # noqa: E402
from pipeline_core.stages import names, sql_list  # noqa: E402
from pipeline_core.storage import sha256_file  # noqa: E402
from tests.chaos import bucket  # noqa: E402
from tests.chaos.faults import FAULTS, strays  # noqa: E402
from tests.chaos.services import Farm, Postgres, small_disk  # noqa: E402
from tests.flows.tiny import TINY, settings  # noqa: E402

SETTINGS = TINY | {"geometry.steps": 3, "appearance.steps": 1}
"""The draft recipe made small: real stages, real starter priors, about one second of CPU an asset."""

DELIVERED = ("ok", "unjudged")
PROMPTS = ("a red mushroom", "a copper key", "a paper lantern", "a wicker crate", "a leather book")
LONGEST_TAIL_S = 60.0
SECOND = 10
"""Every so many assets of the night one is asked for by the second run, and one by those in the bucket."""


@dataclass
class Record:
    """What was done to the farm, by kind, and the files that were corrupted."""

    began: float = field(default_factory=time.monotonic)
    done: list[tuple[float, str, str]] = field(default_factory=list)

    def add(self, kind: str, what: str) -> None:
        """Put a fault down and say it."""
        self.done.append((time.monotonic() - self.began, kind, what))
        print(f"{self.done[-1][0]:7.1f} s  {kind:24} {what}", flush=True)

    def count(self) -> Counter[str]:
        """How often each kind was done."""
        return Counter(kind for _, kind, _ in self.done)

    @property
    def corrupted(self) -> list[str]:
        """Paths relative to the library."""
        return [what for _, kind, what in self.done if kind == "corrupt"]


def night(options: argparse.Namespace, folder: Path) -> dict:
    """The whole test; returns the report."""
    record, rng = Record(), random.Random(options.seed)
    disk = folder / "disk"
    with small_disk(disk, 300 + 3 * options.assets) as mounted:
        if not mounted:
            print("no small file system can be mounted by this user: fill_disk is left out", flush=True)
        library = disk / "library"
        postgres = Postgres(folder / "postgres")
        farm = Farm(folder, library, postgres, options.workers)
        try:
            farm.start()
            submit(farm, options.assets)
            farm.start_reconciler()
            print(f"{time.monotonic() - record.began:7.1f} s  submitted", flush=True)
            farm.start_workers()
            shared, lost = bucket.Shared(farm, max(2, options.assets // SECOND)), -1
            farm.start_run("second", second_manifest(farm, options.assets), str(library), options_of(SETTINGS))
            shared.start(record, options_of(SETTINGS))
            over = wait_for_end(farm, record, rng, options)
            seconds = time.monotonic() - record.began
            over = farm.ended("second", options.minutes * 60) and over
            lost = shared.lost(options.minutes * 60)
        finally:
            farm.stop_runs()
            farm.stop()
            postgres.stop()
        time.sleep(3)
        if options.keep:
            shutil.copytree(library, folder / "library", dirs_exist_ok=True)
        return audit(farm, record, seconds, over) | {"s3_lost": lost, "seed": options.seed}


def submit(farm: Farm, assets: int) -> None:
    """``splatmill submit`` of a manifest of so many assets."""
    manifest = farm.folder / "night.csv"
    lines = [f"asset-{i:04d},{PROMPTS[i % len(PROMPTS)]},{i}" for i in range(assets)]
    manifest.write_text("\n".join(["id,prompt,seed", *lines]) + "\n")
    options = ["--library", str(farm.library), *options_of(SETTINGS)]
    print(farm.call("flows.cli", "submit", str(manifest), *options), flush=True)


def options_of(overrides: dict) -> list[str]:
    """How all runs of the night are asked for."""
    return ["--recipe", "draft", "--in-flight", "2", *settings(overrides)]


def second_manifest(farm: Farm, assets: int) -> Path:
    """Some rows of the night's manifest, the last first: they are not begun yet."""
    lines = (farm.folder / "night.csv").read_text().splitlines()
    path = farm.folder / "second.csv"
    path.write_text("\n".join([lines[0], *lines[:0:-SECOND]]) + "\n")
    return path


def wait_for_end(farm: Farm, record: Record, rng: random.Random, options: argparse.Namespace) -> bool:
    """Do harm until 99 in 100 assets were delivered, then let the farm mend it; False when it is not over in time."""
    end = time.monotonic() + options.minutes * 60
    kinds, told = draws(options, rng), 0.0
    while not over(farm):
        if time.monotonic() > end:
            return False
        count = made(farm)
        if time.monotonic() - told > 30:
            told = time.monotonic()
            print(f"{told - record.began:7.1f} s  {count} made", flush=True)
        if options.calm or not 0 < count < 0.99 * options.assets:
            time.sleep(2)
            continue
        time.sleep(rng.expovariate(1 / options.pace))
        kind = next(kinds)
        what = FAULTS[kind][0](farm, rng)
        if what:
            record.add(kind, what)
    return True


def draws(options: argparse.Namespace, rng: random.Random) -> Iterator[str]:
    """Kinds of fault without end: each once, in any order, then by their weights."""
    chosen = options.faults.split(",") if options.faults else list(FAULTS)
    yield from rng.sample(chosen, len(chosen))
    while True:
        yield rng.choices(chosen, [FAULTS[name][1] for name in chosen])[0]


def over(farm: Farm) -> bool:
    """Whether the farm's run has its summary."""
    return any((path.parent / SUMMARY).exists() for path in farm.library.glob("runs/*/request.json"))


def made(farm: Farm) -> int:
    """Deliverables so far."""
    return len(list(farm.library.glob("assets/*")))


# --- the count -------------------------------------------------------------------------------------------------------


def audit(farm: Farm, record: Record, seconds: float, is_over: bool) -> dict:
    """Look at every file, row and process."""
    library = str(farm.library)
    summaries = [p for p in farm.library.glob(f"runs/*/{SUMMARY}") if (p.parent / "request.json").exists()]
    summary = json.loads(summaries[0].read_text()) if summaries else {"failures": [], "seconds": 0}
    compact.compact(library, compact.Policy(grace_s=-1.0, orphan_s=0.0))
    rows = {row["asset_id"]: row for row in query.assets(library)}
    asked = {path.split(",")[0] for path in (farm.folder / "night.csv").read_text().splitlines()[1:]}
    reasons = {each["asset_id"]: each["message"] for each in summary["failures"] if each["message"]}
    whole = {name for name in asked if is_whole(farm.library, name)}
    in_catalogue = {name for name, row in rows.items() if row["status"] in DELIVERED}
    lost = sorted(asked - (whole & in_catalogue) - set(reasons))
    repeats = count_repeats(library, record.corrupted, workers_of(farm.library))
    left = left_behind(farm)
    report = {
        "assets": len(asked),
        "made": len(whole & in_catalogue),
        "failed": len(reasons),
        "lost": len(lost),
        "doubled": doubled(library),
        **repeats,
        "left_behind": len(left),
        "faults": sum(record.count().values()),
        "over": is_over,
        "wall_s": round(seconds),
        "by_kind": dict(record.count()),
        **tail(farm.library),
    }
    for name in lost[:20]:
        print(f"lost: {name} {rows.get(name, {}).get('status')} whole={name in whole}")
    for line in left[:30]:
        print(f"left behind: {line}")
    for name, reason in list(reasons.items())[:20]:
        print(f"failed: {name}: {reason}")
    return report


def is_whole(library: Path, asset_id: str) -> bool:
    """Whether the deliverables are those that asset.json tells of."""
    folder = library / "assets" / asset_id
    try:
        told = json.loads((folder / "asset.json").read_text())["files"]
        return all(sha256_file(folder / name) == file["sha256"] for name, file in told.items())
    except (OSError, ValueError, KeyError):
        return False


def doubled(library: str) -> int:
    """Current rows too many: two for one asset, two for one stage of an asset, one event in two files."""
    sql = """
    select
        (select count(*) - count(distinct asset_id) from assets)
        + (select count(*) - count(distinct (asset_id, stage)) from stage_runs where is_latest)
        + (select count(*) - count(distinct event_id) from stage_runs) as n
    """
    return query.rows(library, sql)[0]["n"]


def count_repeats(library: str, corrupted: list[str], workers: dict[str, str]) -> dict:
    """How often stages were done again, and how much of it no fault explains."""
    work = query.rows(
        library,
        f"select * exclude (spec_json) from stage_runs where stage in {sql_list(names())} and status <> 'skipped'",
    )
    done = Counter((row["asset_id"], row["stage"]) for row in work if row["status"] == "ok")
    broken: Counter[tuple[str, str]] = Counter()
    owner = {row["stage_key"]: row["asset_id"] for row in work if row["stage_key"]}
    for path in corrupted:
        parts = path.split("/")
        if parts[0] == "assets":
            broken[parts[1], "record"] += 1
        else:
            # whoever finds a stage damaged makes it again, and then the deliverables that rest on it
            broken[owner.get(parts[2], ""), parts[1]] += 1
            broken[owner.get(parts[2], ""), "record"] += 1
    bad = [row for row in work if row["status"] in ("failed", "timeout", "cancelled")]
    interrupted = Counter((row["asset_id"], row["stage"]) for row in bad)
    unexplained = sum(max(0, count - 1 - broken[each] - interrupted[each]) for each, count in done.items())
    runs: dict[tuple[str, str], set[str]] = {}
    for row in work:
        if row["status"] == "ok":
            runs.setdefault((row["asset_id"], row["stage"]), set()).add(row["run_id"])
    twice = sum(max(0, len(each) - 1 - broken[key] - interrupted[key]) for key, each in runs.items())
    lost_s = sum(row["duration_s"] or 0.0 for row in bad)
    return {
        "stages": len(done),
        "stages_repeated": sum(count - 1 for count in done.values()) + len(bad),
        "lost_with_process": sum(row["error_type"] == WORKER_LOST for row in bad),
        "stopped": sum(row["status"] == "cancelled" for row in bad),
        "errors": dict(Counter(row["error_type"] for row in bad if row["status"] != "cancelled")),
        "seconds_lost": round(lost_s, 1),
        "seconds_worked": round(sum(row["duration_s"] or 0.0 for row in work), 1),
        "unexplained_repeats": unexplained + overlaps(work),
        "engine_overlaps": engine_overlaps(work, workers),
        "second_run_repeats": twice,
    }


def overlaps(work: list[dict]) -> int:
    """Pairs of processes that worked on one asset at the same time."""
    good = [row for row in work if row["status"] == "ok"]
    return at_once(good, lambda row: row["asset_id"], lambda row: (row["host"], row["worker_pid"]))


def engine_overlaps(work: list[dict], workers: dict[str, str]) -> int:
    """Pairs of shards' processes that worked at the same time for one worker. ``workers``: its name by flow run."""
    theirs = [
        row for row in work if row["prefect_flow_run_id"] in workers and row["error_type"] != WORKER_LOST
    ]  # what was lost is told by another process, later
    return at_once(theirs, lambda row: workers[row["prefect_flow_run_id"]], lambda row: row["prefect_flow_run_id"])


def at_once(work: list[dict], where: Callable[[dict], Any], who: Callable[[dict], Any]) -> int:
    """Pairs of ``who`` whose times at one ``where`` overlap; a time is from its first start to its last end."""
    times: dict[Any, dict[Any, list]] = {}
    for row in work:
        if None not in (row["started_at"], row["finished_at"]):
            span = times.setdefault(where(row), {}).setdefault(who(row), [row["started_at"], row["finished_at"]])
            span[:] = min(span[0], row["started_at"]), max(span[1], row["finished_at"])
    ordered = [sorted(each.values()) for each in times.values()]
    return sum(after[0] < before[1] for each in ordered for before, after in pairwise(each))


def workers_of(library: Path) -> dict[str, str]:
    """The worker of each flow run, as its signs of life tell."""
    told = {path.stem: json.loads(path.read_text())["worker"] for path in library.glob("runs/*/beats/[!.]*")}
    return {name: worker for name, worker in told.items() if worker}


def tail(library: Path) -> dict:
    """Seconds between the ends of the first and of the last worker's last shard, and shards by worker."""
    ends: dict[str, list[float]] = {}
    for path in library.glob("runs/*/beats/*.*"):
        told = json.loads(path.read_text())
        if told["worker"]:
            ends.setdefault(told["worker"], []).append(told["beat"])
    last = [max(times) for times in ends.values()]
    shards = {name: len(times) for name, times in sorted(ends.items())}
    return {"tail_s": round(max(last) - min(last), 1), "shards": shards} if last else {}


def left_behind(farm: Farm) -> list[str]:
    """What should not be there any more."""
    root = farm.library
    found = [f"process {text}" for text in strays(farm.folder)]
    found += [f"file {path.relative_to(root)}" for place in ("tmp", "checkpoints") for path in (root / place).glob("*")]
    found += [f"file {path.relative_to(root)}" for path in root.glob("runs/*/beats/.*")]
    found += [f"lock {path.relative_to(root)}" for path in root.rglob("*") if "lock" in path.name and held(path)]
    found += [f"fsck {finding.kind} {finding.where}: {finding.detail}" for finding in fsck(root)]
    return found


def held(path: Path) -> bool:
    """Whether a process holds the lock."""
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, default=300)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--pace", type=float, default=35.0, help="mean seconds between faults")
    parser.add_argument("--minutes", type=float, default=60.0, help="give up after so long")
    parser.add_argument("--faults", default="", help=f"comma-separated: {', '.join(FAULTS)}; none = all")
    parser.add_argument("--calm", action="store_true", help="no faults: for the tail alone")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="splatmill-chaos-"))
    folder.chmod(0o755)
    try:
        report = night(options, folder)
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    faults = [[kind, str(count)] for kind, count in sorted(report["by_kind"].items())]
    print(aligned(["fault", "times"], faults))
    print(aligned(["what", "count"], [[name, value] for name, value in report.items() if name != "by_kind"]))
    print(json.dumps(report))
    bad = ("lost", "doubled", "unexplained_repeats", "engine_overlaps", "second_run_repeats", "s3_lost", "left_behind")
    good = report["over"] and not any(report[name] for name in bad) and report.get("tail_s", 0.0) < LONGEST_TAIL_S
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
