"""What models can read of a prompt, told before any of them is loaded: words that they do not know, tokens too many.

    told = read(AssetSpec(prompt="a red dragon"))
    told.unknown_words, told.tokens_dropped     # ('dragon',), 0
    told.warnings                               # ("starter does not know 'dragon' ...",)
    told.refusal                                # '' where some of it can be read

A prompt is counted by the tokenizers that encode it, so what is told is what happens. Three kinds of words are unknown:
those that a small vocabulary of whole words lacks (the starter's), those that become the unknown token (T5's of other
scripts), and those that fall into more tokens than they have letters (bytes, to a vocabulary that never met them).
Nothing here loads torch: ``plan`` and ``submit`` read prompts too.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from pipeline_core.config import ModelRef, Named
from pipeline_core.errors import ModelNotFound
from pipeline_core.priors.families import family_of, json_object
from pipeline_core.priors.resolve import CLIP_ID, resolve_config, resolve_model
from pipeline_core.priors.wording import (
    LONGEST_VIEW,
    MAX_WEIGHT,
    cut,
    plain,
    read_literally,
    view_prompt,
    weighted,
)
from pipeline_core.spec import AssetSpec

SHOWN = 8
"""Unknown words that a sentence names."""
CLOSED = 4096
"""Entries below which a vocabulary of whole words is taken for all that a model knows."""
ENCODING = 2
"""How prompts are encoded that were cut, or whose weights were letters, before: part of their stages' keys."""


@dataclass(frozen=True)
class Reading:
    """What the models of a recipe make of a prompt, and of its negative prompt.

    Args:
        unknown_words: as they are written, in order; each once.
        tokens_dropped: the most that any model leaves out at a prompt's end.
        warnings: all that is to be said, as sentences.
        refusal: what is needed instead, where nothing of the prompt can be read; else empty.
        refused_part: the part whose prompt that is; None = the asset's own.
        newly_encoded: kinds of model that read it in another way than they did at first (:data:`ENCODING`).
    """

    unknown_words: tuple[str, ...] = ()
    tokens_dropped: int = 0
    warnings: tuple[str, ...] = ()
    refusal: str = ""
    newly_encoded: tuple[str, ...] = ()
    refused_part: int | None = None

    def figures(self) -> dict[str, float]:
        """What a contract may bound. A prompt of which nothing can be read has at least one unreadable word."""
        words = max(len(self.unknown_words), bool(self.refusal))
        return {"unreadable_words": float(words), "dropped_tokens": float(self.tokens_dropped)}

    def to_json(self) -> dict[str, Any]:
        """What is kept with the asset; empty where everything was read."""
        if not self.warnings:
            return {}
        words, dropped = list(self.unknown_words), self.tokens_dropped
        return {"unknown_words": words, "tokens_dropped": dropped, "warnings": list(self.warnings)}


@dataclass(frozen=True)
class Text:
    """What one model makes of one text: ``known`` is false where no word of it means anything to the model."""

    unknown: tuple[str, ...] = ()
    dropped: int = 0
    known: bool = True
    newly_encoded: bool = False
    weighted: bool = False
    kept: str = ""


def _letters(text: str) -> list[str]:
    """The words of ``text`` as a vocabulary of whole words has them."""
    return re.findall(r"[^\W\d_]+", text.lower())


def _said(text: str) -> list[str]:
    """The words and pictures (emoji) of ``text``, to a vocabulary of whole words; no numbers, no punctuation."""
    found = re.findall(r"[^\W\d_]+|[^\w\s]", text.lower())
    return [word for word in found if word.isalpha() or unicodedata.category(word) == "So"]


@lru_cache(maxsize=1)
def _fillers() -> frozenset[str]:
    """Words that say nothing of what is to be made."""
    from pipeline_core.props.captions import FILLERS, VIEWS

    return frozenset({*FILLERS, *VIEWS})


