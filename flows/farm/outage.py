"""What a worker says of a server that is away: one line when it goes, one when it is back.

    outage = Outage(url)
    outage.outlast()            # this process goes on, and Prefect's words, a traceback an attempt, are left out
    outage.watch()              # says the two lines, in a thread of its own

Prefect asks in loops, and a loop that fails three times in a row ends, with all that it did: a worker whose server was
away for a minute would cancel nothing more, and ten minutes would end it. Patient loops take their place where
Prefect's modules name them; its release is pinned exactly, and ``tests/flows/farm/test_outage.py`` holds the names.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from prefect._internal import observers
from prefect.workers import base
from websockets.exceptions import WebSocketException

from flows.server import ready
from pipeline_core import logs
from pipeline_core.secrets import redact

LOST = (httpx.TransportError, WebSocketException, ConnectionError, TimeoutError, EOFError)
"""Errors of a connection. Of answers, those of 500 and above count, too: a server without its database gives them."""
TALKATIVE = (
    "prefect.FlowRunCancellingObserver",
    "prefect._internal.concurrency",
    "prefect.events.clients",
)
"""Loggers that tell of connections to the server and of events that did not reach it, and of nothing else."""
ENGINE = "prefect.engine"
LOOPS: tuple[Any, ...] = (base, observers)
ASK_S = 2.0


class Outage(logging.Filter):
    """Whether the server at ``url`` is away. As a filter it drops records that only tell of that."""

    def __init__(self, url: str, ask: Callable[[str], bool] = ready) -> None:
        super().__init__()
        self.url, self.ask = url, ask
        self._suspected, self._closed = threading.Event(), False

    def outlast(self) -> None:
        """Have this process outlast an outage in silence: its loops go on, its loggers leave out Prefect's words."""
        for module in LOOPS:
            module.critical_service_loop = self.patiently
        for logger in (logging.root, *logging.root.manager.loggerDict.values()):
            for handler in getattr(logger, "handlers", ()):  # names without a logger of their own have none
                handler.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be written. One that does not tell of an outage is."""
        error = record.exc_info[1] if record.exc_info else None
        about = [error, *(record.args if isinstance(record.args, tuple) else ())]
        if record.name not in TALKATIVE and not any(is_outage(each) for each in about):
            return True
        self.suspect()
        if record.name == ENGINE:  # the flow's last word, which nobody heard
            record.msg, record.args, record.exc_info, record.exc_text = self.unheard(), None, None, None
            return True
        return False

    def unheard(self) -> str:
        """What a flow says whose end the server did not hear of."""
        return f"{self.name_of_server} did not hear how this flow ended; splatmill reconcile finds it by its files"

    @property
    def name_of_server(self) -> str:
        """How the server is called in what is said."""
        return f"the server at {redact(self.url)}"

    def suspect(self) -> None:
        """Have the thread look whether the server is away."""
        self._suspected.set()

    def watch(self) -> threading.Thread:
        """Begin to say when the server goes and when it is back."""
        thread = threading.Thread(target=self._watch, name="outage", daemon=True)
        thread.start()
        return thread

    def _watch(self) -> None:
        while self._suspected.wait():
            if not self._answers():
                self._tell()
            self._suspected.clear()
            time.sleep(ASK_S)

    def _answers(self) -> bool:
        """Whether the server answers one of two questions: one may be late where the server has much to do."""
        for _ in range(2):
            if self.ask(self.url):
                return True
            time.sleep(ASK_S)
        return False

    def close(self) -> None:
        """Say nothing more: the process ends."""
        self._closed = True

    def _tell(self) -> None:
        since = time.monotonic()
        self._warn(f"{self.name_of_server} does not answer: what is at work goes on, nothing new is taken")
        while not self.ask(self.url):
            time.sleep(ASK_S)
        away = time.monotonic() - since
        self._warn(f"{self.name_of_server} answers again, after {away:.0f} s: shards are taken as before")

    def _warn(self, words: str) -> None:
        if not self._closed:
            logs.say(words, level="warning")

    async def patiently(
        self,
        workload: Callable[[], Awaitable[Any]],
        interval: float,
        jitter_range: float | None = None,
        run_once: bool = False,
        **_: Any,
    ) -> None:
        """Call ``workload`` every ``interval`` seconds without end, as Prefect's ``critical_service_loop`` does.

        An outage ends nothing; every other error is raised. A loop that is cancelled returns, because Prefect asks it
        for its error.
        """
        spread = jitter_range or 0.0
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                try:
                    await workload()
                except Exception as error:
                    if not is_outage(error):
                        raise
                    self.suspect()
                if run_once:
                    return
                await asyncio.sleep(interval * random.uniform(1 - spread, 1 + spread))


def is_outage(error: object) -> bool:
    """Whether an error says that the server is away, or that it has no database."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_outage(each) for each in error.exceptions)
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, LOST)
