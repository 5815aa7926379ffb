"""The plan of a study, before anything is trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.planning.conftest import NUM_PARAMETERS, study_in
from w2s_ray import hub
from w2s_ray.errors import DataError, ModelError, StudyError
from w2s_ray.hub import HubRepo
from w2s_ray.planning import estimate
from w2s_ray.planning.nodes import Node
from w2s_ray.planning.plan import Plan, plan
from w2s_ray.planning.resolve import LOCK_NAME, locked, resolve, resolve_whole, save_study
from w2s_ray.scheduling.core.queue import work_of
from w2s_ray.spec.chain import PlannedStage, distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.load import load_study, parse_study
from w2s_ray.spec.stage import Lora, Probe, Prompt, Trainable
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.record import Record, package_versions


def planned(study: Study, store: ArtifactStore) -> Plan:
    return plan(study, resolve(study, store), store)


def test_the_plan_names_what_auto_chose(home: Path, store: ArtifactStore) -> None:
    study = study_in(home, execution={"workers": 2, "zero_stage": "auto"})
    resolution = resolve(study, store)
    roomy = plan(study, resolution, store, (Node(cpus=2, memory_bytes=64 * 2**30),)).stages
    chosen = {stage.level: (stage.zero_stage, stage.chosen) for stage in roomy}
    assert chosen == {"s": (3, "ZeRO-3"), "m": (2, None), "l": (3, None)}, "the shapes are unknown"


def test_a_folder_for_files_that_the_run_will_refuse_is_a_notice(home: Path, store: ArtifactStore) -> None:
    taken = home / "taken"
    taken.touch()
    study = study_in(home, execution={"offload_optimizer": True, "nvme_folder": str(taken)})
    found = plan(study, resolve(study, store), store, (Node(cpus=2, memory_bytes=64 * 2**30),))
    assert any("execution.nvme_folder" in notice and str(taken) in notice for notice in found.notices)
    assert all(stage.file_bytes == 0 for stage in found.stages), "the shapes are unknown"


def test_prompts_and_probes_need_less_than_a_training(home: Path, store: ArtifactStore) -> None:
    stage = floor_of(study_in(home), store)

    def with_trained(trainable: Trainable) -> PlannedStage:
        return stage.model_copy(update={"spec": stage.spec.model_copy(update={"trainable": trainable})})

    probe, prompt = with_trained(Probe()), with_trained(Prompt())
    assert estimate.num_steps(prompt, 100.0) == 0 < estimate.num_steps(probe, 100.0)
    assert estimate.disk_bytes(prompt, 1000) == estimate.disk_bytes(stage, 1000) - 4000
    adapters, kept = with_trained(Lora()), stage.execution.model_copy(update={"keep_adapters": True})
    random = adapters.spec.starts_from.model_copy(update={"random": True})
    drawn = adapters.spec.model_copy(update={"starts_from": random})
    sizes = [
        estimate.disk_bytes(adapters.model_copy(update={"execution": kept, "spec": spec}), 1000)
        for spec in (adapters.spec, drawn)
    ]
    assert sizes == [estimate.disk_bytes(prompt, 1000), estimate.disk_bytes(stage, 1000)]
    assert estimate.checkpoint_bytes(prompt, 1000) == estimate.checkpoint_bytes(probe, 1000) == 0, "of a head alone"
    seconds = [estimate.seconds(each, 1000, 100.0, known_rate=None) for each in (probe, stage)]
    assert 0 < seconds[0] < seconds[1]


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_two_checkpoints_count_under_every_zero_stage(home: Path, store: ArtifactStore, zero_stage: Any) -> None:
    stage = floor_of(study_in(home), store).model_copy(update={"execution": Execution(zero_stage=zero_stage)})
    assert estimate.checkpoint_bytes(stage, 1000) == 2 * 1000 * (4 + 8)


def test_best_weights_and_snapshots_count_as_disk_space(home: Path, store: ArtifactStore) -> None:
    def floor(**optimisation: Any) -> PlannedStage:
        return floor_of(study_in(home, optimisation=optimisation), store)

    plain, stopping, kept = floor(), floor(early_stopping={}), floor(keep_at=[0.1, 0.5])
    rounded = floor(keep_at=[0.1, 0.5], saved_precision="bf16")
    assert estimate.checkpoint_bytes(stopping, 1000) == estimate.checkpoint_bytes(plain, 1000) + 2 * 4000
    assert estimate.disk_bytes(kept, 1000) == estimate.disk_bytes(plain, 1000) + 2 * 4000
    assert estimate.disk_bytes(rounded, 1000) == estimate.disk_bytes(kept, 1000) - 3 * 2000


def test_a_plan_counts_shared_trainings(home: Path, store: ArtifactStore) -> None:
    found = planned(study_in(home), store)
    # Two chains of floor, (chain, ceiling) on m, (chain, ceiling) on l; only the confident student of l is its own.
    assert found.num_chain_stages == 10
    assert len(found.stages) == found.num_to_train == 6
    assert found.num_shared == 4
    assert {stage.level: stage.num_chains for stage in found.stages if "floor" in stage.arms} == {"s": 2}


def test_a_student_that_is_two_arms_of_its_chain_is_not_counted_as_shared(home: Path, store: ArtifactStore) -> None:
    arms = ["chain", "direct", "ceiling"]
    found = planned(study_in(home, chains=[["s", "m"]], methods={"naive": {"arms": arms}}), store)
    assert (found.num_chain_stages, found.num_shared) == (3, 0), "the first student's supervisor is level 0 either way"


def test_two_names_for_one_data_set_are_refused(home: Path, store: ArtifactStore) -> None:
    tasks = study_in(home).model_dump(mode="json", exclude_none=True)["tasks"]
    (task,) = tasks.values()
    study = study_in(home, tasks={"one": task, "other": {**task, "test_examples": 30}})
    with pytest.raises(DataError, match="tasks one and other have the same data"):
        resolve(study, store)
    resolve(study_in(home, tasks={"one": task, "other": {**task, "train_examples": 20}}), store)


def test_a_plan_has_the_needs_of_each_stage(home: Path, store: ArtifactStore) -> None:
    stages = {(stage.level, *stage.arms): stage for stage in planned(study_in(home), store).stages}
    assert stages["l", "ceiling"].num_steps == 2
    assert not any(stage.in_store for stage in stages.values())


def test_filters_reduce_the_steps_of_their_students(home: Path, store: ArtifactStore) -> None:
    transforms = [{"kind": "keep_confident", "fraction": 0.5}]
    methods = {"thin": {"arms": ["chain", "ceiling"], "labels": {"l": {"transforms": transforms}}}}
    stages = {(stage.level, *stage.arms): stage for stage in planned(study_in(home, methods=methods), store).stages}
    assert stages["l", "ceiling"].num_steps == 2 * stages["l", "chain"].num_steps == 2
    assert stages["l", "chain"].loss == "naive on weak-confident0.5" and stages["l", "ceiling"].loss == "naive"


def test_members_of_an_ensemble_are_planned_and_shared_among_chains(home: Path, store: ArtifactStore) -> None:
    study = study_in(home, methods={"many": {"supervisors": {"num": 3}}}, chains=[["s", "m", "l"], ["s", "l"]])
    found = planned(study, store)
    assert [stage.num_chains for stage in found.stages if stage.level == "s"] == [2, 2, 2]
    assert sum("member" in stage.arms for stage in found.stages) == 2


ON_ANSWERS: list[tuple[str, Any, str]] = [
    ("labels", {"l": {"transforms": [{"kind": "permute"}]}}, "methods.naive.labels.l has transforms"),
    ("supervisors", {"num": 2}, "methods.naive.supervisors.num is 2"),
    ("losses", {"l": {"kind": "kl"}}, "methods.naive.losses.l is kl"),
    ("trainable", {"l": {"kind": "probe"}}, "methods.naive.trainable.l is probe"),
]


ASKED = ("score", "likelihood", "methods.naive.score is likelihood")


@pytest.mark.parametrize(("key", "value", "message"), [*ON_ANSWERS, ASKED])
def test_methods_that_need_probabilities_are_refused_on_answers(
    home: Path, store: ArtifactStore, key: str, value: Any, message: str
) -> None:
    tasks = {"written": {"files": str(home / "rows.jsonl"), "text": "text", "answer": "label"}}
    with pytest.raises(DataError, match=message):
        planned(study_in(home, tasks=tasks, methods={"naive": {key: value}}), store)


@pytest.mark.parametrize(("key", "value", "message"), ON_ANSWERS)
def test_searched_methods_are_checked_against_the_task(
    home: Path, store: ArtifactStore, key: str, value: Any, message: str
) -> None:
    tasks = {"written": {"files": str(home / "rows.jsonl"), "text": "text", "answer": "label"}}
    search = {"space": {f"methods.naive.{key}": [{}, value]}}
    with pytest.raises(DataError, match=message) as caught:
        planned(study_in(home, tasks=tasks, methods={"naive": {}}, search=search), store)
    assert "search.space" in caught.value.hint


def pairs_in(home: Path, rest: str = "") -> dict[str, Any]:
    rows = [{"good": f"good number {n}{rest}", "bad": f"bad number {n}{rest}"} for n in range(600)]
    (home / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"two": {"files": str(home / "pairs.jsonl"), "chosen": "good", "rejected": "bad"}}


def test_a_searched_prompt_is_refused_on_pairs(home: Path, store: ArtifactStore) -> None:
    search = {"space": {"methods.naive.trainable.l": [{"kind": "all"}, {"kind": "prompt"}]}}
    with pytest.raises(DataError, match=r"methods\.naive\.trainable\.l is prompt"):
        planned(study_in(home, tasks=pairs_in(home), methods={"naive": {}}, search=search), store)


def test_pairs_are_asked_by_the_likelihood_of_completions_without_shots(home: Path, store: ArtifactStore) -> None:
    asked = {"kind": "prompt"}
    method = {"score": "likelihood", "arms": ["chain", "zero_shot"], "trainable": {"l": asked}}
    made = planned(study_in(home, tasks=pairs_in(home), methods={"naive": method}), store)
    assert {stage.level for stage in made.stages if "zero_shot" in stage.arms} == {"s", "m", "l"}
    method = {**method, "trainable": {"l": {**asked, "num_shots": 2}}}
    with pytest.raises(DataError, match=r"trainable\.l\.num_shots is 2"):
        planned(study_in(home, tasks=pairs_in(home), methods={"naive": method}), store)
    method = {"score": {"kind": "likelihood", "cue": "Q:"}}
    with pytest.raises(DataError, match=r"score\.cue is 'Q:'"):
        planned(study_in(home, tasks=pairs_in(home), methods={"naive": method}), store)


@pytest.mark.parametrize(("words", "fits"), [(40, True), (140, False)])
def test_a_completion_that_leaves_no_room_for_a_token_before_it_is_refused(
    home: Path, store: ArtifactStore, words: int, fits: bool
) -> None:
    tasks = pairs_in(home, " x y" * (words // 2))
    planned(study_in(home, tasks=tasks, methods={"naive": {}}), store)
    study = study_in(home, tasks=tasks, methods={"naive": {"score": "likelihood"}})
    if fits:
        planned(study, store)
    else:
        with pytest.raises(DataError, match=r"has \d+ tokens, and optimisation.context_tokens = 128"):
            planned(study, store)


def test_class_names_that_leave_no_room_for_a_token_before_them_are_refused(home: Path, store: ArtifactStore) -> None:
    ladder = {"s": str(home / "s"), "l": {"model": str(home / "l"), "optimisation": {"context_tokens": 1}}}
    with pytest.raises(DataError, match="context_tokens = 1"):
        planned(study_in(home, ladder=ladder, methods={"naive": {"score": "likelihood"}}), store)


@pytest.mark.parametrize("method", [{"score": "likelihood"}, {"arms": ["chain", "zero_shot"]}])
@pytest.mark.parametrize("config", [{"model_type": "roberta"}, {"model_type": "distilbert"}])
def test_an_encoder_is_refused_where_completions_are_scored(
    home: Path, store: ArtifactStore, method: dict[str, Any], config: dict[str, Any]
) -> None:
    (home / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=config["model_type"]):
        planned(study_in(home, methods={"naive": method}), store)
    planned(study_in(home, methods={"naive": {}}), store)


def test_a_decoder_of_an_encoders_type_is_a_language_model(home: Path, store: ArtifactStore) -> None:
    (home / "m" / "config.json").write_text('{"model_type": "roberta", "is_decoder": true}')
    planned(study_in(home, methods={"naive": {"score": "likelihood"}}), store)


def test_more_neighbours_than_examples_of_other_groups_are_refused_before_training(
    home: Path, store: ArtifactStore
) -> None:
    rows = [{"text": f"line {n}", "label": "ab"[n % 2], "passage": f"p{n // 40}"} for n in range(1600)]
    (home / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"files": str(home / "passages.jsonl"), "text": "text", "label": "label", "group": "passage"}

    def plan_with(*ks: int) -> None:
        values = [[{"kind": "knn", "mode": "filter", "fraction": 0.5, "k": k}] for k in ks]
        methods = {"naive": {"labels": {"l": {"transforms": values[0]}}}}
        search = {"space": {"methods.naive.labels.l.transforms": values}} if len(ks) > 1 else None
        planned(study_in(home, tasks={"passages": source}, methods=methods, search=search), store)

    with pytest.raises(DataError, match=r"labels\.l\.transforms\.0\.k = 63 must be at most \d+") as caught:
        plan_with(63)
    most = int(caught.value.message.split("at most ")[1].split(",")[0])
    assert 30 < most < 63, "all but the largest passage's share of 64"
    plan_with(most)
    plan_with(1, most)
    with pytest.raises(DataError, match=f"k = {most + 1} must be at most {most}"):
        plan_with(1, most + 1)


def finish(stage: PlannedStage, store: ArtifactStore, **metrics: float) -> Record:
    """Put a stage into the store as if it had been trained."""
    store.begin("stage", stage.spec.slug, stage.identity)
    return store.commit(
        kind="stage", slug=stage.spec.slug, spec=stage.spec, identity=stage.identity, parents=(), metrics=metrics
    )


def floor_of(study: Study, store: ArtifactStore) -> PlannedStage:
    stages = distinct_stages(compile_study(study, resolve(study, store))).values()
    return next(stage for stage in stages if stage.arm == "floor")


def test_a_finished_stage_is_in_the_store_and_needs_no_time(home: Path, store: ArtifactStore) -> None:
    study = study_in(home)
    before = planned(study, store)
    floor = floor_of(study, store)
    finish(floor, store)
    after = planned(study, store)
    assert after.num_to_train == before.num_to_train - 1
    row = next(stage for stage in after.stages if stage.identity == floor.identity)
    assert row.in_store and row.missing_predictions == len(floor.predicts) > 0
    assert after.seconds is not None and before.seconds is not None and after.seconds < before.seconds


def test_the_estimate_uses_the_measured_rate_of_the_same_model(home: Path, store: ArtifactStore) -> None:
    study = study_in(home)
    floor = floor_of(study, store)
    finish(floor, store, tokens_per_second=0.5)
    another_seed = study_in(home, seeds=[1])
    stage = next(stage for stage in planned(another_seed, store).stages if "floor" in stage.arms)
    expected = estimate.seconds(floor_of(another_seed, store), 1, _chars(home), known_rate=0.5)
    assert stage.seconds == pytest.approx(expected + estimate.overhead_seconds(NUM_PARAMETERS))


def test_a_probes_rate_is_not_used_for_a_training_of_all_weights(home: Path, store: ArtifactStore) -> None:
    floor = floor_of(study_in(home), store)
    probe = floor.model_copy(update={"spec": floor.spec.model_copy(update={"trainable": Probe()}), "predicts": ()})
    finish(probe, store, tokens_per_second=0.5)
    finish(floor, store, tokens_per_second=0.25)
    rates = estimate.rates_by_model(store.records())
    assert [estimate.rate_of(stage, rates) for stage in (probe, floor)] == [0.5, 0.25]
    tokens = estimate.train_tokens(probe, 100.0) + estimate.validation_tokens(probe, 100.0)
    assert estimate.seconds(probe, 1, 100.0, known_rate=0.5) == pytest.approx(tokens / 0.5)
    other = probe.model_copy(update={"spec": probe.spec.model_copy(update={"init_seed": 1})})
    finish(other, store, tokens_per_second=9.0, read_tokens=30.0, read_seconds=20.0)
    assert estimate.rates_by_model(store.records())[probe.spec.starts_from.name, "probe"] == (0.5 + 1.5) / 2
    prompt = floor.model_copy(update={"spec": floor.spec.model_copy(update={"trainable": Prompt()})})
    assert estimate.rate_of(prompt, rates) == 0.25


def test_artifacts_of_other_library_versions_are_flagged(
    home: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_in(home)
    finish(floor_of(study, store), store)
    now = {name: version.partition("+")[0] for name, version in package_versions().items()}
    monkeypatch.setattr("w2s_ray.planning.plan.package_versions", lambda: {**now, "torch": "9.9", "w2s_ray": "9.9"})
    stage = next(stage for stage in planned(study, store).stages if stage.in_store)
    assert [change.split()[0] for change in stage.other_versions] == ["torch"]
    assert stage.other_versions[0].endswith("→ 9.9")


@pytest.mark.parametrize(
    "changes",
    [
        {"optimisation": {"dropout": 0.1}},
        {"methods": {"m": {"trainable": {"l": {"kind": "lora", "dropout": 0.1}}}}},
        {"methods": {"m": {"generative": {"l": {"dropout": 0.1}}}}},
        {"search": {"space": {"ladder.l.optimisation.dropout": [0.0, 0.1]}}},
        {"search": {"space": {"methods.naive.trainable.l": [{"kind": "all"}, {"kind": "lora", "dropout": 0.1}]}}},
        {
            "search": {
                "space": {"ladder.l.optimisation.dropout": {"low": 0.0, "high": 0.1}},
                "sampler": "tpe",
                "num_samples": 2,
                "choose_by": "agreement",
            }
        },
    ],
)
def test_a_plan_mentions_dropout_wherever_it_is_set(home: Path, store: ArtifactStore, changes: dict[str, Any]) -> None:
    assert planned(study_in(home, **changes), store).dropout


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"methods": {"m": {"trainable": {"l": {"kind": "lora"}}, "generative": {"l": {}}}}},
        {"search": {"space": {"ladder.l.optimisation.learning_rate": [1e-4, 2e-4]}}},
    ],
)
def test_a_plan_without_dropout_does_not_mention_it(home: Path, store: ArtifactStore, changes: dict[str, Any]) -> None:
    assert not planned(study_in(home, **changes), store).dropout


def test_a_plan_estimates_how_many_shots_fit(home: Path, store: ArtifactStore) -> None:
    """A text has about seven tokens, cue and class name as many, and so a shot about fifteen."""
    trainable = {"l": {"kind": "prompt", "num_shots": 5}}
    lines = {}
    for context in (40, 256):
        own = {"trainable": trainable, "optimisation": {"l": {"context_tokens": context}}}
        ladder = {"s": "w2s:small", "l": "w2s:large"}
        notices = planned(study_in(home, ladder=ladder, methods={"shots": own}), store).notices
        lines[context] = [line for line in notices if "shots" in line]
    (line,) = lines[40]
    assert line.startswith("task rows, level l: of 5 shots in 40 tokens about 1 fit") and lines[256] == []


def test_a_plan_counts_the_chains_that_a_search_will_choose(home: Path, store: ArtifactStore) -> None:
    rates = [1e-4, 2e-4, 3e-4, 4e-4]
    search = {"space": {"optimisation.learning_rate": rates}, "choose_by": "oracle", "num_winners": 2}
    found = planned(study_in(home, search=search, seeds=[0, 1]), store)
    assert (len(found.chains), found.num_chains_at_most) == (4 * 2, 4 * 2 + 2 * 2 * 2)
    assert any("oracle" in line for line in found.notices)
    listed = planned(study_in(home, search={"space": {"optimisation.learning_rate": rates}}), store)
    assert len(listed.chains) == listed.num_chains_at_most == 4 * 2


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_plan_estimates_what_a_search_will_add(home: Path, store: ArtifactStore, sampler: str) -> None:
    rates = {"low": 1e-4, "high": 1e-2}
    search = {"space": {"optimisation.learning_rate": rates}, "sampler": sampler, "num_samples": 20}
    methods = {"naive": {"arms": ["chain", "ceiling"]}}
    study = study_in(home, methods=methods, search={**search, "choose_by": "oracle", "num_winners": 2}, seeds=[0, 1])
    found = planned(study, store)
    assert found.to_come is not None and found.to_come.seconds is not None
    per_chain = len(found.stages) // 20 if sampler == "random" else 5
    num_candidates = 20 if sampler == "tpe" else 0
    assert found.to_come.num_candidates == num_candidates
    assert found.to_come.num_stages == per_chain * (num_candidates + 2 * 2)
    start = estimate.RUN_SECONDS if sampler == "tpe" else 0.0
    assert found.to_come.seconds > start + 4 * per_chain * estimate.STAGE_SECONDS


def test_shared_stages_of_drawn_candidates_are_counted_once(home: Path, store: ArtifactStore) -> None:
    space = {"methods.half.losses.l.alpha_max": {"low": 0.1, "high": 0.9}}
    methods = {"half": {"arms": ["chain"], "losses": {"l": {"kind": "confidence"}}}}
    search = {"space": space, "sampler": "tpe", "num_samples": 30, "choose_by": "oracle"}
    to_come = planned(study_in(home, methods=methods, search=search), store).to_come
    assert to_come is not None
    assert to_come.num_stages == (2 + 30) + (2 + 1), "floor, the student of m, and a student of l for each point"


def test_a_plan_counts_start_up_evaluation_and_labelling(home: Path, store: ArtifactStore) -> None:
    study = study_in(home)
    found = planned(study, store)
    stages = distinct_stages(compile_study(study, resolve(study, store)))
    work = sum(stage.seconds or 0.0 for stage in found.stages)
    start = estimate.RUN_SECONDS + 2 * estimate.GROUP_SECONDS
    assert found.seconds == pytest.approx(work + start), "two sizes of worker groups"
    assert found.seconds > start + len(stages) * estimate.STAGE_SECONDS
    floor = floor_of(study, store)
    trained = floor.model_copy(update={"predicts": (), "spec": floor.spec.model_copy(update={"validation": None})})
    assert estimate.seconds(trained, 1000, 100.0, None) < estimate.seconds(floor, 1000, 100.0, None)
    for stage in stages.values():
        finish(stage, store)
    labelling = planned(study, store)
    assert labelling.num_to_train == 0 and labelling.seconds is not None and labelling.seconds > start


def test_the_rows_of_a_sweep_have_their_values(home: Path, store: ArtifactStore) -> None:
    space = {"ladder.l.optimisation.learning_rate": [1e-4, 1e-3], "methods.half.losses.l.alpha_max": [0.2, 0.8]}
    study = study_in(home, methods={"half": {"losses": {"l": {"kind": "confidence"}}}}, search={"space": space})
    found = planned(study, store)
    points = {
        arm: sorted(stage.point for stage in found.stages if stage.arms == (arm,)) for arm in ("floor", "ceiling")
    }
    assert points["floor"] == [""]
    assert points["ceiling"] == ["", "learning_rate 0.0001", "learning_rate 0.001"], "of m, and of l without a loss"
    assert len({stage.point for stage in found.stages}) == 1 + 2 + 4
    assert {chain.point for chain in found.chains} == {stage.point for stage in found.stages if "alpha" in stage.point}


def test_planning_is_repeatable(home: Path, store: ArtifactStore) -> None:
    assert planned(study_in(home), store) == planned(study_in(home), store)


def test_a_plan_survives_json(home: Path, store: ArtifactStore) -> None:
    found = planned(study_in(home), store)
    assert Plan.model_validate_json(found.model_dump_json()) == found


def test_steps_of_pretraining_follow_from_the_length_of_its_text(store: ArtifactStore, home: Path) -> None:
    stage = floor_of(study_in(home), store)
    text = stage.model_copy(update={"spec": stage.spec.model_copy(update={"objective": "next_token"})})
    steps = estimate.num_steps(text, chars_per_example=128 * estimate.CHARS_PER_TOKEN * 10)
    assert steps == 64 * 10 / stage.spec.optimisation.examples_per_step


# Resolving.


def test_a_resolution_is_locked_in_the_store(home: Path, store: ArtifactStore) -> None:
    study = study_in(home)
    resolution = resolve(study, store)
    assert (store.study_folder("planned") / LOCK_NAME).is_file()
    (home / "rows.jsonl").unlink()
    shutil.rmtree(home / "s")
    assert locked(study, store) == resolution


def test_the_lock_has_the_cue_and_the_form_of_known_tasks(home: Path, store: ArtifactStore) -> None:
    tweets = [{"text": f"tweet {n}", "label": n % 2} for n in range(600)]
    goals = [{"goal": f"Goal {n}", "sol1": f"Do {n}.", "sol2": f"Leave {n}.", "label": n % 2} for n in range(600)]
    for name, rows in (("tweets", tweets), ("goals", goals)):
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = {
        "tweets": {"builtin": "twitter_sentiment", "files": str(home / "tweets.jsonl")},
        "goals": {"builtin": "piqa", "files": str(home / "goals.jsonl"), "form": "pairs"},
    }
    resolved = resolve(study_in(home, tasks=tasks), store).tasks
    assert [(resolved[name].kind, resolved[name].cue) for name in tasks] == [
        ("classes", "\nSentiment:"),
        ("pairs", "\nAnswer:"),
    ]


def test_plan_and_lock_show_the_sizes_of_every_split(home: Path, store: ArtifactStore) -> None:
    splits = {"S": 20, "T": 40, "validation_examples": 16}
    search = {"space": {"splits.T": [30, 60]}}
    study = study_in(home, splits=splits, search=search)
    sizes = {"S": 20, "T": 60, "V": 16, "balance": True}
    assert planned(study, store).tasks["rows"].model_dump()["sizes"] == sizes, "of the largest point"
    lock = yaml.safe_load((store.study_folder("planned") / LOCK_NAME).read_text())
    assert lock["resolution"]["tasks"]["rows"]["sizes"] == sizes


@pytest.mark.parametrize(("key", "slot"), [("S", "S"), ("T", "T1")])
def test_a_size_above_its_slot_is_refused(home: Path, store: ArtifactStore, key: str, slot: str) -> None:
    study = study_in(home, splits={"train_examples": 20, key: 400, "validation_examples": 16})
    with pytest.raises(DataError) as refused:
        resolve(study, store)
    assert f"task rows: {slot} (seed 0) needs 400 balanced examples" in refused.value.message
    assert f"splits.{key} to at most" in refused.value.hint


def test_a_lock_of_another_study_file_is_ignored(home: Path, store: ArtifactStore) -> None:
    resolve(study_in(home), store)
    changed = study_in(home, splits={"train_examples": 32, "validation_examples": 16})
    (home / "rows.jsonl").unlink()
    with pytest.raises(DataError):
        locked(changed, store)


def test_a_damaged_lock_is_replaced(home: Path, store: ArtifactStore) -> None:
    study = study_in(home)
    resolution = resolve(study, store)
    (store.study_folder("planned") / LOCK_NAME).write_text("sources: [")
    assert locked(study, store) == resolution


def test_a_run_replaces_the_lock_when_data_has_changed(home: Path, store: ArtifactStore) -> None:
    study = study_in(home)
    before = resolve(study, store)
    (home / "rows.jsonl").write_text((home / "rows.jsonl").read_text() + '{"text": "one more", "label": "a"}\n')
    after = resolve(study, store)
    assert after.tasks["rows"].fingerprint != before.tasks["rows"].fingerprint
    assert locked(study, store) == before, "what ran learnt from the data as it was"
    save_study(study, after, store)
    assert locked(study, store) == after


def hub_study(home: Path) -> Study:
    study = study_in(home)
    level = study.ladder["s"].model_copy(update={"model": "owner/name"})
    return study.model_copy(update={"ladder": {**study.ladder, "s": level}})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, with the hub away."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "cache" / "models--owner--name"
    (root / "refs").mkdir(parents=True)
    return root


def put(cache: Path, home: Path, commit: str) -> None:
    """Let the hub's main branch, as far as it is cached, be `commit`."""
    (cache / "refs" / "main").write_text(commit)
    shutil.copytree(home / "s", cache / "snapshots" / commit)


