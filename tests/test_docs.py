"""The documentation is true: its commands parse, its links resolve, its YAML loads, and it covers every key."""

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest
import typer
import yaml
from pydantic import BaseModel

from w2s_ray import load_study
from w2s_ray.cli.main import app
from w2s_ray.spec.study import Study

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
STUDY_PAGE = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLE = {
    "name": "example",
    "tasks": {"sst2": {"builtin": "sst2"}},
    "ladder": {level: {"model": f"w2s:{level}"} for level in ("small", "medium", "large")},
    "optimisation": {"early_stopping": {}},
    "chains": [["small", "medium", "large"], ["small", "large"]],
    "methods": {
        "naive": {"arms": ["chain", "direct", "ceiling", "self"]},
        "confidence": {"arms": ["chain", "direct", "ceiling"], "losses": {"large": {"kind": "confidence"}}},
    },
}
"""A study that the parts of studies in the docs are put into."""


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(*languages: str) -> list[tuple[str, str]]:
    return [
        (page.name, body) for page in PAGES for language, body in FENCE.findall(text_of(page)) if language in languages
    ]


def command_lines() -> Iterator[tuple[str, str]]:
    """Yield each command in a code block, with its page; a comment or two spaces end it."""
    for page, body in blocks("", "sh", "bash"):
        for line in body.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;", line.partition("#")[0]):
                words = re.split(r" {2,}", part.strip())
                yield page, words[0]


W2S_LINES = [(page, line) for page, line in command_lines() if line.startswith("w2s ")]
W2S_SPANS = sorted({(page.name, span) for page in PAGES for span in re.findall(r"`(w2s [^`]+)`", text_of(page))})


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the words name, and the words that are left."""
    command = typer.main.get_command(app)
    while words[:1] == ["--import"]:
        words = words[2:]
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def test_the_docs_hold_commands_and_yaml() -> None:
    assert len(W2S_LINES) > 10 and len(W2S_SPANS) > 10 and len(blocks("yaml")) > 5


@pytest.mark.parametrize(("page", "line"), W2S_LINES)
def test_every_command_line_parses(page: str, line: str) -> None:
    words = [word for word in shlex.split(line)[1:] if not word.startswith("[")]
    command, arguments = command_of(words)
    command.make_context(command.name, arguments)


@pytest.mark.parametrize(("page", "span"), W2S_SPANS)
def test_every_command_in_running_text_exists(page: str, span: str) -> None:
    command, rest = command_of(span.split()[1:])
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("--")} <= known


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?:^|`)make (\w+)", text_of(page), re.MULTILINE)}
    assert named and named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_command_names_a_file_that_exists(page: Path) -> None:
    for module in re.findall(r"python -m (w2s_ray[\w.]*)", text_of(page)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for script in re.findall(r"python ([\w/]+\.py)", text_of(page)):
        assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_resolves(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    rooms = r"w2s_ray|tests|docs|tune_configs|benchmarks|cluster"
    for name in re.findall(rf"`((?:{rooms})/[\w./-]*)`", text_of(page)):
        assert (ROOT / name).exists(), name


def test_the_file_tree_of_the_readme_is_complete() -> None:
    (tree,) = (body for page, body in blocks("") if page == "README.md" and body.startswith("w2s_ray/"))
    shown = set(re.findall(r"^[│├└─ ]*([\w.]+)/?  ", tree, re.MULTILINE))
    package = {path.name for path in (ROOT / "w2s_ray").iterdir() if not path.name.startswith(("_", "py.typed"))}
    assert shown >= package
    assert all(list(ROOT.rglob(name)) for name in shown)


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_every_yaml_block_is_a_study_or_part_of_one(page: str, text: str, tmp_path: Path) -> None:
    part = yaml.safe_load(text)
    whole = {**EXAMPLE, **part} if "ladder" not in part else part
    if "ladder" not in part and "methods" in part:
        whole["methods"] = {**EXAMPLE["methods"], **part["methods"]}  # type: ignore[dict-item]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_every_python_block_parses_and_its_imports_exist(page: str, code: str) -> None:
    for statement in ast.parse(code).body:
        if isinstance(statement, ast.ImportFrom):
            module = import_module(statement.module or "")
            assert all(hasattr(module, alias.name) for alias in statement.names)


def models(kind: Any) -> set[type[BaseModel]]:
    """Every pydantic model that a field's type can hold, and those inside it."""
    if not isinstance(kind, type) or not issubclass(kind, BaseModel):
        return {model for inner in get_args(kind) if inner is not NoneType for model in models(inner)}
    return {kind}.union(*(models(field.annotation) for field in kind.model_fields.values()))


