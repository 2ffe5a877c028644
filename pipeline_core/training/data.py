"""Training data of the starter prior: chunks of captioned renders and of captioned point clouds, made on demand.

A chunk is a function of (seed, index) alone, so a training run that names its chunks is reproducible, and a producer
process may write them ahead of the trainer. Only the training split of the props is ever sampled.

    write_image_chunk(Path("chunks"), seed=0, index=0)
    chunk = ImageChunk.open(Path("chunks"), 0)
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_core.files import replaced, write_text
from pipeline_core.props.captions import caption
from pipeline_core.props.faults import BACK, LEVEL, faulty
from pipeline_core.props.props import COMPOSED, build, sample_spec
from pipeline_core.props.raycast import NORMALS, render, sample_surface
from pipeline_core.props.textures import UNLIT

IMAGE_SIZE = 128
CHUNK = 2048
"""Images, or clouds, in a chunk."""
VIEWS = 2
"""Cameras per prop."""
POINTS = 1024
SMALL_PARTS = 0.5
"""Points of a cloud favour rare colours by this power of their area: faces and doors are what is missed."""
POLL_S = 0.2
CAPTIONS = 3
"""Captions drawn per prop; training picks one of them."""
ELEVATION = (-25.0, 70.0)
"""Degrees, uniform."""
DISTANCE, DISTANCE_JITTER, FOVY = 2.5, 0.06, 40.0
KIND_SHARES = (0.5, 0.35, 0.15)
"""Of renders that are unlit colours, lit from a side, and normals (`raycast.UNLIT_COLOUR` and so on)."""
POINT_CHANNELS = 8
"""xyz, rgb, metallic, roughness."""


def view_word(azimuth: float, elevation: float) -> str:
    """The view in words: "overhead" above 55 degrees, else the nearest of front, right side (+90), back, left side."""
    if elevation > 55:
        return "overhead"
    return ("front", "right side", "back", "left side")[int(((azimuth % 360) + 45) // 90) % 4]


def _rng(seed: int, kind: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, kind, index])


def _publish(folder: Path, index: int, arrays: dict[str, np.ndarray], captions: list[list[str]]) -> None:
    for name, array in arrays.items():
        with replaced(folder / f"{index:05d}.{name}.npy") as scratch, scratch.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    # The captions come last: a chunk exists when they do.
    write_text(folder / f"{index:05d}.json", json.dumps(captions))


def side_lights(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Directions [*shape, 3] towards a light in the camera's frame: from all sides, a third of them from behind."""
    light = rng.normal(size=(*shape, 3))
    light[..., 2] += 0.5
    return light / np.linalg.norm(light, axis=-1, keepdims=True)


def mirror_normals(images: np.ndarray, where: np.ndarray) -> None:
    """Turn round the x of normals of the images [..., size, size, 4] ``where`` [...] says, which have been mirrored."""
    some = images[where]
    some[..., 0] = np.where(some[..., 3] > 0, 255 - some[..., 0], 0)
    images[where] = some


