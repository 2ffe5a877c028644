"""Jobs over HTTP: what is answered, who may ask, what is refused and how, and that one key is one job."""

import hashlib
import json

import pytest
from starlette.testclient import TestClient

from flows.asked import keep
from flows.batch import prepare, run_batch
from flows.jobs import app as module
from flows.jobs import book
from flows.jobs.app import make_app
from flows.jobs.intake import NO_FILES
from flows.jobs.keeper import Keeper
from flows.jobs.serve import tokens
from flows.summary import SUMMARY
from pipeline_core.errors import RequestError
from pipeline_core.storage import Library
from tests.flows.farm.test_reconcile import holding
from tests.flows.test_batch import finish

ROWS = [{"id": "mug", "prompt": "a red mug", "seed": 1}, {"id": "bowl", "prompt": "a blue bowl"}]
TOKENS = {hashlib.sha256(word.encode()).hexdigest(): name for word, name in (("a" * 24, "ana"), ("b" * 24, "ben"))}


class NoProcess:
    """A job's process that has ended."""

    def poll(self):
        return 0


@pytest.fixture
def library(tmp_path):
    return str(tmp_path / "library")


@pytest.fixture
def keeper(library):
    """Jobs are made in this process, in no time."""

    def start(job):
        run_batch(job.request, finish)
        return NoProcess()

    return Keeper(library, farm=False, start=start)


@pytest.fixture
def client(library, keeper):
    return TestClient(make_app(library, keeper, tokens={}, user="ana"), base_url="http://127.0.0.1:8642")


def post(client, rows=ROWS, key="", token="", **options):
    headers = ({"Idempotency-Key": key} if key else {}) | ({"Authorization": f"Bearer {token}"} if token else {})
    return client.post("/v1/jobs", json={"rows": rows, "recipe": "draft", **options}, headers=headers)


def test_a_manifest_is_posted_made_and_fetched(client, keeper, library):
    answer = post(client)
    job = answer.json()
    assert answer.status_code == 202 and answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert job["state"] == "queued" and job["ok"] is None and job["user"] == "ana"
    assert job["assets"] == {"asked": 2, "waiting": 2} | dict.fromkeys((*book.STATES[:-1], "unjudged"), 0)
    keeper.bring_on()
    job = client.get(answer.headers["Location"]).json()
    assert job["state"] == "done" and job["ok"] and job["assets"]["made"] == 2
    told = client.get(f"/v1/jobs/{job['id']}/assets", params={"limit": 1, "offset": 1}).json()
    assert told["total"] == 2 and [each["asset_id"] for each in told["assets"]] == ["bowl"]
    assert set(told["assets"][0]["files"]) == {"asset.glb", "asset.json"}
    assert client.get(f"/v1/jobs/{job['id']}/assets/bowl/asset.glb").text == "bowl"
    assert [each["over"] for each in client.get("/v1/jobs").json()] == [True]
    assert post(client).json()["assets"]["cached"] == 2  # another job, without a key


def test_csv_and_json_lines_are_posted_as_they_are(client, keeper):
    csv = client.post(
        "/v1/jobs",
        params=[("recipe", "draft"), ("set", "geometry.steps=9"), ("priority", "2"), ("accept", '{"faces": 300}')],
        content="id,prompt\nmug,a red mug\n", headers={"Content-Type": "text/csv; charset=utf-8"},
    )  # fmt: skip
    lines = client.post(
        "/v1/jobs", content=json.dumps(ROWS[0]) + "\n", headers={"Content-Type": "application/x-ndjson"}
    )
    assert csv.status_code == lines.status_code == 202
    job = book.find(keeper.library, csv.json()["id"])
    assert job.request.overrides == {"geometry.steps": 9} and (job.request.recipe, job.request.priority) == ("draft", 2)
    assert job.request.accept == {"faces": 300}
    assert [each.name for each in keeper.jobs()] == [csv.json()["id"], lines.json()["id"]]  # the urgent one first


def test_one_key_is_one_job_and_another_body_under_it_is_refused(client, keeper, monkeypatch):
    first, again = post(client, key="night-7"), post(client, key="night-7")
    assert (first.status_code, again.status_code) == (202, 200) and first.json()["id"] == again.json()["id"]
    other = post(client, rows=ROWS[:1], key="night-7")
    assert other.status_code == 422 and "was posted with another body" in other.json()["error"]
    assert len(client.get("/v1/jobs").json()) == 1
    find = book.find  # two that come at once: neither sees the other's job before it puts its own down
    seen = iter([None])
    monkeypatch.setattr(book, "find", lambda *about: next(seen, find(*about)))
    assert post(client, key="night-7").json()["id"] == first.json()["id"]
    seen = iter([None])
    assert post(client, rows=ROWS[:1], key="night-7").status_code == 422
    assert client.post("/v1/jobs", json={"rows": ROWS}, headers={"Idempotency-Key": "a b"}).status_code == 400


