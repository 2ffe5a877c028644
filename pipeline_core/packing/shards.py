"""A dataset's files: WebDataset shards (tar), and Parquet with one row an asset. The same samples give the same bytes.

    write_tar(Path("train-00000.tar"), [("mug", sample(Finished(folder), {"prompt": "a blue mug"}))])
    write_parquet(Path("train-00000.parquet"), rows, schema(metric_names))
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline_core.files import replaced
from pipeline_core.io.images import encode_png
from pipeline_core.io.xmp import GENERATED, SUFFIXES, marked, read
from pipeline_core.packing.finished import Finished

FILES = {
    "preview.png": "preview.png",
    "turntable.webp": "turntable.webp",
    "stages.webp": "stages.webp",
    "glb": "asset.glb",
    "ply": "splat.ply",
}
"""What a sample has of an asset's folder: the name after its key, and the file. What was not delivered is not there."""
VIEWS = 8
"""So many pictures of the turntable are in a sample by themselves, the front first."""
CLAUSE = pa.struct([("name", pa.string()), ("bound", pa.float64()), ("figure", pa.float64()), ("held", pa.bool_())])
COLUMNS = {
    "asset_id": (pa.string(), "name of the asset, and the key of its sample"),
    "prompt": (pa.string(), "the text it was made from: its caption"),
    "split": (pa.string(), "train, validation or test"),
    "group": (pa.string(), "hash of the prompt's words; seeds of one prompt have one group, and a group one split"),
    "accepted": (pa.bool_(), "whether it was accepted, by a person or else by its contract"),
    "verdict": (pa.string(), "a person's verdict: accepted or rejected; null where nobody looked"),
    "clauses": (pa.list_(CLAUSE), "the contract's clauses: name, bound, figure measured, whether it held"),
    "seed": (pa.int64(), "seed it was made with"),
    "recipe": (pa.string(), "name of the recipe"),
    "category": (pa.string(), "tag 'category'"),
    "models": (pa.list_(pa.string()), "models that made it, as reference@revision"),
    "licence_class": (pa.string(), "strictest class of these models' licences"),
    "digital_source_type": (pa.string(), "IPTC's word for media that a trained model made"),
    "metrics": (None, "what was measured of it, by name"),
    "preview": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), "the picture, PNG"),
    "glb": (pa.binary(), "the textured mesh; null where the shard has it"),
    "ply": (pa.binary(), "the Gaussian splat; null where the shard has it"),
    "shard": (pa.string(), "tar file that holds its sample; null where there are no tar files"),
    "members": (pa.list_(pa.string()), "files of its sample"),
}
"""Columns of the Parquet files, their types and what they mean; ``metrics`` has a field for each metric."""


def sample(asset: Finished, row: Mapping[str, Any]) -> dict[str, bytes]:
    """A sample's files by the names after its key. ``row``: what is told of it, for ``json`` and ``txt``.

    Raises :class:`DataError` where a file is not the one that was delivered.
    """
    found = {name: _marked(asset, asset.path(file)) for name, file in FILES.items() if asset.has(file)}
    pictures = _views(found["turntable.webp"]) if "turntable.webp" in found else {}
    for at, frame in enumerate(pictures.values()):
        found[f"view{at}.png"] = marked(encode_png(frame), asset.mark, f"view {at}")
    kept = ("frame", "material", "code_version")
    facts: dict[str, Any] = {name: asset.told[name] for name in kept if name in asset.told}
    facts["views"] = {f"view{at}.png": {"azimuth": azimuth} for at, azimuth in enumerate(pictures)}
    found["txt"] = asset.prompt.encode()
    found["json"] = json.dumps(facts | dict(row), sort_keys=True, ensure_ascii=False).encode()
    return dict(sorted(found.items()))


def _marked(asset: Finished, path: Path) -> bytes:
    """A file's bytes, which say that it was generated: also of an asset from before files said so."""
    data = path.read_bytes()
    return data if path.suffix not in SUFFIXES or read(data, path).generated else marked(data, asset.mark, path)


def facts_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """What ``asset.json`` says for a row."""
    models = sorted({each["id"] for each in told.get("models", {}).values()})
    names = ("asset_id", "prompt", "seed", "metrics")
    return {name: told.get(name) for name in names} | {"models": models, "digital_source_type": GENERATED}


def write_tar(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]]) -> None:
    """Write a WebDataset shard, whole: the files of a sample follow one another as ``<key>.<name>``."""
    with replaced(path) as scratch, tarfile.open(scratch, "w", format=tarfile.GNU_FORMAT) as tar:
        for key, files in samples:
            for name, data in files.items():
                member = tarfile.TarInfo(f"{key}.{name}")
                member.size, member.mode, member.mtime = len(data), 0o644, 0
                tar.addfile(member, io.BytesIO(data))


def schema(metrics: Iterable[str]) -> pa.Schema:
    """The columns, with those metrics, and the picture as one for the library ``datasets``."""
    numbers = pa.struct([(name, pa.float64()) for name in sorted(metrics)] or [("none", pa.float64())])
    fields = [(name, kind if kind is not None else numbers) for name, (kind, _) in COLUMNS.items()]
    told = {"info": {"features": {"preview": {"_type": "Image"}}}}
    return pa.schema(fields, metadata={"huggingface": json.dumps(told)})


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], columns: pa.Schema) -> None:
    """Write rows, whole; what a row does not say is null."""
    with replaced(path) as scratch:
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=columns)
        pq.write_table(table, scratch, compression="zstd", row_group_size=100)


def _views(turntable: bytes) -> dict[float, np.ndarray]:
    """Pictures of a turntable by their azimuth in degrees."""
    with Image.open(io.BytesIO(turntable)) as image:
        count = getattr(image, "n_frames", 1)
        found = {}
        for at in sorted({at * count // VIEWS for at in range(VIEWS)}):
            image.seek(at)
            found[at * 360.0 / count] = np.asarray(image.convert("RGB"))
    return found
