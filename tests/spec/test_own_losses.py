"""Losses of the user's own: their source is part of the identity, and is all that a worker needs."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.spec import own_losses
from tests.spec.test_compile import chains
from tests.spec.test_load import study
from w2s_ray import register_loss
from w2s_ray.errors import StudyError
from w2s_ray.spec import losses as module
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.losses import OwnLoss, check_registered
from w2s_ray.spec.own_code import function_from, source_of
from w2s_ray.spec.points import at, check_own_losses

FOCAL = {"kind": "own", "name": "focal"}


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty registry."""
    monkeypatch.setattr(module, "_own", {})
    return


def loss_of(asked: dict[str, Any]) -> OwnLoss:
    loss = parse_study(study(methods={"m": {"losses": {"l": asked}}})).methods["m"].loss_of("l")
    assert isinstance(loss, OwnLoss)
    return loss


def written(folder: Path, text: str, name: str = "focal") -> Callable[..., Any]:
    """Import the function `name` of a file with this text."""
    file = folder / f"file{len(list(folder.iterdir()))}.py"
    file.write_text(text)
    found = importlib.util.spec_from_file_location(file.stem, file)
    assert found is not None and found.loader is not None
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    function: Callable[..., Any] = getattr(loaded, name)
    return function


ORIGINAL = Path(own_losses.__file__).read_text()


def test_a_source_has_what_the_function_uses_of_its_file_and_no_more() -> None:
    source = source_of(own_losses.focal)
    for part in ("def focal", "def _weight", "FLOOR", "import math", "import torch", "log_softmax"):
        assert part in source
    for part in ("Unused", "def plain", "def summed", "Losses as a user"):
        assert part not in source


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("gamma: float = 2.0", "gamma: float = 3.0", True),
        ("** gamma", "** (gamma + 1)", True),
        ("math.exp(-7)", "math.exp(-8)", True),
        ("def plain(", "def simple(", False),
        ("class Unused:", "class Other:", False),
        ("    return (1 - probs_BC)", "    # a comment\n\n    return (1 - probs_BC)", False),
    ],
)
def test_only_an_edit_of_what_is_used_changes_the_source(tmp_path: Path, old: str, new: str, changes: bool) -> None:
    assert old in ORIGINAL
    before, after = written(tmp_path, ORIGINAL), written(tmp_path, ORIGINAL.replace(old, new))
    assert (source_of(before) != source_of(after)) is changes


def test_a_source_defines_the_same_function_in_another_process() -> None:
    import torch

    copy = function_from(source_of(own_losses.focal), "focal")
    logits_BC, labels_BC = torch.randn(5, 3), torch.rand(5, 3)
    assert torch.equal(copy(logits_BC, labels_BC, 0.5, gamma=1.5), own_losses.focal(logits_BC, labels_BC, 0.5, 1.5))


def test_a_source_has_the_statements_that_change_what_the_function_uses(tmp_path: Path) -> None:
    lines = [
        "import logging",
        "SCALES = [1.0]",
        "OTHER = []",
        "WEIGHTS = {}",
        "SCALES.append(3.0)",
        'WEIGHTS["a"] = 2.0',
        "OTHER.append(1)",
        "logging.disable(0)",
        "def focal(logits, labels, progress):",
        "    logging.debug('')",
        "    return sum(SCALES) * WEIGHTS['a']",
    ]
    source = source_of(written(tmp_path, "\n".join(lines)))
    assert function_from(source, "focal")(0, 0, 0) == 8.0
    assert "OTHER.append" not in source and "logging.disable" not in source


@pytest.mark.parametrize("function", [lambda logits, labels, progress: None, "text", print, Path.read_text])
def test_what_has_no_source_of_its_own_is_refused(function: Any) -> None:
    with pytest.raises(StudyError):
        register_loss("odd", function)


def test_an_edited_formula_is_another_stage(tmp_path: Path) -> None:
    def students(gamma: str) -> set[str]:
        module._own.clear()
        register_loss("focal", written(tmp_path, ORIGINAL.replace("gamma: float = 2.0", gamma)))
        compiled = chains(methods={"m": {"losses": {"l": FOCAL}}}, seeds=[0], chains=[["s", "l"]])
        return {stage.identity for chain in compiled for stage in chain.stages}

    first, same, edited = students("gamma: float = 2.0"), students("gamma: float = 2.0"), students("gamma: float = 9.0")
    assert first == same
    assert len(first - edited) == len(edited - first) == 1, "the student; floor and ceiling stay"


def test_labels_show_the_settings_and_the_version_of_the_formula(tmp_path: Path) -> None:
    register_loss("focal", own_losses.focal)
    first, second = loss_of(FOCAL), loss_of({**FOCAL, "settings": {"gamma": 1.5}})
    assert first.label.startswith("focal-") and second.label.startswith("focal-gamma1.5-")
    module._own.clear()
    register_loss("focal", written(tmp_path, ORIGINAL.replace("** gamma", "** (2 * gamma)")))
    assert loss_of(FOCAL).label != first.label


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"kind": "own", "name": "fokal"}, "no loss is registered as 'fokal'"),
        ({**FOCAL, "settings": {"gama": 1}}, "no setting gama; it has gamma"),
        ({"kind": "own", "name": "strict"}, "needs the setting power"),
    ],
)
def test_a_study_that_names_an_own_loss_wrongly_is_refused(tmp_path: Path, asked: Any, message: str) -> None:
    register_loss("focal", own_losses.focal)
    register_loss("strict", written(tmp_path, "def strict(logits, labels, progress, power):\n    ...\n", "strict"))
    with pytest.raises(StudyError) as refused:
        loss_of(asked)
    assert message in refused.value.message


def test_a_name_stands_for_one_loss(tmp_path: Path) -> None:
    register_loss("focal", own_losses.focal)
    register_loss("focal", written(tmp_path, ORIGINAL))
    with pytest.raises(StudyError, match="another loss"):
        register_loss("focal", own_losses.plain)


def test_a_stored_study_is_read_without_the_loss_and_trained_only_with_it() -> None:
    register_loss("focal", own_losses.focal)
    loss = loss_of(FOCAL)
    check_registered(loss)
    stored = loss.model_dump(mode="json")
    module._own.clear()
    assert loss_of(stored) == loss
    with pytest.raises(StudyError, match="focal"):
        check_registered(loss)
    with pytest.raises(StudyError, match="focal"):
        check_registered(loss_of({**stored, "source": "import os\n" + loss.source}))


def test_settings_of_an_own_loss_can_be_searched() -> None:
    register_loss("focal", own_losses.focal)
    own = {"methods": {"m": {"losses": {"l": {**FOCAL, "settings": {"gamma": 1.0}}}}}}
    asked = parse_study(study(**own, search={"space": {"methods.m.losses.l.settings.gamma": [0.5, 1.5]}}))
    assert asked.search is not None
    variants = [at(asked, point).methods["m"].loss_of("l") for point in asked.search.points()]
    assert [loss.settings for loss in variants if isinstance(loss, OwnLoss)] == [(("gamma", 0.5),), (("gamma", 1.5),)]


def test_code_in_the_search_of_a_study_file_is_refused() -> None:
    register_loss("focal", own_losses.focal)
    code = {**loss_of(FOCAL).model_dump(mode="json"), "source": "def focal(logits, labels, progress):\n    ..."}
    asked = parse_study(study(methods={"m": {}}, search={"space": {"methods.m.losses.l": [{"kind": "naive"}, code]}}))
    with pytest.raises(StudyError, match="focal"):
        check_own_losses(asked)