@dataclass(frozen=True)
class Vocabulary:
    """One tokenizer of a model.

    Args:
        tokenizer: of the ``tokenizers`` package, without padding and truncation.
        room: tokens of a text that the network reads, special ones not counted.
        words: all that the model knows, where that is a list of words; else empty.
        unknown: the token of what is not in the vocabulary; empty where there is no such thing.
        lower: whether texts are put into lower case first.
    """

    tokenizer: Any
    room: int
    words: frozenset[str]
    unknown: str
    lower: bool

    def count(self, text: str) -> int:
        """Tokens of ``text``."""
        return len(self.tokenizer.encode(text.lower() if self.lower else text, add_special_tokens=False).ids)

    def kept(self, text: str) -> tuple[str, int]:
        """What the window holds of ``text``, and how many tokens are cut off; its view word, if it has one, is not."""
        if text.isascii() and len(text) <= self.room:  # a token is a letter or more
            return text, 0
        read = self.tokenizer.encode(text.lower() if self.lower else text, add_special_tokens=False)
        over = len(read.ids) - self.room
        if over <= 0:
            return text, 0
        kept = cut(text, self.room, self.count)
        return (kept, len(read.ids) - self.count(kept)) if kept != text else (text[: read.offsets[self.room][0]], over)

    def unknown_words(self, text: str) -> tuple[list[str], bool]:
        """Unknown words of ``text`` in order, and whether another word of it means anything."""
        if self.words:
            found = _said(text)
            unknown = [word for word in found if word not in self.words]
            return unknown, any(len(w) > 1 and w in self.words and w not in _fillers() for w in found)
        if not self.unknown and text.isascii():
            return [], True
        read = self.tokenizer.encode(text.lower() if self.lower else text, add_special_tokens=False)
        unknown, known = [], False
        for start, end in (match.span() for match in re.finditer(r"\S+", text)):
            inside = [t for t, (a, b) in zip(read.tokens, read.offsets) if a < end and b > start and t != "\u2581"]
            if self.unknown in inside or len(inside) > end - start:
                unknown.append(text[start:end].strip(".,;:!?\"'()[]") or text[start:end])
            else:
                known = known or any(character.isalpha() for character in text[start:end])
        return unknown, known or not unknown


@dataclass(frozen=True)
class Model:
    """How a model reads: its name, its vocabularies, whether view words follow a prompt, whether it has windows."""

    name: str
    vocabularies: tuple[Vocabulary, ...]
    viewed: bool = False
    windows: bool = False

    @cached_property
    def room(self) -> int:
        """The most tokens that one of its vocabularies reads."""
        return max(each.room for each in self.vocabularies)

    @cached_property
    def objects(self) -> frozenset[str]:
        """The objects that a model of few words knows; none where it reads free text."""
        if not all(each.words for each in self.vocabularies):
            return frozenset()
        from pipeline_core.props.props import CATEGORIES

        return frozenset(CATEGORIES).intersection(*(each.words for each in self.vocabularies))

    def read(self, text: str, *, viewed: bool) -> Text:
        """``text`` as the model reads it: what any of its vocabularies knows is known."""
        bare = plain(text)
        if not bare or not self.vocabularies:
            return Text()
        whole = view_prompt(bare, LONGEST_VIEW) if viewed and self.viewed else bare
        kept = [each.kept(whole) for each in self.vocabularies]
        over = [dropped for _, dropped in kept]
        found = [each.unknown_words(bare) for each in self.vocabularies]
        return Text(
            tuple(word for word in dict.fromkeys(found[0][0]) if all(word in words for words, _ in found)),
            0 if self.windows else min(over),
            any(known for _, known in found),
            bare != text or (max(over) > 0 and (self.windows or self.viewed)),
            bare != text and any(weight != 1 for _, weight in weighted(text)),
            bare if self.windows else max((left for left, _ in kept), key=len),
        )


def read(spec: AssetSpec) -> Reading:
    """What the models of ``spec`` make of its prompts. Raises :class:`ModelNotFound` when a model is not there."""
    recipe = spec.recipe
    started = recipe.init.start == "prior"
    judged = any(stage.steps and stage.uses("points") for stage in (recipe.geometry, recipe.appearance))

    def used(points: bool) -> tuple[tuple[Any, ModelRef], ...]:
        refs = recipe.model_refs()
        return tuple((kind, refs[kind]) for kind in (("image", "points") if points else ("image",)))

    whole = _read(used(judged or (started and not spec.parts)), spec.prompt, spec.negative_prompt)
    return _together(whole, [_read(used(judged or started), part.prompt, "") for part in spec.parts])


