"""PLY: exact round trips, the byte layout of the 3DGS reference, foreign variants, errors that say what is wrong."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline_core.errors import DataError
from pipeline_core.frame import STANDARD, flipped, frame_of
from pipeline_core.io import ply
from pipeline_core.types import Gaussians, PointCloud


def random_gaussians(n: int = 7, rest: int = 0, seed: int = 0) -> Gaussians:
    g = torch.Generator().manual_seed(seed)
    shapes = {
        "means": (n, 3),
        "quats": (n, 4),
        "scales": (n, 3),
        "opacities": (n,),
        "sh0": (n, 1, 3),
        "shN": (n, rest, 3),
    }
    return Gaussians(**{k: torch.randn(*s, generator=g) for k, s in shapes.items()})


@pytest.mark.parametrize("rest", [0, 3, 8, 15])
def test_splat_round_trip_is_exact(tmp_path, rest):
    before = random_gaussians(rest=rest)
    ply.save_splat(tmp_path / "a.ply", before)
    after = ply.load_splat(tmp_path / "a.ply")
    for name, value in before.tensors().items():
        assert torch.equal(value, after.tensors()[name]), name


ASSET = {"asset_id": "mug", "seed": 3, "prompt": 'a "red" mug\u2028 \U0001f600 <script>alert(1)</script>\nend_header\n'}


@pytest.mark.parametrize("rest", [0, 15])
def test_a_delivered_splat_is_y_down_and_says_the_way_back(tmp_path, rest):
    before, frame = random_gaussians(n=40, rest=rest), frame_of(np.array([[-1, -0.5, -1], [1, 0.5, 1]]), 6.0)
    ply.save_splat(tmp_path / "stage.ply", before)
    told = {"frame": STANDARD | frame.to_json(), **ASSET}
    ply.export(tmp_path / "stage.ply", tmp_path / "a.ply", spec=None, provenance=told)
    written = ply.load_splat(tmp_path / "a.ply", frame="file")
    want = before.means * 6 + torch.tensor([0, 3.0, 0])
    torch.testing.assert_close(written.means, want * torch.tensor([1, -1, -1]))
    metres = ply.load_splat(tmp_path / "a.ply", frame="metres")
    torch.testing.assert_close(metres.means, want)
    for name, value in metres.tensors().items():  # the turn loses nothing; only the metres round
        assert torch.equal(value, flipped(written).tensors()[name]), name
        torch.testing.assert_close(ply.load_splat(tmp_path / "a.ply").tensors()[name], before.tensors()[name])
    told = ply.look(tmp_path / "a.ply").comments
    assert told[0] == "frame y-down" and json.loads(told[-1].partition(" ")[2]) == ASSET


def test_a_way_back_that_cannot_be_read_is_refused(tmp_path):
    for words in ("{", '{"scale": 0, "offset": [0, 0, 0]}', '{"scale": [1, 2], "offset": [0, 0, 0]}'):
        ply.save_splat(tmp_path / "a.ply", random_gaussians(), comment=f"object_frame {words}")
        with pytest.raises(DataError, match=r"a\.ply: the header line object_frame .* not understood"):
            ply.load_splat(tmp_path / "a.ply")


def test_layout_matches_gsplat_exporter_order(tmp_path):
    """Bytes follow the reference: x y z, normals, f_dc, channel-major f_rest, opacity, scale, rot."""
    g = random_gaussians(n=2, rest=3)
    ply.save_splat(tmp_path / "a.ply", g)
    data = (tmp_path / "a.ply").read_bytes()
    header, body = data.split(b"end_header\n")
    names = [line.split()[-1].decode() for line in header.splitlines() if line.startswith(b"property")]
    want = ["x", "y", "z", "nx", "ny", "nz"] + [f"f_dc_{i}" for i in range(3)] + [f"f_rest_{i}" for i in range(9)]
    want += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert names == want
    row = struct.unpack(f"<{len(want)}f", body[: 4 * len(want)])
    assert row[9:18] == tuple(g.shN[0, k, c].item() for c in range(3) for k in range(3))
    assert row[3:6] == (0, 0, 0)
    assert row[-4:] == tuple(g.quats[0].tolist())


@pytest.mark.parametrize("body", ["ascii", "big"])
def test_foreign_splat_with_other_order_types_and_elements(tmp_path, body):
    g = random_gaussians(n=3)
    columns = {"opacity": ("f8", g.opacities), "flag": ("u1", torch.arange(3.0))}
    columns |= {f"rot_{i}": ("f4", g.quats[:, i]) for i in range(4)} | {
        f"scale_{i}": ("f4", g.scales[:, i]) for i in range(3)
    }
    columns |= {f"f_dc_{i}": ("f4", g.sh0[:, 0, i]) for i in range(3)} | {
        a: ("f4", g.means[:, i]) for i, a in enumerate("xyz")
    }
    rows = np.zeros(3, dtype=[(k, ">" + t) for k, (t, _) in columns.items()])
    for k, (_, v) in columns.items():
        rows[k] = v.numpy()
    names = {"f8": "double", "f4": "float", "u1": "uchar"}
    kind = "ascii" if body == "ascii" else "binary_big_endian"
    header = f"ply\r\nformat {kind} 1.0\r\ncomment from elsewhere\r\nelement camera 1\r\nproperty float focal\r\n"
    header += "element vertex 3\r\n"
    header += "".join(f"property {names[t]} {k}\r\n" for k, (t, _) in columns.items())
    header += "element face 1\r\nproperty list uchar int vertex_indices\r\nend_header\r\n"
    if body == "ascii":
        lines = ["1.5"] + [
            " ".join(f"{float(v):.9g}" if k != "flag" else str(int(v)) for k, v in zip(columns, r, strict=True))
            for r in rows
        ]
        payload = ("\n".join(lines) + "\n3 0 1 2\n").encode()
    else:
        payload = struct.pack(">f", 1.5) + rows.tobytes() + struct.pack(">Biii", 3, 0, 1, 2)
    (tmp_path / "a.ply").write_bytes(header.encode() + payload)
    after = ply.load_splat(tmp_path / "a.ply")
    for name, value in g.tensors().items():
        torch.testing.assert_close(after.tensors()[name], value, rtol=1e-6, atol=1e-7)


def test_points_round_trip_and_splat_as_points(tmp_path):
    g = torch.Generator().manual_seed(1)
    before = PointCloud(torch.randn(50, 3, generator=g), torch.rand(50, 3, generator=g))
    ply.save_points(tmp_path / "p.ply", before)
    after = ply.load_points(tmp_path / "p.ply")
    assert torch.equal(after.xyz, before.xyz)
    assert (after.rgb - before.rgb).abs().max() <= 0.5 / 255 + 1e-6 and after.finish is None
    assert (tmp_path / "p.ply").stat().st_size - (tmp_path / "p.ply").read_bytes().index(b"end_header") == 11 + 15 * 50
    ply.save_points(tmp_path / "p.ply", replace(before, finish=torch.rand(50, 2, generator=g)))
    again = ply.load_points(tmp_path / "p.ply")
    assert torch.equal(again.rgb, after.rgb) and again.finish.shape == (50, 2) and 0 < again.finish.std() < 1
    splat = random_gaussians()
    ply.save_splat(tmp_path / "s.ply", splat)
    assert torch.equal(ply.load_points(tmp_path / "s.ply").xyz, splat.means)


def test_float_colours_are_taken_as_they_are(tmp_path):
    text = "ply\nformat ascii 1.0\nelement vertex 1\n" + "".join(
        f"property float {k}\n" for k in ("x", "y", "z", "red", "green", "blue")
    )
    (tmp_path / "p.ply").write_text(text + "end_header\n0 1 2 0.25 0.5 1\n")
    assert ply.load_points(tmp_path / "p.ply").rgb.tolist() == [[0.25, 0.5, 1.0]]


def test_empty_splat_round_trips(tmp_path):
    ply.save_splat(tmp_path / "a.ply", random_gaussians(n=0))
    assert len(ply.load_splat(tmp_path / "a.ply")) == 0


HEAD = b"ply\nformat binary_little_endian 1.0\n"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"hello world", "not a PLY file"),
        (b"", "not a PLY file"),
        (HEAD, "no end_header"),
        (HEAD + b"element vertex 9\nproperty float x\nend_header\n\0\0", "cut short"),
        (HEAD + b"element vertex 1\nproperty float x\nend_header\n\0\0\0\0", "y, z"),
        (HEAD + b"element vertex -4\nproperty float x\nend_header\n", "'element vertex -4'"),
        (HEAD + b"element vertex 1\nproperty quad x\nend_header\n", "'property quad x'"),
        (HEAD + b"element vertex 1\nproperty float x\nproperty float x\nend_header\n", "'property float x'"),
        (HEAD + b"element face 0\nproperty float x\nend_header\n", "no vertex element"),
        (HEAD + b"element vertex 99999999999\nproperty float x\nend_header\n", "cut short"),
        (HEAD + b"element vertex 1\nproperty uint packed_position\nend_header\n\0\0\0\0", "compressed"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\nbanana\n", "not a number"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path, data, says):
    (tmp_path / "bad.ply").write_bytes(data)
    with pytest.raises(DataError, match=says):
        ply.load_splat(tmp_path / "bad.ply")


def test_missing_file_and_nan_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        ply.load_splat(tmp_path / "nothing.ply")
    g = random_gaussians()
    g.means[2, 1] = float("nan")
    ply.save_splat(tmp_path / "nan.ply", g)
    with pytest.raises(DataError, match="1 of 7 vertices have NaN or infinite means"):
        ply.load_splat(tmp_path / "nan.ply")
