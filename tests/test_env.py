"""Settings: from the environment, else from the nearest `.env`, checked when read; shape checking on and off."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from meshgpt import _env
from meshgpt._env import find_dotenv, flag, read_dotenv, setting
from meshgpt._typecheck import checked
from meshgpt.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory and no TYPECHECK in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TYPECHECK", raising=False)
    return tmp_path


def python(code, cwd, **environment):
    environment = {"PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment)
    return done.stdout.strip(), done.stderr


def test_an_unset_or_empty_variable_is_its_default(monkeypatch):
    assert flag("TYPECHECK") is False and flag("TYPECHECK", default=True) is True
    monkeypatch.setenv("TYPECHECK", "  ")
    assert setting("TYPECHECK") is None


@pytest.mark.parametrize("text", ["true", "True", "1", "yes", "ON"])
def test_yes_in_any_of_its_forms(monkeypatch, text):
    monkeypatch.setenv("TYPECHECK", text)
    assert flag("TYPECHECK") is True


@pytest.mark.parametrize("text", ["false", "FALSE", "0", "no", "Off"])
def test_no_in_any_of_its_forms(monkeypatch, text):
    monkeypatch.setenv("TYPECHECK", text)
    assert flag("TYPECHECK", default=True) is False


def test_any_other_text_is_an_error_that_names_the_value_and_its_place(monkeypatch, tmp_path):
    monkeypatch.setenv("TYPECHECK", "maybe")
    with pytest.raises(ConfigError, match="TYPECHECK must be one of true, 1, .*'maybe' from the environment"):
        flag("TYPECHECK")
    monkeypatch.delenv("TYPECHECK")
    (tmp_path / ".env").write_text("TYPECHECK=perhaps\n")
    with pytest.raises(ConfigError, match=rf"'perhaps' from {re.escape(str(tmp_path / '.env'))}"):
        flag("TYPECHECK")


def test_the_nearest_dotenv_upward_counts_and_the_environment_wins(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("TYPECHECK=true\n")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert find_dotenv() == tmp_path / ".env" and flag("TYPECHECK") is True
    (tmp_path / "a" / ".env").write_text("TYPECHECK=no\n")
    assert flag("TYPECHECK") is False
    monkeypatch.setenv("TYPECHECK", "yes")
    assert flag("TYPECHECK") is True


def test_a_folder_named_dotenv_is_passed_over(tmp_path):
    (tmp_path / "inner" / ".env").mkdir(parents=True)
    (tmp_path / ".env").write_text("A=1")
    assert find_dotenv(tmp_path / "inner") == tmp_path / ".env"


def test_a_deleted_working_directory_has_no_dotenv(monkeypatch):
    def gone():
        raise FileNotFoundError

    monkeypatch.setattr(_env.Path, "cwd", gone)
    assert find_dotenv() is None


def test_a_dotenv_may_have_comments_quotes_exports_and_lines_of_others(tmp_path):
    (tmp_path / ".env").write_text("# A=0\nexport A=1\nB = 'two # words' # said\nC=3 # three\nnot a pair\nD=\n")
    assert read_dotenv(tmp_path / ".env") == {"A": "1", "B": "two # words", "C": "3", "D": ""}


def test_the_sample_explains_every_variable_and_holds_its_default(monkeypatch, tmp_path):
    values = read_dotenv(ROOT / ".env.sample")
    assert tuple(values) == _env.VARIABLES
    assert flag("TYPECHECK") is (values["TYPECHECK"] == "true")


def test_wrong_shapes_are_caught_only_where_typecheck_asks(tmp_path):
    code = (
        "import torch, meshgpt\n"
        "from meshgpt.data.batch import MeshBatch\n"
        "from meshgpt.config import Config\n"
        "try: Config.require('not a config', True, 1, 'be fine'); print('unchecked')\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    assert python(code, tmp_path, TYPECHECK="true")[0] == "TypeCheckError"
    assert python(code, tmp_path, TYPECHECK="false")[0] == "unchecked"
    (tmp_path / ".env").write_text("TYPECHECK=1")
    assert python(code, tmp_path)[0] == "TypeCheckError"


def test_switched_off_neither_jaxtypings_hook_nor_beartype_is_loaded(tmp_path):
    code = "import sys, meshgpt; print(meshgpt.TYPECHECKED, 'jaxtyping' in sys.modules, 'beartype' in sys.modules)"
    assert python(code, tmp_path)[0] == "False False False"


def test_a_bad_value_stops_the_import_with_our_error(tmp_path):
    _, stderr = python("import meshgpt", tmp_path, TYPECHECK="maybe")
    assert "meshgpt.errors.ConfigError: TYPECHECK must be one of" in stderr


def test_the_checker_takes_a_whole_number_for_a_float_and_leaves_self_alone():
    from typing import Self

    def half(x: float) -> float:
        return x / 2

    def same(self: object) -> Self:
        return self

    assert checked(half)(3) == 1.5 and checked(same)(4) == 4
    with pytest.raises(Exception, match="str"):
        checked(half)("3")
