"""The page of methods tells the truth: it leaves out no loss, and the tests that it names are there."""

import re
from pathlib import Path
from typing import get_args

from w2s_ray.spec.losses import Loss

ROOT = Path(__file__).parents[1]
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_every_kind_of_loss_has_its_row() -> None:
    kinds = {str(model.model_fields["kind"].default) for model in get_args(get_args(Loss)[0])}
    rows = set(re.findall(r"^\| [^|]+ \| `(\w+)`", METHODS, flags=re.MULTILINE))
    assert kinds <= rows


def test_each_of_the_21_traps_of_public_code_has_a_test_that_names_it() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    named = {int(number) for text in texts for number in re.findall(r"def test_\w*trap_(\d+)", text)}
    assert named == set(range(1, 22))


def test_every_test_that_the_methods_page_names_is_there() -> None:
    files = list((ROOT / "tests").rglob("test_*.py"))
    known = {path.stem for path in files}
    known |= {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))}
    for name in set(re.findall(r"\btest_\w+", METHODS)):
        found = any(each.startswith(name) for each in known) if name.endswith("_") else name in known
        assert found, f"{name} is named on the page and is nowhere in the tests"
