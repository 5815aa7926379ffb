"""What a study compiles to: which stage learns from which, on which examples, with which seeds."""

import itertools

import pytest

from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, ResolvedModel, ResolvedTask
from w2s_ray.spec.chain_compiler import BAG
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.identity import identity
from w2s_ray.spec.labels import GroundTruth, Harden, Knn, Logistic, Topological, WeakLabels
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.stage import Optimisation

LEVELS = ("s", "m", "l")


def chains(revision: str = "", **changes: object) -> tuple[Chain, ...]:
    study = parse_study(
        {
            "name": "compiled",
            "tasks": {"t": {"builtin": "code_continuation"}},
            "ladder": {level: {"model": f"w2s:{level}"} for level in LEVELS},
            "chains": [["s", "m", "l"], ["s", "l"]],
            "methods": {
                "naive": {"arms": ["chain", "direct", "ceiling", "self", "pooled"]},
                "sure": {"losses": {level: {"kind": "confidence"} for level in LEVELS[1:]}},
            },
            "seeds": [0, 1],
            **changes,
        }
    )
    models = {level: ResolvedModel(revision=revision + level, num_parameters=1) for level in LEVELS}
    task = ResolvedTask(fingerprint="f" * 64, num_classes=2, num_test=100)
    return compile_study(study, Resolution(tasks={"t": task}, models=models))


def stages(**changes: object) -> list[tuple[Chain, PlannedStage]]:
    return [(chain, stage) for chain in chains(**changes) for stage in chain.stages]


def test_trap_8_a_ceiling_learns_the_students_examples_by_ground_truth() -> None:
    for chain, level in itertools.product(chains(), ("m", "l")):
        student, ceiling = chain.find("chain", level), chain.find("ceiling", level)
        if student is None or ceiling is None:
            continue
        assert [part.split for part in ceiling.spec.train] == [part.split for part in student.spec.train]
        assert ceiling.spec.validation is not None and student.spec.validation is not None
        assert ceiling.spec.validation.split == student.spec.validation.split
        for part in (*ceiling.spec.train, ceiling.spec.validation):
            assert isinstance(part.labels, GroundTruth)
        assert ceiling.spec.loss.kind == "naive" and not ceiling.supervisors


def test_trap_9_a_supervisor_labels_no_split_that_it_was_trained_on() -> None:
    for chain in chains():
        trained_on = {stage.identity: {part.split.name for part in stage.spec.train} for stage in chain.stages}
        for stage in chain.stages:
            labelled = {prediction.split.name for prediction in stage.predicts}
            assert not labelled & trained_on[stage.identity]


def test_trap_14_students_validate_on_labels_of_their_supervisor() -> None:
    for chain in chains():
        made_by = {p.identity: stage.identity for stage in chain.stages for p in stage.predicts}
        for stage in chain.stages:
            if not stage.supervisors:
                continue
            assert stage.spec.validation is not None
            for part in (*stage.spec.train, stage.spec.validation):
                assert isinstance(part.labels, WeakLabels)
                assert {made_by[identity_] for identity_ in part.labels.predictions} == set(stage.supervisors)


def test_the_arms_of_one_level_and_seed_share_initialisation_and_order() -> None:
    seeds: dict[tuple[int, str], set[tuple[int, int]]] = {}
    for chain, stage in stages():
        seeds.setdefault((chain.seed, stage.level), set()).add((stage.spec.init_seed, stage.spec.order_seed))
    assert all(len(pairs) == 1 for pairs in seeds.values())
    assert len(set().union(*seeds.values())) == len(seeds), "levels and seeds differ"


def test_a_chain_that_skips_a_level_keeps_the_splits_of_its_levels() -> None:
    for chain, stage in stages():
        if stage.arm in ("chain", "direct", "ceiling"):
            assert [part.split.name for part in stage.spec.train] == [f"T{LEVELS.index(stage.level)}"], chain.name


def test_s_and_the_ti_have_sizes_of_their_own() -> None:
    sizes: dict[str, int] = {}
    for _, stage in stages(splits={"S": 30, "T": 120, "validation_examples": 10}):
        parts = (*stage.spec.train, *([stage.spec.validation] if stage.spec.validation else []))
        for split in (*(part.split for part in parts), *(prediction.split for prediction in stage.predicts)):
            assert sizes.setdefault(split.name, split.num_examples) == split.num_examples
    assert sizes == {"S": 30, "T1": 120, "T2": 120, "V0": 10, "V1": 10, "V2": 10, "test": 100}


