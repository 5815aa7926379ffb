"""The figures: as PNG and SVG, for one task, several and many."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest
from synthetic import Skill, SyntheticStudy, printed

from w2s_ray.report import figures
from w2s_ray.report.figures import accuracy_figure, across_figure, pgr_figure
from w2s_ray.report.findings import Summary

PNG = b"\x89PNG"


def test_figures_are_png_and_svg_and_the_same_twice(finished: SyntheticStudy) -> None:
    for make_figure in (accuracy_figure, pgr_figure):
        first, second = make_figure(finished.summary()), make_figure(finished.summary())
        assert first is not None and second is not None and first == second
        assert first.png.startswith(PNG)
        root = ElementTree.fromstring(first.svg)
        assert root.attrib["width"] == "100%" and "currentColor" in first.svg
        assert "#1b1b1e" not in first.svg, "the ink is the page's"


def test_figures_of_an_unfinished_study_are_left_out(synthetic: Callable[..., SyntheticStudy]) -> None:
    summary = synthetic().summary()
    assert accuracy_figure(summary) is None and pgr_figure(summary) is None
    assert "0 of 5 stages finished" in printed(summary, 125)


def test_a_pgr_outside_the_axis_is_still_plotted(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic(chains=[["small", "large"]], report={"min_gap": 0.0, "bootstrap_samples": 200})
    study.finish(lambda stage: {"floor": 0.6, "ceiling": 0.63, "chain": 0.9}[stage.arm])
    summary = study.summary()
    assert summary.arms[1].pgr is not None and summary.arms[1].pgr.value > 5
    assert pgr_figure(summary) is not None


def test_the_untrained_models_are_lines_in_the_accuracy_figure(
    synthetic: Callable[..., SyntheticStudy], skill: Skill, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[float] = []
    monkeypatch.setattr(
        figures, "_vertical", lambda ax, x, rows, **look: lines.append(x) if look["color"] == "#e69f00" else None
    )
    study = synthetic(methods={"naive": {"arms": ["chain", "ceiling", "zero_shot"]}})
    study.finish(
        lambda stage: (
            {"small": 0.5, "medium": 0.55, "large": 0.69}[stage.level] if stage.arm == "zero_shot" else skill(stage)
        )
    )
    assert accuracy_figure(study.summary()) is not None and lines == pytest.approx([0.5, 0.55, 0.69], abs=1e-3)


def test_many_tasks_have_only_the_figure_over_all(whole_summary: Summary) -> None:
    assert across_figure(whole_summary) is not None and accuracy_figure(whole_summary) is not None
    names = [f"task{n}" for n in range(7)]
    arms = tuple(
        arm.model_copy(update={"task": name}) for name in names for arm in whole_summary.arms if arm.task == "sst2"
    )
    many = whole_summary.model_copy(update={"tasks": dict.fromkeys(names, whole_summary.tasks["sst2"]), "arms": arms})
    assert accuracy_figure(many) is None and pgr_figure(many) is None and across_figure(many) is not None


def test_one_task_has_no_figure_over_all(finished: SyntheticStudy) -> None:
    assert across_figure(finished.summary()) is None
