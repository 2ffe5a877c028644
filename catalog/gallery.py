"""A static gallery of everything in the catalogue: open ``<library>/gallery/index.html``, no server, no network.

    write_gallery("library")

``index.html`` holds a card for each asset (rejected and failed ones with the reasons); it searches, filters and sorts,
and takes people's verdicts (``catalog/review.py``); ``view/<asset_id>.html`` holds the asset's levels, collision bodies
and splat, and our own viewer of them. Text from the catalogue travels as JSON and is put on the page as text; the
pages' content security policy lets no script run but ours. A viewer page is written anew only when the files of its
asset have changed.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import shlex
import shutil
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard
from urllib.parse import quote

import duckdb

from catalog import query, render, splats, views
from catalog.review import told
from catalog.store import Store, open_store
from pipeline_core import stages
from pipeline_core.acceptance import Held, Verdict
from pipeline_core.deliverables import DELIVERABLES, PROVENANCE
from pipeline_core.errors import RequestError
from pipeline_core.files import disk_errors, replaced, write_text
from pipeline_core.spec import FileRef

WEB = Path(__file__).parent / "web"
SCRIPTS = {"gallery": ["gallery.js"], "viewer": ["glb.js", "mesh.js", "splat.js", "viewer.js"]}
MAX_VIEWERS = 1000
ALIKE = 20
SHOWN = [stage.name for stage in stages.STAGES if stage.shown]
CARD = (
    "asset_id", "status", "prompt", "part_prompts", "prompt_warnings", "recipe", "seed", "last_seen_at", "error_stage",
    "error_type", "error_message", "faces", "face_budget", "fidelity", "consistency", "machine_s", "licence_class",
    "finding_errors", "finding_warnings", "tags", "metrics", "findings", "review", "reviews", "why", "duplicates",
    "delivered_from",
)  # fmt: skip
ROLES = [{"role": row.role, "label": row.label or row.text} for row in DELIVERABLES]
ROLES.append({"role": "provenance", "label": "provenance"})


def write_gallery(
    root: str | os.PathLike[str] | Store,
    out: str | os.PathLike[str] | None = None,
    *,
    viewers: int = MAX_VIEWERS,
) -> Path:
    """Write the gallery and return the path of its ``index.html``.

    Parameters
    ----------
    root
        folder or address of the library.
    out
        folder to write to; ``<library>/gallery`` unless given. A gallery of an object store needs one, and pictures are
        copied there.
    viewers
        the newest so many assets get a 3D page (each holds its files once more).
    """
    store = open_store(root)
    if out is None and store.folder is None:
        raise RequestError(f"{store.library}: a gallery of an object store needs a local folder (--output)")
    if store.folder is not None and not store.root.is_dir():
        raise RequestError(f"no library at {store.library}: splatmill run makes one")
    folder = Path(out) if out is not None else Path(store.library) / "gallery"
    with disk_errors(folder):
        (folder / "view").mkdir(parents=True, exist_ok=True)
        write_text(folder / "index.html", index(store, folder, viewers=viewers))
    return folder / "index.html"


def index(store: Store, folder: Path, *, viewers: int = MAX_VIEWERS, served: dict[str, str] | None = None) -> str:
    """The page: a card for each asset, and what belongs to all. ``served``: where it is, whose verdicts, and the token.
    Writes viewers and, of an object store, pictures into ``folder``."""
    cards = []
    for asset in gallery_assets(store):
        cards.append(card := _card(store, folder, asset, with_view=viewers > 0))
        viewers -= "view" in card
    command = f"splatmill export --ids-from selection.json --to shipped --library {shlex.quote(store.library)}"
    stamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC from {store.library}"
    page = {"assets": cards, "made": stamp, "library": store.library, "command": command, "roles": ROLES}
    return _page("gallery", page | {"served": served})


def gallery_assets(store: Store) -> list[dict[str, Any]]:
    """Every asset, newest first: a row of ``assets``, and ``tags`` and current ``metrics`` as {name: value}, and
    ``findings`` as sentences, worst first, ``sha256s`` of its files,
    ``duplicates``: ids of what looks like it, and what :func:`_judged` tells."""
    with query.connect(store) as con:
        assets = con.sql("select * from assets order by last_seen_at desc, asset_id").to_arrow_table().to_pylist()
        numbers = con.execute(f"""
            select asset_id, name, arg_max(value, (stage = '{stages.DELIVERY}', event_id)) from metrics
            where is_latest and stage in {stages.sql_list(SHOWN)} and name not in {views.LOOKS} group by all
        """).fetchall()
        files = con.execute(f"""
            select asset_id, string_agg(sha256, ' ' order by role) from artifacts
            where is_latest and stage = '{stages.DELIVERY}' group by asset_id
        """).fetchall()
        faults = con.execute("""
            select asset_id, severity || ' in ' || file || ': ' || message || if(count > 1, ' (' || count || ')', '')
            from findings where is_latest and severity <> 'info' order by asset_id, severity, file, code
        """).fetchall()
        alike = dict(con.execute("""
            select asset_id, list(other_id order by distance, other_id) from (
                from duplicates union all select other_id, asset_id, distance from duplicates
            ) group by all
        """).fetchall())
        judged = _judged(con)
    sha256s = dict(files)
    said: dict[str, list[str]] = {}
    for asset_id, text in faults:
        said.setdefault(asset_id, []).append(text)
    by_asset: dict[str, dict[str, float]] = {}
    for asset_id, name, value in numbers:
        by_asset.setdefault(asset_id, {})[name] = value
    return [
        asset
        | {"metrics": by_asset.get(asset["asset_id"], {}), "tags": tags_of(asset)}
        | {"findings": said.get(asset["asset_id"], []), "sha256s": sha256s.get(asset["asset_id"])}
        | {"duplicates": alike.get(asset["asset_id"], [])[:ALIKE]}
        | judged[asset["asset_id"]]
        for asset in assets
    ]


TRIES_SQL = f"""
with tried as (
    select asset_id, seed, stage, max(event_id) as event_id from stage_runs
    where stage in ('audition', 'evaluate', 'accept') and status in {views.GOOD} and seed is not null group by all
), several as (select asset_id from tried group by all having count(distinct seed) > 1)
select
    asset_id, seed,
    any_value(path) as path,
    any_value(value) as score,
    any_value(clauses) as clauses
