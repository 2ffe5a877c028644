"""AssetSpec: everything that decides one asset, as plain data that survives JSON.

    AssetSpec(prompt="a red mushroom with white spots", seed=7).asset_id    # 'a-red-mushroom-with-white-spots-0c1f...'

A spec is what flows and tasks pass around, what ``asset.json`` shows and what the catalogue stores as ``spec_json``.
It never loads torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from pipeline_core.acceptance import Contract
from pipeline_core.config import LATER, RECIPES, Recipe, Written

MAX_PROMPT = 2000
MAX_SEED = 2**32 - 1
ID_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,95}$"
ID_RULE = "1 to 96 of a-z, 0-9, - and _, starting with a letter or digit, and not a device name such as con or nul"
MAX_TAGS, MAX_TAG = 32, 64
MAX_PARTS = 16
ZERO_WIDTH_JOINER = "\u200d"

# Windows opens these as devices whatever the folder; a library is often shared with artists' machines.
DEVICE_NAMES = frozenset(["con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))])


def derive_id(prompt: str, negative_prompt: str, seed: int, more: str = "") -> str:
    """An id from the prompt, the seed and, where there is one, the image's content or the parts: a readable slug and 10
    hex digits of their sha256; [a-z0-9-] only."""
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")[:48].strip("-")
    parts = [prompt, negative_prompt, str(seed), *([more] if more else [])]
    digest = hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:10]
    return f"{slug}-{digest}" if slug else f"asset-{digest}"


def clean_text(text: str) -> str:
    """``text`` in composed form (NFC) with white space collapsed, and without characters that nobody sees.

    Invisible format characters go, such as U+200B, U+FEFF and U+202E; U+200D stays where it joins an emoji. Raises
    ``ValueError`` for characters that no prompt needs.
    """
    if len(text) > 10 * MAX_PROMPT:
        raise ValueError(f"has {len(text)} characters; at most {MAX_PROMPT} are allowed")
    if not text.isascii():
        text = unicodedata.normalize("NFC", "".join(c for i, c in enumerate(text) if _is_seen(text, i)))
    text = " ".join(text.split())
    for character in text:
        category = unicodedata.category(character)
        if category in ("Cc", "Cs"):
            raise ValueError(f"contains U+{ord(character):04X}; text without control characters or lone surrogates")
    return text


def _is_seen(text: str, at: int) -> bool:
    """Whether the character at ``at`` is more than an invisible mark, or joins an emoji to another."""
    if unicodedata.category(text[at]) != "Cf":
        return True
    return text[at] == ZERO_WIDTH_JOINER and all(
        any(unicodedata.category(c) == "So" for c in text[max(i, 0) : i + 2]) for i in (at - 2, at + 1)
    )


@dataclass(frozen=True)
class FileColumn:
    """What a column of files takes: ``suffixes`` in lower case, and at most so many bytes."""

    suffixes: tuple[str, ...]
    most_bytes: int


FILES: dict[str, FileColumn] = {
    "image": FileColumn((".png", ".jpg", ".jpeg", ".webp"), 64 * 2**20),
    "init_file": FileColumn((".ply", ".glb", ".obj"), 512 * 2**20),
}
"""Fields of :class:`AssetSpec` that hold a file, by their names, which are the manifest's columns."""

SUFFIXES = frozenset(suffix for column in FILES.values() for suffix in column.suffixes)


class FileRef(Written):
    """A file that a manifest row names: as it is written there, and the sha256 of what it held when it was planned.

    The library keeps a copy, ``inputs/<file>`` (``pipeline_core.storage``), and work is done from that copy alone.
    """

    name: str = Field(min_length=1, max_length=1000)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @field_validator("name")
    @classmethod
    def _known_kind(cls, name: str) -> str:
        if suffix_of(name) not in SUFFIXES:
            raise ValueError(f"a name that ends in {', '.join(sorted(SUFFIXES))}")
        return name

    @property
    def file(self) -> str:
        """Name of the library's copy: content and kind, nothing that a user wrote."""
        return self.sha256 + suffix_of(self.name)


