"""A library in a bucket that two runs share while the farm has its night: moto's server, and two ``splatmill run``.

The first run is killed -9 once an asset is there, with all that it started, and started again.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

from tests.chaos.services import Farm, free_port

if TYPE_CHECKING:
    from tests.chaos.farm import Record

ADDRESS = "s3://chaos/props"
ONE, TWO = "s3-one", "s3-two"


class Shared:
    """The bucket, its manifest of so many assets, and the two runs."""

    def __init__(self, farm: Farm, assets: int) -> None:
        self.farm, self.assets, self.port = farm, assets, free_port()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "chaos",
            "AWS_SECRET_ACCESS_KEY": "chaos",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.manifest = farm.folder / "s3.csv"
        rows = (farm.folder / "night.csv").read_text().splitlines()[: assets + 1]
        self.manifest.write_text("\n".join(rows) + "\n")

    def start(self, record: Record, options: list[str]) -> None:
        """Start server and runs, and the thread that kills one."""
        self.options = options
        self.farm.spawn("moto", ["moto.server", "-H", "127.0.0.1", "-p", str(self.port)])
        end = time.monotonic() + 180
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        os.environ.update(self.environment)
        import s3fs

        s3fs.S3FileSystem().mkdir(ADDRESS.split("/")[2])
        for name in (ONE, TWO):
            self._run(name)
        self.harm = threading.Thread(target=self._harm, args=(record,), daemon=True)
        self.harm.start()

    def _run(self, name: str) -> None:
        self.farm.start_run(name, self.manifest, ADDRESS, self.options, **self.environment)

    def _harm(self, record: Record) -> None:
        from pipeline_core.storage import Library

        victim, root = self.farm.processes[ONE], Library(ADDRESS).root
        while victim.poll() is None and not list(root.glob("stages/record/*/record.json")):
            time.sleep(0.5)
        if victim.poll() is None:
            os.killpg(victim.pid, signal.SIGKILL)
            victim.wait()
            record.add("kill_s3_run", ONE)
            self._run(ONE)

    def lost(self, seconds: float) -> int:
        """Let both come to their end, and count: assets that are not there, repeated deliveries, and findings."""
        from catalog import query
        from catalog.fsck import fsck

        end = time.monotonic() + seconds
        self.harm.join(seconds)
        over = [self.farm.ended(name, max(1.0, end - time.monotonic())) for name in (ONE, TWO)]
        made = len(query.rows(ADDRESS, "select asset_id from assets where status in ('ok', 'unjudged')"))
        sql = "select count(*) as n from stage_runs where stage = 'record' and status = 'ok'"
        delivered = query.rows(ADDRESS, sql)[0]["n"]
        findings = fsck(ADDRESS)
        for finding in findings:
            print(f"s3: {finding.kind} {finding.where}: {finding.detail}", flush=True)
        print(f"s3: {made} of {self.assets} made in {delivered} deliveries; both ended: {over}", flush=True)
        return self.assets - made + len(findings)