from tried semi join several using (asset_id)
left join (select event_id, path from artifacts where role = 'preview') using (event_id)
left join (
    select event_id, value from metrics where name in ('fidelity', 'candidate_margin') and not isnan(value)
) using (event_id)
left join (
    select event_id, list((name, bound, figure, held)) as clauses from verdicts group by all
) using (event_id)
group by all order by asset_id, seed
"""
"""Seeds of an asset that was made, or auditioned, from several: the picture, the likeness and the clauses of each."""


def _judged(con: duckdb.DuckDBPyConnection) -> defaultdict[str, dict[str, Any]]:
    """By asset: ``why`` its contract does not hold, as sentences; its ``tries`` where there were several; ``review``,
    the person's verdict that counts; ``reviews``, the ids of all."""
    found: defaultdict[str, dict[str, Any]] = defaultdict(
        lambda: {"why": [], "tries": [], "review": None, "reviews": []}
    )
    clauses = con.execute("""
        select asset_id, name, bound, figure, held from verdicts where is_latest and held is distinct from true
        order by event_id, held nulls last
    """).fetchall()
    for asset_id, *clause in clauses:
        found[asset_id]["why"].append(str(Held(*clause)))
    for asset_id, seed, path, score, held in con.execute(TRIES_SQL).fetchall():
        verdict = Verdict(tuple(Held(*each) for each in held)) if held else None
        fate = f"{verdict.verdict} {verdict}".strip() if verdict else "not taken"
        likeness = "" if score is None else f", likeness {score:.3g}"
        found[asset_id]["tries"].append({"seed": seed, "path": path, "fate": fate + likeness})
    for row in con.sql("select * from reviews order by event_id").to_arrow_table().to_pylist():
        found[row["asset_id"]]["reviews"].append(row["event_id"])
        if row["is_latest"]:
            found[row["asset_id"]]["review"] = told(row)
    return found


