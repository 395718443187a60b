"""The docs are true: every Python block runs, every example runs, every link and command exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from meshgpt.cli.main import parser
from meshgpt.training.presets import TOKENIZERS, TRANSFORMERS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TYPECHECK": "False"}


def python(words, folder):
    words = [sys.executable, *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_docs_runs(block, tmp_path):
    (tmp_path / "block.py").write_text(block, encoding="utf-8")
    python(["block.py"], tmp_path)


@pytest.mark.slow
def test_the_examples_run_one_after_the_other(tmp_path):
    examples = ROOT / "examples"
    assert "on a grid of 128 bins" in python([examples / "01_read_and_draw.py", "--out", tmp_path / "out"], tmp_path)
    python([examples / "03_train_tokenizer.py", "--steps", "2", "--out", "t"], tmp_path)
    assert "comes back whole: True" in python([examples / "02_tokenize.py", "--model", "t"], tmp_path)
    words = ["--tokenizer", "t", "--steps", "2", "--variants", "1", "--max-faces", "60", "--out", "m"]
    python([examples / "04_train_transformer.py", *words], tmp_path)
    shown = python([examples / "05_generate.py", "--model", "m/pipeline", "-n", "2", "--max-faces", "4"], tmp_path)
    assert "seed 1:" in shown and (tmp_path / "out" / "generated" / "index.html").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_are_commands(page):
    for line in re.findall(r"^ {4}(meshgpt .*)$", page.read_text(encoding="utf-8"), re.M):
        for command in filter(None, re.split(r"\s{2,}(?=meshgpt )", line.rstrip("\\ "))):
            parser().parse_args(command.split()[1:] + (["--out", "x"] if command.endswith("0") else []))


def test_the_presets_of_the_docs_are_the_presets():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"--preset {' | '.join(TOKENIZERS)}" in text and list(TOKENIZERS) == list(TRANSFORMERS)
