"""The files that current assets' rows named: which of ``inputs/`` are needed, and by whom."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from pipeline_core.spec import FILES, FileRef
from pipeline_core.stages import DELIVERY

NAMED = " union all ".join(
    f"""select asset_id, '{column}', spec_json->>'$.{column}.name', spec_json->>'$.{column}.sha256'
    from stage_runs where is_latest and stage in ('request', '{DELIVERY}') and spec_json->>'$.{column}' is not null"""
    for column in FILES
)


@dataclass(frozen=True, order=True)
class Named:
    """A file by the asset and column that named it; ``path`` is its copy's in the library."""

    asset_id: str
    column: str
    name: str
    sha256: str

    @property
    def path(self) -> str:
        """Relative to the library."""
        return f"inputs/{FileRef(name=self.name, sha256=self.sha256).file}"


def named(con: duckdb.DuckDBPyConnection) -> list[Named]:
    """The files of every asset, as it was last asked for and as it was last delivered."""
    return sorted({Named(*row) for row in con.execute(NAMED).fetchall()})
