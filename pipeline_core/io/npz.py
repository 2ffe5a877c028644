"""Plain meshes between stages: ``vertices`` and ``faces`` in one ``.npz``. The same mesh gives the same bytes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from pipeline_core.errors import DataError
from pipeline_core.files import write_bytes
from pipeline_core.types import Mesh


def save_mesh(path: Path, mesh: Mesh) -> None:
    """Write ``mesh``."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, vertices=mesh.vertices.astype(np.float32), faces=mesh.faces.astype(np.int32))
    write_bytes(path, buffer.getvalue())


def load_mesh(path: Path) -> Mesh:
    """Read what :func:`save_mesh` wrote. Raises :class:`DataError` where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return Mesh(data["vertices"], data["faces"])
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a mesh that was saved: {error}") from None
