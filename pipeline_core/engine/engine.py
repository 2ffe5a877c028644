"""The batched optimisation loop: many assets, one model call (continuous batching).

    engine = DistillationEngine(load_image_prior("starter"))
    gaussians, curves = engine.submit(GaussianJob(...)).result()

Score distillation needs no gradient through the U-Net, so a step costs a few dense forward passes, and those batch
across assets. The engine runs in its own thread. Up to ``max_active`` jobs are active; each step every one of them
renders its views, and all views of all jobs go through one encode, one U-Net call and one backward. A finished job
leaves and a waiting one enters at the next step. Jobs share nothing but the models: own generators, optimisers and
schedules, so an asset's result depends on its company only through floating-point reassociation.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline_core.aside import feed_a_gpu, warm_up
from pipeline_core.device import indexed
from pipeline_core.engine.adam import step_together
from pipeline_core.engine.calls import ModelCalls
from pipeline_core.engine.checkpoint import load_checkpoint, save_checkpoint
from pipeline_core.engine.clock import Clock
from pipeline_core.engine.jobs import Forgets, Job, Query, Samples, SharesLaunches
from pipeline_core.engine.judging import Judges, Judging
from pipeline_core.engine.scenes import Scene, render_together
from pipeline_core.errors import DivergedError, OutOfMemory, StageError, is_out_of_memory
from pipeline_core.io.checkpoint import State
from pipeline_core.priors.interface import ImagePrior, PointPrior

log = logging.getLogger(__name__)

_alive: weakref.WeakSet[DistillationEngine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter goes, end the threads: active jobs are cancelled and keep their checkpoints."""
    for engine in list(_alive):
        engine.close()


def default_active(image_prior: ImagePrior, device: torch.device) -> int:
    """Jobs per step where nobody says otherwise: 8 on a GPU; on a CPU 4 in bfloat16, 1 in float32 or with one thread.

    Measured (docs/LOG.md): four jobs take a quarter less CPU time each than one in bfloat16, and nothing in float32.
    With one thread a result is the same to the last bit in any company, so there is none: libraries choose their
    kernels by the size of the batch, and each rounds in its own way.
    """
    if device.type == "cuda":
        return 8
    if torch.get_num_threads() == 1:
        return 1
    return 4 if image_prior.dtype == torch.bfloat16 else 1


def finishers(device: torch.device, active: int) -> int:
    """Threads that make the results of jobs: two, which compute; beside a GPU one a job, which waits for a child."""
    return max(2, active) if device.type == "cuda" else 2


def values_of(tensors: list[Tensor]) -> Callable[[], list[list[float]]]:
    """Begin to fetch the values of tensors [K] on one device; the answer waits for them."""
    if not tensors:
        return list
    here, counts = torch.cat(tensors).to("cpu", non_blocking=True), [len(tensor) for tensor in tensors]
    fetched = torch.cuda.Event() if tensors[0].is_cuda else None
    if fetched is not None:
        fetched.record()

    def values() -> list[list[float]]:
        if fetched is not None:
            fetched.synchronize()
        return [part.tolist() for part in here.split(counts)]

    return values


def batched(rows: dict[Any, Any], call: Callable[[list[Any]], Tensor]) -> dict[Any, Tensor]:
    """One ``call`` for the ``rows`` of all, and each one's rows of the answer."""
    if not rows:
        return {}
    pieces = call(list(rows.values())).split([len(value) for value in rows.values()])
    return dict(zip(rows, pieces, strict=True))


@dataclass(eq=False)
class _Active:
    """A job inside the engine, and what the engine knows of it during one step."""

    job: Job
    future: Future[Any]
    snapshot: State | None = None
    saved_at: float = 0.0
    shown_at: float = 0.0
    started: bool = False
    scene: Scene | None = None
    images: Tensor | None = None
    query: Query = field(default_factory=Query)
    shared: SharesLaunches | None = None
    wanted: Tensor | None = None
    loss: Tensor | None = None

    def forget(self) -> None:
        """Drop what belongs to one step only, graphs above all."""
        self.scene = self.images = self.wanted = self.loss = None
        self.query = Query()
        if isinstance(self.job, Forgets):
            self.job.forget()


@dataclass(frozen=True)
class _Unseen:
    """The numbers of a step that jobs have not looked at yet."""

    jobs: list[_Active] = field(default_factory=list)
    values: Callable[[], list[list[float]]] = list


