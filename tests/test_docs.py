"""The docs are true: every Python block runs, every example runs, every link and command exists."""

import json
import re
import runpy
import shlex
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


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a script in an empty folder, in this process (a new one would spend most of its time on imports)."""
    monkeypatch.chdir(tmp_path)

    def run_script(path, *words):
        monkeypatch.setattr("sys.argv", [str(path), *words])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run_script


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_docs_runs(block, run, tmp_path):
    (tmp_path / "block.py").write_text(block, encoding="utf-8")
    run(tmp_path / "block.py")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_examples_run_one_after_the_other(run, tmp_path):
    examples = ROOT / "examples"
    assert "on a grid of 128 bins" in run(examples / "01_read_and_draw.py")
    assert (tmp_path / "out" / "examples" / "mesh.html").exists()
    run(examples / "03_train_tokenizer.py", "--steps", "2", "--out", "t")
    assert "comes back whole: True" in run(examples / "02_tokenize.py", "--model", "t")
    words = ["--tokenizer", "t", "--steps", "2", "--variants", "1", "--max-faces", "60", "--out", "m"]
    run(examples / "04_train_transformer.py", *words)
    shown = run(examples / "05_generate.py", "--model", "m/pipeline", "-n", "2", "--max-faces", "4")
    assert "seed 1:" in shown and (tmp_path / "out" / "generated" / "index.html").exists()
    words = ["--model", "m/pipeline", "--data", "tiny", "--count", "3", "--max-faces", "60", "--points", "64"]
    shown = run(examples / "10_evaluate.py", *words)
    assert "1-NNA, %" in shown and (tmp_path / "out" / "evaluated" / "report.html").exists()
    few = ["--points", "2000", "--epochs", "1", "--resolution", "32", "--out", "f"]
    assert "IoU on the grid" in run(examples / "11_shape_as_a_field.py", *few)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_docs_are_commands(page):
    for line in re.findall(r"^ {4}(meshgpt .*)$", page.read_text(encoding="utf-8"), re.M):
        for command in filter(None, re.split(r"\s{2,}(?=meshgpt )", line.rstrip("\\ "))):
            parser().parse_args(shlex.split(command)[1:] + (["--out", "x"] if command.endswith("0") else []))


def test_the_presets_of_the_docs_are_the_presets():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"--preset {' | '.join(TOKENIZERS)}" in text and list(TOKENIZERS) == list(TRANSFORMERS)


def test_the_table_of_writing_speed_is_that_of_its_report():
    made = runpy.run_path(str(ROOT / "benchmarks" / "generation_speed.py"))
    report = json.loads((ROOT / "benchmarks" / "results" / "generation_speed.json").read_text(encoding="utf-8"))
    assert made["table"](report) in (ROOT / "README.md").read_text(encoding="utf-8")
