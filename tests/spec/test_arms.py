"""Compiled controls: zero-shot, truth chains, generative stages, partial training, random starts, oracles."""

from tests.spec.test_compile import chains
from w2s_ray.spec.base import Kind
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, ResolvedModel, ResolvedTask
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.labels import GroundTruth, WeakLabels
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.stage import DEFAULT_CUE, AllWeights, ModelSource, Probe, Prompt, StageSource


def chain_of(**method: object) -> Chain:
    return next(chain for chain in chains(methods={"m": method}) if chain.path == ("s", "m", "l"))


def of(chain: Chain, arm: str, level: str) -> PlannedStage:
    stage = chain.find(arm, level)  # type: ignore[arg-type]
    assert stage is not None
    return stage


def test_zero_shot_prompts_the_pretrained_model_of_every_level() -> None:
    chain = chain_of(arms=["chain", "zero_shot"], random=["l"])
    for level in ("s", "m", "l"):
        stage = of(chain, "zero_shot", level)
        assert (
            stage.spec.trainable == Prompt(cue=DEFAULT_CUE)
            and stage.test_prediction is not None
            and not stage.supervisors
        )
        assert isinstance(stage.spec.starts_from, ModelSource) and not stage.spec.starts_from.random


def test_chains_share_the_zero_shot_stage_of_a_level() -> None:
    every = chains(methods={"m": {"arms": ["chain", "zero_shot"]}}, chains=[["s", "m", "l"], ["m", "l"]])
    of_one_seed = [stage for chain in every if chain.seed == every[0].seed for stage in chain.stages]
    asked = {(stage.level, stage.identity) for stage in of_one_seed if stage.arm == "zero_shot"}
    assert sorted(level for level, _ in asked) == ["l", "m", "s"]


def test_the_last_student_of_a_truth_chain_learns_from_a_student_trained_on_truth() -> None:
    chain = chain_of(arms=["chain", "truth_chain"])
    between, last = of(chain, "ceiling", "m"), of(chain, "truth_chain", "l")
    assert all(isinstance(part.labels, GroundTruth) for part in between.spec.train)
    (labels,) = [part.labels for part in last.spec.train]
    assert isinstance(labels, WeakLabels)
    assert set(labels.predictions) <= {prediction.identity for prediction in between.predicts}
    assert chain.find("ceiling", "l") is None, "the arm is not asked for"
    assert chain.find("truth_chain", "m") is None, "level 0 learns the truth anyway"


def test_students_and_ceilings_start_from_the_same_generative_stage() -> None:
    chain = chain_of(arms=["chain", "direct", "ceiling"], generative={"l": {"epochs": 3}})
    reading = of(chain, "generative", "l")
    assert reading.spec.objective == "next_token" and reading.spec.validation is None and reading.predicts == ()
    assert reading.spec.optimisation.epochs == 3
    for arm in ("chain", "direct", "ceiling"):
        assert of(chain, arm, "l").spec.starts_from == StageSource(stage=reading.identity, name="w2s:l")
        assert reading.identity in of(chain, arm, "l").requires
    assert isinstance(of(chain, "chain", "m").spec.starts_from, ModelSource)


def test_a_ceiling_trains_the_students_weights_and_a_full_ceiling_trains_all() -> None:
    chain = chain_of(arms=["chain", "ceiling"], trainable={"m": {"kind": "probe"}})
    assert of(chain, "chain", "m").spec.trainable == of(chain, "ceiling", "m").spec.trainable == Probe()
    full = of(chain, "full_ceiling", "m")
    assert full.spec.trainable == AllWeights()
    assert full.identity == of(chain_of(arms=["chain", "ceiling"]), "ceiling", "m").identity, "trained once"
    assert chain.find("full_ceiling", "l") is None


def test_student_and_ceiling_share_a_random_start() -> None:
    chain = chain_of(arms=["chain", "ceiling"], random=["l"])
    sources = [of(chain, arm, "l").spec.starts_from for arm in ("chain", "ceiling")]
    assert all(isinstance(source, ModelSource) and source.random for source in sources)
    assert not of(chain, "floor", "s").spec.starts_from.random  # type: ignore[union-attr]


def test_methods_run_on_the_tasks_that_they_list() -> None:
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
    compiled = compile_study(parse_study(raw), Resolution(tasks=tasks, models=models))
    assert {(chain.task, chain.method) for chain in compiled} == {("a", "all"), ("b", "all"), ("b", "only")}
    objectives = {chain.task: {stage.spec.objective for stage in chain.stages} for chain in compiled}
    assert objectives == {"a": {"classification"}, "b": {"preference"}}


def test_only_weak_students_of_an_oracle_level_stop_by_the_truth() -> None:
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


def test_a_task_may_have_split_sizes_of_its_own() -> None:
    tasks = {"t": {"builtin": "code_continuation", "train_examples": 77, "validation_examples": 11}}
    for stage in (stage for chain in chains(tasks=tasks) for stage in chain.stages):
        assert {part.split.num_examples for part in stage.spec.train} == {77}
        assert stage.spec.validation is not None and stage.spec.validation.split.num_examples == 11


def test_the_description_of_a_stage_names_what_is_not_the_default() -> None:
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
