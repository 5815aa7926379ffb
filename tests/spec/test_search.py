"""The search: its points, its candidates and winners, and the variants of a study that it makes."""

from typing import Any

import pytest

from tests.scheduling.studies import chains_of, resolution_of, small_study
from w2s_ray.errors import StudyError
from w2s_ray.spec.chain import distinct_stages
from w2s_ray.spec.compile import CandidateCompiler, compile_study
from w2s_ray.spec.points import at, executions, notices, optimisation_keys
from w2s_ray.spec.search import Candidate, Point, Range, SearchResult, SearchSpec, best, chosen, distributions
from w2s_ray.spec.study import Study

RATE = "ladder.l.optimisation.learning_rate"
ALPHA = "methods.half.losses.l.alpha_max"


def searching(space: dict[str, Any], changes: dict[str, Any] | None = None, **search: Any) -> Study:
    return small_study(**{"methods": {"naive": {}}, **(changes or {}), "search": {"space": space, **search}})


def test_a_grid_is_every_combination_and_each_point_has_its_chains() -> None:
    study = searching({RATE: [1e-4, 2e-4], "splits.train_examples": [50, 100]}, {"seeds": [0, 1]})
    chains = chains_of(study)
    assert len(chains) == 2 * 2 * 2
    assert len({chain.name for chain in chains}) == len(chains)
    rates = {chain.stages[-1].spec.optimisation.learning_rate for chain in chains}
    sizes = {chain.stages[-1].spec.train[0].split.num_examples for chain in chains}
    assert (rates, sizes) == ({1e-4, 2e-4}, {50, 100})


def test_sizes_are_searched_by_level_where_a_task_has_none_of_its_own() -> None:
    chains = chains_of(searching({"splits.S": [30, 60], "splits.T": [100, 200]}))
    sizes = {tuple(stage.spec.train[0].split.num_examples for stage in chain.stages) for chain in chains}
    assert sizes == {(30, 100, 100), (30, 200, 200), (60, 100, 100), (60, 200, 200)}
    own = {"tasks": {"t": {"builtin": "code_continuation", "T": 50}}}
    assert searching({"splits.train_examples": [30, 60]}, own)
    for key in ("splits.T", "splits.train_examples"):
        with pytest.raises(StudyError, match=f"{key} has no effect"):
            searching({key: [30, 60]}, {**own, "splits": {"S": 20}})


def test_points_share_every_stage_that_their_settings_do_not_change() -> None:
    study = searching({ALPHA: [0.1, 0.2, 0.3]}, {"methods": {"half": {"losses": {"l": {"kind": "confidence"}}}}})
    assert len(distinct_stages(chains_of(study))) == 2 + 3, "one floor, one ceiling, three students"


def test_a_search_over_execution_shares_stages_and_gives_a_notice() -> None:
    study = searching({"ladder.l.execution.workers": [1, 2]})
    assert len(distinct_stages(chains_of(study))) == 3, "its values share their stages"
    assert "ladder.l.execution.workers" in notices(study)[0]
    assert {execution.workers for name, execution in executions(study) if name == "l"} == {1, 2}


def test_a_key_at_the_top_of_a_study_applies_to_every_level() -> None:
    study = at(small_study(), Point.of({"optimisation.learning_rate": 0.123}))
    assert {level.optimisation.learning_rate for level in study.ladder.values()} == {0.123}


def test_keys_with_dotted_names_can_be_searched() -> None:
    rate, alpha = "ladder.big-1.4b.optimisation.learning_rate", "methods.v1.5.losses.big-1.4b.alpha_max"
    changes = {
        "ladder": {"s": {"model": "w2s:small"}, "big-1.4b": {"model": "w2s:large"}},
        "methods": {"v1.5": {"losses": {"big-1.4b": {"kind": "confidence"}}}},
    }
    study = searching({rate: [1e-4, 2e-4], alpha: [0.1, 0.2]}, changes)
    students = [stage.spec for chain in chains_of(study) for stage in chain.stages if stage.arm == "chain"]
    assert {spec.optimisation.learning_rate for spec in students} == {1e-4, 2e-4}
    assert {spec.loss.label for spec in students} == {"confidence0.1", "confidence0.2"}
    judged = searching({rate: [1e-4, 2e-4]}, changes, choose_by="agreement")
    assert optimisation_keys(judged) == {rate: (rate, "big-1.4b")}