@pytest.mark.parametrize(
    ("splits", "task", "sizes"),
    [
        ({"S": 30}, {}, (30, 500)),
        ({"T": 30}, {}, (500, 30)),
        ({"S": 30, "T": 40}, {"train_examples": 50}, (50, 50)),
        ({"S": 30, "T": 40}, {"S": 60}, (60, 40)),
        ({}, {"S": 60, "train_examples": 50}, (60, 50)),
    ],
)
def test_a_tasks_sizes_count_before_the_studys(
    splits: dict[str, int], task: dict[str, int], sizes: tuple[int, int]
) -> None:
    raw = {"tasks": {"t": {"builtin": "code_continuation", **task}}, "splits": {"train_examples": 500, **splits}}
    of_level_0, of_students = [
        {stage.spec.train[0].split.num_examples for _, stage in stages(**raw) if (stage.arm == "floor") == is_floor}
        for is_floor in (True, False)
    ]
    assert (of_level_0, of_students) == ({sizes[0]}, {sizes[1]})


def test_equal_sizes_give_the_identities_of_train_examples() -> None:
    by_level = [stage.identity for _, stage in stages(splits={"S": 300, "T": 300})]
    assert by_level == [stage.identity for _, stage in stages(splits={"train_examples": 300})]


def test_the_floor_learns_ground_truth_on_its_own_split() -> None:
    for chain in chains():
        (part,) = chain.stages[0].spec.train
        assert part.split.name == "S" and isinstance(part.labels, GroundTruth)


def test_execution_is_not_part_of_an_identity() -> None:
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


def test_trap_7_a_students_identity_depends_on_its_supervisors() -> None:
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


CONFIDENT = [{"kind": "keep_confident", "fraction": 0.5}, {"kind": "harden"}]


def test_transforms_change_only_the_labels_of_weakly_supervised_students() -> None:
    methods = {"thin": {"arms": ["chain", "direct", "ceiling"], "labels": {"l": {"transforms": CONFIDENT}}}}
    for chain, stage in stages(methods=methods):
        transformed = [part.labels for part in stage.spec.train if part.labels.transforms]
        if stage.level == "l" and stage.arm in ("chain", "direct"):
            assert [each.kind for each in transformed[0].transforms] == ["keep_confident", "harden"]
            assert transformed[0].kept_share == 0.5
        else:
            assert not transformed, (chain.name, stage.arm, stage.level)


def test_a_level_gets_transforms_only_in_chains_where_it_is_a_student() -> None:
    method = {"labels": {"m": {"transforms": [{"kind": "harden"}]}}}
    climb, short = chains(chains=[["s", "m", "l"], ["m", "l"]], methods={"hard": method}, seeds=[0])
    student, floor = climb.find("chain", "m"), short.find("floor", "m")
    assert student is not None and floor is not None
    assert [part.labels.label for part in student.spec.train] == ["weak-hard"]
    assert [part.labels.label for part in floor.spec.train] == ["gt"]


def test_validation_labels_are_hardened_and_never_filtered() -> None:
    chain = chains(methods={"thin": {"labels": {"l": {"transforms": CONFIDENT}}}})[0]
    student = chain.find("chain", "l")
    assert student is not None and student.spec.validation is not None
    assert [transform.kind for transform in student.spec.validation.labels.transforms] == ["harden"]


def test_the_arms_of_one_level_and_seed_share_coins() -> None:
    methods = {"some": {"arms": ["chain", "direct"], "labels": {"l": {"transforms": [{"kind": "permute"}]}}}}
    seeds: dict[tuple[int, str], set[int]] = {}
    for chain, stage in stages(methods=methods):
        if stage.level == "l" and stage.arm != "floor":
            seeds.setdefault((chain.seed, stage.level), set()).add(stage.spec.train[0].labels.coin_seed)
    assert [len(coins) for coins in seeds.values()] == [1, 1] and len(set().union(*seeds.values())) == 2


def ensemble(**supervisors: object) -> tuple[Chain, ...]:
    arms = ["chain", "direct", "pooled", "self", "ceiling"]
    return chains(methods={"many": {"arms": arms, "supervisors": {"num": 3, **supervisors}}})


def test_members_of_an_ensemble_differ_from_the_floor_only_in_their_seeds() -> None:
    alone = chains()[0].stages[0]
    for chain in ensemble():
        floor, *members = (stage for stage in chain.stages if stage.arm in ("floor", "member"))
        assert chain.seed != 0 or floor.identity == alone.identity
        assert len(members) == 2 and len({stage.identity for stage in (floor, *members)}) == 3
        for member in members:
            same = {"init_seed": floor.spec.init_seed, "order_seed": floor.spec.order_seed}
            assert member.spec.init_seed != floor.spec.init_seed and member.spec.order_seed != floor.spec.order_seed
            assert member.spec.model_copy(update=same) == floor.spec
            assert {p.split for p in member.predicts} == {p.split for p in floor.predicts}