class DistillationEngine:
    """Runs jobs (``engine/jobs.py``) against one image prior and, where they ask for it, one point prior.

    ``point_prior`` is a prior or a function that loads one at first use. ``checkpoint_seconds`` is the time budget
    between two checkpoints of a job; ``progress_seconds`` between two calls of its ``on_progress``. ``fixed_sizes``:
    see :class:`ModelCalls`; ``share_launches``: one rasterisation and one Adam for all jobs that allow it, None = on a
    GPU. :attr:`clock` tells where the time goes, on a GPU only with ``profile``.

    On a GPU the host waits for the device only where gsplat counts what it has to sort (once a step for all jobs that
    render at one size), at densification events, for the places of a job whose ``point_subset`` is "farthest" (every
    step), and for a texture's numbers, with all work of the step queued; and for a carving job's process up to
    ``TURN_S`` a step (carving.py). Other jobs look at their numbers about 50 times a stage, a step later.
    """

    def __init__(
        self,
        image_prior: ImagePrior,
        point_prior: PointPrior | Callable[[], PointPrior] | None = None,
        *,
        device: torch.device | str = "cpu",
        max_active: int | None = None,
        checkpoint_seconds: float = 20.0,
        progress_seconds: float = 0.5,
        fixed_sizes: bool | None = None,
        share_launches: bool | None = None,
        profile: bool = False,
    ) -> None:
        self.image_prior, self.device = image_prior, indexed(torch.device(device))
        self.max_active = max_active or default_active(image_prior, self.device)
        self.checkpoint_seconds, self.progress_seconds = checkpoint_seconds, progress_seconds
        self.clock = Clock(self.device, running=profile or self.device.type != "cuda")
        self.steps = 0
        self._share_launches = self.device.type == "cuda" if share_launches is None else share_launches
        self._judges = Judges(share=self._share_launches)
        self._calls = ModelCalls(image_prior, point_prior, self.device, self.clock, fixed_sizes)
        self._waiting: deque[_Active] = deque()
        self._active: list[_Active] = []
        self._unseen = _Unseen()
        self._closing = False
        self._wake = threading.Condition()
        self._finishing = ThreadPoolExecutor(finishers(self.device, self.max_active), "splatmill-result")
        self._thread = threading.Thread(target=self._run, name="splatmill-engine", daemon=True)
        self._thread.start()
        _alive.add(self)

    # -- for callers ---------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> Future[Any]:
        """Queue ``job``. ``future.cancel()`` works at any time: it leaves at the next step and keeps its checkpoint."""
        future: Future[Any] = Future()
        with self._wake:
            if self._closing:
                raise StageError(f"the engine is closed, job {job.name!r} was not queued: make a new engine")
            self._waiting.append(_Active(job, future))
            self._wake.notify()
        return future

    @property
    def closed(self) -> bool:
        """True after :meth:`close`."""
        return self._closing

    @property
    def saves_memory(self) -> bool:
        """True once memory has run out: backward passes are slower since."""
        return self._calls.frugal

    def close(self) -> None:
        """Cancel what is queued and active (checkpoints are written) and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()
            self._finishing.shutdown()

    # -- the loop ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """The thread: whatever ends it, nobody waits for ever."""
        try:
            if self.device.type == "cuda":
                feed_a_gpu()
                torch.cuda.set_device(self.device)
                warm_up()
            self._loop()
        except BaseException as error:
            self._died(error)
        self._calls.release()

    def _died(self, error: BaseException) -> None:
        """Fail every job, and take no more."""
        log.exception("the engine's thread ended")
        with self._wake:
            self._closing = True
            entries = [*self._active, *self._waiting]
            self._active, self._waiting = [], deque()
        for entry in entries:
            failure = StageError(f"{entry.job.name}: the engine ended with {type(error).__name__}: {error}")
            failure.__cause__ = error
            if entry.future.set_running_or_notify_cancel():
                entry.future.set_exception(failure)

    def _loop(self) -> None:
        while self._wait():
            try:
                self._admit()
                if self._active:
                    self._step()
            except Exception as error:
                self._batch_failed(error)
        for entry in [*self._active, *self._waiting]:
            entry.future.cancel()
        self._dismiss_cancelled()

    def _wait(self) -> bool:
        """Sleep until there is work. False when the engine closes."""
        with self._wake:
            while not (self._active or self._waiting or self._closing):
                self._wake.wait()
            return not self._closing

    def _admit(self) -> None:
        """Drop cancelled jobs and fill the free places."""
        self._dismiss_cancelled()
        while len(self._active) < self.max_active:
            with self._wake:
                if not self._waiting:
                    return
                entry = self._waiting.popleft()
            if not entry.future.cancelled():
                self._active.append(entry)
                with self._guard(entry):
                    self._enter(entry)

    def _enter(self, entry: _Active) -> None:
        job = entry.job
        if not entry.started:
            job.start(self.image_prior, self._calls.point_prior, self.device)
            entry.shared = job if self._share_launches and isinstance(job, SharesLaunches) else None
            entry.started = True
            entry.snapshot = load_checkpoint(job.checkpoint_path, job.fingerprint) if job.checkpoint_path else None
        if entry.snapshot is not None:
            job.restore(*entry.snapshot)
        entry.snapshot, entry.saved_at = job.state(), time.monotonic()
        if job.done:
            self._finish(entry)

    def _step(self) -> None:
        """One step of every active job. A job that raises leaves alone; the others go on."""
        calls, mark = self._calls, self.clock.mark
        self.clock.start()
        self._draw()
        mark("render")
        latents = self._encode()
        self._look()
        self._each(lambda e: setattr(e, "query", e.job.ask(latents.get(e))))
        mark("encode")
        self._answer_queries()
        decoded = self._batched(lambda e: e.wanted, calls.decode)
        mark("decode")
        self._each(lambda e: setattr(e, "loss", e.job.loss(decoded.get(e))))
        mark("loss")
        losses = [e.loss for e in self._active if e.loss is not None]
        if losses:
            torch.stack(losses).sum().backward()
        mark("backward_render")
        self._update()
        mark("update")
        self.steps += 1
        self._each(self._after_step)

    def _answer_queries(self) -> None:
        """Ask the denoisers, for all jobs at once, until no guidance has anything further to ask."""
        calls, judgings = self._calls, self._begin_judging()
        rows: dict[Any, Any] = {e: e.query.image for e in self._active if e.query.image is not None}
        answers: dict[Any, Any] = {}
        while rows or judgings:
            answers |= batched(rows | {each: each.rows for each in judgings}, calls.predict_image)
            for judging in judgings:
                with self._guard(*judging.owners):
                    answers |= judging.send(answers.pop(judging))
            rows, judgings = {}, [each for each in judgings if each.rows is not None]
        self.clock.mark("unet")
        points = self._batched(lambda e: e.query.points, calls.predict_points)
        self.clock.mark("points")
        self._each(lambda e: setattr(e, "wanted", e.job.receive(answers.get(e), points.get(e))))

    def _begin_judging(self) -> list[Judging]:
        """The guidance of all views."""
        views = {e: e.query.views for e in self._active if e.query.views is not None}
        begun = []
        for owners in self._judges.groups(views):
            with self._guard(*owners):
                begun.append(self._judges.begin(owners, [views[owner] for owner in owners]))
        return begun

    def _draw(self) -> None:
        def draw(entry: _Active) -> None:
            if entry.shared is not None:
                entry.scene = entry.shared.scene()
            else:
                entry.images = entry.job.draw()

        self._each(draw)
        shown = [(e, e.shared, e.scene) for e in self._active if e.shared is not None and e.scene is not None]
        for (entry, job, _), answer in zip(shown, render_together([scene for *_, scene in shown]), strict=True):
            with self._guard(entry):
                entry.images = job.show(*answer)

    def _update(self) -> None:
        step_together([optimizer for e in self._active if e.shared is not None for optimizer in e.shared.due()])
        numbers: dict[_Active, Tensor] = {}

        def update(entry: _Active) -> None:
            if entry.shared is None:
                entry.job.update()
            elif (shown := entry.shared.settle()) is not None:
                numbers[entry] = shown

        self._each(update)
        self._unseen = _Unseen(list(numbers), values_of(list(numbers.values())))
        if any(entry.job.done for entry in numbers):
            self._look()

    def _look(self) -> None:
        """Have jobs look at their numbers of the last step. Once the next is encoded these are there, and a GPU has
        work meanwhile; before a job is done, checkpointed or dismissed somebody has to wait for them."""
        unseen, self._unseen = self._unseen, _Unseen()
        for entry, values in zip(unseen.jobs, unseen.values(), strict=True):
            if entry in self._active and entry.shared is not None:
                with self._guard(entry):
                    entry.shared.look(values)

    def _after_step(self, entry: _Active) -> None:
        """Progress, checkpoint and farewell of one job."""
        entry.forget()
        job, now = entry.job, time.monotonic()
        if job.on_progress and (job.done or now - entry.shown_at >= self.progress_seconds):
            entry.shown_at = now
            job.on_progress(job.step, job.steps, job.report())
        if job.done:
            self._finish(entry)
        elif now - entry.saved_at >= self.checkpoint_seconds:
            self._look()
            if entry in self._active:
                self._checkpoint(entry)

    def _checkpoint(self, entry: _Active) -> None:
        """Remember the state, on disk too where the job has a place; a full disk costs the insurance, not the job."""
        entry.snapshot, entry.saved_at = entry.job.state(), time.monotonic()
        if entry.job.checkpoint_path:
            try:
                save_checkpoint(entry.job.checkpoint_path, entry.job.fingerprint, entry.snapshot)
            except OSError as error:
                log.warning("%s: checkpoint not written: %s", entry.job.name, error)

    def _finish(self, entry: _Active) -> None:
        """Take out a job that is done. Its result may take seconds of CPU, which the others need not wait for."""
        if entry.job.step < entry.job.steps:
            self._checkpoint(entry)
        self._active.remove(entry)
        entry.forget()

        def answer() -> None:
            try:
                if self.device.type == "cuda":
                    torch.cuda.set_device(self.device)
                self._answer(entry, result=entry.job.result())
            except Exception as error:
                self._answer(entry, error=error)

        try:
            self._finishing.submit(answer)
        except RuntimeError:  # the interpreter is going, and starts no more threads
            answer()

    def _leave(self, entry: _Active, error: BaseException) -> None:
        """Take out a job that failed."""
        self._active.remove(entry)
        entry.forget()
        self._answer(entry, error=error)

    def _answer(self, entry: _Active, *, result: Any = None, error: BaseException | None = None) -> None:
        """Answer the job's future. Its checkpoint file goes after its last step, or when it diverged."""
        job, path = entry.job, entry.job.checkpoint_path
        if path and (isinstance(error, DivergedError) or (error is None and job.step >= job.steps)):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        if not entry.future.set_running_or_notify_cancel():
            return
        if error is None:
            entry.future.set_result(result)
        else:
            entry.future.set_exception(error)

    def _dismiss_cancelled(self) -> None:
        """Cancelled jobs leave at a step boundary and keep a checkpoint of it."""
        if any(entry.future.cancelled() for entry in self._active):
            self._look()
        for entry in [e for e in self._active if e.future.cancelled()]:
            self._active.remove(entry)
            if entry.started and entry.job.step:
                self._checkpoint(entry)

    # -- when something goes wrong -------------------------------------------------------------------------------

    @contextmanager
    def _guard(self, *entries: _Active) -> Iterator[None]:
        """An exception inside ends these jobs only; running out of memory concerns the whole batch."""
        try:
            yield
        except Exception as error:
            if is_out_of_memory(error):
                raise
            for entry in entries:
                self._leave(entry, error)

    def _each(self, action: Callable[[_Active], Any]) -> None:
        for entry in list(self._active):
            with self._guard(entry):
                action(entry)

    def _batch_failed(self, error: Exception) -> None:
        self._unseen = _Unseen()
        for entry in self._active:
            entry.forget()
        if not is_out_of_memory(error):
            for entry in list(self._active):
                self._leave(entry, error)
            return
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step
        if self._calls.frugal and len(self._active) == 1:
            name = self._active[0].job.name
            failure = OutOfMemory(
                f"{name}: one asset alone does not fit the device: lower views, resolution or max_gaussians"
            )
            failure.__cause__ = error
            self._leave(self._active[0], failure)
        else:
            self._back_off()

    def _back_off(self) -> None:
        """First less memory a job, then half as many jobs; every job goes back to its last checkpoint."""
        active = len(self._active)
        if self._calls.frugal:
            self.max_active = max(active // 2, 1)
            log.warning("out of memory with %d active assets: going on with %d", active, self.max_active)
        else:
            self._calls.save_memory()
            log.warning("out of memory with %d active assets: going on with slower backward passes", active)
        with self._wake:
            self._waiting.extendleft(reversed(self._active))
        self._active = []
        self._calls.release()

    # -- the shared model calls ----------------------------------------------------------------------------------

    def _encode(self) -> dict[_Active, Tensor]:
        """Latents of what the jobs drew: means of the encoder's posterior, or samples from the job's ``posterior``."""
        seeds: list[int | None] = []
        for entry in self._active:
            if entry.images is not None:
                drawn = entry.job.posterior if isinstance(entry.job, Samples) else []
                seeds += drawn or [None] * len(entry.images)
        return self._batched(lambda e: e.images, lambda images: self._calls.encode(images, seeds))

    def _batched(self, part: Callable[[_Active], Any], call: Callable[[list[Any]], Tensor]) -> dict[_Active, Tensor]:
        """One ``call`` for what the jobs have (None = nothing), and each job's rows of the answer."""
        return batched({entry: value for entry in self._active if (value := part(entry)) is not None}, call)
