"""Plain meshes between stages: exact, the same bytes each time, refused where they are damaged."""

import numpy as np
import pytest

from pipeline_core.errors import DataError
from pipeline_core.io.npz import load_mesh, save_mesh
from pipeline_core.types import Mesh

MESH = Mesh(np.random.default_rng(0).random((9, 3)).astype(np.float32), np.arange(9, dtype=np.int32).reshape(3, 3))


def test_a_mesh_comes_back_and_has_the_same_bytes_each_time(tmp_path):
    for name in ("a.npz", "b.npz"):
        save_mesh(tmp_path / name, MESH)
    back = load_mesh(tmp_path / "a.npz")
    assert np.array_equal(back.vertices, MESH.vertices) and np.array_equal(back.faces, MESH.faces)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("data", [b"", b"PK nothing", None])
def test_what_is_no_such_mesh_is_told(tmp_path, data):
    path = tmp_path / "a.npz"
    if data is None:
        np.savez(path, vertices=MESH.vertices)
    else:
        path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npz is not a mesh that was saved"):
        load_mesh(path)
