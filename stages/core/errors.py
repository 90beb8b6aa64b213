"""The one error that a user can mend."""

from __future__ import annotations


class StageError(Exception):
    """A fault that the user can mend: what happened, why, and what to do next, in one line.

    The command prints it without a traceback and exits with code 2.
    """

    def __init__(self, what: str, why: str, todo: str) -> None:
        super().__init__(f"{what}: {why}. {todo}")
        self.what, self.why, self.todo = what, why, todo

    def __reduce__(self) -> tuple[type[StageError], tuple[str, str, str]]:
        """Survive the way back from a worker process."""
        return type(self), (self.what, self.why, self.todo)
