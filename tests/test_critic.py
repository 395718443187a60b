"""A critic of what a pipeline writes: what it learns, how it chooses, where it is kept."""

import dataclasses

import numpy as np
import pytest
import torch

from meshgpt import MeshPipeline, MeshTransformer
from meshgpt.cli.main import main
from meshgpt.critic import MeshCriticConfig
from meshgpt.data.dataset import MeshDataset
from meshgpt.errors import ConfigError, DataError
from meshgpt.mesh.files import read_mesh
from meshgpt.mesh.finishing import HALVES
from meshgpt.mesh.form import doubt
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.symmetry import mirrored_share
from meshgpt.pipeline import MeshPipelineConfig
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.training.critics import CriticTraining, preference, train_critic

SHORT = CriticTraining(num_meshes=20, candidates=2, num_train_steps=60, batch_size=32)
EMPTY = Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))


@pytest.fixture(scope="module")
def data():
    return MeshDataset("tiny").filter(max_faces=200)


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    tokenizer = PatchTokenizer()
    transformer = MeshTransformer(
        tokenizer, dim=16, attn_depth=1, attn_heads=2, attn_dim_head=8, fine_attn_depth=1, fine_attn_heads=2,
        fine_attn_dim_head=8, max_seq_len=120,
    )  # fmt: skip
    return MeshPipeline(tokenizer, transformer.eval(), MeshPipelineConfig(max_faces=40))


@pytest.fixture(scope="module")
def critic(untrained, data):
    torch.manual_seed(0)
    return train_critic(untrained, data, config=SHORT, progress=False)


def test_it_tells_meshes_of_an_untrained_model_from_real_ones(critic, untrained, data):
    assert critic.config.accuracy is not None and critic.config.accuracy > 0.9
    written = [item.mesh for item in untrained.generate(num_meshes=8, seed=900)]
    real = critic.judge([data.mesh(i) for i in range(20)])
    assert np.mean(real) > 0 > np.mean(critic.judge(written))


def test_its_logits_do_not_depend_on_place_size_or_company(critic, data):
    meshes = [data.mesh(i) for i in range(3)]
    moved = [Mesh(mesh.vertices * 3 + 5, mesh.faces) for mesh in meshes]
    assert np.allclose(critic.judge(meshes), critic.judge(moved), atol=0.1)
    assert critic.judge(meshes)[1] == pytest.approx(critic.judge(meshes[1:2])[0], abs=1e-5)
    assert critic.judge([]) == [] and critic.judge([EMPTY]) == [-np.inf]


def test_the_same_seed_gives_the_same_critic(critic, untrained, data):
    torch.manual_seed(0)
    again = train_critic(untrained, data, config=SHORT, progress=False)
    assert all(torch.equal(one, two) for one, two in zip(critic.parameters(), again.parameters(), strict=True))


def test_preference_is_the_share_of_pairs_in_the_right_order():
    assert preference(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0])) == pytest.approx(0.875)


def test_retouched_meshes_are_no_more_doubtful_and_say_which_form_they_are(untrained, critic):
    config = untrained.config.replace(retouch=True, critic_weight=0.5)
    pipe = MeshPipeline(untrained.tokenizer, untrained.transformer, config, critic)
    plain = pipe.generate(num_meshes=6, seed=3, retouch=False)
    better = pipe.generate(num_meshes=6, seed=3)
    assert all(item.form == "written" for item in plain)
    assert any(item.form in HALVES for item in better)
    for one, two in zip(plain, better, strict=True):
        assert torch.equal(one.codes, two.codes)
        assert two.doubt <= one.doubt and two.doubt == pytest.approx(pipe.doubts_of([two.mesh])[0], abs=0.5)
        assert one.retouched == "" and (two.retouched == f"{two.form} half mirrored" or two.form not in HALVES)
        if two.form in HALVES:
            assert mirrored_share(two.mesh) == 1.0 and two.mesh.bounds[0, 1] == pytest.approx(0.0)


def test_no_form_has_more_faces_than_a_mesh_may_have(untrained):
    for item in untrained.generate(num_meshes=4, seed=0, max_faces=30, retouch=True):
        assert item.mesh.num_faces <= 30


def test_without_a_critic_form_alone_counts(untrained):
    [item] = untrained.generate(seed=1, retouch=True)
    assert item.doubt == pytest.approx(doubt(item.mesh), abs=1e-6)


