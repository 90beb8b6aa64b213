"""The log of a run: one file a call under logs/, and what of it is shown at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

ALOUD = {"aloud": True}  # `extra` of a record that is shown too

Tell = Callable[[str], object]


def open_log(folder: Path, warn: Tell = lambda message: None, note: Tell = lambda message: None) -> logging.Logger:
    """The logger of the run in FOLDER. What it warns of goes to WARN too, what is ALOUD to NOTE."""
    import logging

    logging.raiseExceptions = False  # a log on a full disk stays silent: the stage's own files tell of it
    log = logging.getLogger("bas")
    # TensorBoard writes in a thread; what it meets there is raised again where the next value is added, and told then
    threading.excepthook = lambda fault: log.error("fault in a thread", exc_info=fault.exc_value)
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.addHandler(_to_file(folder / "logs" / time.strftime("%Y%m%d-%H%M%S.log")))
    log.addHandler(_to_those_who_watch(warn, note))
    return log


def _to_file(path: Path) -> logging.Handler:
    """What writes all records to PATH, which is made with the first of them."""
    import logging

    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def _to_those_who_watch(warn: Tell, note: Tell) -> logging.Handler:
    """What hands warnings to WARN and what is aloud to NOTE; an error has its own way to the user."""
    import logging

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                warn(record.getMessage())
            elif hasattr(record, *ALOUD):
                note(record.getMessage())

    return Shown()