def kinds(among: set[type[BaseModel]]) -> set[str]:
    return {model.model_fields["kind"].default for model in among if "kind" in model.model_fields}


def tables(page: str) -> list[dict[str, str]]:
    """The tables of keys: from each key to the text of its default."""
    rows = [re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", section, re.MULTILINE) for section in page.split("\n#")]
    return [dict(found) for found in rows if found]


@pytest.mark.parametrize("model", sorted(models(Study), key=lambda model: model.__name__), ids=lambda it: it.__name__)
def test_every_key_of_a_study_has_its_row_with_its_default(model: type[BaseModel]) -> None:
    fields = dict(model.model_fields)
    kind = fields.pop("kind", None)
    wanted = {*fields, *([f"kind: {kind.default}"] if kind is not None else [])}
    table = next((table for table in tables(STUDY_PAGE) if wanted <= table.keys()), None)
    assert table is not None, f"docs/study.md has no table with {sorted(wanted)}"
    defaults = model.model_construct().model_dump(mode="json")
    for key, field in fields.items():
        text = table[key].strip("`")
        if text == "–":
            assert field.is_required() or defaults[key] is None or model.__name__ == "Topological", key
        elif isinstance(defaults[key], dict):
            assert text.startswith("{"), key
        else:
            assert yaml.safe_load(text) == defaults[key], key


def test_every_row_of_the_study_page_is_a_key() -> None:
    known = {key for model in models(Study) for key in model.model_fields} | {"optimisation", "execution"}
    known |= {f"kind: {kind}" for kind in kinds(models(Study))}
    assert {key for table in tables(STUDY_PAGE) for key in table} <= known


def test_every_loss_transform_and_way_to_train_has_its_section() -> None:
    headings = set(re.findall(r"^### .*`(\w+)`$", text_of(ROOT / "docs" / "methods.md"), re.MULTILINE))
    assert kinds(models(Study) - models(Study.model_fields["search"].annotation)) <= headings


def test_every_arm_has_its_row() -> None:
    (method,) = {model for model in models(Study) if "arms" in model.model_fields}
    arms = get_args(get_args(method.model_fields["arms"].annotation)[0])
    rows = re.findall(r"^\| `(\w+)` \|", text_of(ROOT / "docs" / "methods.md"), re.MULTILINE)
    assert len(arms) > 5 and set(arms) <= set(rows)


def test_each_trap_of_the_docs_is_named_by_a_test() -> None:
    tests = "".join(text_of(path) for path in (ROOT / "tests").rglob("test_*.py"))
    named = {int(number) for number in re.findall(r"def test_\w*trap_(\d+)", tests)}
    described = {int(number) for number in re.findall(r"^\| (\d+) \|", text_of(ROOT / "docs/methods.md"), re.MULTILINE)}
    assert named == described >= set(range(1, 22))


def test_messages_of_the_troubleshooting_page_are_those_of_the_package() -> None:
    section = text_of(ROOT / "docs" / "troubleshooting.md").partition("## Files and tasks")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)[1:]
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    # A string that continues on the next line is made whole.
    source = re.sub(r'"\s*\n\s*f?"', "", "".join(text_of(path) for path in sorted((ROOT / "w2s_ray").rglob("*.py"))))
    assert len(messages) > 20
    for message in messages:
        words = message.split()
        runs = {" ".join(words[place : place + 2]) for place in range(len(words) - 1)}
        assert message.startswith("line 7: ") or any(run in source for run in runs), message  # or is of `csv`