def test_the_best_of_more_candidates_is_never_worse(untrained, critic):
    pipe = MeshPipeline(untrained.tokenizer, untrained.transformer, untrained.config.replace(critic_weight=1.0), critic)
    few, many = (pipe.generate(seed=5, candidates=count, retouch=True)[0] for count in (1, 4))
    assert many.stopped_by == "end" or few.stopped_by == many.stopped_by
    if few.stopped_by == many.stopped_by:
        assert many.doubt <= few.doubt


def test_a_prompt_is_not_retouched(untrained, data):
    mesh = data.filter(max_faces=30).mesh(0)
    [item] = untrained.complete(mesh, keep=0.5, retouch=True)
    assert item.form == "written"


def test_it_is_saved_and_loaded_with_its_pipeline(untrained, critic, data, tmp_path):
    config = untrained.config.replace(critic_weight=0.25)
    pipe = MeshPipeline(untrained.tokenizer, untrained.transformer, config, critic)
    again = MeshPipeline.from_pretrained(pipe.save_pretrained(tmp_path))
    meshes = [data.mesh(i) for i in range(4)]
    assert again.doubts_of(meshes) == pytest.approx(pipe.doubts_of(meshes))
    assert again.critic.config == critic.config
    half = MeshPipeline.from_pretrained(pipe.save_pretrained(tmp_path / "half", dtype="int8"))
    assert half.doubts_of(meshes) == pytest.approx(pipe.doubts_of(meshes), abs=0.5)
    without = MeshPipeline(untrained.tokenizer, untrained.transformer, untrained.config)
    assert MeshPipeline.from_pretrained(without.save_pretrained(tmp_path)).critic is None


def test_bad_settings_are_refused(untrained, critic, data):
    with pytest.raises(ConfigError, match="there is no critic"):
        MeshPipeline(untrained.tokenizer, untrained.transformer, MeshPipelineConfig(critic_weight=1.0))
    with pytest.raises(ConfigError, match="critic_weight"):
        MeshPipelineConfig(critic_weight=-1.0)
    for field, value in (("dim", 0), ("num_figures", 0), ("dropout", 1.0)):
        with pytest.raises(ConfigError, match=field):
            MeshCriticConfig(**{field: value})
    for field in ("num_meshes", "candidates", "num_train_steps", "batch_size", "learning_rate"):
        with pytest.raises(ConfigError, match=field):
            CriticTraining(**{field: 0})
    with pytest.raises(ConfigError, match="held out"):
        CriticTraining(num_meshes=2)
    with pytest.raises(ConfigError, match="weight_decay"):
        CriticTraining(weight_decay=-1.0)
    with pytest.raises(DataError, match="learns from 5 meshes"):
        train_critic(untrained, data[:3], config=SHORT, progress=False)


def test_a_pipeline_that_writes_nothing_teaches_nothing(untrained, data, monkeypatch):
    def nothing(self, *arguments, num_meshes, **options):
        [item] = generate(self, num_meshes=1, seed=0)
        return [dataclasses.replace(item, mesh=EMPTY)] * num_meshes

    generate = MeshPipeline.generate
    monkeypatch.setattr(MeshPipeline, "generate", nothing)
    with pytest.raises(DataError, match="nothing to learn from"):
        train_critic(untrained, data, config=SHORT, progress=False)


def test_the_command_makes_a_pipeline_that_has_one(untrained, tmp_path, capsys):
    untrained.save_pretrained(tmp_path / "model")
    few = ["--set", "num_meshes=10", "--set", "candidates=1", "--set", "num_train_steps=20", "--max-faces", "100"]
    command = ["train", "critic", str(tmp_path / "model"), "tiny", "--no-val", "--out", str(tmp_path / "out"), *few]
    assert main([*command, "--weight", "0"]) == 1
    assert "--weight must be above 0" in capsys.readouterr().err
    assert main(command) == 0
    assert "of pairs" in capsys.readouterr().out
    pipe = MeshPipeline.from_pretrained(tmp_path / "out")
    assert pipe.config.retouch and pipe.config.critic_weight > 0 and pipe.critic is not None
    written = ["generate", "--model", str(tmp_path / "out"), "-n", "1", "--seed", "0", "-o", str(tmp_path / "meshes")]
    assert main(written) == 0 and main([*written, "--no-retouch"]) == 0
    [path] = (tmp_path / "meshes").glob("*.glb")
    assert read_mesh(path).num_faces <= 40
