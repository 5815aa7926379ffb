"""The lines of `w2s plan` on memory."""

from w2s_ray.cli.plan import _memory
from w2s_ray.planning.plan import StagePlan
from w2s_ray.training.memory.usage import GIB


def stage(gpu_gib: int, remedy: str | None = None, level: str = "large") -> StagePlan:
    return StagePlan.model_construct(
        level=level,
        peak_bytes_per_worker=gpu_gib * GIB,
        peak_parts={},
        available_bytes_per_worker=80 * GIB,
        host_bytes_per_worker=150 * GIB,
        available_host_bytes_per_worker=100 * GIB,
        file_bytes=None,
        remedy=remedy,
        chosen=None,
        recomputes_activations=False,
    )


def test_a_stage_that_only_lacks_host_memory_is_shown_as_refused() -> None:
    lines = "\n".join(_memory([stage(70), stage(60, remedy="use larger nodes"), stage(5, level="small")]))
    assert "use larger nodes" in lines and lines.count("refuse") == 1
    assert "60.0 GiB of the 80.0 GiB" in lines and "70.0 GiB" not in lines, "the stage that is refused is shown"
    assert lines.count("150 GiB of the host") == lines.count("100 GiB") == 2
