"""The mark of generated media: PNG, WebP and GLB files say by what they were made, in words that others' tools read.

    mark_file("preview.png", Mark.of(provenance)); read_file("preview.png").generated    # True

The mark is IPTC's digital source type ``trainedAlgorithmicMedia`` with the prompt, the models and their licences. PNG
and WebP hold it as an XMP packet (ISO 16684-1), a GLB as KHR_xmp_json_ld and once more in each of its pictures, which
artists take out. Bytes are inserted and none is encoded anew: pixels and geometry stay as they are, and the same file
and mark always give the same bytes. A file that has a mark gets the new one in its place.
"""

from __future__ import annotations

import json
import re
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline_core.errors import DataError
from pipeline_core.files import write_bytes

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for media that a trained model made."""

SUFFIXES = (".png", ".webp", ".glb")
"""Files that can carry the mark."""

EXTENSION = "KHR_xmp_json_ld"
_NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
for _prefix, _uri in _NAMESPACES.items():
    ElementTree.register_namespace(_prefix, _uri)
_BEGIN = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
_END = '\n<?xpacket end="r"?>'
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PNG, _KEYWORD = b"\x89PNG\r\n\x1a\n", b"XML:com.adobe.xmp"
_HAS_XMP = 0x04  # flag of a WebP's VP8X chunk
_GLB, _JSON_CHUNK, _BINARY_CHUNK = b"glTF", 0x4E4F534A, 0x004E4942


@dataclass(frozen=True)
class Mark:
    """What a file says of its making. ``models``: each with its kind and licence, in words."""

    title: str = ""
    prompts: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    version: str = ""

    @classmethod
    def of(cls, *provenances: Mapping[str, Any], title: str = "") -> Mark:
        """The mark of what was made from the assets of ``provenances`` (``asset.json``), titled by the first one."""
        models = {
            f"{each['id']} ({kind} model, licence {each['licence']}, {each['licence_class']})": None
            for provenance in provenances
            for kind, each in provenance.get("models", {}).items()
        }
        return cls(
            title=title or next((str(each["asset_id"]) for each in provenances), ""),
            prompts=tuple(dict.fromkeys(str(each["prompt"]) for each in provenances)),
            models=tuple(models),
            version=next((str(each["code_version"]) for each in provenances), ""),
        )

    def facts(self) -> dict[str, str | list[str]]:
        """The properties by name; a list is an unordered one."""
        terms = "Licences of the models that made it: " + "; ".join(self.models)
        facts: dict[str, str | list[str]] = {
            "Iptc4xmpExt:DigitalSourceType": GENERATED,
            "Iptc4xmpExt:AIPromptInformation": "\n".join(self.prompts),
            "Iptc4xmpExt:AISystemUsed": "splatmill",
            "Iptc4xmpExt:AISystemVersionUsed": self.version,
            "xmp:CreatorTool": f"splatmill {self.version}".rstrip(),
            "dc:title": self.title,
            "dc:description": "\n".join(self.prompts),
            "dc:contributor": list(self.models),
            "xmpRights:UsageTerms": terms if self.models else "",
        }
        return {name: value for name, value in facts.items() if value}


@dataclass(frozen=True)
class Found:
    """What a file says. ``pictures``: of a GLB, what each of its pictures says."""

    source_type: str = ""
    prompt: str = ""
    pictures: tuple[Found, ...] = field(default=())

    @property
    def generated(self) -> bool:
        """Whether it and all its pictures are marked as generated."""
        return self.source_type == GENERATED and all(each.generated for each in self.pictures)


def mark_file(path: Path, mark: Mark) -> None:
    """Put ``mark`` into a PNG, WebP or GLB. Raises :class:`DataError` for another or a damaged file."""
    write_bytes(path, marked(path.read_bytes(), mark, path))


def read_file(path: Path) -> Found:
    """What the file at ``path`` says. Raises as :func:`mark_file` does."""
    return read(path.read_bytes(), path)


def marked(data: bytes, mark: Mark, origin: str | Path = "file") -> bytes:
    """The file ``data`` with ``mark``; ``origin`` is named in errors."""
    try:
        if data.startswith(_GLB):
            return _mark_glb(data, mark)
        return _mark_picture(data, packet(mark))
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        raise DataError(f"{origin} cannot be marked: {error}; give a whole PNG, WebP or GLB") from None


def read(data: bytes, origin: str | Path = "file") -> Found:
    """What the file ``data`` says; nothing where it holds no packet."""
    try:
        if data.startswith(_GLB):
            return _read_glb(data)
        return _read_packet(_picture_packet(data))
    except (ValueError, KeyError, IndexError, TypeError, struct.error, ElementTree.ParseError) as error:
        raise DataError(f"the mark of {origin} cannot be read: {error}") from None


# --- packets ---------------------------------------------------------------------------------------------------------

_IN_LANGUAGES = ("dc:title", "dc:description", "xmpRights:UsageTerms")
"""Properties that hold a text for each language; ours are of none in particular."""


def packet(mark: Mark) -> bytes:
    """The XMP packet of a PNG or WebP. Characters that XML has no place for become U+FFFD."""
    root = ElementTree.Element(_name("x:xmpmeta"))
    about = ElementTree.SubElement(ElementTree.SubElement(root, _name("rdf:RDF")), _name("rdf:Description"))
    about.set(_name("rdf:about"), "")
    for name, value in mark.facts().items():
        node = ElementTree.SubElement(about, _name(name))
        if isinstance(value, list):
            values = ElementTree.SubElement(node, _name("rdf:Bag"))
            for each in value:
                ElementTree.SubElement(values, _name("rdf:li")).text = _NO_XML.sub("\ufffd", each)
        elif name in _IN_LANGUAGES:
            item = ElementTree.SubElement(ElementTree.SubElement(node, _name("rdf:Alt")), _name("rdf:li"))
            item.set("{http://www.w3.org/XML/1998/namespace}lang", "x-default")
            item.text = _NO_XML.sub("\ufffd", value)
        else:
            node.text = _NO_XML.sub("\ufffd", value)
    return (_BEGIN + ElementTree.tostring(root, encoding="unicode") + _END).encode()


def json_ld(mark: Mark) -> dict[str, Any]:
    """The packet of KHR_xmp_json_ld."""
    facts = mark.facts()
    used = {name.split(":")[0] for name in facts} | {"rdf"}
    found: dict[str, Any] = {"@context": {prefix: uri for prefix, uri in _NAMESPACES.items() if prefix in used}}
    for name, value in facts.items():
        if isinstance(value, list):
            found[name] = {"@set": value}
        elif name in _IN_LANGUAGES:
            found[name] = {"@type": "rdf:Alt", "rdf:_1": {"@language": "x-default", "@value": value}}
        else:
            found[name] = value
    return found


def _name(prefixed: str) -> str:
    prefix, _, name = prefixed.partition(":")
    return f"{{{_NAMESPACES[prefix]}}}{name}"


def _read_packet(text: bytes | None) -> Found:
    if text is None:
        return Found()
    if b"<!DOCTYPE" in text:
        raise ValueError("its packet declares a document type")
    root = ElementTree.fromstring(text.decode().strip("\ufeff \n"))
    about = list(root.iter(_name("rdf:Description")))

    def said(name: str) -> str:
        for each in about:
            node = each.find(_name(name))
            if each.get(_name(name)) is not None or node is not None:
                return each.get(_name(name)) or "".join(node.itertext() if node is not None else "").strip()
        return ""

    return Found(said("Iptc4xmpExt:DigitalSourceType"), said("Iptc4xmpExt:AIPromptInformation"))


# --- pictures --------------------------------------------------------------------------------------------------------


def _mark_picture(data: bytes, text: bytes) -> bytes:
    if data.startswith(_PNG):
        return _mark_png(data, text)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _mark_webp(data, text)
    raise ValueError(f"it begins with {data[:12]!r}")


def _picture_packet(data: bytes) -> bytes | None:
    """The XMP packet of a PNG or WebP; None where it holds none."""
    if data.startswith(_PNG):
        found = [body for kind, body in _png_chunks(data) if _is_xmp(kind, body)]
        return found[0].split(b"\0", 5)[5] if found else None
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return next((body for kind, body in _webp_chunks(data) if kind == b"XMP "), None)
    raise ValueError(f"it is neither PNG, WebP nor GLB: it begins with {data[:12]!r}")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of each chunk; raises ``ValueError`` where a checksum is wrong or the end is missing."""
    at, kind = len(_PNG), b""
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        (checksum,) = struct.unpack_from(">I", data, at + 8 + size)
        if zlib.crc32(kind + body) != checksum:
            raise ValueError(f"the checksum of its chunk {kind.decode('latin-1')} is wrong: its bytes were changed")
        yield kind, body
        at += 12 + size
    if kind != b"IEND":
        raise ValueError("it ends before its last chunk")