def test_a_hub_model_keeps_its_locked_commit(home: Path, store: ArtifactStore, cache: Path) -> None:
    put(cache, home, "first")
    assert resolve(hub_study(home), store).models["s"].revision == "first"
    put(cache, home, "second")
    assert resolve(hub_study(home), store).models["s"].revision == "first"
    assert resolve(hub_study(home).model_copy(update={"name": "new"}), store).models["s"].revision == "second"


def test_unresolved_files_are_listed_and_nothing_is_locked(home: Path, store: ArtifactStore, cache: Path) -> None:
    study = hub_study(home)
    found = planned(study, store)
    assert found.unresolved == ("owner/name/tokenizer.json", "owner/name/config.json", "owner/name/model.safetensors")
    assert len(found.stages) == 6
    assert found.seconds is None and found.disk_bytes is None
    assert not (store.study_folder("planned") / LOCK_NAME).exists()


def test_the_error_of_a_model_names_its_level_and_every_method_counts(home: Path, store: ArtifactStore) -> None:
    (home / "l" / "config.json").write_text('{"model_type": "llama"}')
    ladder = {"s": {"model": str(home / "s")}, "l": {"model": str(home / "l"), "execution": {"attention": "varlen"}}}
    methods = {"naive": {}, "noisy": {"optimisation": {"l": {"dropout": 0.25}}}}
    with pytest.raises(ModelError, match=r"level l: .*0\.25"):
        resolve(study_in(home, ladder=ladder, methods=methods), store)


