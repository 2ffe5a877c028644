"""Guidance of a step's views: those of all jobs that ask alike are judged as one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor

from pipeline_core.engine.jobs import Judged, Views
from pipeline_core.guidance.prompts import TextConditioning, text_of_all
from pipeline_core.guidance.rows import Rows
from pipeline_core.guidance.variants import VARIANTS, together

KEPT = 4
"""Texts of groups that are kept: those of a few stages and sizes at once."""


class Judging:
    """One variant of guidance under way for the views of ``owners``; ``rows`` is what it asks next, None = nothing."""

    def __init__(self, owners: list[Any], views: Views) -> None:
        self.owners, self._views = owners, views
        self._asking = VARIANTS[views.stage.guidance](views)
        self.rows: Rows | None = next(self._asking)

    def send(self, prediction: Tensor) -> dict[Any, Judged]:
        """Take the answer to ``rows``; once nothing more is asked, what each owner's views came to."""
        self.rows = None
        try:
            self.rows = self._asking.send(prediction)
        except StopIteration as end:
            compared = end.value
        return {} if self.rows is not None else dict(zip(self.owners, self._views.judged(compared), strict=True))


class Judges:
    """Makes a :class:`Judging` for each kind of views of a step (``share``), or for each job's."""

    def __init__(self, *, share: bool) -> None:
        self._share = share
        self._texts: dict[tuple[int, ...], tuple[TextConditioning, list[TextConditioning]]] = {}

    def groups(self, views: Mapping[Any, Views]) -> list[list[Any]]:
        """The owners of ``views`` that one :class:`Judging` is for."""
        alike: dict[Hashable, list[Any]] = {}
        for owner, each in views.items():
            kind = each.kind if self._share else None
            alike.setdefault(owner if kind is None else kind, []).append(owner)
        return list(alike.values())

    def begin(self, owners: list[Any], views: list[Views]) -> Judging:
        """For the ``views`` of one group, an owner's each."""
        return Judging(owners, together(views, self._text([each.text for each in views], len(views[0].encoded))))

    def _text(self, texts: list[TextConditioning], views: int) -> TextConditioning:
        """Of all views; made once while the same jobs ask."""
        if len(texts) == 1:
            return texts[0]
        key = (views, *map(id, texts))  # numbers that stay theirs as long as the texts are kept
        if key not in self._texts:
            while len(self._texts) >= KEPT:
                self._texts.pop(next(iter(self._texts)))
            self._texts[key] = text_of_all(texts, views), texts
        return self._texts[key][0]
