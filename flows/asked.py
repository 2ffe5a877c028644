"""Keeps what a run was asked for in the run's folder: ``splatmill retry`` and ``status RUN`` need no more.

<library>/runs/<run_id>/asked.json      the request, who asked, how many assets it was about, where its manifest was,
                                        the manifest's sha256, and that of the files its rows name
<library>/runs/<run_id>/asked/<name>    a copy of the manifest
<library>/runs/<run_id>/keys.txt        the keys of the stages of what is to be made (catalog.gc)
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from catalog.gc import KEYS
from flows.batch import BatchRequest, Plan
from flows.summary import SUMMARY
from flows.todo import Todo
from pipeline_core.bucket import Place
from pipeline_core.errors import RequestError
from pipeline_core.files import write_bytes, write_json, write_text
from pipeline_core.storage import Library
from tasks.rules import candidates

ASKED = "asked.json"


def keep(request: BatchRequest, plan: Plan | None = None) -> Place:
    """Keep a request and a copy of its manifest; returns the copy. ``plan`` knows the files that its rows name."""
    folder, manifest = Library(request.library).run_dir(request.run_id), Path(request.manifest)
    data, specs = manifest.read_bytes(), plan.manifest.specs if plan else []
    todo = plan.todo if plan else Todo([], [], [])
    counts = {"todo": todo.missing, "cached": todo.made, "quarantined": todo.held, "turned_down": todo.turned_down}
    copy = folder / "asked" / manifest.name
    write_bytes(copy, data)
    document = {
        "request": request.model_dump(mode="json"),
        "manifest": str(manifest.absolute()),
        "sha256": hashlib.sha256(data).hexdigest(),
        "asked": time.time(),
        "user": request.asked_by or None,
        "assets": {name: len(each) for name, each in counts.items()} | {"refused": len(plan.refused)} if plan else {},
        "files": {ref.name: ref.sha256 for spec in specs for ref in spec.files.values()},
    }
    write_json(folder / ASKED, document)
    if plan and plan.todo.missing:  # splatmill gc leaves what the run may find
        begun = (each for journey in plan.todo.missing for each in candidates(journey))
        keys = sorted({key for each in begun for key in each.keys.values()})
        write_text(folder / KEYS, "\n".join([str(document["asked"]), *keys]) + "\n")
    return copy


def folder_of(library: str, run: str) -> Place:
    """The folder of the run with this id, or with the only id that begins so; ``last``: of the run asked for last.

    Raises :class:`RequestError` where there is none, or several.
    """
    folders = {path.parent for name in (ASKED, SUMMARY) for path in Library(library).root.glob(f"runs/*/{name}")}
    if run == "last" and folders:
        return max(folders, key=lambda each: (_changed(each / ASKED) or _changed(each / SUMMARY), each.name))
    found = sorted(each for each in folders if each.name.startswith(run))
    exact = [each for each in found if each.name == run]
    if len(found) != 1 and not exact:
        few = ", ".join(each.name for each in found[:5]) + (" ..." if len(found) > 5 else "")
        why = f"{len(found)} runs begin so: {few}" if found else "no such run"
        raise RequestError(f"{run}: {why}; splatmill status --library {library} lists the last ones")
    return (exact or found)[0]


def is_farm_s(folder: Place) -> bool:
    """Whether the run in this folder was opened on a farm (``flows.farm.runs``)."""
    return (folder / "request.json").exists()


def _changed(path: Place) -> float:
    """When a file was last written; 0 when it is not there."""
    return path.stat().st_mtime if path.exists() else 0.0


def ask_again(library: str, say: Callable[[str], Any], run: str = "", **changes: Any) -> BatchRequest:
    """The request of the library's last run, or of ``run``, as a run of its own: the same manifest, recipe, overrides.

    ``changes`` are the new request's fields; overrides join those that the run had. Where the manifest is gone or no
    longer what it was, the run's copy is used and ``say`` is told so; likewise the library's copies of files that rows
    name, where they are gone. Raises :class:`RequestError` when no run kept
    its request, or the copy is gone too.
    """
    kept = []
    for path in Library(library).root.glob(f"runs/{folder_of(library, run).name if run else '*'}/{ASKED}"):
        try:
            kept.append((json.loads(path.read_text("utf-8")), path.parent))
        except ValueError as error:
            say(f"{path} cannot be read ({error}); its run is passed over")
    if not kept:
        which = f"run {run}" if run else f"no run of {library}"
        did = "did not keep" if run else "kept"
        raise RequestError(f"{which} {did} what it was asked for; name its manifest: splatmill retry FILE")
    told, folder = max(kept, key=_when)
    asked, manifest = BatchRequest.model_validate(told["request"]), Path(told["manifest"])
    if _digest(manifest) != told["sha256"]:
        copy, fate = folder / "asked" / manifest.name, "has changed" if manifest.exists() else "is gone"
        if _digest(copy) != told["sha256"]:
            raise RequestError(
                f"{manifest} {fate} since run {asked.run_id}, and the run's copy of it, {copy}, is damaged or gone; "
                "name a manifest: splatmill retry FILE"
            )
        say(f"{manifest} {fate} since run {asked.run_id}; the copy that the run kept is used: {copy}")
        manifest = Library(library).file(f"runs/{folder.name}/asked/{manifest.name}")
    files = told.get("files", {})
    gone = [name for name in files if not (manifest.parent / name).exists()]
    if gone:
        say(f"{len(gone)} files that {manifest} names are gone, {gone[0]} the first; the library's copies are used")
    overrides = asked.overrides | changes.pop("overrides", {})
    again: dict[str, Any] = {"manifest": str(manifest), "library": library, "overrides": overrides}
    again |= {"recipe": asked.recipe, "commercial": asked.commercial}
    again |= {"accept": asked.accept, "accept_file": asked.accept_file}
    again |= {"allow_outside": asked.allow_outside, "kept": files}
    return BatchRequest(**again | changes)


def _when(kept: tuple[dict[str, Any], Place]) -> float:
    return kept[0]["asked"]


def _digest(path: Place) -> str | None:
    """A file's sha256; None when there is no such file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