def test_random_points_depend_only_on_the_seed_and_stay_in_their_ranges() -> None:
    space = {
        RATE: {"low": 1e-5, "high": 1e-2, "log": True},
        "splits.train_examples": {"low": 10, "high": 90, "integer": True},
    }
    search = searching(space, sampler="random", num_samples=20).search
    other = searching(space, sampler="random", num_samples=20, seed=1).search
    assert search is not None and other is not None
    assert search.points() == search.points() != other.points()
    for point in search.points():
        values = point.values
        assert 1e-5 <= values[RATE] <= 1e-2
        assert isinstance(values["splits.train_examples"], int)


def test_searched_chains_train_the_last_student_on_the_same_examples() -> None:
    ladder = {name: {"model": f"w2s:{name}"} for name in ("s", "m", "k", "l")}
    study = searching({"chains": [[["s", "l"]], [["s", "m", "l"]], [["s", "m", "k", "l"]]]}, {"ladder": ladder})
    chains = chains_of(study)
    last = [chain.find("chain", "l") for chain in chains]
    assert len({student.spec.train[0].split for student in last if student is not None}) == 1
    every = small_study(ladder=ladder, methods={"naive": {}}, chains="all")
    assert every.paths == (("s", "l"), ("s", "m", "l"), ("s", "k", "l"), ("s", "m", "k", "l"))


def test_trap_14_candidates_never_see_the_test_set_and_use_their_own_seeds() -> None:
    study = searching({RATE: [1e-4, 2e-4]}, {"seeds": [0, 1]}, choose_by="agreement", seeds=[7])
    resolution = resolution_of(study)
    assert compile_study(study, resolution) == (), "nothing is judged on the test set before the search is through"
    search = study.search
    assert search is not None
    chains = CandidateCompiler(study, resolution).chains(search.points()[0])
    assert {chain.seed for chain in chains} == {7}
    splits = {prediction.split.name for chain in chains for stage in chain.stages for prediction in stage.predicts}
    assert splits == {"T1", "V1"}
    student = chains[0].find("chain", "l")
    assert student is not None
    assert [prediction.split.name for prediction in student.predicts] == ["V1"]


def test_winners_run_on_the_studys_seeds_with_the_best_ceilings_settings() -> None:
    study = searching({RATE: [1e-4, 2e-4, 3e-4]}, {"seeds": [0, 1]}, choose_by="agreement", seeds=[7])
    low, middle, high = (Point.of({RATE: value}) for value in (1e-4, 2e-4, 3e-4))
    judged = (
        Candidate(point=low, status="done", score=0.6, ceilings={"l": 0.7}),
        Candidate(point=middle, status="done", score=0.8, ceilings={"l": 0.75}),
        Candidate(point=high, status="done", score=0.7, ceilings={"l": 0.9}),
    )
    assert study.search is not None
    winners = best(judged, study.search)
    assert winners == (middle,)
    chains = compile_study(study, resolution_of(study), SearchResult(candidates=judged, winners=winners))
    assert {chain.seed for chain in chains} == {0, 1}
    student, ceiling = chains[0].find("chain", "l"), chains[0].find("ceiling", "l")
    assert student is not None and ceiling is not None
    assert student.spec.optimisation.learning_rate == 2e-4
    assert ceiling.spec.optimisation.learning_rate == 3e-4, "chosen by its own labels"
    assert student.test_prediction is not None


