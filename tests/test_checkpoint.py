"""A model on disk: round trips, damage, wrong models, interrupted saves, the Hub that is not there."""

import json
import time

import huggingface_hub
import pytest
import torch
from torch import nn

import meshgpt.checkpoint as checkpoint
from meshgpt._adapter import adapted, adapter
from meshgpt._storage import packed, restored, stored, unpacked
from meshgpt.errors import CheckpointError
from tests.training_toys import Toy, ToyConfig, equal_weights, weights_of


class Other(Toy):
    pass


class Plain(checkpoint.Pretrained):
    """A model without weights: only a config."""

    config_class = ToyConfig
    part = "plain"

    def __init__(self, config):
        self.config = config


class WithArgument(Toy):
    def __init__(self, tokenizer, config=None):
        super().__init__(config)
        self.tokenizer = tokenizer


def test_a_saved_model_comes_back_equal_and_in_evaluation_mode(tmp_path):
    model = Toy(width=5)
    model.save_pretrained(tmp_path / "m")
    again = Toy.from_pretrained(tmp_path / "m")
    assert again.config == model.config and equal_weights(weights_of(model), weights_of(again))
    assert not again.training


def test_constructor_arguments_come_before_the_config(tmp_path):
    WithArgument("tokenizer").save_pretrained(tmp_path)
    assert WithArgument.from_pretrained(tmp_path, "another").tokenizer == "another"


def test_a_model_without_weights_is_its_config_alone(tmp_path):
    Plain(ToyConfig(width=3)).save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert Plain.from_pretrained(tmp_path).config.width == 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_takes_half_the_bytes_and_comes_back_as_float32(tmp_path, dtype):
    model = Toy(width=512)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "half", dtype=dtype)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    again = Toy.from_pretrained(tmp_path / "half")
    assert again.head.weight.dtype == torch.float32
    assert torch.allclose(again.head.weight, model.head.weight, atol=1e-2)


@pytest.mark.parametrize(("dtype", "most", "share"), [("int8", 127, 0.27), ("int6", 31, 0.21), ("int5", 15, 0.18)])
def test_whole_numbers_take_a_share_of_the_bytes_and_miss_by_little(dtype, most, share, tmp_path):
    model = Toy(width=4096)
    model.save_pretrained(tmp_path / "few", dtype=dtype)
    again = Toy.from_pretrained(tmp_path / "few")
    step = model.head.weight.abs().amax(dim=1, keepdim=True) / most
    plain = (model.head.weight / step).round() * step  # as wide as the largest entry
    assert (again.head.weight - model.head.weight).norm() <= 1.001 * (plain - model.head.weight).norm()
    assert again.head.weight.dtype == torch.float32 and torch.allclose(again.head.bias, model.head.bias, atol=1e-2)
    again.save_pretrained(tmp_path / "once more", dtype=dtype)
    assert distance(again, Toy.from_pretrained(tmp_path / "once more")) < 1e-6
    state = {"wide": torch.randn(64, 3, 171), "small": torch.randn(32, 32), "bias": torch.randn(64)}
    state["count"] = torch.tensor(3)
    tensors = stored(state, dtype)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert size < share * sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert tensors["bias"].dtype == torch.bfloat16 and tensors["count"] == 3
    back = restored(tensors)
    assert back.keys() == state.keys() and back["wide"].shape == state["wide"].shape
    rows = state["wide"].flatten(1)
    step = rows.abs().amax(dim=1, keepdim=True) / most
    plain = ((rows / step).round() * step - rows).norm()
    bound = 0.97 if dtype == "int5" else 1.0001  # bell-shaped rows are better cut off
    assert (back["wide"] - state["wide"]).norm() <= bound * plain