@pytest.mark.parametrize(("rows", "options", "problem"), [
    ([ROWS[0], {"prompt": "x", "seed": -1}], {}, {"row": 2, "field": "seed", "value": "-1"}),
    ([{"prompt": "红色的杯子"}], {}, {"row": 1, "field": "prompt", "value": "'红色的杯子'"}),
    (ROWS, {"recipe": "fatcory"}, {"row": None, "field": "recipe", "value": "'fatcory'"}),
    (ROWS, {"set": {"geometry.stepps": 1}}, {"row": None, "field": "set.geometry.stepps", "value": "1"}),
    (ROWS, {"accept": {"tags": {"hero": {"facess": 1}}}}, {"field": "accept.tags.hero.facess", "value": "1"}),
    (ROWS, {"accept": "faces"}, {"row": None, "field": "accept", "value": "'faces'"}),
    (ROWS, {"deadline": "2030-01-01T06:00"}, {"row": None, "field": "deadline"}),
    (ROWS, {"webhook": "http://169.254.169.254/latest"}, {"field": "webhook", "value": "'http://169.254.169.254/latest'"}),
    (ROWS, {"set": {"image_prior": "/etc"}}, {"row": None, "field": "image_prior", "value": "'/etc'"}),
    ([ROWS[0], ROWS[1] | {"image_lora": "../x.safetensors"}], {}, {"row": 2, "field": "image_lora"}),
    ([ROWS[0] | {"init_file": "../../../job.ply"}], {}, {"row": 1, "field": "init_file", "allowed": NO_FILES}),
    ([ROWS[0] | {"image": "/etc/passwd.png"}], {}, {"row": 1, "field": "image", "allowed": NO_FILES}),
    ([ROWS[0] | {"id": "../x"}], {}, {"row": 1, "field": "id", "value": "'../x'"}),
    ([ROWS[0], 7], {}, {"row": 2, "value": "7"}),
    ([], {}, {"row": None, "field": "rows"}),
    (ROWS, {"in_flight": 99}, {"row": None, "field": "in_flight"}),
])  # fmt: skip
def test_what_is_wrong_is_told_with_row_field_and_value(client, library, rows, options, problem):
    answer = post(client, rows, **options)
    assert answer.status_code == 422, answer.text
    told = answer.json()["problems"]
    assert any(problem.items() <= each.items() for each in told), told
    assert library not in answer.text and all(each["allowed"] for each in told)
    assert list(book.names(library)) == []  # nothing is left of it


def test_a_job_s_assets_are_held_to_the_contract_that_was_posted_and_their_row_s(library):
    figures = {"mug": {"faces": 4800.0}, "bowl": {"faces": 4800.0}}
    made = []

    def start(job):
        plan = prepare(job.request)
        keep(job.request, plan)
        run_batch(job.request, lambda journey: made.append(journey.asset_id) or holding(figures)(journey), plan=plan)
        (job.folder / SUMMARY).rename(job.folder / "held back")
        return NoProcess()

    keeper = Keeper(library, farm=False, start=start)
    client = TestClient(make_app(library, keeper, tokens={}, user="ana"), base_url="http://127.0.0.1:8642")
    rows = [ROWS[0], ROWS[1] | {"accept": {"faces": 9000}}, {"id": "cup", "prompt": "a red cup"}]
    address = post(client, rows, accept={"faces": 300}).headers["Location"]
    keeper.bring_on()
    job = book.find(library, address.rpartition("/")[2])
    for ok in (None, False):  # while it is at work by the catalogue, then by its summary
        told = client.get(address).json()
        counts = {name: count for name, count in told["assets"].items() if count}
        assert told["ok"] is ok and counts == {"asked": 3, "made": 2, "rejected": 1, "unjudged": 1}
        assets = {each["asset_id"]: each["why"] for each in client.get(f"{address}/assets").json()["assets"]}
        assert assets == {"mug": "faces 4800 (at most 300)", "bowl": "", "cup": "faces not measured (at most 300)"}
        if ok is None:
            (job.folder / "held back").rename(job.folder / SUMMARY)
    assert sorted(made) == ["bowl", "cup", "mug"]


def test_good_rows_are_made_where_that_is_asked_for(client):
    job = post(client, [ROWS[0], {"prompt": "x", "seed": -1}], skip_invalid=True).json()
    assert job["assets"]["asked"] == 1 and [each["row"] for each in job["refused"]] == [2]


def test_a_model_that_the_operator_allows_may_be_named(client, monkeypatch):
    monkeypatch.setenv("SPLATMILL_JOBS_MODELS", "elsewhere, /no/such/model")
    [told] = post(client, ROWS[:1], set={"image_prior": "/no/such/model"}).json()["problems"]
    assert told["field"] == "image_prior" and "JOBS_MODELS" not in told["allowed"]  # it was looked for