def test_each_winners_chain_makes_all_that_its_stages_require() -> None:
    methods = {"dpo": {"score": {"kind": "likelihood", "reference": True}}}
    study = searching({RATE: [1e-4, 2e-4, 3e-4]}, {"methods": methods}, choose_by="agreement", num_winners=2, seeds=[7])
    points = [Point.of({RATE: value}) for value in (1e-4, 2e-4, 3e-4)]
    judged = tuple(
        Candidate(point=point, status="done", score=score, ceilings={"l": ceiling})
        for point, score, ceiling in zip(points, (0.8, 0.7, 0.6), (0.5, 0.6, 0.9), strict=True)
    )
    for chain in compile_study(study, resolution_of(study), SearchResult(candidates=judged, winners=tuple(points[:2]))):
        products = {identity for stage in chain.stages for identity in stage.products}
        assert all(stage.requires <= products for stage in chain.stages)


def test_each_level_of_ceilings_gets_its_own_best_setting() -> None:
    rate = "optimisation.learning_rate"
    ladder = {"s": {"model": "w2s:small"}, "m": {"model": "w2s:medium"}, "l": {"model": "w2s:large"}}
    study = searching({rate: [1e-4, 2e-4, 3e-4]}, {"ladder": ladder}, choose_by="oracle", seeds=[7])
    low, middle, high = (Point.of({rate: value}) for value in (1e-4, 2e-4, 3e-4))
    judged = (
        Candidate(point=low, status="done", score=0.6, ceilings={"m": 0.8, "l": 0.7}),
        Candidate(point=middle, status="done", score=0.8, ceilings={"m": 0.7, "l": 0.75}),
        Candidate(point=high, status="done", score=0.7, ceilings={"m": 0.6, "l": 0.9}),
    )
    (chain,) = compile_study(study, resolution_of(study), SearchResult(candidates=judged, winners=(middle,)))
    rates = {(stage.arm, stage.level): stage.spec.optimisation.learning_rate for stage in chain.stages}
    students = {("floor", "s"): 2e-4, ("chain", "m"): 2e-4, ("chain", "l"): 2e-4}
    assert rates == {**students, ("ceiling", "m"): 1e-4, ("ceiling", "l"): 3e-4}


def test_candidates_run_on_development_tasks_and_winners_on_the_others() -> None:
    tasks = {"code": {"builtin": "code_continuation"}, "hard": {"builtin": "code_continuation_hard"}}
    study = searching(
        {ALPHA: [0.1, 0.9]},
        {"tasks": tasks, "methods": {"half": {"losses": {"l": {"kind": "confidence"}}}}},
        choose_by="development_tasks",
        development_tasks=["hard"],
    )
    resolution = resolution_of(study)
    point = Point.of({ALPHA: 0.1})
    assert {chain.task for chain in CandidateCompiler(study, resolution).chains(point)} == {"hard"}
    result = SearchResult(candidates=(), winners=(point,))
    assert {chain.task for chain in compile_study(study, resolution, result)} == {"code"}


def test_a_method_can_be_for_some_development_tasks_or_some_others() -> None:
    tasks = {"code": {"builtin": "code_continuation"}, "hard": {"builtin": "code_continuation_hard"}}
    study = searching(
        {RATE: [1e-4]},
        {"tasks": tasks, "methods": {"naive": {}, "only": {"tasks": ["code"]}, "other": {"tasks": ["hard"]}}},
        choose_by="development_tasks",
        development_tasks=["hard"],
    )
    resolution, point = resolution_of(study), Point.of({RATE: 1e-4})
    judged = CandidateCompiler(study, resolution).chains(point)
    assert {(chain.task, chain.method) for chain in judged} == {("hard", "naive"), ("hard", "other")}
    run = compile_study(study, resolution, SearchResult(candidates=(), winners=(point,)))
    assert {(chain.task, chain.method) for chain in run} == {("code", "naive"), ("code", "only")}


def test_development_tasks_without_a_method_are_refused() -> None:
    tasks = {"code": {"builtin": "code_continuation"}, "hard": {"builtin": "code_continuation_hard"}}
    changes = {"tasks": tasks, "methods": {"only": {"tasks": ["code"]}}}
    with pytest.raises(StudyError, match="development_tasks hard"):
        searching({RATE: [1e-4]}, changes, choose_by="development_tasks", development_tasks=["hard"])


