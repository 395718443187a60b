"""The error tree: one base, the built-in kinds that callers expect, and messages that say what to do."""

import builtins
import inspect

import pytest

from meshgpt import errors
from meshgpt.errors import DataIndexError, GenerationInterrupted, MeshGPTError, MissingExtraError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
KINDS = [kind for kind in CLASSES if kind is not GenerationInterrupted]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_ours_and_stands_in_the_tree(kind):
    assert issubclass(kind, MeshGPTError)
    assert kind.__name__ in errors.__doc__
    assert kind.__doc__


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not MeshGPTError])
def test_the_tree_names_the_built_in_kind_of_each(kind):
    line = next(line for line in errors.__doc__.splitlines() if f" {kind.__name__} " in f"{line} ")
    for name in ("ValueError", "RuntimeError", "ImportError", "IndexError"):
        if name in line:
            assert issubclass(kind, getattr(builtins, name))


def test_an_interruption_is_no_error_and_ends_a_program_as_ctrl_c_does():
    assert issubclass(GenerationInterrupted, KeyboardInterrupt) and not issubclass(GenerationInterrupted, Exception)
    assert "GenerationInterrupted" in errors.__doc__


def test_a_missing_extra_names_the_extra_or_the_command():
    error = MissingExtraError("pillow", "pictures", "writing a PNG")
    assert str(error) == "writing a PNG needs the package 'pillow': pip install 'meshgpt[pictures]'"
    assert (error.package, error.extra) == ("pillow", "pictures")
    assert str(MissingExtraError("a", "b", "c", command="brew install a")).endswith("'a': brew install a")


def test_an_index_beyond_the_end_ends_a_for_loop():
    class Three:
        def __getitem__(self, index):
            if index > 2:
                raise DataIndexError(f"index {index} of 3")
            return index

    assert list(Three()) == [0, 1, 2]
