"""The routes of ``splatmill serve``. ``GET /openapi.json`` describes them to machines, docs/JOBS.md to people."""

import hashlib
import hmac
import re
import threading
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from flows.jobs import book, intake
from flows.jobs.book import Job
from flows.jobs.intake import Body, Options, Refusal
from flows.jobs.keeper import Keeper, cancel
from pipeline_core.secrets import redact
from pipeline_core.storage import Library

MOST_BYTES = 32 * 2**20
"""A larger body is refused, and not read to its end."""
MOST_PLANNED = 2
"""So many manifests are looked at at once; whoever posts meanwhile waits, at most :data:`PATIENCE_S`."""
PATIENCE_S = 60.0
KEY = re.compile("[!-~]{1,255}")
Offset = Annotated[int, Query(ge=0)]
Limit = Annotated[int, Query(ge=1, le=1000)]
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")

bearer = HTTPBearer(auto_error=False, description="the token that the operator gave; none on loopback without tokens")


class Wrong(BaseModel):
    """One thing that is wrong with a request."""

    row: int | None = Field(description="row of the manifest, as its reader counts them (of JSON rows from 1)")
    field: str
    value: str
    allowed: str


class Error(BaseModel):
    """What is answered where the answer is no 2xx."""

    error: str
    problems: list[Wrong] = []


class Counts(BaseModel):
    """How many assets of a job are in which state."""

    asked: int
    made: int
    cached: int
    rejected: int
    failed: int
    stopped: int
    left: int
    quarantined: int
    waiting: int
    unjudged: int = Field(description="of those made or cached: no judge has seen them, or a figure is lacking")


class JobDocument(BaseModel):
    """A job: queued, running, done, cancelled, or broken (``why`` tells). ``ok``: all that was asked for is there."""

    id: str
    state: str
    ok: bool | None
    user: str
    submitted_at: float
    seconds: float | None
    assets: Counts
    failures: list[dict[str, Any]]
    left_why: str
    why: str
    refused: list[Wrong]
    warnings: list[str]
    webhook: dict[str, Any] | None = Field(description="whether its end was told; null before it")


class Asset(BaseModel):
    """An asset of a job; ``files`` (bytes and sha256 by name) can be fetched below the asset's own address."""

    asset_id: str
    state: str
    error: dict[str, Any] | None = None
    why: str = Field("", description="why its contract rejects it, or cannot judge it")
    files: dict[str, Any] = {}


class Assets(BaseModel):
    """Some of a job's assets, in the manifest's order of what was missing, then what was there."""

    total: int
    assets: list[Asset]


class Listed(BaseModel):
    """A job in a list."""

    id: str
    over: bool
    submitted_at: float


SETTING = {
    "name": "set", "in": "query", "required": False, "description": "a recipe field for all rows: geometry.steps=200",
    "schema": {"type": "array", "items": {"type": "string"}},
}  # fmt: skip


def _described() -> dict[str, Any]:
    """What OpenAPI is told of a POST: its bodies, and the options that a CSV or JSONL takes in the address."""
    options = Options.model_json_schema()["properties"]
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": schema.get("description", "")}
        for name, schema in options.items()
        if name != "set"
    ]
    key = {"name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string", "maxLength": 255}}
    content = {kind: {"schema": {"type": "string"}} for kind in intake.SUFFIX}
    content["application/json"] = {"schema": Body.model_json_schema()}
    return {"requestBody": {"required": True, "content": content}, "parameters": [key, *parameters, SETTING]}