@pytest.mark.parametrize("bits", [5, 6])
def test_few_bits_hold_every_number_that_they_can(bits):
    numbers = torch.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=torch.int8)
    for count in (1, 2, 3, 4, len(numbers) - 1, len(numbers)):
        data = packed(numbers[:count], bits)
        assert data.dtype == torch.uint8 and len(data) == -(-bits * count // 8)
        assert torch.equal(unpacked(data, [count], bits), numbers[:count])


# adapters


def tuned_from(model: Toy, rank: int, times: float = 1.0) -> Toy:
    """Changed by a matrix of this rank, after all weights of the one that it changes were made larger."""
    other = Toy(width=model.config.width)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        wide = other.net[0].weight
        wide *= times
        wide += 0.1 * torch.randn(len(wide), rank) @ torch.randn(rank, wide.shape[1])
        other.head.bias += 0.25
    return other


def test_a_head_that_was_sharpened_is_multiplied_as_a_whole():
    torch.manual_seed(2)
    before, change = torch.randn(96, 64), 0.2 * torch.randn(96, 2) @ torch.randn(2, 64)
    change_of = adapter({"head": before}, {"head": before / 0.85 + change}, 2)
    after = adapted({"head": before}, change_of, "here")["head"]
    assert (after - before / 0.85 - change).norm() < 0.01 * change.norm()
    few = restored(stored(change_of, "int8"))  # the factor is not rounded
    assert (adapted({"head": before}, few, "here")["head"] - after).norm() < 0.02 * change.norm()


def distance(one: Toy, other: Toy) -> float:
    mine, others = weights_of(one), weights_of(other)
    return max(float((mine[name] - others[name]).abs().max()) for name in mine)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_an_adapter_is_what_tells_a_model_from_its_base(tmp_path, dtype):
    model = Toy(width=4096)
    model.save_pretrained(tmp_path / "base")
    tuned = tuned_from(model, 1)
    tuned.save_pretrained(tmp_path / "tuned", dtype=dtype, adapter_of=tmp_path / "base", rank=1)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("base", "tuned")]
    assert sizes[1] < sizes[0] * (0.75 if dtype else 0.4)
    again = Toy.from_pretrained(tmp_path / "tuned")
    assert distance(again, tuned) < (1e-5 if dtype else 1e-2) < 0.1 < distance(model, tuned)
    assert not again.training
    checkpoint.shutil.rmtree(tmp_path / "base")  # its copy goes with the adapter
    assert equal_weights(weights_of(Toy.from_pretrained(tmp_path / "tuned")), weights_of(again))


def test_a_higher_rank_comes_nearer(tmp_path):
    model = Toy(width=4096)
    model.save_pretrained(tmp_path / "base")
    tuned, found = tuned_from(model, 3), []
    for rank in (1, 2):
        tuned.save_pretrained(tmp_path / f"{rank}", "float32", adapter_of=tmp_path / "base", rank=rank)
        found.append(distance(Toy.from_pretrained(tmp_path / f"{rank}"), tuned))
    assert found[1] < found[0]


def test_what_did_not_change_is_not_stored_and_an_adapter_may_change_an_adapter(tmp_path):
    model = Toy(width=512)
    model.save_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "b", adapter_of=tmp_path / "a")
    assert checkpoint.read_tensors(tmp_path / "b" / "model.safetensors") == {}
    tuned = tuned_from(model, 1)
    tuned.save_pretrained(tmp_path / "c", "float32", adapter_of=tmp_path / "b", rank=1)
    assert distance(Toy.from_pretrained(tmp_path / "c"), tuned) < 1e-5
    tuned.save_pretrained(tmp_path / "a", "float32", adapter_of=tmp_path / "a", rank=1)  # in the place of its base
    assert distance(Toy.from_pretrained(tmp_path / "a"), tuned) < 1e-5


def test_a_named_base_is_looked_up_and_must_be_what_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "BUNDLED_MODELS", tmp_path / "bundled")
    model, tuned = Toy(width=64), None
    model.save_pretrained(tmp_path / "bundled" / "mine" / "toy")
    tuned = tuned_from(model, 1)
    tuned.save_pretrained(tmp_path / "tuned", adapter_of="mine", rank=1)
    assert sorted(path.name for path in (tmp_path / "tuned").iterdir()) == ["config.json", "model.safetensors"]
    assert distance(Toy.from_pretrained(tmp_path / "tuned"), tuned) < 1e-2
    Toy(width=64).save_pretrained(tmp_path / "bundled" / "mine" / "toy")
    with pytest.raises(CheckpointError, match="'mine' as that was when it was saved, but its weights have changed"):
        Toy.from_pretrained(tmp_path / "tuned")
    checkpoint.shutil.rmtree(tmp_path / "bundled" / "mine")
    with pytest.raises(CheckpointError, match="no bundled model 'mine'"):
        Toy.from_pretrained(tmp_path / "tuned")


