"""The one error that a user can mend."""

from __future__ import annotations

from collections.abc import Sequence


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


def raise_first(faults: Sequence[StageError], looked_at: int) -> None:
    """Raise the first of FAULTS, if there are any, and say how many of the images that were LOOKED_AT have one."""
    if faults:
        count = f"{len(faults)} of {looked_at} images cannot be imported, this is the first"
        raise StageError(faults[0].what, f"{faults[0].why}; {count}", faults[0].todo)


def first_line(error: Exception) -> str:
    """What ERROR, of code of others, says first, in a line that fits beside ours."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
