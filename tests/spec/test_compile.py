"""What a study compiles to: who learns from whom, on which examples, with which seeds."""

import itertools

import pytest

from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, ResolvedModel, ResolvedTask
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.labels import GroundTruth, WeakLabels
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.stage import Optimisation

LEVELS = ("s", "m", "l")


def chains(**changes: object) -> tuple[Chain, ...]:
    study = parse_study(
        {
            "name": "compiled",
            "tasks": {"t": {"builtin": "code_continuation"}},
            "ladder": {level: {"model": f"w2s:{level}"} for level in LEVELS},
            "chains": [["s", "m", "l"], ["s", "l"]],
            "methods": {
                "naive": {"arms": ["chain", "direct", "ceiling", "self", "pooled"]},
                "sure": {"losses": {level: {"kind": "confidence"} for level in LEVELS}},
            },
            "seeds": [0, 1],
            **changes,
        }
    )
    models = {level: ResolvedModel(revision=level, num_parameters=1) for level in LEVELS}
    task = ResolvedTask(fingerprint="f" * 64, num_classes=2, num_test=100)
    return compile_study(study, Resolution(tasks={"t": task}, models=models))


def stages(**changes: object) -> list[tuple[Chain, PlannedStage]]:
    return [(chain, stage) for chain in chains(**changes) for stage in chain.stages]


def test_a_ceiling_learns_the_students_examples_by_ground_truth_and_names_no_supervisor() -> None:
    for chain, level in itertools.product(chains(), ("m", "l")):
        student, ceiling = chain.find("chain", level), chain.find("ceiling", level)
        if student is None or ceiling is None:
            continue
        assert [part.split for part in ceiling.spec.train] == [part.split for part in student.spec.train]
        assert ceiling.spec.validation is not None and student.spec.validation is not None
        assert ceiling.spec.validation.split == student.spec.validation.split
        for part in (*ceiling.spec.train, ceiling.spec.validation):
            assert isinstance(part.labels, GroundTruth)
        assert ceiling.spec.loss.kind == "naive" and ceiling.supervisor is None


def test_whoever_labels_a_split_was_not_trained_on_it() -> None:
    for chain in chains():
        trained_on = {stage.identity: {part.split.name for part in stage.spec.train} for stage in chain.stages}
        for stage in chain.stages:
            labelled = {prediction.split.name for prediction in stage.predicts}
            assert not labelled & trained_on[stage.identity]


def test_students_validate_on_labels_of_the_supervisor_that_they_learn_from() -> None:
    for chain in chains():
        made_by = {p.identity: stage.identity for stage in chain.stages for p in stage.predicts}
        for stage in chain.stages:
            if stage.supervisor is None:
                continue
            assert stage.spec.validation is not None
            for part in (*stage.spec.train, stage.spec.validation):
                assert isinstance(part.labels, WeakLabels)
                assert {made_by[each] for each in part.labels.predictions} == {stage.supervisor}


def test_the_arms_of_one_level_and_seed_share_initialisation_and_order() -> None:
    seeds: dict[tuple[int, str], set[tuple[int, int]]] = {}
    for chain, stage in stages():
        seeds.setdefault((chain.seed, stage.level), set()).add((stage.spec.init_seed, stage.spec.order_seed))
    assert all(len(found) == 1 for found in seeds.values())
    assert len(set().union(*seeds.values())) == len(seeds), "levels and seeds differ"


def test_a_climb_that_skips_a_level_keeps_the_splits_of_the_levels_it_takes() -> None:
    for chain, stage in stages():
        if stage.arm in ("chain", "direct", "ceiling"):
            assert [part.split.name for part in stage.spec.train] == [f"T{LEVELS.index(stage.level)}"], chain.name


def test_the_floor_learns_ground_truth_on_its_own_split() -> None:
    for chain in chains():
        (part,) = chain.stages[0].spec.train
        assert part.split.name == "S" and isinstance(part.labels, GroundTruth)


def test_execution_is_no_part_of_an_identity() -> None:
    odd = Execution(workers=7, cpus_per_worker=3, zero_stage=3, tokens_per_micro_batch=99, checkpoint_every_seconds=1)
    plain = [stage.identity for _, stage in stages()]
    assert [stage.identity for _, stage in stages(execution=odd.model_dump())] == plain


@pytest.mark.parametrize(
    "change", [{"learning_rate": 1e-3}, {"epochs": 3.0}, {"examples_per_step": 8}, {"dropout": 0.1}]
)
def test_each_optimisation_key_is_part_of_the_identity(change: dict[str, float]) -> None:
    spec = chains()[0].stages[0].spec
    changed = {**spec.model_dump(), "optimisation": Optimisation(**change)}  # type: ignore[arg-type]
    assert type(spec).model_validate(changed).identity != spec.identity


def test_a_students_identity_hangs_on_its_supervisors() -> None:
    def student_and_ceiling(rate: float) -> tuple[str, str]:
        ladder = {level: {"model": f"w2s:{level}"} for level in LEVELS}
        ladder["s"] |= {"optimisation": {"learning_rate": rate}}  # type: ignore[dict-item]
        chain = chains(ladder=ladder)[0]
        student, ceiling = chain.find("chain", "l"), chain.find("ceiling", "l")
        assert student is not None and ceiling is not None
        return student.identity, ceiling.identity

    first, second = student_and_ceiling(1e-4), student_and_ceiling(2e-4)
    assert first[0] != second[0]
    assert first[1] == second[1], "a ceiling has no supervisor"


def test_a_changed_copy_of_a_spec_has_an_identity_of_its_own() -> None:
    spec = chains()[0].stages[0].spec
    assert spec.identity != spec.model_copy(update={"order_seed": 1}).identity
