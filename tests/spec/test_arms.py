"""Controls and other ways to learn, compiled: zero-shot, truth between, reading, parts of models, random starts."""

import pytest

from tests.spec.test_compile import chains
from w2s_ray.errors import StudyError
from w2s_ray.spec.base import Kind
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, ResolvedModel, ResolvedTask
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.labels import GroundTruth, WeakLabels
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.stage import AllWeights, ModelSource, Probe, Prompt, StageSource


def chain_of(**method: object) -> Chain:
    return next(chain for chain in chains(methods={"m": method}) if chain.path == ("s", "m", "l"))


def of(chain: Chain, arm: str, level: str) -> PlannedStage:
    stage = chain.find(arm, level)  # type: ignore[arg-type]
    assert stage is not None
    return stage


def test_zero_shot_asks_the_pretrained_model_of_every_level() -> None:
    chain = chain_of(arms=["chain", "zero_shot"], random=["l"])
    for level in ("s", "m", "l"):
        stage = of(chain, "zero_shot", level)
        assert stage.spec.trainable == Prompt() and stage.test_prediction is not None and not stage.supervisors
        assert isinstance(stage.spec.starts_from, ModelSource) and not stage.spec.starts_from.random


def test_a_level_is_asked_once_without_training_whichever_chains_it_is_in() -> None:
    every = chains(methods={"m": {"arms": ["chain", "zero_shot"]}}, chains=[["s", "m", "l"], ["m", "l"]])
    of_one_seed = [stage for chain in every if chain.seed == every[0].seed for stage in chain.stages]
    asked = {(stage.level, stage.identity) for stage in of_one_seed if stage.arm == "zero_shot"}
    assert sorted(level for level, _ in asked) == ["l", "m", "s"]


def test_a_truth_chain_has_students_between_that_learn_the_truth_and_a_last_one_that_learns_from_them() -> None:
    chain = chain_of(arms=["chain", "truth_chain"])
    between, last = of(chain, "ceiling", "m"), of(chain, "truth_chain", "l")
    assert all(isinstance(part.labels, GroundTruth) for part in between.spec.train)
    (labels,) = [part.labels for part in last.spec.train]
    assert isinstance(labels, WeakLabels)
    assert set(labels.predictions) <= {prediction.identity for prediction in between.predicts}
    assert chain.find("ceiling", "l") is None, "nobody asked for it"
    assert chain.find("truth_chain", "m") is None, "level 0 learns the truth anyway"


def test_students_and_ceilings_go_on_from_the_same_reading_and_the_reading_has_no_labels() -> None:
    chain = chain_of(arms=["chain", "direct", "ceiling"], generative={"l": {"epochs": 3}})
    reading = of(chain, "generative", "l")
    assert reading.spec.objective == "next_token" and reading.spec.validation is None and reading.predicts == ()
    assert reading.spec.optimisation.epochs == 3
    for arm in ("chain", "direct", "ceiling"):
        assert of(chain, arm, "l").spec.starts_from == StageSource(stage=reading.identity, name="w2s:l")
        assert reading.identity in of(chain, arm, "l").requires
    assert isinstance(of(chain, "chain", "m").spec.starts_from, ModelSource)


def test_a_ceiling_trains_the_part_that_its_student_trains_and_a_second_one_trains_all() -> None:
    chain = chain_of(arms=["chain", "ceiling"], trainable={"m": {"kind": "probe"}})
    assert of(chain, "chain", "m").spec.trainable == of(chain, "ceiling", "m").spec.trainable == Probe()
    full = of(chain, "full_ceiling", "m")
    assert full.spec.trainable == AllWeights()
    assert full.identity == of(chain_of(arms=["chain", "ceiling"]), "ceiling", "m").identity, "trained once"
    assert chain.find("full_ceiling", "l") is None


def test_a_random_start_is_that_of_student_and_ceiling_alike() -> None:
    chain = chain_of(arms=["chain", "ceiling"], random=["l"])
    sources = [of(chain, arm, "l").spec.starts_from for arm in ("chain", "ceiling")]
    assert all(isinstance(source, ModelSource) and source.random for source in sources)
    assert not of(chain, "floor", "s").spec.starts_from.random  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"trainable": {"x": {"kind": "probe"}}}, "trainable names an unknown level: x"),
        ({"random": ["s"]}, "first supervisor"),
        ({"generative": {"s": {}}}, "first supervisor"),
        ({"generative": {"l": {"early_stopping": {}}}}, "generative.l.early_stopping"),
        ({"trainable": {"l": {"kind": "prompt"}}, "losses": {"l": {"kind": "kl"}}}, "losses.l = kl"),
        ({"tasks": ["other"]}, "unknown task: other"),
        ({"losses": {"s": {"kind": "hard"}}}, "never a student"),
        ({"trainable": {"l": {"kind": "prompt", "num_shots": 5000}}}, "num_shots = 5000 must be at most 2000"),
        ({"tasks": []}, "methods.m.tasks is empty"),
    ],
)
def test_what_does_not_go_together_is_refused(method: dict[str, object], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        chain_of(**method)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("arms", ["chain"]),
        ("losses", {"l": {"kind": "kl"}}),
        ("labels", {"l": {"transforms": [{"kind": "harden"}]}}),
        ("trainable", {"l": {"kind": "lora"}}),
        ("generative", {"m": {}}),
        ("oracle", ["l"]),
    ],
)
def test_what_says_how_labels_are_learned_is_refused_of_a_method_that_learns_text(key: str, value: object) -> None:
    with pytest.raises(StudyError, match=f"methods.m.{key} has no effect"):
        chain_of(objective="next_token", **{key: value})


