"""The measurement of a level: choice of the stage, windows of steps, and real runs on one and two workers."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from tests.cli.conftest import w2s
from tests.scheduling.studies import chains_of, resolution_of, small_study
from w2s_ray.bench import PHASES, Recorder, bench_level, choose_stage, measure, shorten
from w2s_ray.data.prepare import load_prepared
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import ResourceError, StudyError, TrainingError
from w2s_ray.planning.nodes import Node
from w2s_ray.planning.resolve import resolve
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.labels import GroundTruth
from w2s_ray.spec.load import load_study
from w2s_ray.spec.stage import ModelSource
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training.processes import run_on_workers
from w2s_ray.training.workers import Workers

NUM_STEPS = 12


def test_the_default_level_is_the_largest_that_is_trained() -> None:
    study = small_study()
    resolution = resolution_of(study)
    sizes = {"s": 10, "l": 30}
    models = {
        name: model.model_copy(update={"num_parameters": sizes[name]}) for name, model in resolution.models.items()
    }
    resolution = resolution.model_copy(update={"models": models})
    assert choose_stage(chains_of(study), resolution, None).level == "l"
    assert choose_stage(chains_of(study), resolution, "s").level == "s"
    with pytest.raises(StudyError, match="'m'"):
        choose_stage(chains_of(study), resolution, "m")


@pytest.mark.parametrize("method", [{"arms": ["chain"]}, {"arms": ["chain"], "generative": {"l": {"epochs": 2}}}])
def test_a_shortened_stage_needs_no_other_stage(method: dict[str, object]) -> None:
    study = small_study(methods={"only": method})
    chains = chains_of(study)
    stage = shorten(choose_stage(chains, resolution_of(study), "l"), chains, NUM_STEPS)
    assert stage.requires == frozenset() and isinstance(stage.spec.starts_from, ModelSource)
    assert [type(part.labels) for part in stage.spec.train] == [GroundTruth]
    assert [prediction.stage for prediction in stage.predicts] == [stage.identity]
    examples = sum(part.split.num_examples for part in stage.spec.train)
    optimisation = stage.spec.optimisation
    assert optimisation.epochs * examples >= NUM_STEPS * optimisation.examples_per_step


def test_plain_steps_give_the_speed_and_timed_steps_the_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(torch.device("cpu"), 10)
    clock = iter(range(1000))
    monkeypatch.setattr(recorder, "_now", lambda: float(next(clock)))
    recorder.divide(10)  # 2 steps of warm-up, 4 plain, 4 timed
    for step in range(10):
        recorder.begin_step(10**step)
        for phase in ("input", "forward", "communication", "optimizer", None):
            recorder.switch(phase)
        recorder.end_step()
    found = recorder.measurement
    assert found.train_tokens == 10**2 + 10**3 + 10**4 + 10**5
    assert found.train_seconds == 1, "the clock is read at the first plain and the first timed step"
    assert found.phase_seconds == {"input": 4, "forward": 4, "communication": 4, "optimizer": 4, "backward": 0}
    assert sum(found.phase_seconds.values()) <= found.timed_seconds


def test_a_level_that_needs_a_gpu_is_refused_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2s_ray.bench.this_machine", lambda: Node(cpus=8))
    stage = chains_of(small_study(execution={"gpus_per_worker": 1}))[0].stages[0]
    with pytest.raises(ResourceError, match="there is no GPU") as refused:
        bench_level(stage, ArtifactStore(tmp_path), resolution_of(small_study()), None, NUM_STEPS)
    assert "gpus_per_worker" in refused.value.hint


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(StudyError, match="5 steps"):
        Recorder(torch.device("cpu"), 24).divide(5)


@pytest.mark.soak
def test_tokens_are_counted_without_padding_and_once_for_all_workers(home: Path, tmp_path: Path) -> None:
    study = load_study(home / "tiny.yaml")
    store = ArtifactStore(tmp_path / "store")
    store.prepare()
    resolution = resolve(study, store)
    chains = compile_study(study, resolution)
    stage = shorten(choose_stage(chains, resolution, "small"), chains, NUM_STEPS)
    tokenizer = AutoTokenizer.from_pretrained(home / "models" / "small")
    prepared = load_prepared(store, stage.spec.train[0].split.task)
    (prediction,) = stage.predicts
    rows = tokenizer(prepared.texts(rows_of_split(prepared, prediction.split)))["input_ids"]
    work = partial(measure, stage=stage, store=store, num_steps=NUM_STEPS)
    first, second = run_on_workers(work, Execution(workers=2), tmp_path)
    assert first.label_tokens == second.label_tokens == sum(len(row[-32:]) for row in rows)
    assert first.train_tokens == second.train_tokens > 0
    for found in (first, second):
        assert 0 < sum(found.phase_seconds.values()) <= found.timed_seconds
        assert all(found.phase_seconds[phase] > 0 for phase in PHASES)
        assert found.peak_bytes > 50 * 2**20 and found.label_seconds > 0


def fail_on_rank_1(workers: Workers) -> None:
    if workers.rank == 1:
        raise ResourceError("rank 1 fails")
    workers.barrier()


def die(workers: Workers) -> None:
    raise RuntimeError("a bug")


@pytest.mark.soak
def test_an_error_of_one_worker_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="rank 1"):
        run_on_workers(fail_on_rank_1, Execution(workers=2), tmp_path)
    with pytest.raises(TrainingError, match="worker 0"):
        run_on_workers(die, Execution(workers=1), tmp_path)


def test_the_command_measures_a_level_with_its_own_settings_and_leaves_no_store(home: Path) -> None:
    before = {file.name for file in home.iterdir()}
    arguments = ("--steps", str(NUM_STEPS), "--set", "ladder.large.execution.workers=2", "--json")
    done = w2s("bench", "tiny.yaml", "large", *arguments, cwd=home)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert (result["level"], result["workers"], result["zero_stage"]) == ("large", 2, 1)
    assert result["train_tokens_per_second"] > 0 and result["label_tokens_per_second"] > 0
    assert len(result["peak_bytes"]) == 2 and result["planned_peak_bytes"] > 0
    assert set(result["shares"]) == set(PHASES) and 0.5 < sum(result["shares"].values()) <= 1
    assert {file.name for file in home.iterdir()} == before
