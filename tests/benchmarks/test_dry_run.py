"""A 70 B student on 32 workers: what fake ranks count, against the plan; and model state of small models in theory."""

import subprocess
import sys
from pathlib import Path

import pytest

from dry_run import SHAPES, Counts, config_of, plan
from states import ZERO_STAGES, measure, theory_bytes

GB, WORKERS, GIB = 10**9, 32, 131
SMALL = {"num_hidden_layers": 2, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 1024}
COUNT = """
from dry_run import config_of, count
from dataclasses import asdict
import json
print(json.dumps(asdict(count(config_of({name!r}, **{changes!r}), {workers}))))
"""


def counted(name: str, workers: int, **changes: int) -> Counts:
    """Count in a process of its own, which has no other process group."""
    import json

    code = COUNT.format(name=name, changes=changes, workers=workers)
    folders = [str(Path(__file__).parents[2] / "benchmarks"), str(Path(__file__).parents[2])]
    run = f"import sys; sys.path[:0] = {folders!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, timeout=240, check=True)
    return Counts(**json.loads(done.stdout.splitlines()[-1]))


def parameters_of(name: str) -> int:
    """Number of parameters with a head of two classes, computed on meta tensors."""
    import torch
    from transformers import AutoModelForSequenceClassification

    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config_of(name)).num_parameters()


@pytest.mark.parametrize("name", SHAPES)
def test_a_70_b_student_fits_32_workers_of_141_gb(name: str) -> None:
    num_parameters = parameters_of(name)
    assert num_parameters > 69 * GB
    settled, need = plan(config_of(name), num_parameters, WORKERS, GIB, "auto")
    assert need.peak < 141 * GB
    assert settled.execution.zero_stage == 3 and not settled.execution.offload_optimizer
    assert theory_bytes(num_parameters, 3, WORKERS) < need.peak


def test_fake_ranks_hold_send_and_write_what_theory_says() -> None:
    counts = counted("llama-3-70b", WORKERS, **SMALL)
    state = sum(counts.state.values())
    theory = theory_bytes(counts.num_parameters, 3, WORKERS)
    assert theory <= state <= 1.02 * theory
    assert counts.state["masters"] == 0
    weights = 4 * counts.num_parameters
    assert 0.5 * weights < counts.exchanged["reduce_scatter_base"] <= weights
    assert weights < counts.exchanged["allgather_base"] <= 2 * weights, "forward and backward, partly in bf16"
    assert counts.checkpoint * WORKERS == pytest.approx(12 * counts.num_parameters, rel=0.02)
    assert counts.export == weights


@pytest.mark.soak
def test_fake_ranks_of_a_70_b_student_hold_what_is_planned() -> None:
    counts = counted("llama-3-70b", WORKERS)
    _, need = plan(config_of("llama-3-70b"), counts.num_parameters, WORKERS, GIB)
    assert sum(counts.state.values()) == pytest.approx(theory_bytes(counts.num_parameters, 3, WORKERS), rel=0.02)
    assert sum(counts.state.values()) < counts.peak < 141 * GB
    assert counts.peak == pytest.approx(need.peak, rel=0.15)  # all that the plan claims


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_workers_hold_at_most_a_tenth_more_model_state_than_theory(tmp_path: Path, workers: int) -> None:
    sizes = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 1024}
    measured = measure(workers, sizes, tmp_path)
    assert set(measured) == set(ZERO_STAGES)
    for ratio, held in measured.values():
        assert ratio <= 1.10 and held["masters"] == 0
