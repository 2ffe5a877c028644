"""Every curl line of docs/JOBS.md is answered as the page says, by the real routes."""

import shlex

from starlette.testclient import TestClient

from flows.batch import run_batch
from flows.jobs.app import make_app
from flows.jobs.keeper import Keeper
from tests.docs.pages import ROOT, blocks, lines
from tests.flows.test_batch import finish

PAGE = (ROOT / "docs" / "JOBS.md").read_text()
CURLS = [line for _, block in blocks(PAGE) for line in lines(block) if line.startswith("curl ")]
WITH_VALUE = ("-H", "--data", "--data-binary", "--output", "--request")


def typed(line, values):
    """Method, address, headers and body of a curl line, as curl reads it."""
    for name, value in values.items():
        line = line.replace(f"${name}", value)
    words, options, plain = iter(shlex.split(line)[1:]), [], []
    for word in words:
        if word in WITH_VALUE:
            options.append((word, next(words)))
        elif word != "--fail-with-body":
            plain.append(word)
    [address] = plain
    headers = dict(value.split(": ", 1) for name, value in options if name == "-H")
    found = {name: value for name, value in options if name != "-H"}
    body = found.get("--data") or found.get("--data-binary")
    return found.get("--request", "POST" if body else "GET"), address, headers, body


def test_the_page_s_curl_lines_do_what_it_says(tmp_path):
    library, values = str(tmp_path / "library"), {"JOBS": "/v1/jobs", "SPLATMILL_JOBS_TOKEN": "x" * 24}

    class Made:
        def __init__(self, job):
            run_batch(job.request, finish)

        def poll(self):
            return 0

    keeper = Keeper(library, farm=False, start=Made)
    client = TestClient(make_app(library, keeper, tokens={}, user="ana"), base_url="http://127.0.0.1:8642")
    statuses = []
    for line in CURLS:
        method, address, headers, body = typed(line, values)
        if body == "@props.csv":
            body = next(block for _, block in blocks((ROOT / "README.md").read_text()) if block.startswith("id,prompt"))
        answer = client.request(method, address, headers=headers, content=body)
        statuses.append(answer.status_code)
        if "JOB" not in values:
            values = {"JOBS": values.pop("JOBS"), "JOB": answer.json()["id"]} | values
            keeper.bring_on()
    assert statuses == [202, 202, 200, 200, 200, 200, 409, 200]


def test_the_page_tells_of_every_route_and_option():
    told = make_app("x", Keeper("x", farm=False), tokens={}, user="").openapi()
    for path, methods in told["paths"].items():
        known = path.replace("{name}", "JOB").replace("{asset_id}", "ASSET").replace("{file}", "FILE")
        for method in methods:
            assert f"`{method.upper()} {known}`" in PAGE, (method, path)
    for each in told["paths"]["/v1/jobs"]["post"]["parameters"]:
        assert f"`{each['name']}`" in PAGE, each["name"]
