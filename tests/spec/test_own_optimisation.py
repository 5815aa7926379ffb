"""A method's own optimisation: which stages it reaches, what stays the level's, and how it is read and searched."""

from typing import Any

import pytest

from tests.scheduling.studies import chains_of, resolution_of, small_study
from tests.spec.test_arms import of
from w2s_ray.cli.run import shrink
from w2s_ray.errors import StudyError
from w2s_ray.spec.chain import Chain, distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import load_study, parse_study
from w2s_ray.spec.points import at, optimisation_keys, uses_dropout
from w2s_ray.spec.search import Candidate, Point, SearchResult
from w2s_ray.spec.study import Study

LEVEL = {"learning_rate": 1e-5, "epochs": 2, "early_stopping": {"every_steps": 7}}
PROBE = {"trainable": {"l": {"kind": "probe"}}, "optimisation": {"l": {"learning_rate": 1e-3}}}
RATE = "methods.probe.optimisation.l.learning_rate"


def study_of(methods: dict[str, Any], **changes: Any) -> Study:
    ladder = {"s": {"model": "w2s:small"}, "l": {"model": "w2s:large", "optimisation": LEVEL}}
    return small_study(**{"ladder": ladder, "methods": methods, **changes})


def by_method(study: Study) -> dict[str, Chain]:
    return {chain.method: chain for chain in chains_of(study)}


def test_only_the_given_keys_replace_those_of_the_level() -> None:
    study = study_of({"probe": PROBE})
    own = study.optimisation_of(study.methods["probe"], "l")
    assert own == study.ladder["l"].optimisation.model_copy(update={"learning_rate": 1e-3})
    stopping = {"optimisation": {"l": {"early_stopping": {"patience": 9}}}}
    study = study_of({"m": stopping})
    rule = study.optimisation_of(study.methods["m"], "l").early_stopping
    assert rule is not None and (rule.every_steps, rule.patience) == (7, 9)


def test_null_switches_early_stopping_off() -> None:
    study = study_of({"m": {"optimisation": {"l": {"early_stopping": None}}}})
    assert study.optimisation_of(study.methods["m"], "l").early_stopping is None


def test_it_reaches_every_arm_of_the_method_on_its_level_but_what_methods_share() -> None:
    chain = chains_of(study_of({"probe": {**PROBE, "arms": ["chain", "ceiling", "zero_shot"]}}))[0]
    rates = {stage.arm: stage.spec.optimisation.learning_rate for stage in chain.stages if stage.level == "l"}
    assert rates == {"chain": 1e-3, "ceiling": 1e-3, "full_ceiling": 1e-5, "zero_shot": 1e-5}


def test_it_reaches_the_floor_and_its_copies_of_level_0() -> None:
    settings = {"optimisation": {"s": {"learning_rate": 3e-3}}, "arms": ["chain", "ceiling", "self"]}
    chain = chains_of(study_of({"m": {**settings, "supervisors": {"num": 2}}}))[0]
    rates = {stage.arm: stage.spec.optimisation.learning_rate for stage in chain.stages if stage.level == "s"}
    assert rates == {"floor": 3e-3, "member": 3e-3, "self": 3e-3}


def test_methods_of_one_setting_share_a_ceiling_and_others_have_their_own() -> None:
    methods = {
        "naive": {},
        "probe": PROBE,
        "confident_probe": {**PROBE, "losses": {"l": {"kind": "confidence"}}, "arms": ["chain"]},
        "slow_probe": {**PROBE, "optimisation": {"l": {"learning_rate": 1e-4}}},
        "long": {"optimisation": {"l": {"epochs": 9}}},
    }
    chains = by_method(study_of(methods))
    student = {name: of(chain, "chain", "l") for name, chain in chains.items()}
    ceiling = {name: of(chain, "ceiling", "l").identity for name, chain in chains.items() if name != "confident_probe"}
    assert {name: student[name].ceiling for name in ceiling} == ceiling
    assert student["confident_probe"].ceiling == ceiling["probe"]
    assert len(set(ceiling.values())) == 4
    assert student["probe"].full_ceiling == student["slow_probe"].full_ceiling == ceiling["naive"]
    assert student["long"].full_ceiling is None, "its ceiling trains all weights"


def test_a_key_that_repeats_the_levels_value_changes_no_identity() -> None:
    plain, same = ({"m": {}}, {"m": {"optimisation": {"l": {"epochs": 2, "dropout": 0}}}})
    assert list(distinct_stages(chains_of(study_of(plain)))) == list(distinct_stages(chains_of(study_of(same))))


def test_a_study_written_to_a_file_keeps_exactly_the_given_keys() -> None:
    methods = {"m": {"optimisation": {"l": {"early_stopping": None, "keep_at": [0.5]}, "s": {"early_stopping": {}}}}}
    study = study_of(methods)
    written = study.model_dump(mode="json", exclude_none=True)
    assert written["methods"]["m"]["optimisation"] == methods["m"]["optimisation"]
    assert parse_study(written).optimisation_of(study.methods["m"], "l").early_stopping is None


def test_one_key_can_be_set_from_the_command_line(tmp_path: Any) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("{name: a, tasks: {t: {builtin: code_continuation}}, ladder: {s: w2s:small, l-1.5: w2s:large}}")
    study = load_study(path, ["methods.m.optimisation.l-1.5.epochs=3"])
    assert study.optimisation_of(study.methods["m"], "l-1.5").epochs == 3


