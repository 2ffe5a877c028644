"""Text conditioning of views: the camera where the prior takes one, view words where it does not, and Perp-Neg.

text = encode_text(prior, "a red mug", "", view_prompts=True)
rows = text.rows(latents_t, t, azimuth, elevation, scale=7.5)
guided, conditional = text.guide(prior.predict(...), azimuth, elevation, scale=7.5)   # [B, C, h, w]
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline_core.device import upload
from pipeline_core.errors import RequestError
from pipeline_core.guidance.rows import Rows
from pipeline_core.picture import Picture
from pipeline_core.priors.checks import LIT, UNLIT
from pipeline_core.priors.interface import Camera, ImagePrior, Negative, PicturePrior, guidance_scales_of, kinds_of
from pipeline_core.priors.wording import VIEW_WORDS, view_prompt, without

TURNS = (45.0, 135.0)


def view_word(azimuth: float, elevation: float, turns: tuple[float, float] = TURNS) -> str:
    """Word for a camera (GSGen): overhead above 60 degrees, front within ``turns[0]``, back beyond ``turns[1]``, else
    side."""
    turn = abs((azimuth + 180.0) % 360.0 - 180.0)
    if elevation > 60:
        return "overhead"
    return "front" if turn < turns[0] else "back" if turn > turns[1] else "side"


def perp_neg_weights(azimuth: float, elevation: float) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """Mixture of the positive embedding, and (view, weight) of the two negatives, for one camera.

    Published constants (Perp-Neg; threestudio and GSGen agree): f(a, b, c; r) = a exp(-b r) + c. Weights are <= 0
    in the regions that matter; from overhead they vanish and the positive is the overhead prompt.
    """

    def decay(a: float, b: float, c: float, r: float) -> float:
        return a * math.exp(-b * r) + c

    if elevation > 60:
        return {"overhead": 1.0}, [("front", 0.0), ("side", 0.0)]
    turn = abs((azimuth + 180.0) % 360.0 - 180.0)
    if turn < 90:
        r = 1 - turn / 90
        weights = [("front", -decay(4, 0.5, -2.426, r)), ("side", -decay(4, 0.5, -2.426, 1 - r))]
        return {"front": r, "side": 1 - r}, weights
    r = 2 - turn / 90
    weights = [("side", -decay(1, 0.5, -0.606, r)), ("front", -decay(1, 0.5, 0.967, r))]
    return {"side": r, "back": 1 - r}, weights


def perpendicular(x: Tensor, y: Tensor) -> Tensor:
    """Component of ``x`` [B, ...] perpendicular to ``y`` [B, ...], row by row."""
    dims = tuple(range(1, x.ndim))
    share = (x * y).sum(dims, keepdim=True) / (y * y).sum(dims, keepdim=True).clamp(min=1e-6)
    return x - share * y


@dataclass(frozen=True)
class TextConditioning:
    """Embeddings of one prompt, or of a picture in its place.

    ``plain``, ``negative`` [L, D]; ``views`` by word, empty where no words are used. Of views that each have a prompt
    of their own (:func:`text_of_all`) all are [B, L, D].

    ``camera`` is the prior's kind: under ``angles`` the unconditional row has no camera, under ``mvdream`` it has.
    ``kind`` of render is told with every row: guidance leads away from other things in the same light.
    ``scales``: the lowest and highest guidance that one row is asked for; None = it takes two.
    """

    plain: Tensor
    negative: Tensor
    views: dict[str, Tensor]
    perp_neg: bool
    camera: Camera
    turns: tuple[float, float] = TURNS
    kind: int = 0
    scales: tuple[float, float] | None = None

    def rows(
        self, latents_t: Tensor, t: Tensor, azimuth: Tensor, elevation: Tensor, *, scale: float, contrast: bool = False
    ) -> Rows:
        """The U-Net rows of B views: B positive, then B unconditional, then 2 B of Perp-Neg.

        Guidance scale 1 without Perp-Neg asks for the positive rows only, and so does one of ``scales``, unless for the
        ``contrast``. All inputs have B rows. The angles may stay on the CPU: choosing words by angles on a GPU would
        wait for it.
        """
        told = not contrast and self.scales is not None and self.scales[0] <= scale <= self.scales[1]
        angles = list(zip(azimuth.tolist(), elevation.tolist(), strict=True)) if self.views else []
        embeddings = [self._positive(angles, len(azimuth))]
        azimuths, elevations = [azimuth], [elevation]
        if contrast or self.perp_neg or (scale != 1.0 and not told):
            without = self.unconditional(latents_t, t, azimuth, elevation)
            embeddings.append(without.embeddings)
            azimuths.append(without.azimuth)
            elevations.append(without.elevation)
        if self.perp_neg:
            for k in range(2):
                words = [perp_neg_weights(*pair)[1][k][0] for pair in angles]
                embeddings.append(torch.stack([self._view(word, row) for row, word in enumerate(words)]))
                azimuths.append(azimuth)
                elevations.append(elevation)
        groups = len(embeddings)
        return Rows(
            latents_t.repeat(groups, 1, 1, 1), t.repeat(groups),
            torch.cat(embeddings), torch.cat(azimuths), torch.cat(elevations), self.kind, groups,
            scale if told else 1.0,
        )  # fmt: skip

    def unconditional(self, latents_t: Tensor, t: Tensor, azimuth: Tensor, elevation: Tensor) -> Rows:
        """The B unconditional rows alone."""
        if self.camera == "angles":
            azimuth = elevation = torch.full_like(azimuth, torch.nan)
        return Rows(latents_t, t, self.negative.expand(len(azimuth), -1, -1), azimuth, elevation, self.kind)

    def guide(self, predictions: Tensor, azimuth: Tensor, elevation: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
        """The guided and the conditional prediction, both [B, C, h, w], of the answer to :meth:`rows`.

        The usual form u + s (c - u): GSGen and threestudio write c + s (c - u), so their scale s is s + 1 here.
        """
        if len(predictions) == len(azimuth):
            return predictions, predictions
        groups = predictions.chunk(4 if self.perp_neg else 2)
        conditional, unconditional = groups[:2]
        direction = conditional - unconditional
        total = direction
        if self.perp_neg:
            pairs = [perp_neg_weights(a, e)[1] for a, e in zip(azimuth.tolist(), elevation.tolist(), strict=True)]
            for k, negative in enumerate(groups[2:]):
                weight = upload(torch.tensor([pair[k][1] for pair in pairs]), predictions.device)
                weight = weight.to(predictions.dtype).reshape(-1, 1, 1, 1)
                total = total + weight * perpendicular(negative - unconditional, direction)
        return unconditional + scale * total, conditional

    def _positive(self, angles: list[tuple[float, float]], count: int) -> Tensor:
        """Embeddings [count, L, D] of the views."""
        if not self.views:
            return self.plain.expand(count, -1, -1)
        if not self.perp_neg:
            return torch.stack([self._view(view_word(*pair, self.turns), row) for row, pair in enumerate(angles)])
        mixtures = [perp_neg_weights(*pair)[0] for pair in angles]
        zero = self.negative.new_zeros(self.negative.shape[-2:])
        return torch.stack([
            sum((share * self._view(word, row) for word, share in mix.items()), zero)
            for row, mix in enumerate(mixtures)
        ])  # fmt: skip

    def _view(self, word: str, row: int) -> Tensor:
        """Embedding [L, D] of the prompt of a ``row`` with a view word."""
        view = self.views[word]
        return view if view.ndim == 2 else view[row]


def text_of_all(texts: Sequence[TextConditioning], views: int = 1) -> TextConditioning:
    """The text of the views of several prompts of one kind, ``views`` of each, in the order of ``texts``."""

    def rows(values: Sequence[Tensor]) -> Tensor:
        return torch.cat([value.expand(views, -1, -1) for value in values])

    sides = {word: rows([text.views[word] for text in texts]) for word in texts[0].views}
    plain, negative = rows([text.plain for text in texts]), rows([text.negative for text in texts])
    return replace(texts[0], plain=plain, negative=negative, views=sides)


def encode_text(prior: ImagePrior, prompt: str, negative_prompt: str = "", **settings: Any) -> TextConditioning:
    """The one of :func:`encode_texts`."""
    return encode_texts(prior, [prompt], negative_prompt, **settings)[0]


def encode_texts(
    prior: ImagePrior,
    prompts: Sequence[str],
    negative_prompt: str = "",
    *,
    picture: Picture | None = None,
    view_prompts: bool = True,
    perp_neg: bool = False,
    turns: tuple[float, float] = TURNS,
    front_words: Collection[str] = (),
    shown: str = UNLIT,
    distilled: bool = False,
) -> list[TextConditioning]:
    """Encode ``prompts`` in one call for ``prior``, which is to judge renders of the kind ``shown``. View words only
    where it takes no camera.

    ``front_words`` are left out of the prompts of the other sides, which they contradict (prompt debiasing, Hong et al.
    2023). With ``distilled`` a prior that guidance was distilled into is asked by one row for two, unless there is a
    negative prompt, which it was not taught.

    With a ``picture`` the prior is shown that, and reads no prompt. Raises :class:`RequestError` where it takes
    none, for ``perp_neg`` and ``front_words``, which need view words, where it takes a camera, and for renders of
    which it knows nothing.
    """
    kind = _kind(prior, shown)
    for name, wanted in (("perp_neg", perp_neg), ("front_words", front_words)):
        if wanted and prior.camera != "none":
            raise RequestError(f"{name} needs view words, and {prior.model_id} is told the camera itself: turn it off")
    if picture is not None:
        if not isinstance(prior, PicturePrior):
            raise RequestError(f"{prior.model_id} reads a prompt and is shown no image")
        seen = prior.encode_image(picture)
        return [TextConditioning(seen, torch.zeros_like(seen), {}, False, prior.camera, kind=kind)]
    worded = perp_neg or (view_prompts and prior.camera == "none")
    texts: list[str] = []
    for prompt in prompts:
        said = {word: prompt if word == "front" else without(prompt, front_words) for word in VIEW_WORDS if worded}
        texts += [prompt, *(view_prompt(text, word) for word, text in said.items())]
    first, negative, *others = prior.encode_prompts([texts[0], Negative(negative_prompt), *texts[1:]])
    embeddings, each = [first, *others], len(texts) // len(prompts)
    views = [dict(zip(VIEW_WORDS, embeddings[at + 1 : at + each])) for at in range(0, len(embeddings), each)]
    scales = guidance_scales_of(prior) if distilled and not (perp_neg or negative_prompt) else None
    return [
        TextConditioning(plain, negative, sides, perp_neg, prior.camera, turns, kind, scales)
        for plain, sides in zip(embeddings[::each], views, strict=True)
    ]


def _kind(prior: ImagePrior, shown: str) -> int:
    """The place of ``shown`` among the kinds that ``prior`` is told; 0 where it is told none."""
    kinds = kinds_of(prior)
    if shown not in (kinds or LIT):
        known = " or ".join(kinds or LIT)
        raise RequestError(f"shown={shown!r}: {prior.model_id} can judge renders that are {known}")
    return kinds.index(shown) if kinds else 0