def _is_xmp(kind: bytes, body: bytes) -> bool:
    return kind == b"iTXt" and body.startswith(_KEYWORD + b"\0")


def _mark_png(data: bytes, text: bytes) -> bytes:
    chunks = [each for each in _png_chunks(data) if not _is_xmp(*each)]
    # keyword, not compressed, no language, no translated keyword
    chunks.insert(1, (b"iTXt", _KEYWORD + b"\0\0\0\0\0" + text))
    parts = [_PNG]
    for kind, body in chunks:
        parts.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(parts)


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    (size,) = struct.unpack_from("<I", data, 4)
    if size + 8 != len(data):
        raise ValueError(f"its header says {size + 8} bytes, it has {len(data)}")
    at = 12
    while at < len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        if at + 8 + size > len(data):
            raise ValueError("a chunk runs past its end")
        yield kind, data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _mark_webp(data: bytes, text: bytes) -> bytes:
    chunks = [each for each in _webp_chunks(data) if each[0] != b"XMP "]
    if chunks[0][0] != b"VP8X":
        chunks.insert(0, (b"VP8X", _extended(*chunks[0])))
    head = chunks[0][1]
    chunks[0] = (b"VP8X", bytes([head[0] | _HAS_XMP]) + head[1:])
    chunks.append((b"XMP ", text))
    body = b"".join(kind + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for kind, part in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _extended(kind: bytes, body: bytes) -> bytes:
    """The VP8X chunk that a simple WebP of one picture lacks: its flags and its size less one."""
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 1)
        alpha, width, height = bits >> 28 & 1, bits & 0x3FFF, bits >> 14 & 0x3FFF
    elif kind == b"VP8 ":
        alpha = 0
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", body, 6))
        width, height = width - 1, height - 1
    else:
        raise ValueError(f"its first chunk is {kind!r}")
    return bytes([alpha << 4, 0, 0, 0]) + width.to_bytes(3, "little") + height.to_bytes(3, "little")


