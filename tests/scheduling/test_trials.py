"""Tune over the chains of a study: what ends it, and what does not."""

import pytest
from ray import tune
from ray.exceptions import OutOfMemoryError
from w2s_ray.scheduling.trials import Tuning, ended_for_memory

from w2s_ray.scheduling import trials


def killed_for_memory() -> RuntimeError:
    """What Tune raises where Ray's memory monitor kills a trial's process."""
    error = RuntimeError("Caught unexpected exception: 5 worker(s) were killed due to the node running low on memory")
    error.__cause__ = OutOfMemoryError("5 worker(s) were killed")
    return error


class Tuner:
    """Ends with each of these errors, then well."""

    def __init__(self, errors: list[BaseException]) -> None:
        self.errors = errors

    def fit(self) -> list[tune.Result]:
        if self.errors:
            raise self.errors.pop(0)
        return []


class Tunes(Tuning):
    def __init__(self, errors: list[BaseException]) -> None:
        super().__init__()
        self.errors, self.num_begun = errors, 0

    def tuner(self) -> Tuner:  # type: ignore[override]
        self.num_begun += 1
        return Tuner(self.errors)


def ended(errors: list[BaseException]) -> Tunes:
    tuning = Tunes(errors)
    tuning.start()
    assert tuning.wait(10)
    return tuning


def test_tune_begins_again_where_its_own_processes_were_killed_for_memory() -> None:
    tuning = ended([killed_for_memory(), killed_for_memory()])
    assert tuning.results == ()
    assert tuning.num_begun == 3


def test_tune_does_not_begin_again_for_ever() -> None:
    tuning = ended([killed_for_memory() for _ in range(10)])
    assert tuning.num_begun == trials._MAX_STARTS
    with pytest.raises(RuntimeError):
        _ = tuning.results


def test_other_errors_of_tune_end_the_run_at_once() -> None:
    tuning = ended([RuntimeError("a bug")])
    assert tuning.num_begun == 1
    with pytest.raises(RuntimeError, match="a bug"):
        _ = tuning.results


def test_a_death_for_memory_is_told_by_its_cause() -> None:
    assert ended_for_memory(killed_for_memory())
    assert not ended_for_memory(RuntimeError("out of memory"))
    assert not ended_for_memory(None)
