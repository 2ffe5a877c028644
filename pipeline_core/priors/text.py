"""Loading from local folders without surprises, and text encoders.

diffusers and transformers fill tensors that a file lacks with random numbers and warn; here that is an error. Nothing
is fetched, nothing but safetensors is read, and no code of the folder is run.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors.resolve import weight_variant
from pipeline_core.priors.wording import cut, plain, weighted

_tokenizing = threading.Lock()


class Encoder(Protocol):
    """What a prior needs of a text encoder."""

    model: Any

    def __call__(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        """Hidden states [L, D], and the projected pooled vector [P] where the network has one."""
        ...


class TextEncoder:
    """A tokenizer and one text network.

    Args:
        output: which hidden states condition the U-Net: "last" (after the final norm) or "penultimate" (SDXL)
        strip: lower-case and strip prompts first, as DeepFloyd IF does
        length: tokens that it reads; None = what tokenizer and network allow
        masked: whether it is told which tokens are padding
        windows: whether a longer text becomes several windows side by side, and weights in it count (CLIP of U-Nets);
            else the text is cut, and weights are left out (wording.py)
    """

    def __init__(
        self,
        tokenizer: Any,
        model: Any,
        *,
        output: Literal["last", "penultimate"] = "last",
        strip: bool = False,
        length: int | None = None,
        masked: bool = False,
        windows: bool = False,
    ) -> None:
        self.tokenizer, self.model, self.output, self.strip, self.masked = tokenizer, model, output, strip, masked
        self.windows = windows
        self.length = length or min(int(tokenizer.model_max_length), model.config.max_position_embeddings)

    @torch.no_grad()
    def __call__(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        """Hidden states [L, D] (of n windows [n L, D]), and the projected pooled vector [P] of the first where the
        network has one."""
        text = prompt.lower().strip() if self.strip else prompt
        if self.windows:
            windows = self._split(text)
            if len(windows) > 1 or any(weight != 1 for _, weight in windows[0]):
                encoded = [self._window(window) for window in windows]
                return torch.cat([hidden for hidden, _ in encoded]), encoded[0][1]
        tokens = tokenize(self.tokenizer, [text], self.length)
        return self._run(tokens.input_ids, tokens.attention_mask if self.masked else None)

    def _run(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        device = next(self.model.parameters()).device
        out = self.model(
            ids.to(device),
            attention_mask=None if mask is None else mask.to(device),
            output_hidden_states=self.output == "penultimate",
        )
        hidden = out.hidden_states[-2] if self.output == "penultimate" else out.last_hidden_state
        pooled = getattr(out, "text_embeds", None)
        return hidden[0].float(), None if pooled is None else pooled[0].float()

    def _split(self, text: str) -> list[list[tuple[int, float]]]:
        """Tokens and weights of each window, special tokens not among them. A window ends behind a comma where one is
        in its last quarter, so that what belongs together stays together."""
        with _tokenizing:
            todo = [
                (token, weight)
                for part, weight in weighted(text)
                for token in self.tokenizer(part, add_special_tokens=False, verbose=False).input_ids
            ]
        size, comma, windows = self.length - 2, self.tokenizer.convert_tokens_to_ids(",</w>"), []
        while len(todo) > size:
            ends = [end for end in range(size - size // 4, size + 1) if todo[end - 1][0] == comma]
            windows.append(todo[: max(ends, default=size)])
            todo = todo[len(windows[-1]) :]
        return [*windows, todo]

    def _window(self, window: list[tuple[int, float]]) -> tuple[Tensor, Tensor | None]:
        """A window encoded. A weight scales what the text makes of a token beyond what no text makes of it."""
        hidden, pooled = self._run(self._ids([token for token, _ in window]))
        weights = [1.0, *(weight for _, weight in window)]
        if any(weight != 1 for weight in weights):
            nothing, _ = self._run(self._ids([]))
            scale = torch.tensor([*weights, *[1.0] * (self.length - len(weights))], device=hidden.device)
            hidden = nothing + scale[:, None] * (hidden - nothing)
        return hidden, pooled

    def _ids(self, tokens: list[int]) -> Tensor:
        """[1, L]: the tokens of one window with those of its begin, end and padding."""
        t = self.tokenizer
        ids = [t.bos_token_id, *tokens, t.eos_token_id]
        return torch.tensor([ids + [t.pad_token_id] * (self.length - len(ids))])


def tokenize(tokenizer: Any, texts: list[str], length: int, frame: Callable[[str], str] = str) -> Any:
    """``input_ids`` and ``attention_mask`` [B, length] of ``texts``, cut or padded, as every text network here is used
    and was trained. Weights are left out; what is cut is the prompt, not the view word behind it (wording.py).

    ``frame`` puts a text into what the network is always told around it. Threads take turns: a tokenizer keeps whether
    it pads, so that one that counts would leave another's texts unpadded.
    """

    def count(text: str) -> int:
        return len(tokenizer(frame(text), verbose=False).input_ids)

    with _tokenizing:
        texts = [frame(cut(plain(text), length, count)) for text in texts]
        return tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file that has been checked to be there."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars and no warnings from diffusers and transformers while loading: what matters is checked here."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, before, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()


def load_pretrained(cls: Any, folder: Path, stem: str, dtype: torch.dtype) -> Any:
    """``cls.from_pretrained`` on local safetensors only; a tensor that is missing or has another shape is an error,
    where the libraries would fill in random numbers and go on.

    It is read in float32 and cast then: for another precision the libraries change torch's default for the whole
    process while they read, and what other threads compute meanwhile would be made in it.
    """
    try:
        with quiet_libraries():
            model, info = cls.from_pretrained(
                str(folder),
                dtype=torch.float32,
                variant=weight_variant(folder, stem),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelNotFound(f"{folder}: the weights do not load as {cls.__name__}: {error}") from error
    missing = sorted(str(k) for k in info["missing_keys"])
    wrong = sorted(
        f"{name} is {' x '.join(map(str, has))}, not {' x '.join(map(str, wanted))}"
        for name, has, wanted in info.get("mismatched_keys", [])
    )
    if missing or wrong:
        what = ", ".join((missing + wrong)[:3])
        raise ModelNotFound(
            f"{folder}: {len(missing)} tensors of {cls.__name__} are missing and {len(wrong)} have another shape "
            f"(first: {what}); config.json and weights do not belong together: download the folder again"
        )
    with quiet_libraries():  # the cast of a whole network is meant
        return model.to(dtype)


def load_tokenizer(folder: Path) -> Any:
    """A tokenizer from a local folder, without remote code."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ModelNotFound(
            f"{folder}: the tokenizer does not load ({error}); a folder with tokenizer.json needs no further package, "
            "spiece.model alone needs: pip install sentencepiece"
        ) from error


TEXT_NETWORKS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
"""Classes of text encoders that U-Nets are conditioned on."""
OVERFLOWING = ("T5EncoderModel", "Gemma2Model")
"""Their activations overflow float16; bfloat16 has the range."""


def load_text_network(folder: Path, dtype: torch.dtype, classes: Sequence[str] = TEXT_NETWORKS) -> Any:
    """A text network of transformers, one of ``classes``, by ``architectures`` of the folder's config."""
    import transformers

    name = (read_json(folder / "config.json").get("architectures") or ["nothing"])[0]
    if name not in classes:
        raise RequestError(f"{folder}: text encoder {name!r} is not supported; known are {', '.join(classes)}")
    precision = torch.bfloat16 if name in OVERFLOWING and dtype == torch.float16 else dtype
    return load_pretrained(getattr(transformers, name), folder, "model", precision)