def _together(whole: Reading, parts: list[Reading]) -> Reading:
    """The reading of an asset whose parts have prompts of their own."""
    if not parts:
        return whole
    refused = next((k for k, part in enumerate(parts) if part.refusal), None)
    said = [f"parts[{k}]: {words}" for k, part in enumerate(parts) for words in part.warnings]
    return Reading(
        tuple(dict.fromkeys(word for each in (whole, *parts) for word in each.unknown_words)),
        max(each.tokens_dropped for each in (whole, *parts)),
        (*whole.warnings, *said),
        whole.refusal or ("" if refused is None else parts[refused].refusal),
        tuple(dict.fromkeys(kind for each in (whole, *parts) for kind in each.newly_encoded)),
        None if whole.refusal else refused,
    )


@lru_cache(maxsize=4096)
def _read(used: tuple[tuple[Any, ModelRef], ...], prompt: str, negative: str) -> Reading:
    unknown: list[str] = []
    said: list[str] = []
    newly: list[str] = []
    dropped, refusal = 0, ""
    models = [open_model(ref, kind) for kind, ref in used]
    texts = [model.read(prompt, viewed=True) for model in models]
    small = [model.objects for model in models if model.objects]
    objects = frozenset.intersection(*small) if small else frozenset()  # what all of them know
    for (kind, _), model, text in zip(used, models, texts, strict=True):
        other = model.read(negative if kind == "image" else "", viewed=False)
        unknown += [*text.unknown, *other.unknown]
        dropped = max(dropped, text.dropped, other.dropped)
        newly += [kind] * (text.newly_encoded or other.newly_encoded)
        said += [*_sentences(model, text, "the prompt"), *_sentences(model, other, "the negative prompt")]
        if kind == "image" and not text.known:
            refusal = _refusal(model, objects)
        elif kind == "points" and not text.known:
            said.append(f"{model.name} reads nothing of the prompt: what it starts from is left to chance")
    [model, *_], [text, *_] = models, texts
    partly = any(each.unknown or each.dropped for each in texts)
    if partly and not refusal and model.objects and not _names_one(text.kept, objects):
        said.append(f"no object that {model.name} knows is named: its shape is left to chance")
    said += [
        f"{part} is read as it is written: a weight is a number from 0 to {MAX_WEIGHT:g}, as in (words:1.3)"
        for part in dict.fromkeys(read_literally(prompt) + read_literally(negative))
    ]
    return Reading(tuple(dict.fromkeys(unknown)), dropped, tuple(dict.fromkeys(said)), refusal, tuple(newly))


def _sentences(model: Model, text: Text, which: str) -> list[str]:
    """What is to be said of one text."""
    said = []
    if text.unknown:
        words = ", ".join(map(repr, text.unknown[:SHOWN]))
        more = f" and {len(text.unknown) - SHOWN} more words" if len(text.unknown) > SHOWN else ""
        said.append(f"{model.name} does not know {words}{more} of {which}")
    if text.dropped:
        said.append(f"{model.name} reads {model.room} tokens: the last {text.dropped} of {which} are dropped")
    if text.weighted and not model.windows:
        said.append(f"{model.name} takes no weights: all words of {which} count the same")
    return said


def _names_one(text: str, objects: frozenset[str]) -> bool:
    """Whether a word of ``text`` is one of ``objects``, or a word for one."""
    from pipeline_core.props.captions import SYNONYMS

    return any(SYNONYMS.get(word, word) in objects for word in _letters(text))


