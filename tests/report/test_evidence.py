"""Reading a study from its store: predictions are joined by example, and answers become integers."""

from collections.abc import Callable

import pytest
from synthetic import Skill, SyntheticStudy

from w2s_ray.errors import DataError
from w2s_ray.store.predictions import Answers


@pytest.mark.parametrize("change", ["missing", "extra", "replaced"])
def test_a_stage_evaluated_on_other_examples_is_an_error(
    synthetic: Callable[..., SyntheticStudy], skill: Skill, change: str
) -> None:
    study = synthetic()
    study.finish(skill, leave_out=lambda stage: stage.arm == "ceiling" and stage.level == "large")
    (odd,) = (stage for stage in study.stages.values() if stage.arm == "ceiling" and stage.level == "large")
    assert odd.test_prediction is not None
    ids, probs_NC = study.predictions(odd, odd.test_prediction, 0.8)
    other = next(id_ for id_ in (f"e{n}" for n in range(4000)) if id_ not in set(ids))
    if change == "missing":
        ids, probs_NC = ids[1:], probs_NC[1:]
    elif change == "extra":
        ids, probs_NC = [*ids, other], probs_NC[[*range(len(ids)), 0]]
    else:
        ids = [other, *ids[1:]]
    study.store.write_predictions(odd.test_prediction, ids, probs_NC)
    with pytest.raises(DataError, match=r"test predictions of large \(ceiling"):
        study.frame()


def test_the_order_of_stored_predictions_does_not_matter(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    study = synthetic()
    study.finish(skill, leave_out=lambda stage: stage.arm == "floor")
    (floor,) = (stage for stage in study.stages.values() if stage.arm == "floor")
    assert floor.test_prediction is not None
    ids, probs_NC = study.predictions(floor, floor.test_prediction, 0.6)
    study.store.write_predictions(floor.test_prediction, ids[::-1], probs_NC[::-1])
    frame = study.stages_frame()
    assert frame[frame.arm == "floor"].accuracy.iloc[0] == pytest.approx(0.6, abs=1e-3)


def test_white_space_around_an_answer_is_ignored(written: SyntheticStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, before = written.store.read_answers, written.summary()

    def padded(_: object, identity: str) -> Answers:
        answers = plain(identity)
        return Answers(answers.ids, tuple(f" {text}\n" for text in answers.texts), answers.is_allowed_N)

    monkeypatch.setattr(type(written.store), "read_answers", padded)
    assert written.summary().arms == before.arms


def test_baselines_are_fitted_once_for_floors_that_learn_from_the_same_examples(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    study = synthetic(chains=[["small", "large"], ["medium", "large"]], methods={"naive": {}}, seeds=[0, 1])
    study.finish(lambda stage: 0.6)
    baselines = study.evidence().baselines["code"]
    assert {name: len(correct_SN) for name, correct_SN in baselines.items()} == {"majority": 2, "length": 2}
