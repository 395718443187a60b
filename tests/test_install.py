"""Fresh environments: what `pip install meshgpt` brings, and that it leaves the torch that is there alone.

Each takes minutes and needs a package index, so only `make test-install` runs them. No constraints file is used for the
package itself: pip may choose whatever it likes, as it may for a user.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.install
ROOT = Path(__file__).resolve().parent.parent
TORCH = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))

AFTERWARDS = """
import importlib.metadata, json, sys
torch_before_import = importlib.metadata.version("torch")
import meshgpt, torch
from meshgpt.data.dataset import MeshDataset
names = {item.metadata["Name"].lower() for item in importlib.metadata.distributions()}
print(json.dumps({
    "torch": torch.__version__,
    "home": meshgpt.__file__,
    "tiny": len(MeshDataset.bundled("tiny")),
    "heavy": sorted(name for name in names if name.startswith(("nvidia", "triton", "torchvision", "open-clip"))),
}))
"""


def run(*command, **options):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TYPECHECK")}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, **options)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with the tested torch and nothing else, and a copy of the sources to install from."""
    folder = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", TORCH)
    tracked = run("git", "ls-files", "-z", "meshgpt", "pyproject.toml", "setup.py", "README.md", "LICENSE", cwd=ROOT)
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    return folder, python


def installed(environment, extras):
    """What `AFTERWARDS` prints once `pip install source[extras]` is done, seen from an empty folder."""
    folder, python = environment
    before = run(python, "-c", "import torch; print(torch.__version__)", cwd=folder).strip()
    run(python, "-m", "pip", "install", "--quiet", f"{folder / 'source'}{extras}")
    return before, json.loads(run(python, "-W", "ignore", "-c", AFTERWARDS, cwd=folder).splitlines()[-1])


@pytest.mark.parametrize("extras", ["", "[all]"])
def test_installing_leaves_torch_alone_and_the_package_imports(environment, extras):
    before, after = installed(environment, extras)
    assert after["torch"] == before
    assert "site-packages" in after["home"]
    assert after["tiny"] == 64, "the wheel lacks its data"
    if before.endswith("+cpu"):
        assert after["heavy"] == [], "an extra brought what only a CUDA torch needs"


def test_the_guidance_package_installs_beside_a_cpu_torch_as_documented(environment):
    before, _ = installed(environment, "[cfg]")
    folder, python = environment
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "classifier-free-guidance-pytorch>=0.7.1,<0.8")
    code = "import torch, meshgpt.transformer.cfg_adapter as a; a.guidance_package(); print(torch.__version__)"
    assert run(python, "-c", code, cwd=folder).strip() == before


def test_the_text_encoder_installs_beside_a_cpu_torch_and_needs_no_network(environment):
    before, after = installed(environment, "[text]")
    folder, python = environment
    code = "from meshgpt.text.encoder import text_encoder; import sys, torch"
    code += "; print(text_encoder().embed('a chair').mask.shape)"
    code += "; assert 'transformers' not in sys.modules; print(torch.__version__)"
    assert run(python, "-c", code, cwd=folder).splitlines() == ["torch.Size([1, 4])", before]
    if before.endswith("+cpu"):
        assert after["heavy"] == []


def test_the_installed_command_starts(environment):
    installed(environment, "")
    folder, python = environment
    assert "generate" in run(python.parent / "meshgpt", "--help", cwd=folder)
    assert "generate" in run(python, "-m", "meshgpt", "--help", cwd=folder)
