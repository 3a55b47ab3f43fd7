"""The layout is a promise: imports point upstream, nothing heavy loads early, the README's tree is true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "myna"
# Upstream first: a layer imports from the ones before it, never from the ones after it.
LAYERS = [
    {"errors", "samples"},
    {"text", "files", "machine", "progress"},
    {"metrics", "intervals"},
    {"audio"},
    {"data"},
    {"sections", "conflicts"},
    {"config"},
    {"feed"},
    {"models"},
    {"plan"},
    {"transcribe"},
    {"producer"},
    {"train", "evaluate", "doctor", "augment"},
    {"report"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
NO_TORCH = ["myna.cli.main", "myna.config", "myna.text", "myna.metrics", "myna.data.prepare", "myna.data.catalog"]
NO_TORCH += ["myna.audio.decode", "myna.audio.features", "myna.audio.augment.chain", "myna.doctor"]


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text())
    return found


def imported(tree: ast.Module, *, runtime_only: bool) -> set[str]:
    """Myna modules that a module names in imports, wherever they stand."""
    names = set()
    skipped = typing_only(tree) if runtime_only else set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name == "myna" or name.startswith("myna.")}


def typing_only(tree: ast.Module) -> set[ast.AST]:
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    return {inner for block in blocks for inner in ast.walk(block)}


def layer(module: str) -> str:
    return module.split(".")[1]


def test_imports_point_upstream():
    wrong = [
        f"{module} imports {target}"
        for module, tree in modules().items()
        if module != "myna"
        for target in imported(tree, runtime_only=True)
        if target != "myna" and layer(module) != layer(target) and RANK[layer(target)] >= RANK[layer(module)]
    ]
    assert wrong == []


def test_nobody_inside_imports_the_package_root():
    assert [module for module, tree in modules().items() if "myna" in imported(tree, runtime_only=False)] == []


def test_there_are_no_import_cycles():
    graph = {module: imported(tree, runtime_only=True) for module, tree in modules().items() if module != "myna"}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for target in graph.get(module, ()):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", NO_TORCH)
def test_fast_modules_do_not_load_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_files_stay_small():
    long = {str(path): n for path in PACKAGE.rglob("*.py") if (n := len(path.read_text().splitlines())) > 400}
    assert long == {}


def test_names_say_something():
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [path for path in PACKAGE.rglob("*") if path.stem in vague] == []


def test_readme_tree_is_true():
    """Every file of the package is in the README's tree with a purpose of at most eight words, and nothing else is."""
    tree = re.search(r"```\nmyna/\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree is not None
    listed: set[str] = set()
    folders: list[str] = []
    for line in tree.group(1).splitlines():
        name, _, purpose = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        folders = folders[:depth]
        assert purpose.strip(), f"{name} has no purpose"
        assert len(purpose.split()) <= 8, f"{name}: {purpose}"
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
        else:
            listed.add("/".join([*folders, name]))
    on_disk = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix in (".py", ".yaml") and path.name != "__init__.py"
    }
    assert listed == on_disk


def test_every_command_has_a_page():
    from myna.cli.main import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {name for name in commands if not (ROOT / "docs" / f"{name}.md").is_file()} == set()