def test_a_study_with_unresolved_files_cannot_run(home: Path, store: ArtifactStore, cache: Path) -> None:
    with pytest.raises(ModelError, match=r"owner/name/config\.json") as caught:
        resolve_whole(hub_study(home), store)
    reason = f"no folder owner/name in {Path.cwd()}"
    assert reason in caught.value.hint
    assert any(reason in notice for notice in planned(hub_study(home), store).notices)


def test_a_hub_data_set_that_cannot_be_reached_is_listed(home: Path, store: ArtifactStore, cache: Path) -> None:
    tasks = {"far": {"hub": "owner/data", "text": "text", "label": "label"}}
    found = planned(study_in(home, tasks=tasks), store)
    assert found.unresolved == ("datasets/owner/data@main",)


def test_a_known_data_set_that_cannot_be_reached_is_listed_with_its_branch(
    home: Path, store: ArtifactStore, cache: Path
) -> None:
    found = planned(study_in(home, tasks={"reviews": {"builtin": "sst2"}}), store)
    assert found.unresolved == ("datasets/stanfordnlp/sst2@refs/convert/parquet",)
    assert len(found.stages) == 6


def test_a_known_data_set_keeps_its_locked_commit(
    home: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = {"commit": "a" * 40}
    read: list[str] = []

    def load_dataset(path: str, *, data_files: dict[str, str], split: str) -> list[dict[str, object]]:
        read.append(data_files[split])
        return [{"text": f"tweet number {n} {read[-1]}", "label": n % 2} for n in range(600)]

    monkeypatch.setattr(hub, "look_up", lambda name, revision, repo_type: HubRepo(newest["commit"], (), None))
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    study = study_in(home, tasks={"tweets": {"builtin": "twitter_sentiment"}})
    first = resolve(study, store)
    assert first.tasks["tweets"].revision == f"refs/convert/parquet@{'a' * 40}"
    newest["commit"] = "b" * 40
    shutil.rmtree(store.root / "data")
    assert resolve(study, store) == first, "what the store lost is read again at the locked commit"
    assert {file.partition("@")[2][:40] for file in read} == {"a" * 40}
    other = resolve(study.model_copy(update={"name": "new"}), store)
    assert other.tasks["tweets"].fingerprint != first.tasks["tweets"].fingerprint


def test_a_plan_lists_the_rows_that_are_left_out(home: Path, store: ArtifactStore) -> None:
    with (home / "rows.jsonl").open("a") as file:
        file.write('{"text": " ", "label": 1}\n')
    (notice,) = planned(study_in(home), store).notices
    assert "1 row left out, no text (row " in notice


def test_reading_a_study_whose_data_has_changed_keeps_its_lock(home: Path, store: ArtifactStore) -> None:
    study = study_in(home)
    before = resolve(study, store)
    (home / "rows.jsonl").write_text((home / "rows.jsonl").read_text() + '{"text": "one more", "label": "a"}\n')
    after = resolve(study, store)
    assert after.tasks != before.tasks, "the plan is for the data as it is now"
    assert locked(study, store) == before, "and what was trained is still found"


def test_the_lock_is_plain_yaml(home: Path, store: ArtifactStore) -> None:
    resolution = resolve(study_in(home), store)
    lock = yaml.safe_load((store.study_folder("planned") / LOCK_NAME).read_text())
    assert lock["resolution"]["models"]["s"]["revision"] == resolution.models["s"].revision


def _chars(home: Path) -> float:
    texts = [json.loads(line)["text"] for line in (home / "rows.jsonl").read_text().splitlines()]
    return sum(map(len, texts)) / len(texts)


def test_an_objective_that_does_not_fit_the_task_is_refused(home: Path, store: ArtifactStore) -> None:
    study = study_in(home, chains=[["s", "l"]], methods={"read": {"objective": "next_token"}})
    with pytest.raises(DataError, match=r"methods\.read\.objective is next_token, but task rows has labels"):
        resolve(study, store)


def test_a_loss_for_two_classes_is_refused_on_a_task_of_three(home: Path, store: ArtifactStore) -> None:
    rows = [{"text": f"sentence number {number}", "label": "abc"[number % 3]} for number in range(900)]
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(StudyError, match=r"half.losses.l = confidence0.5 .* task rows has 3"):
        resolve(study_in(home), store)
    space = {"search": {"space": {"methods.half.losses.l.prior": ["argmax", "weak"]}}}
    argmax = {"half": {"losses": {"l": {"kind": "confidence", "prior": "argmax"}}}}
    with pytest.raises(StudyError, match=r"confidence0.5-weak .* task rows has 3"):
        resolve(study_in(home, methods=argmax, **space), store)
    assert resolve(study_in(home, methods=argmax), store).tasks["rows"].num_classes == 3


def test_the_papers_study_is_planned_offline_with_a_list_of_downloads(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    study = load_study(Path(__file__).parents[2] / "tune_configs" / "paper_nlp.yaml")
    found = planned(study, store)
    assert len(found.chains) == len(study.tasks) * len(study.seeds) * len(study.methods)
    assert {stage.task for stage in found.stages} == set(study.tasks)
    assert {arm for stage in found.stages for arm in stage.arms} >= {
        "generative",
        "truth_chain",
        "full_ceiling",
        "self",
    }
    for level in study.ladder.values():
        assert any(level.model in file for file in found.unresolved)
    assert any("super_glue" in file or "superglue" in file for file in found.unresolved), found.unresolved


def test_contexts_longer_than_the_model_are_refused(store: ArtifactStore) -> None:
    reading = {"large": {"context_tokens": 512}}
    raw = {
        "name": "reading",
        "tasks": {"c": {"builtin": "code_continuation"}},
        "ladder": {"small": "w2s:small", "large": "w2s:large"},
        "methods": {"m": {"arms": ["chain", "ceiling"], "generative": reading}},
    }
    with pytest.raises(ModelError, match="context_tokens is 512, and w2s:large has 256 positions"):
        resolve(parse_study(raw), store)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"ladder.large.optimisation.context_tokens": [128, 100_000]}}, "context_tokens is 100000"),
        (
            {
                "space": {"optimisation.context_tokens": {"low": 64, "high": 512, "integer": True}},
                "sampler": "random",
                "num_samples": 2,
            },
            "context_tokens is 512",
        ),
        ({"space": {"methods.m.generative.large": [{"context_tokens": 300}]}}, "context_tokens is 300"),
        ({"space": {"methods.m.trainable.large": [{"kind": "lora", "targets": ["c_attn"]}]}}, "'c_attn'"),
    ],
)
def test_searched_contexts_are_checked_against_the_model(
    store: ArtifactStore, changes: dict[str, Any], message: str
) -> None:
    raw = {
        "name": "searched",
        "tasks": {"c": {"builtin": "code_continuation"}},
        "ladder": {"small": "w2s:small", "large": "w2s:large"},
        "methods": {"m": {}},
        "search": changes,
    }
    with pytest.raises(ModelError, match=message):
        resolve(parse_study(raw), store)