def make_app(library: str, keeper: Keeper, *, tokens: Mapping[str, str], user: str, in_flight: int = 4) -> FastAPI:
    """The application. ``tokens``: users by the sha256 of their token; without any, everybody is ``user``."""
    app = FastAPI(
        title="splatmill", version="1", description="Jobs: manifests in, game-ready assets out.",
        docs_url=None, redoc_url=None, responses={code: {"model": Error} for code in (401, 404, 422)},
    )  # fmt: skip
    planning = threading.BoundedSemaphore(MOST_PLANNED)

    def asker(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> str:
        """Who asks. Every token is compared, in a time that does not tell how much of one was right."""
        if not tokens:
            host = re.sub(r":\d+$", "", request.headers.get("host", ""))
            if host not in LOOPBACK_NAMES:  # a page of some other site, whose name was made to lead here
                raise Refusal(403, f"Host {host[:99]!r}: ask by {', '.join(LOOPBACK_NAMES)}")
            return user
        digest, found = hashlib.sha256((given.credentials if given else "").encode()).hexdigest(), None
        for known, name in tokens.items():
            if hmac.compare_digest(known, digest):
                found = name
        if found is None:
            raise Refusal(401, "Authorization: Bearer and a token are needed")
        return found

    Asker = Annotated[str, Depends(asker)]

    def own(name: str, who: str) -> Job:
        job = book.find(library, name)
        if job is None or job.request.asked_by != who:
            raise Refusal(404, f"{name[:60]!r}: no such job")
        return job

    def plan(who: str, kind: str, parameters: list[tuple[str, str]], body: bytes, key: str) -> tuple[Job, bool]:
        if not planning.acquire(timeout=PATIENCE_S):
            raise Refusal(503, "other manifests are being looked at; try again")
        try:
            return intake.take(library, who, kind, parameters, body, key, in_flight)
        finally:
            planning.release()

    @app.post("/v1/jobs", status_code=202, response_model=JobDocument, openapi_extra=_described())
    async def post_job(request: Request, response: Response, who: Asker) -> Any:
        """Ask for a manifest's assets. The same Idempotency-Key with the same body answers with the same job (200)."""
        key = request.headers.get("idempotency-key", "")
        if key and not KEY.fullmatch(key):
            raise Refusal(400, "Idempotency-Key: 1 to 255 characters that can be seen, without spaces")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        body = await _bounded(request)
        job, new = await run_in_threadpool(plan, who, kind, request.query_params.multi_items(), body, key)
        keeper.wake.set()
        response.status_code = 202 if new else 200
        response.headers["Location"] = f"/v1/jobs/{job.name}"
        return await run_in_threadpool(book.document, job)

    @app.get("/v1/jobs", response_model=list[Listed])
    def list_jobs(who: Asker, limit: Limit = 100) -> Any:
        """The asker's jobs, newest first."""
        found = (job for name in book.names(library) if (job := book.find(library, name)))
        newest = sorted((job for job in found if job.request.asked_by == who), key=lambda job: -job.at)[:limit]
        return [{"id": job.name, "over": job.over, "submitted_at": job.at} for job in newest]

    @app.get("/v1/jobs/{name}", response_model=JobDocument)
    def get_job(name: str, who: Asker) -> Any:
        """What became of a job so far."""
        return book.document(own(name, who))

    @app.delete("/v1/jobs/{name}", status_code=202, response_model=JobDocument)
    def cancel_job(name: str, who: Asker) -> Any:
        """Cancel a job: nothing of it begins, what is under way stops; what is made stays."""
        job = own(name, who)
        if not cancel(job, who, keeper.farm) and not job.cancelled:
            raise Refusal(409, f"job {job.name} is over")
        keeper.wake.set()
        return book.document(job)

    @app.get("/v1/jobs/{name}/assets", response_model=Assets)
    def get_assets(name: str, who: Asker, offset: Offset = 0, limit: Limit = 100) -> Any:
        """A job's assets with their states, errors and files."""
        job = own(name, who)
        found = book.standing(job)
        shown = found[offset : offset + limit]
        return {"total": len(found), "assets": [each | {"files": _files(job, each)} for each in shown]}

    @app.get("/v1/jobs/{name}/assets/{asset_id}/{file}", response_class=FileResponse)
    def get_file(name: str, asset_id: str, file: str, who: Asker) -> Any:
        """One file of an asset that is made: asset.glb, splat.ply, asset.json, ..."""
        job = own(name, who)
        state = next((each for each in book.standing(job) if each["asset_id"] == asset_id), None)
        if state is None or file not in _files(job, state):
            raise Refusal(404, f"{file[:60]!r} of {asset_id[:99]!r}: no such file of the job")
        return FileResponse(Library(library).asset_dir(asset_id) / file, filename=f"{asset_id}-{file}")

    @app.get("/health")
    def health() -> dict[str, bool]:
        """Whether the service answers."""
        return {"ok": True}

    @app.exception_handler(Refusal)
    def refused(_: Request, error: Refusal) -> JSONResponse:
        headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "30"}}.get(error.status)
        return JSONResponse({"error": redact(error.words), "problems": error.problems}, error.status, headers)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        told = [intake.wrong(each) for each in error.errors()]
        return JSONResponse({"error": f"{len(told)} problems of the request", "problems": told}, 422)

    @app.exception_handler(HTTPException)
    def unknown(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail), "problems": []}, error.status_code, error.headers)

    @app.exception_handler(OSError)
    def disk(_: Request, error: OSError) -> JSONResponse:
        return JSONResponse({"error": redact(f"{type(error).__name__}: {error}"), "problems": []}, 507)

    return app


def _files(job: Job, asset: dict[str, Any]) -> dict[str, Any]:
    return book.files_of(job, asset["asset_id"]) if asset["state"] in ("made", "cached") else {}


async def _bounded(request: Request) -> bytes:
    """The body. Raises :class:`Refusal` as soon as it is known to be too large."""
    refusal = Refusal(413, f"the body is larger than {MOST_BYTES} bytes; post several jobs")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MOST_BYTES:
        raise refusal
    parts, size = [], 0
    async for chunk in request.stream():
        parts.append(chunk)
        size += len(chunk)
        if size > MOST_BYTES:
            raise refusal
    return b"".join(parts)
