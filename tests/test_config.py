"""Configs: JSON and back, unknown fields, impossible values, the three ways to give one to a model."""

from dataclasses import FrozenInstanceError, dataclass, field

import numpy as np
import pytest

from meshgpt.config import Config, resolve_config
from meshgpt.errors import ConfigError


@dataclass(frozen=True)
class Inner(Config):
    depth: int = 2


@dataclass(frozen=True)
class Outer(Config):
    dims: tuple[int | tuple[int, ...], ...] = (1, 2)
    rate: float = 0.5
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None

    def validate(self) -> None:
        self.require(0 <= self.rate <= 1, "rate", "lie in 0..1")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": "0.5"}, "rate must be a number, got '0.5'"),
        ({"rate": True}, "rate must be a number, got True"),
        ({"dims": 3}, "dims must be a list, got 3"),
        ({"dims": ["3"]}, r"dims must be a list, got \('3',\)"),
        ({"inner": {"depth": 2.5}}, "Inner.depth must be a whole number, got 2.5"),
        ({"maybe": 1}, "maybe must be a Inner or None, got 1"),
    ],
)
def test_a_value_of_another_kind_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Outer.from_dict(values)


def test_a_config_that_is_made_directly_is_checked_too():
    with pytest.raises(ConfigError, match="Inner.depth must be a whole number, got 'no'"):
        Inner(depth="no")  # type: ignore[arg-type]


def test_numbers_of_numpy_become_plain_ones():
    config = Outer(dims=(np.int64(3),), rate=np.float32(0.5))  # type: ignore[arg-type]
    assert Outer.from_json(config.to_json()) == config and type(config.rate) is float


def test_a_config_survives_json_and_plain_values():
    config = Outer(dims=(3, (4, 5)), inner=Inner(depth=7), maybe=Inner(depth=1))
    assert Outer.from_json(config.to_json()) == config
    assert Outer.from_dict(config.to_dict()) == config
    assert config.to_dict()["dims"] == [3, [4, 5]]


def test_a_config_survives_a_file(tmp_path):
    (tmp_path / "config.json").write_text(Outer(rate=0.25).to_json())
    assert Outer.from_file(tmp_path / "config.json") == Outer(rate=0.25)


def test_lists_become_tuples_so_that_configs_can_be_compared_and_hashed():
    assert Outer(dims=[1, 2]) == Outer() and hash(Outer(dims=[1, 2])) == hash(Outer())


def test_a_config_cannot_be_changed_only_replaced():
    with pytest.raises(FrozenInstanceError):
        Outer().rate = 0.1
    assert Outer().replace(rate=0.1).rate == 0.1


def test_an_unknown_field_is_named_with_the_nearest_known_one():
    with pytest.raises(ConfigError, match="Outer has no field 'rates': did you mean 'rate'"):
        Outer.from_dict({"rates": 1})
    with pytest.raises(ConfigError, match="known fields: dims, rate, inner, maybe"):
        Outer().replace(zzz=1)
    with pytest.raises(ConfigError, match="Inner has no field 'depht'"):
        Outer.from_dict({"inner": {"depht": 1}})


def test_an_impossible_value_is_named_with_its_field():
    with pytest.raises(ConfigError, match=r"Outer\.rate must lie in 0\.\.1, got 2"):
        Outer(rate=2)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[1]", "expected a JSON object, got list")])
def test_text_that_is_no_json_object_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Outer.from_json(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot read .*absent.json"):
        Outer.from_file(tmp_path / "absent.json")


def test_a_model_takes_a_config_keywords_or_both():
    assert resolve_config(Outer, None, {"rate": 0.1}) == Outer(rate=0.1)
    assert resolve_config(Outer, Outer(rate=0.1), {}) == Outer(rate=0.1)
    assert resolve_config(Outer, Outer(rate=0.1), {"dims": [9]}) == Outer(rate=0.1, dims=(9,))
    with pytest.raises(ConfigError, match="expected a Outer, got Inner"):
        resolve_config(Outer, Inner(), {})