@pytest.mark.parametrize("target", ["c_attn", "embed_tokens", "input_layernorm"])
def test_lora_targets_that_are_no_linear_layers_are_refused(store: ArtifactStore, target: str) -> None:
    raw = {
        "name": "targets",
        "tasks": {"c": {"builtin": "code_continuation"}},
        "ladder": {"small": "w2s:small", "large": "w2s:large"},
        "methods": {"m": {"trainable": {"large": {"kind": "lora", "targets": ["q_proj", target]}}}},
    }
    with pytest.raises(ModelError, match=f"'{target}'") as caught:
        resolve(parse_study(raw), store)
    assert "q_proj" in caught.value.hint and target not in caught.value.hint


def test_the_epochs_of_a_probe_cost_one_pass_without_dropout(home: Path, store: ArtifactStore) -> None:
    def cost(epochs: float, **changes: Any) -> tuple[float, float]:
        floor = floor_of(study_in(home, optimisation={"epochs": epochs, **changes}), store)
        probe = floor.model_copy(update={"spec": floor.spec.model_copy(update={"trainable": Probe()})})
        return estimate.seconds(probe, 1000, 100.0, known_rate=None), work_of(probe)

    assert cost(10.0) == cost(1.0)
    ten, one = cost(10.0, dropout=0.1), cost(1.0, dropout=0.1)
    assert ten[0] > 3 * one[0] and ten[1] == 10 * one[1]