def test_bodies_are_bounded_and_of_known_kinds(client, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    assert client.post("/v1/jobs", content=b"x" * 1001, headers={"Content-Type": "text/csv"}).status_code == 413
    chunks = client.post("/v1/jobs", content=iter([b"x" * 600] * 2), headers={"Content-Type": "text/csv"})
    assert chunks.status_code == 413 and "larger than 1000 bytes" in chunks.json()["error"]
    assert client.post("/v1/jobs", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    for body in ("{", '{"rows": [{"prompt": NaN}]}', "[" * 900):
        answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422) and answer.json()["error"], body


def test_without_tokens_only_loopback_is_answered(client):
    answer = client.get("/v1/jobs", headers={"Host": "rebound.example.org"})
    assert answer.status_code == 403 and "rebound.example.org" in answer.json()["error"]
    assert client.get("/v1/jobs", headers={"Host": "localhost:8642"}).status_code == 200


def test_with_tokens_each_user_sees_the_own_jobs(library, keeper):
    client = TestClient(make_app(library, keeper, tokens=TOKENS, user=""), base_url="http://farm:8642")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic " + "a" * 24}):
        answer = client.get("/v1/jobs", headers=headers)
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
    mine = post(client, key="k", token="a" * 24).json()
    theirs = post(client, rows=ROWS[:1], key="k", token="b" * 24)
    assert theirs.status_code == 202 and theirs.json()["user"] == "ben" and mine["user"] == "ana"
    ben = {"Authorization": "Bearer " + "b" * 24}
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/assets"), ("GET", "/assets/mug/asset.glb")):
        assert client.request(method, f"/v1/jobs/{mine['id']}{path}", headers=ben).status_code == 404
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("name", ["last", "job-", "job-" + "0" * 32, "..%2f..", "job-%00", "job-" + "x" * 500])
def test_what_is_no_job_s_id_is_not_found(client, name):
    answer = client.get(f"/v1/jobs/{name}")
    assert answer.status_code == 404 and answer.json()["error"]


def test_only_deliverables_of_the_job_s_assets_are_fetched(client, keeper, library):
    job = post(client).json()["id"]
    keeper.bring_on()
    (Library(library).asset_dir("mug") / "secret.txt").write_text("s")
    for path in ("mug/secret.txt", "mug/..%2f..%2fruns", "other/asset.glb", "mug/splat.ply", "..%2fmug/asset.glb"):
        assert client.get(f"/v1/jobs/{job}/assets/{path}").status_code == 404, path


def test_a_job_is_cancelled_before_it_begins_and_only_until_it_is_over(client, keeper):
    job, other = post(client, key="a").json()["id"], post(client, rows=ROWS[:1], key="b").json()["id"]
    for _ in range(2):
        assert client.delete(f"/v1/jobs/{job}").status_code == 202
    keeper.bring_on()
    told = client.get(f"/v1/jobs/{job}").json()
    assert told["state"] == "cancelled" and told["why"].startswith("cancelled by ana") and not told["ok"]
    assert told["assets"]["stopped"] == 2 and client.get(f"/v1/jobs/{other}").json()["state"] == "done"
    assert client.delete(f"/v1/jobs/{other}").status_code == 409


def test_openapi_tells_of_every_route_and_body(client):
    told = client.get("/openapi.json").json()
    routes = {(path, method) for path, each in told["paths"].items() for method in each}
    assert ("/v1/jobs/{name}", "delete") in routes and len(routes) == 7
    posted = told["paths"]["/v1/jobs"]["post"]
    assert set(posted["requestBody"]["content"]) == {"application/json", "text/csv", "application/x-ndjson"}
    assert {"Idempotency-Key", "recipe", "set", "webhook"} <= {each["name"] for each in posted["parameters"]}
    assert "bearer" in json.dumps(told["components"]["securitySchemes"]).lower()


def test_tokens_come_from_a_file_of_its_owner_alone(tmp_path, monkeypatch):
    assert tokens() == {}
    path = tmp_path / "users"
    monkeypatch.setenv("SPLATMILL_JOBS_USERS", str(path))
    for text, mode, why in [
        ("ana aaaaaaaaaaaaaaaaaaaaaaaa\n", 0o644, "chmod 600"), ("ana short\n", 0o600, "line 1: a token of 16"),
        ("# who\nana\n", 0o600, "line 2: a user's name"), ("\n", 0o600, "names nobody"),
        (f"ana {'a' * 24}\nben {'a' * 24}\n", 0o600, "line 2: this token is ana's"),
    ]:  # fmt: skip
        path.write_text(text)
        path.chmod(mode)
        with pytest.raises(RequestError, match=why) as refused:
            tokens()
        assert "aaaa" not in str(refused.value)
    path.write_text(f"# who\nana {'a' * 24}\nben   {'b' * 24}\n")
    assert tokens() == TOKENS


def test_who_waits_too_long_for_other_manifests_is_told_to_come_again(library, keeper, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    monkeypatch.setattr(module, "MOST_PLANNED", 0)
    client = TestClient(make_app(library, keeper, tokens={}, user="ana"), base_url="http://localhost")
    answer = post(client)
    assert answer.status_code == 503 and answer.headers["Retry-After"]
