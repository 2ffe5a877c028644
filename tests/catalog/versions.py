"""Files of every schema version as it really wrote them, kept for ever; a new version adds its own, once:

    python -m tests.catalog.versions

writes ``versions/<number>.parquet`` and ``versions/<number>.json`` (a record) unless they are there.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from catalog.schema import SCHEMA_VERSION, Artifact, StageRun, to_table
from catalog.writer import encode
from pipeline_core.acceptance import Held
from pipeline_core.findings import Finding

FOLDER = Path(__file__).parent / "versions"
DONE = datetime(2026, 11, 22, 3, 4, 5, 678901, tzinfo=UTC)


def example() -> StageRun:
    """An event with every column filled."""
    return StageRun(
        event_id="019ab000-0000-7abc-8000-0123456789ab",
        run_id="night-1",
        asset_id="chair-07",
        stage="record",
        status="ok",
        attempt=2,
        queued_at=DONE - timedelta(seconds=9),
        started_at=DONE - timedelta(seconds=4),
        finished_at=DONE,
        peak_rss_mb=900.5,
        peak_vram_mb=8000.25,
        gpu_s=2.5,
        host="node-1",
        worker_pid=4711,
        device="cuda:0",
        gpu_name="L40S",
        prefect_flow_run_id="flow",
        prefect_task_run_id="task",
        stage_key="0123456789abcdef" * 2,
        upstream_keys=("fedcba9876543210" * 2,),
        recipe="draft",
        config_hash="ab" * 8,
        code_version="0.1.0",
        seed=7,
        model_ids=("starter@abc", "points@def"),
        input_sha256=("cd" * 32,),
        error_type="Earlier",
        error_class="transient",
        error_message="Übergang",
        metrics={"faces": 9800.0, "fidelity": 0.5},
        tags={"category": "furniture"},
        artifacts=(Artifact("glb", "assets/chair-07/asset.glb", "ef" * 32, 123456, "model/gltf-binary"),),
        spec_json='{"prompt": "an oak chair"}',
        share_s=2.5,
        price_per_hour=1.25,
        asked_by="ana",
        findings=(Finding("UV_OVERLAP", "warning", "charts overlap", "asset.glb", 12),),
        clauses=(Held("fidelity", 0.05, 0.02, False), Held("janus", 0.5)),
        made_with='{"torch": "2.9.0", "threads": "2"}',
    )


def main() -> None:
    """Write the files of the current version."""
    FOLDER.mkdir(exist_ok=True)
    run = example()
    with (FOLDER / f"{SCHEMA_VERSION}.parquet").open("xb") as file:
        file.write(encode(to_table([run], run.event_id)))
    with (FOLDER / f"{SCHEMA_VERSION}.json").open("x", encoding="utf-8") as file:
        json.dump(run.to_json(), file, indent=1, ensure_ascii=False)
        file.write("\n")


if __name__ == "__main__":
    main()
