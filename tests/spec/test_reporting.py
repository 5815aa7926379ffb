"""Declared comparisons and references: their short texts, and the names in them."""

from typing import Any

import pytest

from w2s_ray.errors import StudyError
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.reporting import Contender
from w2s_ray.spec.study import Study


def study(report: dict[str, Any], **changes: Any) -> Study:
    return parse_study(
        {
            "name": "declared",
            "tasks": {"sst2": {"builtin": "code_continuation"}, "sciq": {"builtin": "code_continuation_hard"}},
            "ladder": {level: f"w2s:{level}" for level in ("small", "medium", "large")},
            "chains": [["small", "large"], ["small", "medium", "large"]],
            "methods": {
                "naive": {"arms": ["chain", "direct", "ceiling", "self"]},
                "confidence": {"losses": {"large": {"kind": "confidence"}}},
                "reading": {"tasks": ["sciq"], "losses": {"large": {"kind": "hard"}}},
                "speaking": {"tasks": ["sst2"], "losses": {"large": {"kind": "hard"}}},
            },
            "report": report,
            **changes,
        }
    )


def test_a_comparison_is_two_texts() -> None:
    (pair,) = study({"compare": [["confidence", "naive/direct/medium"]]}).report.compare
    assert pair.first == Contender(method="confidence") and pair.by == "pgr"
    assert pair.second == Contender(method="naive", arm="direct", level="medium")
    assert (pair.first.name, pair.second.name) == ("confidence/chain", "naive/direct/medium")


def test_a_contender_defaults_to_the_last_student_of_the_longest_chain() -> None:
    paths = (("small", "large"), ("small", "medium", "large"))
    plain = Contender(method="naive")
    assert (plain.path_among(paths), plain.level_among(paths)) == (paths[1], "large")
    short = Contender(method="naive", path=paths[0])
    assert short.path_among(paths) == paths[0] and short.name == "naive/chain (small→large)"
    assert plain.among(paths).name == "naive/chain (small→medium→large)"
    assert Contender(method="naive", arm="self").level_among(paths) == "small"


@pytest.mark.parametrize("text", ["naive/direct (small>large)", "naive/direct (small → large)"])
def test_the_text_of_a_contender_can_name_its_chain(text: str) -> None:
    reference = {"source": "s", "setting": "t", "values": {text: 0.25}}
    (contender,) = study({"references": [reference]}).report.references[0].contenders.values()
    assert contender == Contender(method="naive", arm="direct", path=("small", "large"))
    assert Contender.model_validate(contender.name) == contender, "what a report prints can be written into a study"


@pytest.mark.parametrize(
    "report",
    [
        {"compare": [["confidence", "naive (small>large)"]]},
        {"compare": [["naive (small>large)", "confidence"]]},
        {"references": [{"source": "s", "setting": "t", "values": {"confidence": 0.8}}]},
    ],
)
def test_a_contender_of_several_longest_chains_must_name_one(report: dict[str, Any]) -> None:
    chains = [["small", "large"], ["medium", "large"]]
    with pytest.raises(StudyError, match=r"(?s)confidence/chain.*\(small>large\), \(medium>large\)"):
        study(report, chains=chains)
    one = {"compare": [["confidence (medium>large)", "naive (medium>large)"]]}
    assert study(one, chains=chains).report.compare[0].first.path == ("medium", "large")