def test_an_adapter_needs_a_base_of_the_same_form(tmp_path):
    Toy(width=8).save_pretrained(tmp_path / "narrow")
    with pytest.raises(CheckpointError, match="same form: .* differs"):
        Toy(width=16).save_pretrained(tmp_path / "x", adapter_of=tmp_path / "narrow")
    with pytest.raises(CheckpointError, match="rank of an adapter must be at least 1, got 0"):
        Toy(width=8).save_pretrained(tmp_path / "x", adapter_of=tmp_path / "narrow", rank=0)
    assert not (tmp_path / "x").exists()
    base = {"counts": torch.tensor([1, 2]), "weight": torch.ones(2)}
    with pytest.raises(CheckpointError, match="counts holds other whole numbers"):
        adapter(base, {**base, "counts": torch.tensor([1, 3])}, 1)
    with pytest.raises(CheckpointError, match=r"it changes other \(2,\)"):
        adapted(base, {"other": torch.ones(2)}, "a file")


def test_an_unknown_dtype_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(CheckpointError, match="float32, bfloat16, float16, int8, int6, int5, not as 'int4'"):
        Toy().save_pretrained(tmp_path / "m", dtype="int4")
    assert not (tmp_path / "m").exists()


def test_tied_weights_are_stored_and_loaded(tmp_path):
    class Tied(Toy):
        def __init__(self, config=None):
            super().__init__(config)
            self.second = nn.Linear(8, 1)
            self.second.weight = self.head.weight

    model = Tied()
    model.save_pretrained(tmp_path)
    again = Tied.from_pretrained(tmp_path)
    assert again.second.weight is again.head.weight
    assert torch.equal(again.head.weight, model.head.weight)


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    Toy().save_pretrained(tmp_path)
    Toy().save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_every_flipped_bit_and_every_cut_of_the_weights_is_noticed(tmp_path):
    Toy().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    good = path.read_bytes()
    for place in range(0, len(good), 29):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(CheckpointError, match="is damaged: its sha256 is"):
            Toy.from_pretrained(tmp_path)
        path.write_bytes(good[:place])
        with pytest.raises(CheckpointError, match="is damaged"):
            Toy.from_pretrained(tmp_path)


def test_a_model_of_another_class_is_refused_by_name(tmp_path):
    Other().save_pretrained(tmp_path)
    assert checkpoint.saved_class(tmp_path) == "Other"
    with pytest.raises(CheckpointError, match="holds a Other, not a Toy"):
        Toy.from_pretrained(tmp_path)


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path):
    tensors = weights_of(Toy())
    tensors["extra"] = torch.zeros(2)
    del tensors["seen"]
    tensors["head.weight"] = torch.zeros(1, 9)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.fill_module(Toy(), tensors, "here")
    for part in ("missing seen ()", "unexpected extra (2,)", "head.weight is (1, 9), the model has (1, 8)"):
        assert part in str(caught.value)


def test_a_long_list_of_problems_is_cut():
    with pytest.raises(CheckpointError, match="and 2 more"):
        checkpoint.fill_module(Toy(), {f"x{i}": torch.zeros(1) for i in range(2)}, "here")