def test_methods_run_on_the_tasks_that_they_are_for() -> None:
    raw = {
        "name": "served",
        "tasks": {"a": {"builtin": "code_continuation"}, "b": {"builtin": "code_continuation_hard"}},
        "ladder": {"s": "w2s:small", "l": "w2s:large"},
        "methods": {"all": {}, "only": {"tasks": ["b"]}},
    }
    kinds: dict[str, Kind] = {"a": "classes", "b": "pairs"}
    tasks = {
        name: ResolvedTask(fingerprint=name * 64, kind=kind, num_classes=2, num_test=100)
        for name, kind in kinds.items()
    }
    models = {level: ResolvedModel(revision=level, num_parameters=1) for level in ("s", "l")}
    found = compile_study(parse_study(raw), Resolution(tasks=tasks, models=models))
    assert {(chain.task, chain.method) for chain in found} == {("a", "all"), ("b", "all"), ("b", "only")}
    objectives = {chain.task: {stage.spec.objective for stage in chain.stages} for chain in found}
    assert objectives == {"a": {"classification"}, "b": {"preference"}}


@pytest.mark.parametrize(
    "method",
    [
        {"labels": {"l": {"transforms": [{"kind": "knn", "mode": "filter", "fraction": 0.9}]}}},
        {"trainable": {"l": {"kind": "prompt", "num_shots": 20}}},
    ],
)
def test_a_method_needs_as_many_examples_as_the_tasks_that_it_is_for_have(method: dict[str, object]) -> None:
    small = {"builtin": "code_continuation", "train_examples": 16}
    raw = {
        "name": "sized",
        "tasks": {"big": {"builtin": "code_continuation"}, "little": small},
        "ladder": {"s": "w2s:small", "l": "w2s:large"},
        "methods": {"m": {**method, "tasks": ["big"]}, "plain": {}},
    }
    assert parse_study(raw).methods["m"].tasks == ("big",)
    with pytest.raises(StudyError, match=r"16, the (training )?examples of the task little"):
        parse_study({**raw, "methods": {"m": method}})


def test_an_oracle_stops_weak_students_alone_by_the_truth() -> None:
    ladder = {level: {"model": f"w2s:{level}", "optimisation": {"early_stopping": {}}} for level in ("s", "m", "l")}
    (chain, *_) = (
        each
        for each in chains(methods={"m": {"arms": ["chain", "ceiling"], "oracle": ["l"]}}, ladder=ladder)
        if each.path == ("s", "m", "l")
    )
    by = {
        (stage.arm, stage.level): stage.spec.optimisation.early_stopping.by  # type: ignore[union-attr]
        for stage in chain.stages
    }
    assert {key for key, value in by.items() if value == "oracle"} == {("chain", "l")}
    assert len({stage.identity for stage in chain.stages}) == len(chain.stages)


def test_an_oracle_is_asked_for_by_a_method_and_of_a_level_that_stops() -> None:
    with pytest.raises(StudyError, match="never stops early"):
        chain_of(oracle=["l"])
    ladder = {level: {"model": level} for level in ("s", "m", "l")}
    ladder["l"]["optimisation"] = {"early_stopping": {"by": "oracle"}}  # type: ignore[assignment]
    with pytest.raises(StudyError, match=r"methods\.<name>\.oracle"):
        chains(ladder=ladder)


def test_a_task_may_have_split_sizes_of_its_own() -> None:
    tasks = {"t": {"builtin": "code_continuation", "train_examples": 77, "validation_examples": 11}}
    for stage in (stage for chain in chains(tasks=tasks) for stage in chain.stages):
        assert {part.split.num_examples for part in stage.spec.train} == {77}
        assert stage.spec.validation is not None and stage.spec.validation.split.num_examples == 11


def test_a_truth_chain_needs_a_level_between() -> None:
    with pytest.raises(StudyError, match="truth_chain"):
        chains(chains=[["s", "l"]], methods={"m": {"arms": ["chain", "truth_chain"]}})


def test_how_a_stage_learns_is_said_where_it_is_not_the_rule() -> None:
    chain = chain_of(
        arms=["chain", "ceiling"],
        generative={"m": {}},
        random=["l"],
        trainable={"m": {"kind": "lora", "rank": 4}},
        labels={"l": {"transforms": [{"kind": "keep_random", "fraction": 0.5}]}},
        losses={"l": {"kind": "hard"}},
    )
    ways = {(stage.arm, stage.level): stage.spec.description for stage in chain.stages}
    assert ways["floor", "s"] == "naive"
    assert ways["chain", "m"] == "naive lora4 after reading" == ways["ceiling", "m"]
    assert ways["chain", "l"] == "hard on weak-random0.5 random" and ways["ceiling", "l"] == "naive random"