def tags_of(asset: dict[str, Any]) -> dict[str, str]:
    """Tags in the asset's specification; none where a foreign row holds something else."""
    try:
        return {str(name): str(value) for name, value in json.loads(asset["spec_json"] or "{}")["tags"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"category": asset["category"]} if asset["category"] else {}


def _card(store: Store, folder: Path, asset: dict[str, Any], *, with_view: bool) -> dict[str, Any]:
    card = {name: render.jsonable(asset[name]) for name in CARD} | {"tries": []}
    card["files"] = []
    for each in asset["tries"]:
        picture = _link(store, folder, asset["asset_id"], each["path"], copy=False)
        card["tries"].append({"seed": each["seed"], "fate": each["fate"], "picture": picture})
    for row in DELIVERABLES:
        url = _link(store, folder, asset["asset_id"], asset[f"{row.role}_path"], copy=row.picture)
        if url and row.label:
            name = asset["asset_id"] + PurePosixPath(row.file).suffix
            card["files"].append({"label": row.label, "url": url, "download": name})
        elif url:
            card[row.role] = url
    if url := _link(store, folder, asset["asset_id"], _image(asset), copy=True):
        card["image"] = url
    if asset["glb_path"]:
        path = str(PurePosixPath(asset["glb_path"]).with_name(PROVENANCE))
        if url := _link(store, folder, asset["asset_id"], path, copy=False):
            card["files"].append({"label": "provenance", "url": url})
    if with_view and asset["glb_path"] and _view(store, folder, asset, card):
        card["view"] = f"view/{quote(_file_name(asset['asset_id']))}.html"
    return card


def _image(asset: dict[str, Any]) -> str | None:
    """Where the library keeps the image that the asset is made from, if its row named one."""
    try:
        return f"inputs/{FileRef.model_validate(json.loads(asset['spec_json'] or '{}')['image']).file}"
    except (ValueError, KeyError, TypeError):
        return None


def _link(store: Store, folder: Path, asset_id: str, path: str | None, *, copy: bool) -> str | None:
    """Relative address of a library file as seen from the gallery; None when it is not there or not in the library."""
    if not inside(path):
        return None
    if store.folder is not None:
        full = store.folder / path
        return quote(Path(os.path.relpath(full, folder)).as_posix()) if full.is_file() else None
    if not copy or store.size(path) is None:
        return None
    target = folder / "files" / _file_name(asset_id) / PurePosixPath(path).name
    with store.open(path) as source, replaced(target) as scratch, scratch.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    return quote(target.relative_to(folder).as_posix())


def inside(path: str | None) -> TypeGuard[str]:
    """Whether it is a path that cannot leave the library."""
    return bool(path) and not PurePosixPath(str(path)).is_absolute() and ".." not in PurePosixPath(str(path)).parts


def _view(store: Store, folder: Path, asset: dict[str, Any], card: dict[str, Any]) -> bool:
    """Write the asset's 3D page unless it is there with these very files; False when the GLB is not there."""
    target = folder / "view" / f"{_file_name(asset['asset_id'])}.html"
    shown = {role: f"../{card[role]}" for role in ("preview", "turntable", "stages") if role in card}
    data = {name: asset[name] for name in ("asset_id", "prompt")} | {"pictures": shown}
    mark = hashlib.sha256(f"{asset['sha256s']} {_page('viewer', data)}".encode()).hexdigest()
    with contextlib.suppress(FileNotFoundError), target.open("rb") as file:
        if mark.encode() in file.read(300):
            return True
    files = {role: _read(store, asset[f"{role}_path"]) for role in ("glb", "lods", "collision", "splat")}
    if not files["glb"]:
        return False
    splat = splats.pack(files["splat"])
    inside = {"@GLB@": files["lods"] or files["glb"], "@COLLISION@": files["collision"]}
    inside["@SPLAT@"] = splat.data if splat else b""
    page = _page("viewer", data | {"splat": splat and splat.about}).replace("@SHA256@", mark)
    for name, content in inside.items():
        packed = gzip.compress(content, 6, mtime=0) if content else b""
        page = page.replace(name, base64.b64encode(packed).decode())
    write_text(target, page)
    return True


def _read(store: Store, path: str | None) -> bytes:
    """A file of the library; nothing where there is none, or its path leaves the library."""
    if not inside(path) or store.size(path) is None:
        return b""
    with store.open(path) as file:
        return file.read()


def _page(name: str, data: dict[str, Any]) -> str:
    """A page of ``web/`` with its style, script and data inside; what a viewer holds is left to the caller."""
    page, style = ((WEB / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("html", "css"))
    script = "".join((WEB / file).read_text(encoding="utf-8") for file in SCRIPTS[name])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # "<" and "@" never appear in the data: nothing in it ends the script element, opens another, or is a place of ours
    text = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c").replace("@", "\\u0040")
    page = page.replace("@SERVED@", "'self'" if data.get("served") else "'none'")
    head, tail = page.replace("@STYLE@", style).replace("@SCRIPT_HASH@", f"'sha256-{digest}'").split("@DATA@")
    return head + text + tail.replace("@SCRIPT@", script)


def _file_name(asset_id: str) -> str:
    """The asset's id where it is a plain name, else its hash: ids of foreign rows never become paths."""
    plain = asset_id.replace("-", "").replace("_", "").isalnum() and asset_id.isascii() and len(asset_id) <= 100
    return asset_id if plain else hashlib.sha256(asset_id.encode()).hexdigest()[:32]
