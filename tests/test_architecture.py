"""Rooms import in one direction only, and each heavy library is imported in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "w2s_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))

BEFORE: dict[str, set[str]] = {
    "errors": set(),
    "hub": {"errors"},
    "spec": {"errors"},
    "science": {"errors", "spec"},
    "tasks": {"errors", "hub", "spec", "science"},
    "store": {"errors", "spec", "science", "tasks"},
    "data": {"errors", "spec", "science", "tasks", "store"},
    "tracking": {"errors", "spec", "store"},
    "training": {"errors", "hub", "spec", "science", "tasks", "store", "data"},
    "report": {"errors", "spec", "science", "store", "data"},
    "planning": {"errors", "hub", "spec", "tasks", "store", "data", "training"},
    "scheduling": {"errors", "spec", "science", "tasks", "store", "data", "tracking", "training", "planning"},
    "ladder": {"errors", "spec", "tasks"},
    "api": {"errors", "spec", "store", "report", "planning", "scheduling"},
    "bench": {"errors", "spec", "store", "planning", "training"},
    "cli": {
        "errors",
        "hub",
        "spec",
        "bench",
        "tasks",
        "store",
        "tracking",
        "training",
        "report",
        "planning",
        "scheduling",
        "api",
    },
    "__init__": {"api", "report", "spec", "tasks"},
    "__main__": {"cli"},
}
"""Rooms that each room may import, besides itself."""

HOMES = {
    "chess": {"tasks/chess/positions.py", "tasks/chess/puzzles.py"},
    "huggingface_hub": {"hub.py"},
    "datasets": {"hub.py"},
    "ray": {"scheduling", "cli/submit.py"},
    "torch": {"training", "scheduling/workers/process_group.py", "bench", "cli/doctor.py"},
    "deepspeed": {"training/zero.py", "training/models/drawing.py"},
    "wandb": {"tracking/wandb.py"},
    "typer": {"cli"},
}
"""Rooms or files that may import a library."""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every imported module, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_room_imports_only_earlier_rooms(path: Path) -> None:
    room = room_of(path)
    found = {name.split(".")[1] for name in imports(ast.parse(path.read_text())) if name.startswith("w2s_ray.")}
    assert room in BEFORE, f"{room} is a new room: add it to BEFORE"
    assert found <= BEFORE[room] | {room}


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_each_heavy_library_is_imported_only_in_its_home(path: Path) -> None:
    found = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
    for library in found & HOMES.keys():
        homes = HOMES[library]
        assert room_of(path) in homes or named(path) in homes, f"{library} belongs in {', '.join(sorted(homes))}"


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_every_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_the_order_of_the_rooms_has_no_cycle() -> None:
    remaining = dict(BEFORE)
    while remaining:
        free = [room for room, needs in remaining.items() if not needs & remaining.keys()]
        assert free, f"a cycle among {sorted(remaining)}"
        for room in free:
            del remaining[room]


def test_no_module_has_a_catch_all_name() -> None:
    assert not [named(path) for path in MODULES if path.stem in ("utils", "util", "helpers", "common", "misc")]


def test_only_the_adapter_imports_private_names_of_ray() -> None:
    private = {
        named(path)
        for path in MODULES
        for name in imports(ast.parse(path.read_text()))
        if name.startswith("ray.") and any(part.startswith("_") for part in name.split("."))
    }
    assert private == {"scheduling/ray_adapter.py"}


def top_level_imports(path: Path) -> set[str]:
    """Modules of the package that are imported when `path` is imported, so not inside functions or TYPE_CHECKING."""
    return {
        name
        for node in ast.parse(path.read_text()).body
        for name in imports(ast.Module([node], []))
        if not isinstance(node, ast.If | ast.FunctionDef | ast.ClassDef) and name.startswith("w2s_ray.")
    }


def test_modules_import_each_other_without_a_cycle() -> None:
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in MODULES}
    remaining = {name: top_level_imports(path) & modules.keys() - {name} for name, path in modules.items()}
    while remaining:
        free = [name for name, needs in remaining.items() if not needs & remaining.keys()]
        assert free, f"a cycle among {sorted(remaining)}"
        for name in free:
            del remaining[name]
