"""Jobs are made though services and processes are killed, and their ends are told at least once, signed."""

import json
import time

import pytest

from flows.batch import BatchRequest, run_batch
from flows.farm import marks
from flows.farm.runs import read_run
from flows.jobs import book, child, keeper
from flows.jobs.book import Job
from flows.jobs.keeper import Keeper, cancel
from flows.post import signature
from pipeline_core.errors import RequestError
from pipeline_core.files import lock
from pipeline_core.storage import Library
from tests.flows.farm.test_alerts import hook  # noqa: F401
from tests.flows.test_batch import finish

SECRET = "open sesame"


@pytest.fixture
def library(tmp_path):
    return str(Library(tmp_path / "library").create().root)


def accepted(library, name="a", prompt="a red mug", **options):
    """A job of two assets that was accepted."""
    job_id = book.name_for("ana", name)
    manifest = Library(library).run_dir(job_id) / book.FOLDER / "m.csv"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(f"id,prompt\n{name}-0,{prompt}\n{name}-1,{prompt}\n")
    webhook = options.pop("webhook", "")
    about = {"manifest": str(manifest), "library": library, "run_id": job_id, "recipe": "draft", "asked_by": "ana"}
    request = BatchRequest(**about | options)
    lists = {"missing": [f"{name}-0", f"{name}-1"], "cached": [], "quarantined": []}
    job = Job(request, time.time(), "0" * 64, webhook, lists)
    assert book.accept(job) and not book.accept(job)
    return book.find(library, job_id)


class Process:
    """A job's process in this one: ``made`` says what it does before it ends."""

    def __init__(self, job, made):
        made(job)

    def poll(self):
        return 0


def making(job):
    run_batch(job.request, finish)


def dying(job):
    """Its process is killed."""


def test_jobs_are_made_one_after_the_other_by_priority(library):
    order = []
    accepted(library, "late"), accepted(library, "urgent", priority=1)

    def made(job):
        order.append(job.request.manifest.split("/")[-3])
        making(job)

    each = Keeper(library, farm=False, start=lambda job: Process(job, made))
    each.bring_on()
    assert len(order) == 1
    each.bring_on()
    assert order == [book.name_for("ana", "urgent"), book.name_for("ana", "late")]
    assert all(job.over for job in each.jobs())


def test_a_service_that_is_started_again_goes_on_and_does_not_start_what_is_at_work(library):
    job, started = accepted(library), []
    Keeper(library, farm=False, start=lambda job: Process(job, dying)).bring_on()
    second = Keeper(library, farm=False, start=lambda job: started.append(job.name) or Process(job, making))
    with lock(job.folder / book.LOCK):  # the process of the service that was killed is at work still
        second.bring_on()
        assert started == []
    second.bring_on()
    assert started == [job.name] and job.over


def test_a_job_whose_process_ends_again_and_again_is_given_up_and_says_so(library):
    job, each = accepted(library), Keeper(library, farm=False, start=lambda job: Process(job, dying))
    for _ in range(keeper.MOST_STARTS + 1):
        assert not job.over
        each.bring_on()
    assert "ended 5 times without a word" in job.broken
    assert book.document(job)["state"] == "broken" and book.document(job)["ok"] is False


def test_a_start_after_which_assets_are_made_is_no_reason_to_give_up(library):
    job = accepted(library)
    seen = iter([0, 0, 0, 0, 1, 1])
    each = Keeper(library, farm=False, start=lambda job: Process(job, dying))
    keeper_document = book.document
    try:
        book.document = lambda job: {"assets": {"made": next(seen)}}
        for _ in range(6):
            each.bring_on()
    finally:
        book.document = keeper_document
    assert not job.over


def test_what_an_earlier_process_of_the_job_made_counts_as_made(library):
    job = accepted(library)
    making(job)
    making(job)  # it finds them
    assert job.summary().cached and book.document(job)["assets"]["made"] == 2


def test_what_damages_one_job_does_not_hold_up_the_others(library):
    damaged, good = accepted(library, "damaged"), accepted(library, "good")
    (damaged.folder / book.JOB).write_text("{")
    each = Keeper(library, farm=False, start=lambda job: Process(job, making))
    each.bring_on()
    assert good.over


def told(hook):  # noqa: F811
    return [json.loads(body) for _, body in hook.posts]