def suffix_of(name: str) -> str:
    """The ending of a file's name, in lower case: ``.glb``."""
    return PurePosixPath(name).suffix.lower()


class Parent(Written):
    """An asset that another was edited from, and the sha256 of the ``splat.ply`` that it had then."""

    asset_id: str = Field(pattern=ID_PATTERN)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Edited(Written):
    """Where an edited splat comes from: ``parents`` (those that were merged in follow the first), and ``edits`` in the
    order they were done, each a line of ``pipeline_core.edits``."""

    parents: tuple[Parent, ...] = Field(min_length=1, max_length=100)
    edits: tuple[Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)], ...] = Field(min_length=1, max_length=100)


Metres = Annotated[float, Field(ge=0.001, le=1000)]
Coordinate = Annotated[float, Field(ge=-1000, le=1000)]
Degrees = Annotated[float, Field(ge=-360, le=360)]


class Part(Written):
    """One thing of several that an asset is made of, in the asset's axes: +Y up, front +Z.

    ``size`` is the longest side of its box, or the box's width, height and depth, to which it is stretched.
    ``rotation`` is degrees about X, then Y, then Z. ``position`` is where the middle of the bottom of its turned box
    stands. Lengths have no unit: only how they relate counts, and ``height_m`` or ``size_m`` says how large all is.
    """

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)
    position: tuple[Coordinate, Coordinate, Coordinate] = (0.0, 0.0, 0.0)
    size: Metres | tuple[Metres, Metres, Metres] = 1.0
    rotation: tuple[Degrees, Degrees, Degrees] = (0.0, 0.0, 0.0)

    @field_validator("prompt", mode="before")
    @classmethod
    def _clean(cls, text: Any) -> Any:
        return clean_text(text) if isinstance(text, str) else text

    @property
    def told(self) -> str:
        """It and its place, on one line: ``a red book, size 0.4, at 0, 0.7, 0, turned 0, 20, 0``."""
        size = " x ".join(f"{each:g}" for each in (self.size if isinstance(self.size, tuple) else [self.size]))
        at, turned = (", ".join(f"{each:g}" for each in three) for three in (self.position, self.rotation))
        return f"{self.prompt}, size {size}, at {at}" + (f", turned {turned}" if any(self.rotation) else "")

    @field_validator("position", "size", "rotation", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """Booleans are no numbers."""
        if any(isinstance(each, bool) for each in (value if isinstance(value, (list, tuple)) else [value])):
            raise ValueError("numbers")
        return value


class AssetSpec(Written):
    """One asset: prompt, seed, recipe and targets. ``height_m`` is the height of the exported mesh in metres;
    ``size_m``, in its place, its width (x), height (y) and depth (z), to which it is stretched, and ``height_m`` is
    then the height among them. ``image_elevation`` is the degrees above the horizon that ``image`` is seen from.
    Without a prompt an asset with an image is called by the image's name. ``parts`` are made each by its own prompt,
    and the whole by ``prompt``.
    """

    asset_id: str = Field("", pattern=ID_PATTERN, description="derived from the prompt and the seed when absent")
    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)
    negative_prompt: str = Field("", max_length=MAX_PROMPT)
    seed: int = Field(0, ge=0, le=MAX_SEED)
    recipe: Recipe = RECIPES["factory"]
    tags: dict[Annotated[str, Field(min_length=1, max_length=MAX_TAG)], Annotated[str, Field(max_length=MAX_TAG)]] = (
        Field({}, max_length=MAX_TAGS)
    )
    height_m: Metres = 1.0
    size_m: tuple[Metres, Metres, Metres] | None = Field(None, json_schema_extra=LATER)
    image: FileRef | None = Field(None, json_schema_extra=LATER, description="a picture that the asset is made from")
    image_elevation: float = Field(0.0, ge=-80, le=80, json_schema_extra=LATER)
    init_file: FileRef | None = Field(None, json_schema_extra=LATER)
    parts: tuple[Part, ...] = Field(
        (), max_length=MAX_PARTS, json_schema_extra=LATER, description="things that it is put together from"
    )
    edited: Edited | None = Field(None, json_schema_extra=LATER, description="what init_file was edited from")
    accept: Contract | None = Field(None, json_schema_extra=LATER, description="what it must keep to be accepted")

    @field_validator("prompt", "negative_prompt", mode="before")
    @classmethod
    def _clean(cls, text: Any) -> Any:
        return clean_text(text) if isinstance(text, str) else text

    @field_validator("size_m", mode="before")
    @classmethod
    def _three_numbers(cls, size: Any) -> Any:
        """``"0.6,0.4,0.5"`` or a list; booleans are no numbers."""
        parts = size.split(",") if isinstance(size, str) else size
        if isinstance(parts, (list, tuple)) and any(isinstance(each, bool) for each in parts):
            raise ValueError("three numbers")
        return parts

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_image(cls, data: Any) -> Any:
        image = data.get("image") if isinstance(data, dict) else None
        name = image.get("name") if isinstance(image, dict) else getattr(image, "name", None)
        if isinstance(name, str) and not data.get("prompt"):
            return data | {"prompt": re.sub(r"[\W_]+", " ", PurePosixPath(name).stem).strip() or "image"}
        return data

    @model_validator(mode="after")
    def _derive(self) -> AssetSpec:
        if not self.negative_prompt and self.recipe.default_negative_prompt:
            object.__setattr__(self, "negative_prompt", self._clean(self.recipe.default_negative_prompt))
        if not self.asset_id:
            object.__setattr__(self, "asset_id", self._own_id())
        if self.size_m is not None:
            if self.height_m != self.size_m[1] and "height_m" in self.model_fields_set:
                raise ValueError("size_m and height_m are given with different heights; leave height_m out")
            object.__setattr__(self, "height_m", self.size_m[1])
        if self.image_elevation and self.image is None:
            raise ValueError("image_elevation is given without an image; give one, or leave it out")
        if len(self.parts) == 1:
            raise ValueError("parts has one part; give two or more, or leave parts out and give its prompt alone")
        if self.parts and (self.image is not None or self.init_file is not None):
            name = "init_file" if self.image is None else "image"
            raise ValueError(f"parts are made from their prompts, and {name} is given; leave one of them out")
        if self.edited is not None and self.init_file is None:
            raise ValueError("edited tells where an init_file comes from; splatmill edit writes both")
        if (self.init_file is None) == (self.recipe.init.start == "file"):
            raise ValueError(
                "init.start is file, so init_file must name one (.ply, .glb, .obj)" if self.init_file is None else
                f"init_file is given, so init.start must be file, not {self.recipe.init.start}; leave one of them out"
            )  # fmt: skip
        return self

    @field_validator("asset_id")
    @classmethod
    def _no_device(cls, asset_id: str) -> str:
        if asset_id in DEVICE_NAMES:
            raise ValueError(ID_RULE)
        return asset_id

    def _own_id(self) -> str:
        parts = json.dumps([part.model_dump(mode="json") for part in self.parts], sort_keys=True) if self.parts else ""
        return derive_id(self.prompt, self.negative_prompt, self.seed, self.image.sha256 if self.image else parts)

    @property
    def files(self) -> dict[str, FileRef]:
        """The files that it is made from, by column."""
        named = {column: getattr(self, column) for column in FILES}
        return {column: ref for column, ref in named.items() if ref is not None}

    @property
    def face_budget(self) -> int:
        """Most triangles of the exported mesh."""
        return self.recipe.mesh.face_budget

    @property
    def texture_size(self) -> int:
        """Side of the exported texture in texels."""
        return self.recipe.mesh.texture_size

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON-ready data; :meth:`from_json` reads it back."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> AssetSpec:
        """A spec from :meth:`to_json`'s data."""
        return cls.model_validate(data)
