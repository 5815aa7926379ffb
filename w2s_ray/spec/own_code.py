"""The source of a function of the user's, which makes it part of an identity and can be run in another process.

`source_of` returns the function with everything of its own file that it uses: functions, classes, constants and
imports. Comments and the layout do not count. What it imports from other files is named and not copied.
"""

import ast
import inspect
import linecache
from collections.abc import Callable, Iterator
from typing import Any

from w2s_ray.errors import StudyError

_HINT = "define it with `def` at the top level of a Python file"


OWN_FILE = "<own "
"""Beginning of the file's name in tracebacks of own functions; lines count from the function's first."""


def source_of(function: Callable[..., Any]) -> str:
    """Return Python source that defines the function.

    Raises:
        StudyError: when it is not defined at the top level of a file.
    """
    name = getattr(function, "__name__", repr(function))
    if not inspect.isfunction(function) or function.__qualname__ != name or name == "<lambda>":
        raise StudyError(f"the source of {name} cannot be part of an identity: it is no function of a file", _HINT)
    statements = _statements(function)
    imports = [own for own in statements if isinstance(own, ast.Import | ast.ImportFrom)]
    imported = {bound for own in imports for bound in _bound(own)}  # a library's own state stays as it is
    needed: set[int] = set()
    waiting, seen = [name], {name}
    while waiting:
        wanted = waiting.pop()
        for place, statement in enumerate(statements):
            makes = _bound(statement) | (_changed(statement) - imported)
            if place not in needed and wanted in makes:
                needed.add(place)
                used = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)} - seen
                seen |= used
                waiting += sorted(used)
    own = [statement for place, statement in enumerate(statements) if place in needed]
    if not any(isinstance(statement, ast.FunctionDef) and statement.name == name for statement in own):
        raise StudyError(f"{name} is not defined at the top level of {inspect.getsourcefile(function)}", _HINT)
    return "\n".join(ast.unparse(statement) for statement in (*_future(statements), *own))


def function_from(source: str, name: str) -> Callable[..., Any]:
    """Run `source`, from `source_of`, and return the function of this name."""
    namespace: dict[str, Any] = {"__name__": f"w2s_own_{name}"}
    file = f"{OWN_FILE}{name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # lines for tracebacks
    exec(compile(source, file, "exec"), namespace)
    function: Callable[..., Any] = namespace[name]
    return function


def _statements(function: Callable[..., Any]) -> list[ast.stmt]:
    """Return the top-level statements of the function's file."""
    try:
        lines, _ = inspect.findsource(function)
        return ast.parse("".join(lines)).body
    except (OSError, TypeError, SyntaxError) as error:
        raise StudyError(f"the source of {function.__name__} cannot be read: {error}", _HINT) from None


def _bound(statement: ast.stmt) -> set[str]:
    """Return the names that a top-level statement binds, also inside `if` and `try`."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return {(alias.asname or alias.name).partition(".")[0] for alias in names}
        case ast.If() | ast.Try():
            return {name for inner in _inner(statement) for name in _bound(inner)}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _changed(statement: ast.stmt) -> set[str]:
    """Return the names whose content a top-level statement changes: `A.append(1)`, `A["x"] = 1`, `A.x += 1`."""
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Attribute() as changed)):
            targets: list[ast.expr] = [changed]
        case ast.Assign(targets=targets):
            pass
        case ast.AugAssign(target=target):
            targets = [target]
        case ast.If() | ast.Try():
            return {name for inner in _inner(statement) for name in _changed(inner)}
        case _:
            return set()
    return {_root(target) for target in targets if isinstance(target, ast.Attribute | ast.Subscript)}


def _root(expression: ast.expr) -> str:
    while isinstance(expression, ast.Attribute | ast.Subscript):
        expression = expression.value
    return expression.id if isinstance(expression, ast.Name) else ""


def _inner(statement: ast.If | ast.Try) -> Iterator[ast.stmt]:
    yield from (*statement.body, *statement.orelse)
    if isinstance(statement, ast.Try):
        yield from (inner for handler in statement.handlers for inner in handler.body)
        yield from statement.finalbody


def _future(statements: list[ast.stmt]) -> list[ast.stmt]:
    return [own for own in statements if isinstance(own, ast.ImportFrom) and own.module == "__future__"]
