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

    class Shown(logging.Handler):
        """Warnings and what is aloud: an error has its own way to the user."""

        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                warn(record.getMessage())
            elif hasattr(record, *ALOUD):
                note(record.getMessage())

    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    path = folder / "logs" / time.strftime("%Y%m%d-%H%M%S.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.addHandler(Shown())
    return log