def _refusal(model: Model, objects: frozenset[str]) -> str:
    """What a prompt needs of which ``model`` can read nothing; ``objects`` may be named."""
    if not model.objects:
        return f"words that {model.name} can read: it reads none of these; write them in a language it was trained on"
    return (
        f"words that {model.name} knows: it knows none of these. Its objects are {', '.join(sorted(objects))}; "
        "others need a prior of free text: image_prior with a folder or hub id of Stable Diffusion, SDXL or their kin"
    )


# --- from folders to vocabularies ------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def open_model(named: Named, kind: Literal["image", "points"]) -> Model:
    """How a model reads; without vocabularies where it reads no text, or what reads it is not here."""
    ref, folder = ModelRef.of(named).ref, resolve_model(named, kind)
    if kind == "points":
        return Model(ref, tuple(_point_vocabularies(folder)))
    folder = resolve_config(named, folder) if folder.is_file() else folder
    family, index = family_of(folder, "image"), json_object(folder / "model_index.json")
    used = [n for n in ("", "_2", "_3") if (index.get(f"text_encoder{n}") or [None])[0] and not family.shown]
    unet, side = json_object(folder / "unet" / "config.json"), json_object(folder / "splatmill.json")
    places = [(f"tokenizer{n}", f"text_encoder{n}") for n in used]
    vocabularies = [_vocabulary(folder / t, folder / e, family.tokens.get(t), bool(unet)) for t, e in places]
    camera = unet.get("_class_name") == "MultiViewUNetModel" or side.get("camera") == "angles"
    return Model(ref, tuple(vocabularies), viewed=not camera, windows=reads_in_windows(folder))


def _point_vocabularies(folder: Path) -> Iterator[Vocabulary]:
    if (folder / "tokenizer").is_dir():
        yield _vocabulary(folder / "tokenizer", folder)
        return
    with contextlib.suppress(ModelNotFound):  # Point-E's encoder is asked for when it is loaded
        clip = folder / "clip" if (folder / "clip").is_dir() else resolve_model(CLIP_ID, "clip")
        yield _vocabulary(clip, clip)


def reads_in_windows(folder: Path) -> bool:
    """Whether an image prior takes several windows of text side by side: U-Nets do, behind CLIP as it is published."""
    if not (folder / "unet").is_dir():
        return False
    said = [json_object(path) for path in folder.glob("text_encoder*/config.json")]
    return bool(said) and all(
        str(each.get("architectures")).startswith("['CLIPText") and each.get("max_position_embeddings", 0) >= 77
        for each in said
    )


def _vocabulary(folder: Path, network: Path, tokens: int | None = None, unet: bool = False) -> Vocabulary:
    """The vocabulary in a tokenizer's folder, of the ``network`` that reads it, or so many ``tokens`` of it."""
    tokenizer, said, config = (
        _open_tokenizer(folder),
        json_object(folder / "tokenizer_config.json"),
        json_object(network / "config.json"),
    )
    config |= config.get("text_config") or {}
    positions = config.get("max_position_embeddings") or config.get("tokens") or 77
    length = tokens or min(int(said.get("model_max_length") or positions), positions)
    vocabulary, pieces = tokenizer.get_vocab(), type(tokenizer.model).__name__ == "BPE"
    words = frozenset(token.removesuffix("</w>") for token in vocabulary if token.endswith("</w>"))
    unknown = said.get("unk_token") or ""
    return Vocabulary(
        tokenizer,
        length - tokenizer.num_special_tokens_to_add(False),
        words if len(vocabulary) < CLOSED and any(len(word) > 2 and word.isalpha() for word in words) else frozenset(),
        "" if pieces else str(unknown.get("content") if isinstance(unknown, dict) else unknown),
        config.get("model_type") == "gemma2" or (unet and config.get("model_type") == "t5"),
    )


def _open_tokenizer(folder: Path) -> Any:
    """A tokenizer of the ``tokenizers`` package, made as transformers makes it of the same folder."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    if (folder / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    if not (folder / "vocab.json").is_file():
        from transformers import T5TokenizerFast

        return T5TokenizerFast.from_pretrained(str(folder), local_files_only=True).backend_tokenizer
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=end))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(words), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    ends = ((end, vocabulary[end]), (start, vocabulary[start]))
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    return tokenizer
