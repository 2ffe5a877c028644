"""A farm as it is, server and all, whose library is a bucket: submitted, handed out, shared by users, come to its end.

Only the workers are this process: they show themselves to the server, take what it hands out and run its flow.
"""

import threading
from collections import Counter
from contextvars import copy_context
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.account import account
from flows.farm import commands, marks, reconcile
from flows.farm import flows as farm_flows
from flows.farm.prefect import PrefectFarm
from flows.farm.reconcile import Patience
from flows.farm.runs import open_runs
from flows.farm.setup import POOL, make_pools
from flows.farm.shards import Timing
from pipeline_core.storage import Library
from tests.flows.test_batch import finish, write
from tests.flows.test_server import call

pytestmark = pytest.mark.farmfiles


class Served:
    """A server with the farm's pool and deployment, ``workers`` of it, and users who submit."""

    def __init__(self, url, library, folder, tiny):
        self.url, self.client, self.library, self.folder, self.tiny = url, None, library, folder, tiny
        self.made, self.gate, self.limited = Counter(), None, []

    def online(self, *names):
        """Workers show themselves."""
        for name in names:
            body = {"name": name, "heartbeat_interval_seconds": 600}
            assert call(self.url, f"/work_pools/{POOL}/workers/heartbeat", body)[0] == 204

    def submit(self, who, count):
        """``splatmill submit`` by a user; the run's id, and what the command says."""
        folder = self.folder / who
        folder.mkdir()
        request = write(folder, 0, self.tiny).model_copy(update={"library": self.library, "asked_by": who})
        rows = [f"{who}-{i},a blue mug" for i in range(count)]
        Path(request.manifest).write_text("\n".join(["id,prompt", *rows]))
        return request.run_id, commands.submit_batch(request)

    def take(self, name):
        """A worker asks the server for work, as Prefect's does: the flow run that it gets, Pending, or None."""
        path = f"/work_pools/{POOL}/get_scheduled_flow_runs"
        found = call(self.url, path, {"limit": 1})[1]
        if not found:
            return None
        run = found[0]["flow_run"]
        state = {"state": {"type": "PENDING"}}
        assert call(self.url, f"/flow_runs/{run['id']}/set_state", state)[1]["status"] == "ACCEPT"
        self.client.update_flow_run_labels(run["id"], {"prefect.worker.name": name})
        return run["id"]

    def run(self, taken):
        """The flow of a shard that was taken; its last state."""
        from prefect.flow_engine import run_flow

        return run_flow(farm_flows.shard, flow_run=self.client.read_flow_run(taken), return_type="state")

    def work(self, name, until):
        """A worker makes shard after shard until a run is over; who is limited to one shard has no more."""
        for _ in range(20):
            if taken := self.take(name):
                self.run(taken)
            outcomes = self.look()
            assert all(len(self.open(run)) <= 1 for run in self.limited)
            if until in outcomes and outcomes[until].ended:
                return
        raise AssertionError(outcomes)

    def make(self, journey):
        """What a shard makes of an asset."""
        self.made[journey.asset_id] += 1
        if self.gate:
            self.gate(journey)
        finish(journey)

    def look(self):
        """``splatmill reconcile``: outcomes by run."""
        return {each.run_id: each for each in reconcile.reconcile(self.library, PrefectFarm(), Patience())}

    def open(self, run):
        """The run's shards that are in the queue or at work."""
        return [shard for shard in PrefectFarm().shards(run) if shard.open]


@pytest.fixture
def served(prefect_here, bucket, tmp_path, tiny, monkeypatch):
    from prefect.client.orchestration import get_client

    monkeypatch.setenv("PREFECT_API_URL", prefect_here)
    monkeypatch.setattr(reconcile, "measured", lambda library, recipe: Timing(9, 60.0, 60.0))
    monkeypatch.setattr(farm_flows, "Outage", lambda url: SimpleNamespace(outlast=lambda: None))  # for a process's life
    monkeypatch.setattr(farm_flows, "stop", threading.Event())
    monkeypatch.setattr(farm_flows.logs, "configure", lambda **_: None)
    served = Served(prefect_here, f"{bucket}/served", tmp_path, tiny)
    monkeypatch.setattr(farm_flows, "make_asset", served.make)
    with get_client(sync_client=True) as client:
        list(make_pools(client, 2))
        client.create_deployment(client.create_flow_from_name("shard"), "shard", work_pool_name=POOL)
        served.client = client
        yield served
        client.delete_work_pool(POOL)


def test_two_users_share_a_farm_whose_library_is_a_bucket(served):
    served.online("gpu-0", "gpu-1")
    (Library(served.library).create().root / "shares.yaml").write_bytes(b"shares: {ben: {limit: 1}}")
    ana, said = served.submit("ana", 4)
    assert f"run {ana}" in said and sum(len(shard.assets) for shard in served.open(ana)) == 4
    waiting = len(served.open(ana))
    begun, go_on = threading.Event(), threading.Event()

    def hold(journey):  # the first asset that is begun
        if not begun.is_set():
            begun.set()
            go_on.wait(600)

    served.gate = hold
    shard = (served.run, served.take("gpu-0"))
    at_work = threading.Thread(target=copy_context().run, args=shard, daemon=True)
    at_work.start()
    assert begun.wait(240)
    ben, _ = served.submit("ben", 2)
    served.limited.append(ben)
    outcomes = served.look()
    # what ana had queued while she was alone is taken back, and ben has no more than his limit
    assert len(outcomes[ana].closed) == waiting - 1 and len(served.open(ben)) == 1
    assert account(served.library, ana).left_why == "ana has 1 of 2 workers while ben waits"
    served.work("gpu-1", until=ben)
    go_on.set()
    at_work.join(240)
    served.work("gpu-1", until=ana)  # ben has ended: his part is hers again
    assert set(served.made.values()) == {1} and len(served.made) == 6
    assert account(served.library, ana).made == 4 and account(served.library, ben).made == 2
    assert marks.share(Library(served.library).run_dir(ana)) == ""
    assert served.take("gpu-0") is None and open_runs(served.library) == []
