"""Exceptions of collectives, known by their texts: torch raises most of them as a plain RuntimeError. No torch here."""

from w2s_ray.errors import text_of

_TIMEOUTS = ("timed out", "timeout", "pair closure")
_COLLECTIVES = ("gloo", "nccl", "collective", "store", "waiting")
_LOST_PEERS = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "remote process exited",
    "ncclremoteerror",
    "socket closed",
)
"""Parts of the messages with which gloo and NCCL report that another process is gone."""


def is_of_collective(error: BaseException) -> bool:
    """Return whether a collective failed, so that the exception shows nothing about this process."""
    return _is_of_network(error) or is_timeout(error) or is_lost_peer(error)


def is_timeout(error: BaseException) -> bool:
    """Return whether a collective ended because another worker did not join it in time."""
    text = text_of(error).lower()
    return (
        isinstance(error, RuntimeError)
        and any(words in text for words in _TIMEOUTS)
        and (any(words in text for words in _COLLECTIVES) or _is_of_network(error))
    )


def is_lost_peer(error: BaseException) -> bool:
    """Return whether a collective ended because another process is gone."""
    return isinstance(error, RuntimeError) and any(words in text_of(error).lower() for words in _LOST_PEERS)


def _is_of_network(error: BaseException) -> bool:
    """Return whether it is torch's DistError, found by its name because only workers load torch."""
    return any(cls.__name__ == "DistError" for cls in type(error).__mro__)