def write_image_chunk(
    folder: Path,
    *,
    seed: int,
    index: int,
    count: int = CHUNK,
    size: int = IMAGE_SIZE,
    twins: bool = True,
    categories: Sequence[str] = (),
    kind_shares: Sequence[float] = KIND_SHARES,
) -> None:
    """Render ``count`` images: rgba [count, size, size, 4] uint8 straight alpha, cameras [count, 2] degrees, kinds
    [count] uint8, what each shows (``raycast.UNLIT_COLOUR``, ``LIT_COLOUR``, ``NORMALS``, in ``kind_shares``).

    With ``twins`` there is an array of that name, of the same shape as rgba: the same props from the same cameras, of
    the same kind and in the same light, with something wrong (faults.py), some seen from the other side and mirrored.
    The rest does not depend on it. ``categories`` are those of the props, none named = all, on one another too.
    """
    rng, wrong = _rng(seed, 0, index), _rng(seed, 2, index)
    rgba, faults, cameras, shown, captions = [], [], [], [], []
    for start in range(0, count, 256):
        n = min(256, count - start)
        names = [categories[int(rng.integers(len(categories)))] if categories else None for _ in range(-(-n // VIEWS))]
        composed = 0.0 if categories else COMPOSED
        specs = [sample_spec(rng, split="train", category=name, composed=composed) for name in names]
        azimuth = rng.uniform(-180, 180, (len(specs), VIEWS))
        elevation = rng.uniform(*ELEVATION, (len(specs), VIEWS))
        distance = DISTANCE * (1 + DISTANCE_JITTER * rng.uniform(-1, 1, (len(specs), VIEWS)))
        props = [build(spec) for spec in specs]
        kind = rng.choice(len(kind_shares), azimuth.shape, p=kind_shares)
        light = side_lights(azimuth.shape, rng)
        look = partial(render, size=size, distance=distance, fovy=FOVY, kind=kind, threads=1)
        images = look(props, azimuth, elevation, light=light)
        rgba.append(images.reshape(-1, size, size, 4)[:n])
        if twins:
            props = [faulty(prop, wrong) for prop in props]
            back = (wrong.random(azimuth.shape) < BACK) & (np.abs(elevation) < LEVEL)
            light[back, 0] *= -1  # these are mirrored
            images = look(props, azimuth + 180 * back, elevation, light=light)
            images[back] = images[back][:, :, ::-1]
            mirror_normals(images, back & (kind == NORMALS))
            faults.append(images.reshape(-1, size, size, 4)[:n])
        cameras.append(np.stack([azimuth, elevation], axis=-1).reshape(-1, 2)[:n])
        shown.append(kind.reshape(-1)[:n])
        texts = [[caption(spec, rng) for _ in range(CAPTIONS)] for spec in specs]
        captions += [texts[i // VIEWS] for i in range(n)]
    arrays = {
        "rgba": np.concatenate(rgba),
        "cameras": np.concatenate(cameras).astype(np.float32),
        "kinds": np.concatenate(shown).astype(np.uint8),
    }
    if twins:
        arrays["twins"] = np.concatenate(faults)
    _publish(folder, index, arrays, captions)


def write_cloud_chunk(
    folder: Path, *, seed: int, index: int, count: int = CHUNK, points: int = POINTS, categories: Sequence[str] = ()
) -> None:
    """Sample ``count`` clouds: points [count, points, 8] float16, xyz in object units, the paint's own rgb in [0, 1],
    metallic (0 or 1) and roughness in (0, 1].

    ``categories`` are those of the props, none named = all.
    """
    rng = _rng(seed, 1, index)
    clouds = np.empty((count, points, POINT_CHANNELS), np.float16)
    captions = []
    for i in range(count):
        kind = categories[int(rng.integers(len(categories)))] if categories else None
        spec = sample_spec(rng, split="train", category=kind)
        clouds[i] = np.concatenate(sample_surface(build(spec), points, rng, parts=SMALL_PARTS, lighting=UNLIT), 1)
        captions.append([caption(spec, rng) for _ in range(CAPTIONS)])
    _publish(folder, index, {"points": clouds}, captions)


@dataclass(frozen=True)
class Chunk:
    """One opened chunk; arrays are memory-mapped. ``captions`` [n][CAPTIONS]."""

    arrays: dict[str, np.ndarray]
    captions: list[list[str]]

    @staticmethod
    def open(folder: Path, index: int, names: tuple[str, ...]) -> Chunk:
        """Open chunk ``index`` of ``folder``."""
        arrays = {n: np.load(folder / f"{index:05d}.{n}.npy", mmap_mode="r", allow_pickle=False) for n in names}
        return Chunk(arrays, json.loads((folder / f"{index:05d}.json").read_text()))


def visible_chunks(settings: Any, samples: int) -> int:
    """How many chunks are drawn from after ``samples``, by a part's settings."""
    s = settings
    return min(s.chunks, s.first_chunks + int(samples * s.fresh) // s.chunk_size)


class ChunkPool:
    """Chunks 0 .. limit - 1 of one folder, written in order by one producer process, opened when first needed.

    Args:
        write: :func:`write_image_chunk` or :func:`write_cloud_chunk`
        names: the arrays to open
        limit: how many chunks there will ever be
        ahead: how many chunks the producer may be ahead of the highest one asked for
        patient: wait for chunks that are not there yet; else resident training, when it has its first ones, goes on
            with those that are there, which no second run repeats
        options: further keyword arguments of ``write``
    """

    def __init__(
        self, folder: Path, write, names: tuple[str, ...], *, seed: int, limit: int, ahead: int = 8, **options: Any
    ) -> None:
        self.folder, self.write, self.names = folder, write, names
        self.seed, self.limit, self.ahead = seed, limit, ahead
        self.options, self.patient = options, True
        self._open: dict[int, Chunk] = {}
        self._pending: dict[int, Future] = {}
        self._producer: ProcessPoolExecutor | None = None

    def exists(self, index: int) -> bool:
        """Whether a chunk's files are all there; a failure to write them is raised here."""
        if index in self._pending and self._pending[index].done():
            self._pending.pop(index).result()
        return (self.folder / f"{index:05d}.json").exists()

    def wait_for(self, index: int) -> None:
        """Wait until a chunk that somebody else writes is there."""
        while not self.exists(index):
            time.sleep(POLL_S)

    def _request(self, index: int) -> None:
        if index in self._pending or self.exists(index):
            return
        if self._producer is None:
            self._producer = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self._pending[index] = self._producer.submit(
            self.write, self.folder, seed=self.seed, index=index, **self.options
        )

    def __getitem__(self, index: int) -> Chunk:
        if index not in self._open:
            for i in range(index, min(index + 1 + self.ahead, self.limit)):
                self._request(i)
            if index in self._pending:
                self._pending.pop(index).result()
            self._open[index] = Chunk.open(self.folder, index, self.names)
        return self._open[index]

    def fill(self, processes: int, *, wait: bool = True) -> None:
        """Write every chunk that is missing, several at a time."""
        missing = [i for i in range(self.limit) if not self.exists(i)]
        self._producer = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
        write = partial(self.write, self.folder, seed=self.seed, **self.options)
        self._pending = {i: self._producer.submit(write, index=i) for i in missing}
        if wait:
            for done in self._pending.values():
                done.result()
            self._pending.clear()
            self.close()

    def __getstate__(self) -> dict:
        """Loader workers get the description; each opens chunks for itself."""
        return self.__dict__ | {"_open": {}, "_pending": {}, "_producer": None}

    def close(self) -> None:
        """Stop the producer; chunks not begun are dropped."""
        if self._producer is not None:
            self._producer.shutdown(wait=False, cancel_futures=True)
            self._producer = None