@pytest.mark.parametrize(
    ("method", "message", "hint"),
    [
        ({"optimisation": {"x": {}}}, "methods.m.optimisation names an unknown level: x", "s, l"),
        ({"optimisation": {"l": {"epoch": 2}}}, "unknown key methods.m.optimisation.l.epoch", "'epochs'"),
        ({"optimisation": {"l": {"epochs": 0}}}, "methods.m.optimisation.l.epochs = 0", ""),
        ({"optimisation": {"l": {"early_stopping": {"by": "oracle"}}}}, "methods.m.optimisation.l.early_stopping", "l"),
        ({"oracle": ["l"], "optimisation": {"l": {"early_stopping": None}}}, "methods.m.oracle names l", "ladder.l"),
        (
            {"losses": {"l": {"kind": "confidence"}}, "optimisation": {"l": {"examples_per_step": 1}}},
            "methods.m.optimisation.l.examples_per_step = 1 must be at least 2",
            "",
        ),
        (
            {"trainable": {"l": {"kind": "prompt"}}, "optimisation": {"l": {"epochs": 2, "context_tokens": 64}}},
            "methods.m.optimisation.l.epochs has no effect",
            "",
        ),
    ],
)
def test_invalid_settings_of_a_method_are_refused(method: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(StudyError) as refused:
        study_of({"m": method})
    assert message in refused.value.message and hint in refused.value.hint


def test_a_methods_early_stopping_needs_labels() -> None:
    methods = {"m": {"objective": "next_token", "optimisation": {"s": {"early_stopping": {}}}}}
    with pytest.raises(StudyError) as refused:
        small_study(methods=methods)
    assert "methods.m.optimisation.s.early_stopping needs labels" in refused.value.message


def test_a_methods_dropout_and_context_are_found_before_a_run() -> None:
    study = study_of({"m": {"optimisation": {"l": {"dropout": 0.1, "context_tokens": 64}}}})
    assert uses_dropout(study) and not uses_dropout(study_of({"m": {}}))
    contexts = {settings.context_tokens for settings in study.optimisations(study.methods["m"], "l")}
    assert contexts == {64, 128}


def test_a_smoke_run_takes_two_steps_of_a_methods_own_size() -> None:
    methods = {
        "m": {"optimisation": {"l": {"examples_per_step": 64, "epochs": 5}}},
        "shots": {"trainable": {"l": {"kind": "prompt"}}, "optimisation": {"l": {"context_tokens": 64}}},
    }
    small = shrink(study_of(methods))
    own = small.optimisation_of(small.methods["m"], "l")
    assert own.epochs * small.splits.train_examples == 2 * 64
    assert parse_study(small.model_dump()).methods["shots"].optimisation["l"].context_tokens == 64


def test_a_searched_key_of_a_method_keeps_its_other_keys() -> None:
    study = study_of({"probe": {**PROBE, "optimisation": {"l": {"learning_rate": 1e-3, "epochs": 5}}}})
    variant = at(study, Point.of({RATE: 2e-3}))
    own = variant.optimisation_of(variant.methods["probe"], "l")
    stopping = study.ladder["l"].optimisation.early_stopping
    assert (own.learning_rate, own.epochs, own.early_stopping) == (2e-3, 5, stopping)
    follows = at(study, Point.of({"ladder.l.optimisation.weight_decay": 0.5}))
    assert follows.optimisation_of(follows.methods["probe"], "l").weight_decay == 0.5


def test_a_searched_key_of_a_method_belongs_to_its_level() -> None:
    study = study_of({"probe": PROBE})
    assert study.level_of(RATE) == "l"
    judged = study_of({"probe": PROBE}, search={"space": {RATE: [1e-3, 1e-2]}, "choose_by": "agreement"})
    assert optimisation_keys(judged) == {RATE: (RATE, "probe/l")}
    with pytest.raises(StudyError) as refused:
        key = "methods.probe.optimisation.s.learning_rate"
        study_of({"probe": PROBE}, search={"space": {key: [1e-3]}, "choose_by": "agreement"})
    assert "agreement" in refused.value.message


def test_each_methods_ceiling_takes_the_key_that_was_best_for_it() -> None:
    """The winner's own ceiling is judged by its method; the full ceiling by the level."""
    level = "ladder.l.optimisation.learning_rate"
    space = {RATE: [1e-3, 1e-2], level: [1e-5, 1e-4]}
    methods = {"naive": {}, "probe": PROBE}
    study = study_of(methods, search={"space": space, "choose_by": "oracle", "seeds": [7]})
    low, high = Point.of({RATE: 1e-3, level: 1e-5}), Point.of({RATE: 1e-2, level: 1e-4})
    judged = (
        Candidate(point=low, status="done", score=0.9, ceilings={"l": 0.9, "probe/l": 0.6}),
        Candidate(point=high, status="done", score=0.8, ceilings={"l": 0.8, "probe/l": 0.7}),
    )
    chains = compile_study(study, resolution_of(study), SearchResult(candidates=judged, winners=(low,)))
    chain = next(chain for chain in chains if chain.method == "probe")
    rates = {stage.arm: stage.spec.optimisation.learning_rate for stage in chain.stages if stage.level == "l"}
    assert rates == {"chain": 1e-3, "ceiling": 1e-2, "full_ceiling": 1e-5}
    student, ceiling, full = (of(chain, arm, "l") for arm in ("chain", "ceiling", "full_ceiling"))
    assert (student.ceiling, student.full_ceiling) == (ceiling.identity, full.identity)
