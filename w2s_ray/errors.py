"""What can go wrong, said so that the reader can act on it.

Every error for the user states three things: the *value* that was met, the *rule* it breaks, and the *remedy*.
Errors are plain data and pickle, because they cross from workers to the foreman and from there to the command.
`exit_code` is 2 where the request was at fault and 1 where a run failed under way.
Bugs of our own are assertions, never one of these.
"""


class W2SError(Exception):
    """The root of everything that w2s_ray raises for its user.

    Attributes:
        value: what was found.
        rule: what should have been.
        remedy: what to do about it.
        exit_code: the code with which the command ends.
    """

    exit_code = 2

    def __init__(self, value: str, rule: str, remedy: str) -> None:
        super().__init__(value, rule, remedy)
        self.value = value
        self.rule = rule
        self.remedy = remedy

    def __str__(self) -> str:
        """Render value, rule and remedy, one line each."""
        return f"{self.value}\n  rule:   {self.rule}\n  remedy: {self.remedy}"


class StudyError(W2SError):
    """The study file asks for something that cannot be: unknown key, wrong type, impossible ladder."""


class DataError(W2SError):
    """The data cannot serve the study: missing file or column, unknown label, too few examples."""


class ModelError(W2SError):
    """A model or tokenizer cannot be had or does not fit the study."""


class StoreError(W2SError):
    """The store cannot be written, is full, or holds something that fails its checksum."""


class LeaseHeld(StoreError):
    """Another owner that is alive works on the same identity."""


class ResourceError(W2SError):
    """The cluster cannot give what the study needs."""


class TrainingError(W2SError):
    """A stage failed while it ran, for instance with a loss that is not finite."""

    exit_code = 1


class DeviceFull(TrainingError):
    """A stage ran out of a device's or the host's memory, and smaller micro-batches would not help."""


class OutOfMemory(DeviceFull):
    """A stage's micro-batches were too large; it can go on with smaller ones from its checkpoint."""


class Interrupted(W2SError):
    """The run was stopped on request; a checkpoint is kept and the same command goes on from it."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of others says, or its name where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
