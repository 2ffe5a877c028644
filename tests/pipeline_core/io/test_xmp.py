"""The mark of generated media: read back by us, by an XML parser and by exiftool; pixels and geometry untouched."""

import io
import json
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline_core.errors import DataError
from pipeline_core.io import xmp
from pipeline_core.io.gltf import load_glb, read_glb, save_glb
from pipeline_core.io.images import encode_png, save_turntable
from tests.gltf_check import check_glb, severity_counts
from tests.pipeline_core.io.glb import pack
from tests.pipeline_core.io.test_gltf import tetrahedron

NASTY = """a "gold" chest's <b>lid</b> &amp; ]]> <?xpacket end='w'?> 🎁 Ångström \ufffe"""
READ = NASTY.replace("\ufffe", "\ufffd")
PROVENANCE = {
    "asset_id": "chest",
    "prompt": NASTY,
    "models": {"image": {"id": "starter@1", "licence": "Apache-2.0", "licence_class": "open"}},
    "code_version": "0.1",
}
MARK = xmp.Mark.of(PROVENANCE)
NAMES = dict(xmp._NAMESPACES)


def webp(**options):
    """A WebP of one picture, as Pillow writes it."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 4), dtype=np.uint8)
    Image.fromarray(pixels).convert(options.pop("mode", "RGB")).save(buffer, "WEBP", **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A PNG, a turntable and a GLB with the mark, and the bytes that each had without."""
    folder = tmp_path_factory.mktemp("marked")
    rng = np.random.default_rng(0)
    (folder / "preview.png").write_bytes(encode_png(rng.random((12, 10, 3))))
    save_turntable(folder / "turntable.webp", rng.random((3, 16, 16, 3)))
    save_glb(folder / "asset.glb", tetrahedron(), name="chest")
    plain = {path: path.read_bytes() for path in folder.iterdir()}
    for path in plain:
        xmp.mark_file(path, MARK)
    return plain


def frames(data):
    """Every frame's pixels."""
    with Image.open(io.BytesIO(data)) as image:
        found = []
        for at in range(getattr(image, "n_frames", 1)):
            image.seek(at)
            found.append(np.asarray(image.convert("RGBA")))
        return np.stack(found)


def test_each_file_says_that_it_was_generated_and_of_which_prompt(files):
    for path, plain in files.items():
        assert not xmp.read(plain).generated
        found = xmp.read_file(path)
        assert found.generated and found.prompt.replace("\ufffe", "\ufffd") == READ, path
        assert all(each.generated and each.prompt == READ for each in found.pictures)
        assert len(found.pictures) == (1 if path.suffix == ".glb" else 0)


def test_pixels_and_geometry_are_those_of_before_and_bytes_follow_from_the_mark_alone(files):
    for path, plain in files.items():
        data = path.read_bytes()
        assert xmp.marked(plain, MARK) == xmp.marked(data, MARK) == data != xmp.marked(data, xmp.Mark("other"))
        if path.suffix == ".glb":
            continue
        assert np.array_equal(frames(data), frames(plain))
    glb = next(path for path in files if path.suffix == ".glb")
    before = glb.with_name("plain.glb")
    before.write_bytes(files[glb])
    assert all(np.array_equal(a, b) for a, b in zip(vars(load_glb(glb)).values(), vars(load_glb(before)).values()))
    assert sum(severity_counts(check_glb(glb)).values()) == 0


@pytest.mark.parametrize("mode, options", [("RGB", {}), ("RGB", {"lossless": True}), ("RGBA", {"lossless": True})])
def test_a_simple_webp_becomes_an_extended_one_of_the_same_picture(mode, options):
    plain = webp(mode=mode, **options)
    data = xmp.marked(plain, MARK)
    assert b"VP8X" not in plain and xmp.read(data).generated and np.array_equal(frames(data), frames(plain))


