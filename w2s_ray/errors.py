"""Errors for the user: one plain sentence with the value and the rule, and a hint with the remedy if there is one.

They can be pickled, because they are sent from workers to the dispatcher and from there to the command. `exit_code` is
2 for an invalid request and 1 for a failed run. Bugs of our own are assertions instead.
"""


class W2SError(Exception):
    """Base class of all errors that w2s_ray raises for its user.

    Attributes:
        message: what is wrong: the value and the rule that it breaks.
        hint: what to do about it; empty if the message is enough.
        exit_code: the exit code of the command.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        """Return the message, and the hint on a line of its own."""
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class StudyError(W2SError):
    """The study file is wrong: unknown key, wrong type, impossible ladder."""


class DataError(W2SError):
    """The data does not fit the study: missing file or column, unknown label, too few examples."""


class ModelError(W2SError):
    """A model or tokenizer cannot be loaded or does not fit the study."""


class StoreError(W2SError):
    """The store cannot be written, is full, or has a file that fails its checksum."""


class LeaseHeld(StoreError):
    """Another live process holds the lease."""


class ResourceError(W2SError):
    """The cluster does not have the resources that the study needs."""


class TrainingError(W2SError):
    """A stage failed while it ran, for example with a loss that is not finite."""

    exit_code = 1


class DeviceFull(TrainingError):
    """A stage ran out of a device's or the host's memory, and smaller micro-batches would not help."""


class OutOfMemory(DeviceFull):
    """A stage's micro-batches were too large; it can continue from its checkpoint with smaller ones."""


class Interrupted(W2SError):
    """The run was stopped by the user; the same command resumes it from its checkpoints."""

    exit_code = 1


def text_of(error: BaseException) -> str:
    """Return an error's message; empty for an exception of a library that fails to describe itself."""
    try:
        return str(error).strip()
    except Exception:
        return ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name where the message is empty."""
    return text_of(error).partition("\n")[0] or type(error).__name__
