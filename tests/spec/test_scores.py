"""Methods that score completions: their keys, their stages, and what is refused."""

from typing import Any

import pytest

from tests.spec.test_arms import chain_of, of
from tests.spec.test_compile import chains
from w2s_ray.errors import StudyError
from w2s_ray.spec.base import Kind
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, ResolvedModel, ResolvedTask, distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.stage import DEFAULT_CUE, SHOTS_RECIPE, Prompt, Score, StageSource
from w2s_ray.spec.study import Study

DPO = {"kind": "likelihood", "beta": 0.3, "normalise": False, "reference": True}
WITH_SHOTS = {"kind": "prompt", "num_shots": 2}


def study(**method: object) -> Study:
    raw = {"tasks": {"t": {"builtin": "code_continuation"}}, "ladder": {"s": "w2s:small", "l": "w2s:large"}}
    return parse_study({"name": "scored", **raw, "methods": {"m": method}})


def compiled(kind: Kind, cue: str = DEFAULT_CUE, **method: object) -> Chain:
    task = ResolvedTask(
        fingerprint="t" * 64, kind=kind, num_classes=2, class_names=("no", "yes"), num_test=100, cue=cue
    )
    models = {level: ResolvedModel(revision=level, num_parameters=1) for level in ("s", "l")}
    (chain,) = compile_study(study(**method), Resolution(tasks={"t": task}, models=models))
    return chain


def test_the_word_likelihood_is_short_for_its_defaults() -> None:
    short, long = (study(score=score) for score in ("likelihood", {"kind": "likelihood"}))
    assert short.methods["m"].score == long.methods["m"].score == Score()


@pytest.mark.parametrize(
    ("score", "key"),
    [
        ("head", "score.kind"),
        ({"beta": 0}, "score.beta"),
        ({"beta": -1.0}, "score.beta"),
        ({"scale": 1}, "score.scale"),
    ],
)
def test_a_wrong_score_is_refused_by_its_key(score: object, key: str) -> None:
    with pytest.raises(StudyError, match=key):
        study(score=score)


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ({"score": "likelihood", "trainable": {"l": {"kind": "probe"}}}, "trainable.l is probe"),
        ({"score": DPO, "trainable": {"l": {"kind": "prompt"}}}, "trainable.l is prompt"),
        ({"score": DPO, "random": ["l"]}, "names l"),
        ({"objective": "next_token", "score": "likelihood"}, "score has no effect"),
    ],
)
def test_a_method_whose_keys_exclude_its_score_is_refused(method: dict[str, Any], value: str) -> None:
    with pytest.raises(StudyError, match=value):
        study(**method)


def test_a_method_without_a_score_keeps_the_identities_of_its_stages() -> None:
    spec = of(chain_of(arms=["chain", "ceiling"]), "chain", "l").spec
    assert spec.score is None and spec.reference is None
    changed = spec.model_copy(update={"score": Score()})
    assert spec.identity != changed.identity and spec.slug != changed.slug


def test_every_stage_of_a_method_has_its_score_and_the_tasks_cue() -> None:
    chain = compiled("classes", cue="\nSo:", score={"beta": 2.0}, arms=["chain", "ceiling", "zero_shot"])
    for stage in chain.stages:
        assert stage.spec.score == Score(beta=2.0, cue="\nSo:") == stage.spec.completion_score
        assert stage.spec.class_names == ("no", "yes") and stage.spec.is_language_model
    assert of(chain, "zero_shot", "l").spec.trainable == Prompt(cue="\nSo:")
    own = compiled("classes", cue="\nSo:", score={"cue": "\nThus:"}).stages[0]
    assert own.spec.score == Score(cue="\nThus:")


def test_pairs_have_no_cue_and_read_no_names() -> None:
    chain = compiled("pairs", score="likelihood", arms=["chain", "zero_shot"])
    for stage in chain.stages:
        assert stage.spec.score == Score() and stage.spec.class_names == ()
        assert stage.spec.texts_per_example == 2


def references_of(chain: Chain) -> dict[str, PlannedStage]:
    return {stage.level: stage for stage in chain.stages if stage.arm == "reference"}


def test_all_arms_of_a_level_share_the_reference_that_they_start_from() -> None:
    chain = compiled("pairs", score=DPO, arms=["chain", "direct", "ceiling", "pooled", "self", "zero_shot"])
    references = references_of(chain)
    made = {level: {prediction.identity for prediction in stage.predicts} for level, stage in references.items()}
    done: set[str] = set()
    for stage in chain.stages:
        if stage.arm not in ("reference", "zero_shot"):
            assert stage.spec.reference == references[stage.level].identity
            needed = {prediction.identity for prediction in stage.reference_predictions}
            assert needed <= made[stage.level] & stage.requires and needed <= done
        done |= stage.products
    for level, reference in references.items():
        assert reference.identity == of(chain, "zero_shot", level).identity
        assert reference.spec.reference is None and isinstance(reference.spec.trainable, Prompt)
        assert reference.spec.score == Score(beta=0.3, normalise=False)


def test_an_untrained_model_is_tested_at_its_own_context_whatever_it_is_the_reference_of() -> None:
    longer = {"optimisation": {level: {"context_tokens": 256} for level in ("s", "l")}}
    chain = compiled("pairs", score=DPO, arms=["chain", "zero_shot"], **longer)
    untrained = distinct_stages([chain])[of(chain, "zero_shot", "s").identity]
    tests = [prediction for prediction in untrained.predicts if prediction.split.is_test]
    assert sorted(prediction.context_tokens for prediction in tests) == [128, 256]
    assert untrained.test_prediction is not None
    assert untrained.test_prediction.context_tokens == untrained.spec.optimisation.context_tokens == 128


def test_a_student_is_compared_with_the_model_that_it_starts_from_after_reading() -> None:
    chain = compiled("pairs", score=DPO, arms=["chain", "zero_shot"], generative={"l": {}})
    reading, reference = of(chain, "generative", "l"), references_of(chain)["l"]
    assert reference.spec.starts_from == StageSource(stage=reading.identity, name="w2s:large")
    assert reference.identity != of(chain, "zero_shot", "l").identity
    order = [stage.identity for stage in chain.stages]
    assert order.index(reading.identity) < order.index(reference.identity)


def test_only_prompts_with_shots_have_the_recipe_of_shots() -> None:
    every = chains(methods={"m": {"arms": ["chain", "zero_shot"], "trainable": {"l": WITH_SHOTS}}})
    for stage in (stage for chain in every for stage in chain.stages):
        has_shots = isinstance(stage.spec.trainable, Prompt) and stage.spec.trainable.num_shots > 0
        assert stage.spec.shots_recipe == (SHOTS_RECIPE if has_shots else 1)


def test_calibration_reads_each_completion_twice() -> None:
    plain, calibrated = (
        compiled("classes", score={"calibrate": value}).stages[0].spec.texts_per_example for value in (False, True)
    )
    assert (plain, calibrated) == (2, 4)