def test_pgrs_with_different_floors_are_not_compared() -> None:
    chains = [["small", "large"], ["medium", "large"]]
    pair = {"first": "confidence (medium>large)", "second": "naive (small>large)"}
    with pytest.raises(StudyError, match="different floors, medium and small"):
        study({"compare": [pair]}, chains=chains)
    assert study({"compare": [{**pair, "by": "accuracy"}]}, chains=chains).report.compare[0].by == "accuracy"


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"compare": [["confidnce", "naive"]]}, "unknown method: confidnce.*did you mean 'confidence'"),
        ({"compare": [["naive/drect", "naive"]]}, "naive.*unknown arm: drect.*did you mean 'direct'"),
        ({"compare": [["confidence/direct", "naive"]]}, "confidence.*unknown arm: direct"),
        ({"compare": [["naive/chain/larg", "confidence"]]}, "unknown level: larg.*did you mean 'large'"),
        (
            {"compare": [{"first": {"method": "naive", "path": ["medium", "large"]}, "second": "naive/direct"}]},
            "unknown chain: medium-large.*did you mean 'small-medium-large'",
        ),
        (
            {"compare": [{"first": "naive", "second": "confidence", "tasks": ["sst"]}]},
            r"compare\.0\.tasks .*unknown task: sst.*did you mean 'sst2'",
        ),
        ({"references": [{"source": "s", "setting": "t", "values": {"naiv": 0.2}}]}, "did you mean 'naive'"),
        (
            {"references": [{"source": "s", "setting": "t", "values": {"naive": 0.2}, "tasks": ["x"]}]},
            "unknown task: x",
        ),
        ({"references": [{"source": "s", "setting": "t", "values": {"a/b/c/d": 0.2}}]}, "method/arm/level"),
        ({"references": [{"source": "s", "setting": "t", "values": {"naive (small": 0.2}}]}, "method/arm/level"),
        ({"compare": [["naive (medium>large)", "naive/direct"]]}, "did you mean 'small-medium-large'"),
        ({"compare": [["naive", "naive"]]}, "compared with itself"),
        (
            {"compare": [{"first": "naive", "second": "reading", "tasks": ["sst2", "sciq"]}]},
            r"compare\.0\.tasks names sst2",
        ),
        ({"compare": [["speaking", "reading"]]}, "no task has both speaking and reading"),
        ({"compare": [["naive", "confidence"], ["naive", "confidence"]]}, "duplicate comparison"),
        (
            {"compare": [["naive/chain/small", "confidence"]]},
            "naive/chain/small, but chain has students on medium, large",
        ),
        (
            {"compare": [{"first": "naive/self/large", "second": "naive", "by": "accuracy"}]},
            "naive/self/large, but self has students on small",
        ),
        ({"compare": [["naive/self", "naive"]]}, "naive/self has no PGR of its own; compare `by: accuracy`"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_one(report: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=f"(?s){message}"):
        study(report)


def test_development_tasks_are_not_compared() -> None:
    pair = {"first": "naive", "second": "confidence", "tasks": ["sst2"]}
    search = {"space": {"optimisation.epochs": [1, 2]}, "choose_by": "development_tasks", "development_tasks": ["sst2"]}
    naive = {"methods": {"naive": {}, "confidence": {"losses": {"large": {"kind": "confidence"}}}}}
    with pytest.raises(StudyError, match="unknown task: sst2"):
        study({"compare": [pair]}, search=search, **naive)
    study({"compare": [{**pair, "tasks": ["sciq"]}]}, search=search, **naive)


def test_arms_without_a_pgr_are_compared_by_accuracy() -> None:
    pair = {"first": "naive/self", "second": "naive", "by": "accuracy"}
    assert study({"compare": [pair]}).report.compare[0].by == "accuracy"


def test_more_comparisons_than_the_resamples_can_decide_are_refused() -> None:
    """Of 70 draws no p-value is below .028, and twice that is above .05."""
    pairs = [["naive", "confidence"], ["naive", "naive/direct"]]
    with pytest.raises(StudyError, match="must be at least 79"):
        study({"compare": pairs, "bootstrap_samples": 70})
    assert len(study({"compare": pairs, "bootstrap_samples": 79}).report.compare) == 2
    space = {"space": {"splits.train_examples": [100, 200, 400]}}
    with pytest.raises(StudyError, match=r"at least 239 .* 6 declared comparisons"):
        study({"compare": pairs, "bootstrap_samples": 79}, search=space)


def test_a_reference_has_numbers_or_text() -> None:
    values = {"naive": 0.25, "confidence": "nearly 0.80"}
    report = study({"references": [{"source": "Burns et al. 2023", "setting": "NLP", "values": values}]}).report
    assert report.references[0].values == values
    assert [one.method for one in report.references[0].contenders.values()] == ["naive", "confidence"]