def test_tasks_for_winners_without_a_method_are_refused() -> None:
    tasks = {"code": {"builtin": "code_continuation"}, "hard": {"builtin": "code_continuation_hard"}}
    changes = {"tasks": tasks, "methods": {"only": {"tasks": ["hard"]}}}
    with pytest.raises(StudyError, match=r"no method .* code"):
        searching({RATE: [1e-4]}, changes, choose_by="development_tasks", development_tasks=["hard"])


def test_sizes_that_every_task_sets_itself_are_not_searched() -> None:
    tasks = {"code": {"builtin": "code_continuation", "train_examples": 100}}
    with pytest.raises(StudyError, match="train_examples has no effect"):
        searching({"splits.train_examples": [50, 60]}, {"tasks": tasks})
    searching({"splits.validation_examples": [50, 60]}, {"tasks": tasks})


def test_declared_comparisons_exclude_searched_chains() -> None:
    pair = {"first": "half", "second": "half/ceiling", "by": "accuracy"}
    changes = {**LOSSES, "report": {"compare": [pair]}}
    with pytest.raises(StudyError, match=r"search.space.chains and report.compare"):
        searching({"chains": [[["s", "l"]]]}, changes)


def test_with_two_objectives_winners_are_on_the_pareto_front() -> None:
    search = SearchSpec.model_validate(
        {
            "space": {RATE: [1, 2, 3]},
            "sampler": "nsga2",
            "num_samples": 3,
            "choose_by": "oracle",
            "minimise": "train_tokens",
            "num_winners": 3,
        }
    )
    cheap, good, bad = (
        Candidate(point=Point.of({RATE: value}), status="done", score=score, cost=cost)
        for value, score, cost in ((1, 0.6, 10.0), (2, 0.8, 30.0), (3, 0.7, 40.0))
    )
    stopped = Candidate(point=Point.of({RATE: 4}), status="stopped", score=0.99)
    assert best((cheap, good, bad, stopped), search) == (good.point, cheap.point)


def test_a_search_without_a_finished_candidate_tells_why() -> None:
    good, bad, slow = (Point.of({RATE: value}) for value in (1, 2, 3))
    failed = Candidate(point=bad, status="failed", error="the loss is nan")
    stopped = Candidate(point=slow, status="stopped")
    done = Candidate(point=good, status="done", score=0.5)
    assert SearchResult(candidates=(failed, done), winners=(good,)).why_nothing_is_chosen is None
    why = str(SearchResult(candidates=(failed, stopped), winners=()).why_nothing_is_chosen)
    assert "of 2, 1 failed and 1 were stopped; raise search.time_budget_seconds, or" in why and "--retry-failed" in why
    assert why.endswith("the loss is nan")
    assert "--retry" not in str(SearchResult(candidates=(stopped,), winners=()).why_nothing_is_chosen)
    assert "time_budget" not in str(SearchResult(candidates=(failed,), winners=()).why_nothing_is_chosen)


def test_sampled_values_are_moved_into_their_range() -> None:
    space = {"a": Range(low=1, high=8, integer=True), "b": Range(low=0.1, high=1.0), "c": (True, "x", [1, 2])}
    assert chosen(space, {"a": 9.6, "b": 0.05, "c": "[1,2]"}) == {"a": 8, "b": 0.1, "c": [1, 2]}
    assert set(distributions(space)) == {"a", "b", "c"}


AGREEMENT = {"choose_by": "agreement"}
LOSSES = {"methods": {"half": {"losses": {"l": {"kind": "confidence"}}}}}


def test_candidates_need_a_chain_arm() -> None:
    with pytest.raises(StudyError, match=r"methods.naive.arms"):
        searching({RATE: [1e-4]}, {"methods": {"naive": {"arms": ["ceiling"]}}}, choose_by="oracle")