def test_an_end_is_told_signed_and_again_until_it_has_arrived(library, hook, monkeypatch):  # noqa: F811
    monkeypatch.setenv("SPLATMILL_WEBHOOK_SECRET", SECRET)
    monkeypatch.setattr(keeper, "FIRST_S", 0.0)
    job, hook.answers = accepted(library), [500, 302, 200]
    for kill in range(4):  # every post by another service, as if each had been killed
        each = Keeper(library, farm=False, start=lambda job: Process(job, making))
        each.tell_ends()
        assert len(hook.posts) == kill
        each.bring_on()
    each.tell_ends()
    each.tell_ends()
    assert len(hook.posts) == 3
    assert {headers["Idempotency-Key"] for headers, _ in hook.posts} == {f"{job.name}-ended"}
    assert len({body for _, body in hook.posts}) == 1
    headers, body = hook.posts[-1]
    assert headers["X-Splatmill-Signature"] == signature(SECRET, body)
    (first, *_) = told(hook)
    assert first["id"] == job.name and first["state"] == "done" and first["assets"]["made"] == 2
    assert first["text"].endswith(": done. 2 asked, 2 made")
    assert book.document(job)["webhook"] == {"wanted": True, "sent": True, "tries": 3, "error": ""}


def test_one_that_does_not_answer_is_waited_for_longer_and_longer_and_nobody_else_is(library, hook, monkeypatch):  # noqa: F811
    monkeypatch.setenv("SPLATMILL_JOBS_WEBHOOKS", "http://127.0.0.1:1")
    silent, other = accepted(library, "a", webhook="http://127.0.0.1:1/none"), accepted(library, "b")
    for job in (silent, other):
        making(job)
    each, waits = Keeper(library, farm=False), []
    for _ in range(4):
        each.tell_ends()
        state = book.read(silent.folder / book.TOLD)
        waits.append(round(state["next"] - time.time()))
        (silent.folder / book.TOLD).write_text(json.dumps(state | {"next": 0.0}))
    assert waits == [5, 10, 20, 40] and len(hook.posts) == 1
    assert "refused" in book.document(silent)["webhook"]["error"]


def test_killed_between_the_post_and_its_note_it_is_told_again(library, hook, monkeypatch):  # noqa: F811
    job = accepted(library)
    making(job)
    with monkeypatch.context() as killed:
        writes = [keeper.write_json]
        killed.setattr(keeper, "write_json", lambda *about, **how: writes.pop()(*about, **how))
        with pytest.raises(IndexError):
            Keeper(library, farm=False).tell_ends()
    Keeper(library, farm=False).tell_ends()
    assert len(hook.posts) == 2 and hook.posts[0][1] == hook.posts[1][1]


def test_nobody_is_told_where_no_address_is_known(library):
    job = accepted(library)
    making(job)
    each = Keeper(library, farm=False)
    each.tell_ends()
    each.tell_ends()
    assert each.jobs() == [] and not book.document(job)["webhook"]["wanted"]


def test_on_a_farm_jobs_are_opened_as_runs_and_cancelled_by_their_marks(library, monkeypatch):
    brought = []
    monkeypatch.setattr("flows.farm.commands.bring_on", brought.append)
    job, other = accepted(library), accepted(library, "b")
    assert cancel(other, "ben", farm=True)
    each = Keeper(library, farm=True)
    each.bring_on()
    each.bring_on()
    assert brought == [job.folder] and read_run(job.folder).todo == ("a-0", "a-1")
    assert json.loads((job.folder / "asked.json").read_text())["user"] == "ana"
    assert other.over and book.document(other)["why"].startswith("cancelled by ben")
    assert cancel(job, "ana", farm=True) and marks.cancelled(job.folder) and brought == [job.folder] * 2


def test_the_child_makes_a_job_once_and_puts_down_what_cannot_be_made(library, monkeypatch):
    job, codes = accepted(library), []
    monkeypatch.setattr(child, "run_here", lambda request, as_json: making(job) or 0)
    codes.append(child.main(library, job.name))
    monkeypatch.setattr(child, "run_here", lambda *_, **__: pytest.fail("it is over"))
    codes.append(child.main(library, job.name))
    assert codes == [0, 0] and job.over
    bad = accepted(library, "bad", prompt="红色的杯子")
    monkeypatch.undo()
    with pytest.raises(RequestError, match="words that starter"):
        child.main(library, bad.name)
    assert "words that starter" in bad.broken


def test_what_was_interrupted_goes_on(library, monkeypatch):
    job = accepted(library)

    def interrupted(request, as_json):
        summary = run_batch(request, finish)
        path = job.folder / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"stopped": summary.made, "made": []}))
        return child.INTERRUPTED

    monkeypatch.setattr(child, "run_here", interrupted)
    assert child.main(library, job.name) == child.INTERRUPTED and not job.over
    assert not (job.folder / "summary.json").exists()
