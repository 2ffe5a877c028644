"""Who waits together shares the farm by weights: at once, whoever submitted more or earlier."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Late, Running

from flows.account import account
from flows.farm import alerts, marks, reconcile, shares
from flows.farm.prefect import _shard
from flows.farm.protocol import Shard
from flows.farm.reconcile import Patience
from flows.farm.runs import open_run
from flows.farm.shards import Timing
from flows.farm.shares import TURN_S, Claim, Rules, divide, turns
from flows.farm.standing import Standing
from pipeline_core.errors import RequestError
from pipeline_core.storage import Library
from tests.flows.farm.test_reconcile import MemoryFarm
from tests.flows.test_batch import write

NOW = datetime.now(UTC)


@pytest.mark.parametrize(("workers", "wants", "parts"), [
    (4, {"a": (1, 4), "b": (1, 4)}, {"a": 2, "b": 2}),
    (4, {"a": (3, 4), "b": (1, 4)}, {"a": 3, "b": 1}),
    (4, {"a": (1, 4), "b": (1, 1)}, {"a": 3, "b": 1}),  # what one does not want is the other's
    (1, {"a": (1, 1), "b": (1, 1)}, {"a": 0.5, "b": 0.5}),
    (8, {"a": (1, 2), "b": (1, 1), "c": (2, 8)}, {"a": 2, "b": 1, "c": 5}),
    (3, {"a": (1, 3)}, {"a": 3}), (0, {"a": (1, 0)}, {"a": 0}),
])  # fmt: skip
def test_workers_are_divided_by_weight_and_none_is_left(workers, wants, parts):
    assert divide(workers, wants) == pytest.approx(parts)


def shard(name, state="scheduled", age_s=0.0):
    return Shard(name, state, NOW - timedelta(seconds=age_s), (f"{name}-asset",))


def claim(run, who, shards=(), **about):
    return Claim(run, who, about.pop("priority", 5), about.pop("opened", 0.0), tuple(shards), **about)


def test_who_is_alone_has_the_farm_whatever_the_weight():
    each = claim("r", "ana", [shard("1", "running"), shard("2"), shard("3")])
    other = claim("s", "ana", opened=1.0)
    for found in turns([each, other], Rules(shares={"ana": {"weight": 0.1}}), 2, NOW).values():
        assert found.room is None and not found.take_back and not found.give_way and not found.short


def test_what_is_queued_beyond_a_part_is_taken_back_and_what_holds_another_s_worker_gives_way():
    mine = [shard(f"w{i}", "running", 10 + i) for i in range(4)] + [shard(f"q{i}", age_s=9 - i) for i in range(6)]
    found = turns([claim("r", "ana", mine), claim("s", "ben", opened=1.0)], Rules(), 4, NOW)
    assert found["r"].take_back == [f"q{i}" for i in range(6)] and found["r"].room == 0
    came = NOW.timestamp() + 1
    late = turns([claim("r", "ana", [mine[0], mine[9]]), claim("s", "ben", opened=came)], Rules(), 4, NOW)
    assert late["r"].take_back == ["q5"] and late["r"].room == 2  # queued while ana was alone, so it may be long
    assert found["r"].give_way == ["w3", "w2"] and found["s"].room == 3 and found["s"].short
    assert found["s"].told == "ben has 2 of 4 workers while ana waits"
    asked = claim("r", "ana", mine[:4], giving_way=frozenset(["w3", "w2"]))
    again = turns([asked, claim("s", "ben", [shard("b0")], opened=1.0)], Rules(), 4, NOW)
    assert again["r"].give_way == [] and again["r"].room == 1 and again["s"].room == 2


def test_one_worker_is_shared_by_turns():
    theirs = claim("s", "ben", [shard("b0")])
    for age_s, way in ((TURN_S - 1, []), (TURN_S, ["w"])):
        found = turns([claim("r", "ana", [shard("w", "running", age_s)]), theirs], Rules(), 1, NOW)
        assert found["r"].give_way == way and found["r"].room == 1


def test_workers_that_are_idle_are_used_before_anybody_gives_way():
    mine = claim("r", "ana", [shard(f"w{i}", "running") for i in range(4)])
    found = turns([mine, claim("s", "ben", [shard("b0"), shard("b1")])], Rules(), 8, NOW)
    assert found["r"].give_way == []


def test_a_limit_holds_for_who_is_alone_too_and_urgent_runs_come_first():
    known = Rules(shares={"ana": {"limit": 2}})
    runs = [claim("late", "ana", [shard("1"), shard("2")], opened=2.0), claim("urgent", "ana", priority=1, opened=3.0)]
    found = turns(runs, known, 8, NOW)
    assert found["late"].take_back == [] and found["late"].room == found["urgent"].room == 0
    found = turns([claim("late", "ana", [shard("1")]), runs[1]], known, 8, NOW)
    assert (found["urgent"].room, found["late"].room) == (1, 0)


def test_a_run_that_needs_no_more_leaves_its_part_to_the_others():
    last = claim("r", "ana", [shard("w", "running")], more=False)
    found = turns([last, claim("s", "ben")], Rules(), 4, NOW)
    assert found["s"].told.startswith("ben has 3 of 4") and found["r"].give_way == []


@pytest.mark.parametrize(("text", "words"), [
    ("shares: {ana: {weight: 0}}", r"shares.yaml, shares.ana.weight, 0: .*greater than 0"),
    ("shares: {ana: {limits: 3}}", r"shares.yaml, shares.ana.limits, 3: "),
    ("shares: [1", "cannot be read"), ("by: ''", r"shares.yaml, by, ''"),
])  # fmt: skip
def test_a_file_that_is_wrong_is_told_and_stops_no_farm(tmp_path, text, words, caplog):
    (tmp_path / "shares.yaml").write_text(text)
    with pytest.raises(RequestError, match=words):
        shares.rules(str(tmp_path))
    assert shares.look(str(tmp_path), MemoryFarm()) == {} and "until then all have equal shares" in caplog.text


# --- a night ---------------------------------------------------------------------------------------------------------


class Night(MemoryFarm):
    """A farm in which an asset takes a tick of a minute: workers take the oldest shard, and heed its marks."""

    def __init__(self, workers):
        super().__init__()
        self.online, self.tick, self.at_work, self.made = workers, 0, {}, {}
        self.queued_at, self.folders = {}, {}

    def shards(self, run_id):
        return [each for name, each in self.runs.items() if self.requests[name].run_id == run_id]

    def submit(self, request):
        super().submit(request)
        self.queued_at.setdefault(request.shard, (request.priority, self.tick, len(self.queued_at)))
        self.folders[request.shard] = request.folder

    def pass_a_tick(self):
        self.tick += 1
        waiting = [name for name, each in self.runs.items() if each.state == "scheduled"]
        for name in sorted(waiting, key=self.queued_at.get)[: self.online - len(self.at_work)]:
            self.at_work[name] = list(self.requests[name].only)
            self.set(name, "running")
        for name, left in list(self.at_work.items()):
            run = self.requests[name].run_id
            if left and not marks.halted(self.folders[name], name):
                self.made.setdefault(run, {})[left.pop(0)] = self.tick
            if marks.halted(self.folders[name], name):
                marks.excuse(self.folders[name], name, marks.PAUSE, "another's turn")
            if not left or marks.halted(self.folders[name], name):
                del self.at_work[name]
                self.set(name, "failed" if left else "completed")
        for name in self.at_work:
            self.runs[name] = replace(self.runs[name], since=self.runs[name].since - timedelta(seconds=60))

    def rate(self, request, first, last):
        """Assets of a run that are made in a tick."""
        return sum(first < tick <= last for tick in self.made.get(request.run_id, {}).values()) / (last - first)


@pytest.fixture
def night(tmp_path, tiny, monkeypatch):
    """Starts runs of users, and lets minutes pass; what is made is what the farm says, so that a minute is quick."""
    farm = Night(4)

    def assess(run, shards):
        made = farm.made.get(run.request.run_id, {})
        open_ = {name for each in shards if each.open for name in each.assets} - made.keys()
        return Standing(
            made=[n for n in run.todo if n in made], waiting=[n for n in run.todo if n in open_],
            missing=[n for n in run.todo if n not in made and n not in open_],
        )  # fmt: skip

    monkeypatch.setattr(reconcile, "measured", lambda library, recipe: Timing(9, 60.0, 60.0))
    monkeypatch.setattr(reconcile, "assess", assess)
    monkeypatch.setattr(reconcile, "verify", lambda *_: None)
    monkeypatch.setattr(alerts, "look", lambda *_: None)
    monkeypatch.setattr("flows.farm.beats.BEAT_S", 0.01)
    monkeypatch.setattr(reconcile, "conclude", lambda *_: None)

    def submit(who, count, **about):
        request = write(tmp_path, count, tiny).model_copy(update={"asked_by": who, **about})
        return open_run(request)

    def minutes(count):
        for _ in range(count):
            reconcile.reconcile(str(tmp_path / "library"), farm, Patience(begin_s=1e9))
            farm.pass_a_tick()

    return farm, submit, minutes


def test_the_second_user_of_equal_weight_has_half_of_the_farm_at_once(night):
    farm, submit, minutes = night
    ana = submit("ana", 200)
    minutes(5)
    assert farm.rate(ana, 0, 5) == 4
    ben = submit("ben", 20)
    minutes(9)
    assert farm.rate(ben, 6, 14) == pytest.approx(2, abs=0.3) and farm.rate(ana, 6, 14) == pytest.approx(2, abs=0.3)
    seen = account(ben.library, ben.run_id)
    assert seen.left_why == "ben has 2 of 4 workers while ana waits"
    minutes(8)
    assert len(farm.made[ben.run_id]) == 20 and (ben.folder / "summary.json").exists()
    minutes(3)
    assert farm.rate(ana, 22, 25) == 4 and marks.share(ana.folder) == ""  # alone again
    assert sum(map(len, farm.made.values())) == len({(run, name) for run in farm.made for name in farm.made[run]})


def test_weights_are_kept(night, tmp_path):
    farm, submit, minutes = night
    (Library(tmp_path / "library").create().root / "shares.yaml").write_text("shares: {ana: {weight: 3}}")
    ben, ana = submit("ben", 60), submit("ana", 60)
    minutes(13)
    assert farm.rate(ana, 1, 13) == pytest.approx(3, abs=0.4) and farm.rate(ben, 1, 13) == pytest.approx(1, abs=0.4)


def test_one_worker_serves_both_by_turns(night):
    farm, submit, minutes = night
    farm.online = 1
    ana = submit("ana", 100)
    minutes(7)
    ben = submit("ben", 20)
    minutes(20)
    assert [farm.rate(each, 7, 27) for each in (ana, ben)] == pytest.approx([0.5, 0.5], abs=0.15)


def test_the_value_of_a_tag_may_be_what_counts(night, tmp_path):
    farm, submit, minutes = night
    (Library(tmp_path / "library").create().root / "shares.yaml").write_text(
        "by: project\nshares: {castle: {weight: 3}, dock: {limit: 1}}"
    )
    runs = {}
    for project, count in (("dock", 40), ("castle", 40)):  # both are of one user
        path = tmp_path / f"{project}.csv"
        path.write_text("id,prompt,tags\n" + "".join(f"{project}-{i},a mug,project={project}\n" for i in range(count)))
        runs[project] = submit("ana", 1, manifest=str(path))
    assert reconcile.read_run(runs["castle"].folder).tags == {"project": "castle"}
    minutes(7)
    assert farm.rate(runs["castle"], 1, 7) == 3 and farm.rate(runs["dock"], 1, 7) == 1


def test_a_shard_that_prefect_calls_late_has_been_in_the_queue_since_it_was_submitted():
    submitted, later = datetime(2026, 11, 26, 20, tzinfo=UTC), datetime(2026, 11, 26, 21, tzinfo=UTC)
    for state, since in ((Late, submitted), (Running, later)):
        run = FlowRun(flow_id=uuid4(), created=submitted, state=state(timestamp=later))
        assert _shard(run, (), set()).since == since