def test_a_parser_of_xml_finds_every_property_where_the_standard_has_it():
    root = ElementTree.fromstring(xmp.packet(MARK).decode())
    (about,) = root.findall("rdf:RDF/rdf:Description", NAMES)
    assert about.findtext("Iptc4xmpExt:DigitalSourceType", namespaces=NAMES) == xmp.GENERATED
    assert about.findtext("dc:description/rdf:Alt/rdf:li", namespaces=NAMES) == READ
    assert about.findtext("dc:title/rdf:Alt/rdf:li", namespaces=NAMES) == "chest"
    (model,) = about.findall("dc:contributor/rdf:Bag/rdf:li", NAMES)
    assert model.text == "starter@1 (image model, licence Apache-2.0, open)"
    assert "Apache-2.0" in about.findtext("xmpRights:UsageTerms/rdf:Alt/rdf:li", namespaces=NAMES)


@settings(max_examples=60, deadline=None)
@given(st.text())
def test_any_prompt_makes_a_packet_that_can_be_read(prompt):
    prompt = prompt.encode("utf-8", "replace").decode()  # what a spec lets through has no lone surrogates
    data = xmp.marked(encode_png(np.zeros((2, 2, 3))), xmp.Mark(prompts=(prompt,)))
    assert xmp.read(data).generated


def test_a_glb_names_prompt_models_and_licences_as_json_ld(files):
    document, _ = read_glb(next(path for path in files if path.suffix == ".glb"))
    (packet,) = document["extensions"][xmp.EXTENSION]["packets"]
    assert document["asset"]["extensions"] == {xmp.EXTENSION: {"packet": 0}}
    assert xmp.EXTENSION in document["extensionsUsed"] and "extensionsRequired" not in document
    assert packet["dc:description"] == {"@type": "rdf:Alt", "rdf:_1": {"@language": "x-default", "@value": NASTY}}
    assert packet["dc:contributor"] == {"@set": list(MARK.models)} and "Apache-2.0" in json.dumps(packet)
    assert {name.split(":")[0] for name in packet if ":" in name} <= set(packet["@context"])


def test_what_is_compressed_behind_a_picture_moves_with_it(tmp_path):
    save_glb(tmp_path / "a.glb", tetrahedron(), name="a")
    document, body = read_glb(tmp_path / "a.glb")
    tail = b"compress"
    document["bufferViews"].append({"buffer": 1, "byteLength": 64, "extensions": {"EXT_meshopt_compression": {
        "buffer": 0, "byteOffset": len(body), "byteLength": len(tail)}}})  # fmt: skip
    document["buffers"].append({"byteLength": 64})
    pack(tmp_path / "b.glb", document, body + tail)
    xmp.mark_file(tmp_path / "b.glb", MARK)
    found, moved = read_glb(tmp_path / "b.glb")
    at = found["bufferViews"][-1]["extensions"]["EXT_meshopt_compression"]
    assert moved[at["byteOffset"] :] == tail and found["buffers"][0]["byteLength"] == len(moved)


@pytest.mark.parametrize("damage", [lambda d: d[:-9], lambda d: b"GIF89a" + d, lambda d: d[:40] + b"?" + d[41:]])
def test_what_is_damaged_is_told(files, damage):
    png = next(path for path in files if path.suffix == ".png")
    with pytest.raises(DataError, match=r"preview\.png cannot be marked: "):
        xmp.marked(damage(png.read_bytes()), MARK, png)
    with pytest.raises(DataError, match="the mark of "):
        xmp.read(damage(png.read_bytes()), png)


def test_a_packet_that_declares_entities_is_refused():
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&a;</x:xmpmeta>'
    data = xmp._mark_picture(encode_png(np.zeros((2, 2, 3))), bomb)
    with pytest.raises(DataError, match="document type"):
        xmp.read(data)


@pytest.mark.skipif(not shutil.which("exiftool"), reason="exiftool is not installed")
def test_exiftool_reads_the_mark_from_each_file(files):
    command = ["exiftool", "-json", "-scanForXMP", "-charset", "utf8", "-XMP:all", *map(str, files)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60).stdout)
    assert len(told) == 3
    for each in told:
        assert each["DigitalSourceType"] == xmp.GENERATED and each["Description"] == READ and each["Title"] == "chest"
