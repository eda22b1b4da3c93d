"""Rows from the outbox to the sinks: a thread a sink, so that one that is down holds up nothing else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from knowngood.deploy.judgement import Row
from knowngood.deploy.logs import event
from knowngood.deploy.outbox import Outbox, Seen
from knowngood.deploy.sinks import Rejected, Sink, Unavailable
from knowngood.errors import OutputError

FIRST, LONGEST = 0.5, 60.0  # seconds between tries, doubled each time


class Delivery:
    """Delivers what is added to the outbox to every sink, in order, again after failures and after a restart.

    Raises:
        SettingsError, OutputError: a new sink holds something else, or cannot be used.
    """

    def __init__(self, outbox: Outbox, sinks: Sequence[Sink]) -> None:
        self.outbox, self.sinks = outbox, list(sinks)
        self._ending = threading.Event()
        self._new = [threading.Event() for _ in sinks]
        for sink in self.sinks:
            if outbox.place(sink.url) is None:
                try:
                    outbox.begin(sink.url, sink.begin())
                except Unavailable as error:
                    raise OutputError(f"--to {error}; make it writable, or give another one") from None
        self._threads = [
            threading.Thread(target=self._run, args=(sink, new), name=sink.url, daemon=True)
            for sink, new in zip(self.sinks, self._new, strict=True)
        ]

    def start(self) -> None:
        """Begin, with what is left from before. Raises SettingsError: a sink cannot be used."""
        for sink in self.sinks:
            sink.open()
        own = {sink.url for sink in self.sinks}
        for name, count in self.outbox.owed().items():
            if name not in own:
                event("rows wait for a sink that is not in use", logging.WARNING, sink=name, rows=count)
        for new, thread in zip(self._new, self._threads, strict=True):
            new.set()
            thread.start()

    def add(self, rows: Sequence[Row], files: dict[str, Seen] | None = None) -> None:
        """Keep rows, and the files that they are about; they are delivered from then on, whatever happens."""
        self.outbox.add(rows if self.sinks else (), files)
        for new in self._new:
            new.set()

    def close(self) -> None:
        """Try once more to deliver what is there, and end. The rest is delivered after the next start."""
        self._ending.set()
        for new, thread in zip(self._new, self._threads, strict=True):
            new.set()
            if thread.ident is not None:
                thread.join()
        owed = self.outbox.owed()
        for sink in self.sinks:
            sink.close()
            if owed.get(sink.url):
                event("rows wait for the next start", logging.WARNING, sink=sink.url, rows=owed[sink.url])
        self.outbox.close()

    def deliver(self, sink: Sink) -> bool:
        """Write the next rows to a sink; False if there are none.

        Raises:
            Unavailable: it does not take them now.
        """
        rows = self.outbox.after(sink.url, sink.at_once)
        if not rows:
            return False
        place = self.outbox.place(sink.url) or {}
        try:
            place = sink.write([row for _, row in rows], place)
        except Rejected as error:
            event("row rejected", logging.ERROR, sink=sink.url, reason=str(error), keys=[row["key"] for _, row in rows])
        self.outbox.advance(sink.url, rows[-1][0], place)
        self.outbox.forget()
        return True

    def _run(self, sink: Sink, new: threading.Event) -> None:
        wait = 0.0
        while True:
            ending = self._ending.is_set()
            new.clear()
            try:
                while self.deliver(sink):
                    if wait:
                        event("sink is back", sink=sink.url)
                    wait = 0.0
            except Exception as error:  # whatever it is, the rows are kept, and it is tried again
                wait = min(LONGEST, 2 * wait or FIRST)
                event("sink is down", logging.WARNING, sink=sink.url, reason=str(error), again_in=wait)
            if ending:
                return
            if wait:
                self._ending.wait(wait)
            else:
                new.wait()
