"""Weak-to-strong generalization studies on Ray Tune and DeepSpeed.

    from w2s_ray import load_study, run_study, read_results

    study = load_study("tune_configs/quickstart.yaml")
    run_study(study, store="w2s-store")
    frame = read_results(study, store="w2s-store")

Each name is imported when it is first used, so importing the package loads neither torch nor ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from w2s_ray.api import read_results, run_study
    from w2s_ray.report.metrics import register_metric
    from w2s_ray.spec.load import load_study
    from w2s_ray.spec.losses import register_loss
    from w2s_ray.tasks.registry import register_task

__all__ = ["load_study", "read_results", "register_loss", "register_metric", "register_task", "run_study"]

_HOMES = {
    "load_study": "w2s_ray.spec.load",
    "read_results": "w2s_ray.api",
    "register_loss": "w2s_ray.spec.losses",
    "register_metric": "w2s_ray.report.metrics",
    "register_task": "w2s_ray.tasks.registry",
    "run_study": "w2s_ray.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