def test_students_of_level_0_learn_from_all_members() -> None:
    for chain in ensemble():
        first = [stage.identity for stage in chain.stages if stage.arm in ("floor", "member")]
        for stage in chain.stages:
            from_level_0 = stage.arm in ("direct", "pooled", "self") or (
                stage.arm == "chain" and stage.level == chain.path[1]
            )
            if from_level_0:
                assert list(stage.supervisors) == first
                assert all(len(part.labels.sources) == 3 for part in stage.spec.train)
            elif stage.arm == "chain":
                assert len(stage.supervisors) == 1


@pytest.mark.parametrize("combine", ["mean", "vote", "weighted"])
def test_everything_that_a_stage_requires_is_made_by_an_earlier_stage(combine: str) -> None:
    for chain in ensemble(combine=combine, bagging=True):
        made: set[str] = set()
        for stage in chain.stages:
            assert stage.requires <= made, (chain.name, stage.arm, stage.level)
            made |= stage.products


def test_bagged_members_learn_from_parts_of_s_and_the_floor_from_all_of_it() -> None:
    for chain in ensemble(bagging=True):
        floor, *members = (stage for stage in chain.stages if stage.arm in ("floor", "member"))
        assert floor.spec.train[0].labels == GroundTruth()
        bags = [member.spec.train[0].labels for member in members]
        assert all(isinstance(bag, GroundTruth) and bag.kept_share == BAG for bag in bags)
        assert len({bag.coin_seed for bag in bags}) == 2
        assert all(member.spec.validation == floor.spec.validation for member in members)


def test_supervisors_are_weighed_on_v0_from_which_no_student_learns() -> None:
    for chain in ensemble(combine="weighted"):
        for stage in chain.stages:
            names = {part.split.name for part in stage.spec.train}
            assert "V0" not in names
            if stage.arm == "direct":
                (labels,) = (part.labels for part in stage.spec.train)
                assert isinstance(labels, WeakLabels) and labels.weighing is not None
                assert labels.weighing.split.name == "V0" and len(labels.weighing.predictions) == 3


def test_a_local_model_is_identified_by_content_and_not_by_path() -> None:
    generative = {"arms": ["chain"], "generative": {"m": {}, "l": {}}}

    def compiled(folder: str, revision: str = "digest") -> list[str]:
        ladder = {level: {"model": f"{folder}/{level}"} for level in LEVELS}
        compiled_chains = chains(ladder=ladder, methods={"naive": {}, "generative": generative}, revision=revision)
        return [stage.identity for chain in compiled_chains for stage in chain.stages]

    here = compiled("/home/somebody/models")
    assert here == compiled("/tmp/job/models") == compiled("~/models")
    assert not set(here) & set(compiled("/home/somebody/models", revision="another"))


@pytest.mark.parametrize("model", ["w2s:s", "owner/model", "gpt2"])
def test_the_name_of_any_other_model_is_part_of_the_identity(model: str) -> None:
    ladder = {level: {"model": model} for level in LEVELS}
    for _, stage in stages(ladder=ladder):
        assert stage.identity == identity("stage", stage.spec)


def test_another_result_of_the_same_fields_has_another_identity() -> None:
    class Before(Spec):
        size: int = 1

    class After(Before):
        computed_as = 2

    assert identity("thing", After()) != identity("thing", Before())
    assert Knn.computed_as == Logistic.computed_as == Topological.computed_as == 2 and Harden.computed_as == 1


def test_a_field_added_later_changes_no_identity_at_its_default() -> None:
    class Before(Spec):
        size: int = 1

    class After(Before):
        later_fields = frozenset({"score"})
        score: str | None = None

    assert identity("thing", After()) == identity("thing", Before())
    assert identity("thing", After(score="likelihood")) != identity("thing", Before())


def test_the_identities_of_stages_are_those_of_earlier_versions() -> None:
    identities = [stage.identity[:12] for stage in chains()[0].stages[:2]]
    assert identities == ["614665062cc6", "fd43bcd16c01"], "stages of every store would be trained again"


def test_the_precision_of_the_saved_model_is_part_of_a_stages_identity() -> None:
    spec = chains()[0].stages[0].spec
    rounded = spec.optimisation.model_copy(update={"saved_precision": "bf16"})
    assert spec.model_copy(update={"optimisation": rounded}).identity != spec.identity


def test_the_precision_of_predictions_concerns_the_students_that_learn_from_them() -> None:
    for (_, plain), (_, other) in zip(stages(), stages(prediction_precision="bf16"), strict=True):
        learns_the_truth = all(isinstance(part.labels, GroundTruth) for part in plain.spec.train)
        assert (plain.identity == other.identity) == learns_the_truth