# --- GLB -------------------------------------------------------------------------------------------------------------


def glb_parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """JSON document and binary chunk."""
    _, version, length = struct.unpack_from("<4sII", data)
    if version != 2 or length != len(data):
        raise ValueError(f"its header says version {version} and {length} bytes, it has {len(data)}")
    size, kind = struct.unpack_from("<II", data, 12)
    document, at = json.loads(data[20 : 20 + size]), 20 + size
    if kind != _JSON_CHUNK or not isinstance(document, dict):
        raise ValueError("its first chunk is no JSON document")
    if at == len(data):
        return document, b""
    size, kind = struct.unpack_from("<II", data, at)
    if kind != _BINARY_CHUNK or at + 8 + size != len(data):
        raise ValueError("its second chunk is not its last, or no binary one")
    return document, data[at + 8 :]


def _pictures(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The buffer views of the PNG and WebP pictures inside the file, last one first."""
    kinds = ("image/png", "image/webp")
    found = {each["bufferView"] for each in document.get("images", ()) if each.get("mimeType") in kinds}
    views = [document["bufferViews"][index] for index in found]
    return sorted(views, key=lambda view: -int(view.get("byteOffset", 0)))


def _mark_glb(data: bytes, mark: Mark) -> bytes:
    document, body = glb_parts(data)
    text = packet(mark)
    for view in _pictures(document):
        body = _replace(document, body, view, text)
    document.setdefault("extensions", {})[EXTENSION] = {"packets": [json_ld(mark)]}
    document["asset"].setdefault("extensions", {})[EXTENSION] = {"packet": 0}
    document["extensionsUsed"] = sorted({*document.get("extensionsUsed", ()), EXTENSION})
    if document.get("buffers"):
        document["buffers"][0]["byteLength"] = len(body)
    head = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    head += b" " * (-len(head) % 4)
    chunks = struct.pack("<II", len(head), _JSON_CHUNK) + head
    chunks += struct.pack("<II", len(body), _BINARY_CHUNK) + body if body else b""
    return struct.pack("<4sII", _GLB, 2, 12 + len(chunks)) + chunks


def _replace(document: dict[str, Any], body: bytes, view: dict[str, Any], text: bytes) -> bytes:
    """``body`` with the picture of ``view`` marked, and everything behind it moved by a multiple of four bytes."""
    begin = int(view.get("byteOffset", 0))
    end = begin + int(view["byteLength"])
    if view.get("buffer", 0) != 0 or end > len(body):
        raise ValueError(f"a picture ends at byte {end} of {len(body)}")
    picture = _mark_picture(body[begin:end], text)
    whole = picture + b"\0" * ((end - begin - len(picture)) % 4)
    for each in _ranges(document):
        if each.get("buffer", 0) == 0 and each.get("byteOffset", 0) >= end:
            each["byteOffset"] += begin + len(whole) - end
    view["byteLength"] = len(picture)
    return body[:begin] + whole + body[end:]


def _ranges(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that names a range of a buffer: buffer views, and the compressed data of their extensions."""
    for view in document.get("bufferViews", ()):
        yield view
        yield from (each for each in view.get("extensions", {}).values() if "buffer" in each)


def _read_glb(data: bytes) -> Found:
    document, body = glb_parts(data)
    pictures: Sequence[Found] = [
        _read_packet(_picture_packet(body[begin : begin + view["byteLength"]]))
        for view in _pictures(document)
        for begin in (int(view.get("byteOffset", 0)),)
    ]
    at = document.get("asset", {}).get("extensions", {}).get(EXTENSION, {}).get("packet")
    said = {} if at is None else document["extensions"][EXTENSION]["packets"][at]
    name = "Iptc4xmpExt:"
    return Found(
        str(said.get(f"{name}DigitalSourceType", "")), str(said.get(f"{name}AIPromptInformation", "")), tuple(pictures)
    )