def test_weights_that_are_not_there_are_reported(tmp_path):
    Toy().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        Toy.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "does not describe a model of this package"),
        ('{"format": "other", "class": "Toy", "config": {}}', "does not describe a model"),
        ('{"format": "meshgpt", "version": 99, "class": "Toy", "config": {}}', "format version 99"),
    ],
)
def test_a_bad_config_file_is_explained(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        Toy.from_pretrained(tmp_path)


def test_a_config_file_that_cannot_be_read_is_explained(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json"):
        checkpoint.load_config(tmp_path, Toy)


def test_tensors_that_are_not_safetensors_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        checkpoint.read_tensors(path)


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_save_that_fails_at_any_step_leaves_a_whole_model(tmp_path, monkeypatch, function):
    """The old one until config.json is replaced, the new one from then on."""
    for nth in range(8):
        folder = tmp_path / f"{nth}"
        old, new = Toy(), Toy()
        old.save_pretrained(folder)
        left = [nth]
        original = getattr(checkpoint.os, function)

        def failing(*args, left=left, original=original):
            left[0] -= 1
            if left[0] == -1:
                raise OSError(28, "No space left on device")
            return original(*args)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.os, function, failing)
            try:
                new.save_pretrained(folder)
            except CheckpointError as error:
                assert "No space left on device" in str(error)
        found = weights_of(Toy.from_pretrained(folder))
        assert equal_weights(found, weights_of(old)) or equal_weights(found, weights_of(new))
        last = Toy()
        last.save_pretrained(folder)
        assert equal_weights(weights_of(Toy.from_pretrained(folder)), weights_of(last))


def test_weights_of_an_interrupted_save_are_found_by_their_hash_and_survive_the_next_failure(tmp_path, monkeypatch):
    model = Toy()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.safetensors.new")
    assert equal_weights(weights_of(Toy.from_pretrained(tmp_path)), weights_of(model))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        Toy().save_pretrained(tmp_path)
    assert equal_weights(weights_of(Toy.from_pretrained(tmp_path)), weights_of(model))


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        Toy().save_pretrained(tmp_path / "x")


def test_the_part_of_a_pipeline_folder_is_found(tmp_path):
    Toy().save_pretrained(tmp_path / "toy")
    assert checkpoint.find_model(tmp_path, "toy") == tmp_path / "toy"


def test_a_model_beside_the_pipeline_is_found_by_its_own_class(tmp_path, monkeypatch):
    Toy().save_pretrained(tmp_path / "toy")
    monkeypatch.setattr(Toy, "beside", "other")
    assert checkpoint.find_model(tmp_path, Toy.part, beside=Toy.beside) == tmp_path / "toy"
    Toy().save_pretrained(tmp_path / "other")
    assert checkpoint.find_model(tmp_path, Toy.part, beside=Toy.beside) == tmp_path / "other"
    assert Toy.from_pretrained(tmp_path) is not None


def test_bundled_models_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "BUNDLED_MODELS", tmp_path)
    Toy().save_pretrained(tmp_path / "lowpoly" / "toy")
    assert checkpoint.bundled_models() == ["lowpoly"]
    assert checkpoint.find_model("lowpoly", "toy") == tmp_path / "lowpoly" / "toy"
    with pytest.raises(CheckpointError, match=r"no bundled model 'nothing' \(bundled: lowpoly\)"):
        Toy.from_pretrained("nothing")


def test_an_existing_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no toy"):
        Toy.from_pretrained(tmp_path)


def test_without_a_network_a_hub_name_fails_within_two_seconds_and_says_the_ways_out():
    start = time.process_time()  # of this process alone, as other tests may run beside it
    with pytest.raises(
        CheckpointError, match="Without a network: give the folder of a model, or the name of a bundled"
    ):
        Toy.from_pretrained("someone/something")
    assert time.process_time() - start < 2


def test_a_model_from_the_hub_is_read_from_its_snapshot(tmp_path, monkeypatch):
    model = Toy()
    model.save_pretrained(tmp_path / "toy")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **keywords: str(tmp_path))
    assert equal_weights(weights_of(Toy.from_pretrained("me/it")), weights_of(model))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **keywords: str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match="the Hub repository 'me/it' holds no toy"):
        Toy.from_pretrained("me/it")


def test_push_to_hub_uploads_the_two_files(monkeypatch):
    seen = {}

    class FakeApi:
        def create_repo(self, repository, private, exist_ok):
            return f"https://hub/{repository}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            seen.update(repo=repo_id, files=sorted(p.name for p in checkpoint.Path(folder_path).iterdir()))

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    assert Toy().push_to_hub("me/it") == "https://hub/me/it"
    assert seen == {"repo": "me/it", "files": ["config.json", "model.safetensors"]}


def test_config_json_is_readable_and_complete(tmp_path):
    Toy(width=6).save_pretrained(tmp_path)
    entry = json.loads((tmp_path / "config.json").read_text())
    assert entry["class"] == "Toy" and entry["config"] == {"width": 6, "dropout": 0.0}
    assert entry["weights"]["sha256"] == checkpoint.file_sha256(tmp_path / "model.safetensors")


def test_weights_can_be_read_by_whom_the_umask_allows(tmp_path):
    Toy().save_pretrained(tmp_path)
    modes = {(tmp_path / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1
