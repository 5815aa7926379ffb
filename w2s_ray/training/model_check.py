"""The model check: a model is tried before anything is trained (model_trial.py), and refused with the reason.

`planning/model_checks.py` runs this file in a process of its own.
"""

import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from w2s_ray.errors import ModelError, ResourceError, W2SError, first_line
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.model_check import CheckResult, Checks, to_check
from w2s_ray.spec.stage import StageSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.verdicts import read_verdict, write_verdict
from w2s_ray.training.memory.usage import is_out_of_memory
from w2s_ray.training.model_trial import PAGE, Trial


def check_model(stage: PlannedStage, store: ArtifactStore) -> float:
    """Check the model of a stage on its task; return the largest difference, as a share of what is allowed.

    Nothing is written into the store. A stage that starts from another is checked with the model of that one.

    Raises:
        ModelError: when the stage's exported model would not predict what the stage does, or the model cannot be used.
        ResourceError: when the machine's memory is not enough to try.
    """
    with _refusals(stage.spec), tempfile.TemporaryDirectory(prefix="w2s-check-") as folder, torch.no_grad():
        return Trial(stage, store, Path(folder)).run()


def check_once(stage: PlannedStage, store: ArtifactStore) -> float:
    """Check a model unless the store has the verdict on this way of using it; the store keeps it.

    Raises:
        W2SError: like `check_model`.
    """
    checked = to_check(stage)
    difference = read_verdict(store, checked)
    if difference is None:
        difference = check_model(checked, store)
        write_verdict(store, checked, difference)
    return difference


@contextmanager
def _refusals(spec: StageSpec) -> Iterator[None]:
    """Raise any error of the model's own code as a ModelError, and keep the libraries' warnings quiet."""
    level, shows_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    except W2SError:
        raise
    except Exception as error:
        name = spec.starts_from.name
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            raise ResourceError(
                f"the memory of this machine is not enough to check {name}", "use a larger node, or a smaller model"
            ) from error
        raise ModelError(
            f"{name} cannot be used for {spec.objective}: {type(error).__name__}: {first_line(error)}",
            f"choose another model; {PAGE}",
        ) from error
    finally:
        transformers_logging.set_verbosity(level)
        if shows_bars:
            transformers_logging.enable_progress_bar()


def main(asked: str, answered: str, store: str) -> None:
    """Check the stages of the file `asked` until one is refused; write what was found into the file `answered`."""
    checks, verdicts = Checks.model_validate_json(Path(asked).read_bytes()), list[CheckResult]()
    for stage in checks.stages:
        try:
            verdicts.append(CheckResult(difference=check_once(stage, ArtifactStore(store))))
        except W2SError as error:
            lacks_memory = isinstance(error, ResourceError)
            verdicts.append(CheckResult(message=error.message, hint=error.hint, lacks_memory=lacks_memory))
            if not lacks_memory:
                break
    Path(answered).write_text(Checks(verdicts=tuple(verdicts)).model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
