"""`import meshgpt` is cheap and quiet, and its public names are the ones pinned here."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import meshgpt

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("accelerate", "scipy", "torch", "torch_geometric", "trimesh", "vector_quantize_pytorch", "x_transformers")

AUDITED = """
import json, sys
opened = []
def watch(event, args):
    if event == "open" and not str(args[0]).endswith((".py", ".pyc")):
        opened.append(str(args[0]))
    if event.startswith("socket."):
        opened.append(event)
sys.addaudithook(watch)
before = set(sys.modules)
import meshgpt
print(json.dumps({"opened": opened, "modules": sorted(set(sys.modules) - before)}))
"""


def fresh(code, cwd, **environment):
    """What `code` prints, as JSON, in a new process with an empty environment."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_package_loads_none_of_its_needs_and_opens_nothing(tmp_path):
    seen = fresh(AUDITED, tmp_path)
    assert seen["opened"] == []
    assert not [name for name in seen["modules"] if name.split(".")[0] in HEAVY]
    assert len(seen["modules"]) < 150, f"{len(seen['modules'])} modules; the standard library alone should do"


def test_the_only_file_ever_opened_is_a_dotenv(tmp_path):
    (tmp_path / ".env").write_text("OTHER=1\n")
    assert fresh(AUDITED, tmp_path)["opened"] == [str(tmp_path / ".env")]


def test_a_mesh_costs_little_beyond_torch(tmp_path):
    count = "import json, sys; {}; print(json.dumps(sorted(sys.modules)))"
    torch_alone = set(fresh(count.format("import torch, numpy"), tmp_path))
    with_mesh = set(fresh(count.format("import meshgpt; meshgpt.Mesh"), tmp_path))
    extra = {name for name in with_mesh - torch_alone if not name.startswith("meshgpt")}
    assert not [name for name in extra if name.split(".")[0] in HEAVY and not name.startswith("torch.")]
    assert len(extra) < 100, sorted(extra)


def type_checking_names():
    """{name: module} of the imports that type checkers see in `meshgpt/__init__.py`."""
    tree = ast.parse(Path(meshgpt.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    return {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_type_checkers_and_users_see_the_same_names_from_the_same_modules():
    assert type_checking_names() == {name: f"meshgpt.{home}" for name, home in meshgpt._HOMES.items()}


def test_the_public_names_are_pinned():
    assert sorted(meshgpt._HOMES) == list(meshgpt._HOMES), "keep the table sorted"
    assert set(meshgpt.__all__) == {"TYPECHECKED", "__version__", *meshgpt._HOMES} <= set(dir(meshgpt))


@pytest.mark.parametrize("name", sorted(meshgpt._HOMES))
def test_every_public_name_is_there_and_documented(name):
    value = getattr(meshgpt, name)
    assert value.__doc__ and value.__module__.startswith("meshgpt.")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'meshgpt' has no attribute 'Mush'"):
        meshgpt.Mush  # noqa: B018


def test_version_and_changelog_agree():
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest and newest[1] == meshgpt.__version__


def test_a_pipeline_loads_only_what_its_tokenizer_needs(tmp_path):
    code = "import json, sys; import meshgpt; meshgpt.MeshPipeline.from_pretrained('lowpoly'); "
    seen = fresh(code + "print(json.dumps(sorted(sys.modules)))", tmp_path)
    assert not {"torch_geometric", "vector_quantize_pytorch", "accelerate", "trimesh"} & set(seen)
