"""Imports point one way, up the list of rooms of the house; every import of every module is read, lazy ones too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = (
    *("errors", "_env", "_typecheck", "_storage", "_adapter", "config", "checkpoint", "fingerprint"),
    *("mesh", "data", "nn", "text", "tokenizers", "transformer", "shapes"),
    *("critic", "wishes", "pipeline", "steering", "retopology", "demo", "training", "evaluation", "cli"),
)
LAST = ("training", "evaluation")  # known only by cli/ and, lazily, by __init__
TENSORS = ("meshgpt.mesh.farthest",)  # in mesh/, but mathematics of tensors that knows no Mesh: nn/ may use it
FACADES = ("meshgpt", "meshgpt.__main__")  # hold no code that others need


def modules():
    """{dotted name: path} of every module of the package."""
    names = {}
    for path in sorted((ROOT / "meshgpt").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def imported(name, tree):
    """The modules of the package that `tree`, the source of module `name`, imports anywhere, with line numbers."""
    package = name if MODULES.get(name, Path()).name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.split(".")[0] == "meshgpt")
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parents, *filter(None, [node.module])])
            if source.split(".")[0] == "meshgpt":
                for alias in node.names:
                    inner = f"{source}.{alias.name}"
                    yield (inner if inner in MODULES else source), node.lineno


def room(name):
    return name.split(".")[1] if "." in name else name


def complaint(name, target):
    """Why module `name` may not import `target`, or None."""
    here, there = room(name), room(target)
    if name in FACADES or here == there:
        return None
    if target in FACADES:
        return None if here == "cli" else "goes through the package's front door, which knows everything"
    if there not in ROOMS:
        return f"'{there}' is not a room of the house"
    if ROOMS.index(there) > ROOMS.index(here):
        return f"points down: {here}/ comes before {there}/"
    if there in LAST and here != "cli":
        return f"{there}/ is known only by cli/"
    if here == "nn" and there in ("mesh", "data") and target not in TENSORS:
        return "nn/ knows tensors and configs, never a Mesh"
    if here == "transformer" and there == "tokenizers" and target != "meshgpt.tokenizers.tokenizer":
        return "transformer/ knows tokenizers only through their interface"
    return None


def complaints(sources):
    """One line for each import in {module name: source} that does not point up the list."""
    lines = []
    for name, source in sources.items():
        for target, line in imported(name, ast.parse(source)):
            if reason := complaint(name, target):
                lines.append(f"{name}:{line} imports {target}: {reason}")
    return lines


def circles(edges):
    """The modules of {module: set of modules} that can reach themselves, importing at load time."""
    reach = {name: set(targets) for name, targets in edges.items()}
    for middle in reach:
        for name in reach:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    return sorted(name for name in reach if name in reach[name])


def test_every_module_stands_in_a_room():
    assert {room(name) for name in MODULES} <= {"meshgpt", "__main__", *ROOMS}


def test_every_import_points_up_the_list():
    found = complaints({name: path.read_text(encoding="utf-8") for name, path in MODULES.items()})
    assert not found, "\n".join(found)


def test_the_mathematics_that_nn_may_use_knows_nothing_of_the_package():
    for name in TENSORS:
        assert not list(imported(name, ast.parse(MODULES[name].read_text(encoding="utf-8"))))


def test_no_module_imports_itself_by_way_of_others():
    edges = {name: set() for name in MODULES if name not in FACADES}
    for name in edges:
        targets = {target for target, _ in imported(name, ast.parse(MODULES[name].read_text(encoding="utf-8")))}
        edges[name] = (targets & edges.keys()) - {name}
    assert not circles(edges)


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        ("meshgpt.mesh.mesh", "from meshgpt.data.batch import MeshBatch", "points down"),
        ("meshgpt.nn.attention", "def f():\n    import meshgpt.mesh.mesh", "never a Mesh"),
        ("meshgpt.pipeline", "import meshgpt.training.trainer", "points down"),
        ("meshgpt.evaluation.report", "import meshgpt.training.trainer", "known only by cli"),
        ("meshgpt.mesh.mesh", "from meshgpt import Mesh", "front door"),
        ("meshgpt.mesh.mesh", "from ..data import batch", "points down"),
        ("meshgpt.mesh.mesh", "import meshgpt.utils", "not a room"),
        ("meshgpt.transformer.model", "from meshgpt.tokenizers import autoencoder", "only through their interface"),
    ],
)
def test_a_wrong_import_is_named(name, source, reason):
    [line] = complaints({name: source})
    assert line.startswith(f"{name}:") and reason in line


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("meshgpt.data.batch", "from meshgpt.mesh.mesh import Mesh\nimport numpy"),
        ("meshgpt.mesh.files", "from . import mesh"),
        ("meshgpt.nn.points", "from meshgpt.mesh.farthest import farthest_points"),
        ("meshgpt.transformer.model", "from meshgpt.tokenizers.tokenizer import MeshTokenizer"),
        ("meshgpt.cli.main", "from meshgpt import __version__\nimport meshgpt.training.trainer"),
    ],
)
def test_a_right_import_is_not(name, source):
    assert complaints({name: source}) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]
