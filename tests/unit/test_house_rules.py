"""The house rules of CONTRIBUTING.md that a program can check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT, SOURCE, python_sources, tracked

_FILE_LINES_MAX = 500
_FUNCTION_LINES_MAX = 80
_IMPURE = frozenset(
    {
        "apsw", "asyncio", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select",
        "socket", "subprocess", "tempfile", "threading", "time", "uuid",
    }
)  # fmt: skip
_IMPURE_CALLS = frozenset({"open", "print", "input"})

# The words are put together here so that this file does not break its own rules.
_ELSEWHERE = re.compile("/" + r"(?:work|root|home/\w+)/[a-z.]|" + re.escape("../" + "shared"))
_REGISTRY = re.compile(r"--(?:extra-)?index-url|--find-links|--trusted-host")
_UNFINISHED = re.compile(r"\b(?:TO" + "DO|FIX" + "ME|X" + r"XX)\b")


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _texts() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def _imports(tree: ast.AST) -> Iterator[str]:
    """Top-level names of all modules imported anywhere in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def impurities(source: str) -> list[str]:
    """What in ``source`` a pure module may not have."""
    tree = ast.parse(source)
    found = [f"imports {name}" for name in _imports(tree) if name in _IMPURE]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _IMPURE_CALLS:
            found.append(f"calls {node.func.id}()")
    return found


def long_functions(source: str) -> list[str]:
    return [
        f"{node.name}: {length} lines"
        for node in _functions(ast.parse(source))
        if (length := (node.end_lineno or 0) - node.lineno + 1) > _FUNCTION_LINES_MAX
    ]


def test_core_is_pure() -> None:
    found = {_relative(path): impurities(path.read_text()) for path in (SOURCE / "core").rglob("*.py")}
    assert found, "the core was not found"
    assert not {path: what for path, what in found.items() if what}


@pytest.mark.parametrize(
    "source",
    ["import os", "from time import monotonic", "def f():\n    import socket", "open('x')", "import os.path"],
)
def test_the_check_of_purity_sees_what_it_must(source: str) -> None:
    assert impurities(source)


def test_no_function_is_longer_than_a_page() -> None:
    found = {_relative(path): long_functions(path.read_text()) for path in python_sources()}
    assert not {path: what for path, what in found.items() if what}


def test_the_check_of_length_sees_a_long_function() -> None:
    body = "    pass\n" * _FUNCTION_LINES_MAX
    assert long_functions("def f():\n" + body)
    assert not long_functions("def f():\n" + body.removesuffix("    pass\n"))


def test_no_source_file_is_too_long() -> None:
    lengths = {_relative(path): len(path.read_text().splitlines()) for path in python_sources()}
    assert not {path: lines for path, lines in lengths.items() if lines > _FILE_LINES_MAX}


def test_every_module_says_what_it_is_and_what_it_offers() -> None:
    """A docstring at the top; ``__all__`` where the module defines anything public."""
    wrong: list[str] = []
    for path in python_sources():
        tree = ast.parse(path.read_text())
        if not tree.body or path.name == "__main__.py":
            continue
        if ast.get_docstring(tree) is None:
            wrong.append(f"{_relative(path)}: no docstring")
        names = {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
                 if isinstance(target, ast.Name)}  # fmt: skip
        if (
            any(isinstance(node, ast.ClassDef | ast.FunctionDef) for node in tree.body)
            and "__all__" not in names
        ):
            wrong.append(f"{_relative(path)}: no __all__")
    assert not wrong


def test_every_package_has_a_design() -> None:
    packages = {path.parent for path in SOURCE.rglob("__init__.py")} - {SOURCE}
    # A package inside another one may be described there.
    outer = {package for package in packages if package.parent == SOURCE or (package / "DESIGN.md").exists()}
    missing = [_relative(package) for package in sorted(outer) if not (package / "DESIGN.md").exists()]
    assert not missing


def test_nothing_names_a_path_of_one_machine() -> None:
    wrong = [
        f"{_relative(path)}:{number}"
        for path, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        if _ELSEWHERE.search(line)
    ]
    assert not wrong


@pytest.mark.parametrize("line", ["/" + "work/main/src", "see ../" + "shared/design.md", "/" + "root/.cache"])
def test_the_check_of_paths_sees_one(line: str) -> None:
    assert _ELSEWHERE.search(line)


def test_requirements_are_pinned_with_hashes_and_name_no_registry() -> None:
    files = sorted((ROOT / "requirements").glob("*.txt"))
    assert len(files) == 3
    for file in files:
        text = file.read_text()
        assert not _REGISTRY.search(text), file
        assert "://" not in text, file
        for requirement in re.split(r"\n(?=[a-z0-9])", text.strip(), flags=re.I):
            assert re.match(r"[\w.\-]+(\[[\w,]+\])?==", requirement), requirement
            assert "--hash=sha256:" in requirement, requirement


def test_nothing_is_left_unfinished() -> None:
    wrong = [
        f"{_relative(path)}:{number}"
        for path, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        if _UNFINISHED.search(line)
    ]
    assert not wrong


def test_no_tracked_file_is_large() -> None:
    assert not [_relative(path) for path in tracked() if path.stat().st_size > 1024 * 1024]