@pytest.mark.parametrize(
    ("space", "search", "words"),
    [
        ({"ladder.l.optimisation.lerning_rate": [1]}, {}, "lerning_rate"),
        ({"ladder.x.optimisation.learning_rate": [1]}, {}, "ladder.x"),
        ({RATE: [1, "fast"]}, {}, "learning_rate"),
        ({"name": ["a"]}, {}, "changes no result"),
        ({"tasks.code.test_examples": [5]}, {}, "declare each variant as a task"),
        ({"ladder.l.model": ["w2s:medium"]}, {}, "models cannot be searched"),
        ({"ladder.s.optimisation.learning_rate": [1e-4]}, AGREEMENT, "agreement"),
        ({"optimisation.learning_rate": [1e-4]}, AGREEMENT, "agreement"),
        ({ALPHA: [0.1]}, AGREEMENT, "agreement"),
        ({"chains": [[["s", "l"]]]}, AGREEMENT, "agreement"),
        ({"seeds": [[5]]}, {"choose_by": "oracle"}, "search.space.seeds"),
        ({"seeds": [[5]]}, {}, "search.space.seeds"),
        ({"ladder.l": [{"model": "w2s:medium"}]}, {}, "models cannot be searched"),
        ({"ladder.l.architecture.hidden_size": [32]}, {}, "models cannot be searched"),
        ({"splits": [{"train_examples": 50}]}, {}, "search.space.splits"),
        ({RATE: [1e-4]}, {"choose_by": "oracle", "seeds": [7, 7]}, "duplicate seeds: [7, 7]"),
        ({RATE: [1e-4]}, {"choose_by": "oracle", "seeds": [0]}, "search.seeds and seeds share 0"),
        ({RATE: [1e-4]}, {"choose_by": "development_tasks", "development_tasks": ["code"]}, "search.development_tasks"),
        ({RATE: [1e-4]}, {"choose_by": "development_tasks", "development_tasks": ["prose"]}, "unknown task: prose"),
        ({RATE: [1e-4]}, {"choose_by": "development_tasks"}, "development_tasks"),
        ({RATE: {"low": 1e-4, "high": 1e-3}}, {}, "must be a list for a grid"),
        ({RATE: {"low": 1e-3, "high": 1e-4}}, {"sampler": "random", "num_samples": 2}, "must be below high"),
        (
            {RATE: {"low": 0, "high": 1, "log": True}},
            {"sampler": "random", "num_samples": 2},
            "low = 0 must be above 0",
        ),
        ({RATE: [1e-4]}, {"sampler": "random"}, "num_samples"),
        ({RATE: [1e-4]}, {"sampler": "tpe", "num_samples": 2}, "needs choose_by"),
        ({RATE: [1e-4]}, {"scheduler": {"kind": "asha"}}, "needs choose_by"),
        ({RATE: [1e-4]}, {"time_budget_seconds": 60}, "needs choose_by"),
        ({RATE: [1e-4]}, {"num_winners": 2}, "needs choose_by"),
        ({RATE: [1e-4]}, {"seeds": [7]}, "needs choose_by"),
        ({RATE: [1e-4]}, {**AGREEMENT, "scheduler": {"kind": "asha", "reports": 1}}, "reports"),
        (
            {RATE: [1e-4]},
            {**AGREEMENT, "scheduler": {"kind": "pbt"}, "sampler": "random", "num_samples": 4},
            "choose_by = agreement",
        ),
        (
            {"splits.train_examples": [50]},
            {"choose_by": "oracle", "scheduler": {"kind": "pbt"}, "sampler": "random", "num_samples": 4},
            "must belong to one level",
        ),
        ({RATE: [1e-4]}, {"choose_by": "oracle", "sampler": "nsga2", "num_samples": 4}, "second objective"),
    ],
)
def test_invalid_searches_are_refused(space: dict[str, Any], search: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError) as caught:
        searching(space, LOSSES, **search)
    assert words in str(caught.value)
