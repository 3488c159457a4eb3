"""Functions take few things and modules stay short. How modules may import each other: `test_layers.py`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "packages", "scripts", "benchmarks", "tests", ".ci")
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))

MOST_PARAMETERS = 5
MOST_LINES = 500

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parameters(function: Function) -> list[str]:
    """Names of all that is handed over, without the object itself; of a test only what its table holds, for pytest hands over fixtures."""
    taken = function.args
    names = [one.arg for one in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)]
    names += [one.arg for one in (taken.vararg, taken.kwarg) if one is not None]
    if function.name.startswith("test_"):
        return [name for name in names if name in set(_in_table(function))]
    return [name for place, name in enumerate(names) if place > 0 or name not in ("self", "cls")]


def _in_table(function: Function) -> Iterator[str]:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("parametrize"):
            named = ast.literal_eval(decorator.args[0])
            yield from re.split(r",\s*", named) if isinstance(named, str) else named


def gives_a_reason(function: Function) -> bool:
    return "parameters" in (ast.get_docstring(function) or "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_function_with_many_parameters_says_why(file: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, Function)]
    wide = [one for one in functions if len(parameters(one)) > MOST_PARAMETERS and not gives_a_reason(one)]
    assert not wide, f"more than {MOST_PARAMETERS} parameters, and no word of `parameters` in the docstring: {[one.name for one in wide]}"


def test_no_module_is_long() -> None:
    long = {str(file.relative_to(ROOT)): lines for file in FILES if (lines := len(file.read_text().splitlines())) >= MOST_LINES}
    assert not long, f"{MOST_LINES} lines or more: divide by subject"


def test_the_check_sees_what_it_forbids() -> None:
    def of(source: str) -> tuple[list[str], bool]:
        function = ast.parse(source).body[0]
        assert isinstance(function, Function)
        return parameters(function), gives_a_reason(function)

    assert of("def f(self, a, /, b, *c, d, **e): 'Five parameters.'") == (["a", "b", "d", "c", "e"], True)
    assert of("def f(a): ...") == (["a"], False)
    assert of("@pytest.mark.parametrize(('a', 'b'), [])\ndef test_f(a, b, tmp_path): ...") == (["a", "b"], False)
