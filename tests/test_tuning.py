"""Tuning: what meshes are worth, whose likelihood moves which way, and runs that go on as they would have."""

import dataclasses

import numpy as np
import pytest
import torch
from training_toys import equal_weights, weights_of

from meshgpt.cli.main import main
from meshgpt.data.dataset import MeshDataset
from meshgpt.data.pack import MeshRecord
from meshgpt.errors import ConfigError, TrainingError
from meshgpt.mesh.canonical import canonicalize, quantize
from meshgpt.mesh.form import Form, doubt
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.topology import topology_report
from meshgpt.pipeline import MeshPipeline
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.training.log import read_metrics
from meshgpt.training.rewards import Attempt, RewardConfig, advantages, energies, open_sides, reward
from meshgpt.training.tuning import (
    TuningConfig,
    TuningObjective,
    TuningTrainer,
    Wish,
    WishExamples,
    faces_of,
)
from meshgpt.transformer.generation import GenerationResult
from meshgpt.transformer.transformer import MeshTransformer

KINDS = ("text", "category", "num_faces")
SMALL = {"attn_depth": 1, "attn_heads": 2, "attn_dim_head": 8, "fine_attn_depth": 1, "fine_attn_heads": 2}
SMALL |= {"fine_attn_dim_head": 8, "max_seq_len": 120, "categories": ("box", "door")}
QUICK = {"num_train_steps": 2, "batch_size": 2, "log_every": 1, "progress": False}


def toy(tokenizer=None, **changes) -> MeshPipeline:
    torch.manual_seed(0)
    tokenizer = tokenizer or PatchTokenizer()
    model = MeshTransformer(tokenizer, dim=(16, 16), **{"condition_on_faces": True, **SMALL, **changes})
    return MeshPipeline(tokenizer, model)


def box(*size: float) -> Mesh:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * np.array(size) / 2
    sides = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    return Mesh(corners, np.array([face for a, b, c, d in sides for face in ([a, b, c], [a, c, d])]))


def records() -> list[MeshRecord]:
    return [MeshRecord(box(1, 0.2 + i / 8, 0.5), f"box {i}", category="box", caption="a small box") for i in range(6)]


# what a mesh is worth


def attempt(mesh: Mesh, real: Mesh | None = None, **changes) -> Attempt:
    perfect = Form() if real is None else Form.of(real)
    return dataclasses.replace(Attempt(Form.of(mesh), perfect, mesh.num_faces), **changes)


def test_worth_is_lost_by_holes_size_kind_and_an_end_that_is_missing():
    whole, config = box(1, 1, 1), RewardConfig()
    open_box = Mesh(whole.vertices, whole.faces[:-2])
    assert reward(attempt(whole, asked=12)) == 0
    lopsided = Mesh(whole.vertices + 0.5 * (np.arange(8) == 7)[:, None], whole.faces)
    lost = 1 - Form.of(lopsided).symmetry
    assert lost > 0 and reward(attempt(lopsided)) == pytest.approx(-doubt(lopsided) - config.symmetry * lost)
    two = Mesh(
        np.concatenate((whole.vertices, whole.vertices + [0, 1, 0])), np.concatenate((whole.faces, whole.faces + 8))
    )
    assert reward(attempt(two, asked=24)) == pytest.approx(-doubt(two) - config.pieces * np.log(2))
    assert 0 > reward(attempt(open_box, asked=10)) == -doubt(open_box)
    assert reward(attempt(whole, asked=24)) == pytest.approx(-config.size * np.log(2))
    assert reward(attempt(whole, ended=False)) == -config.unfinished
    assert reward(attempt(whole, likeness=-2.0)) == -2 * config.likeness
    assert reward(attempt(whole, likeness=-1e9)) == reward(attempt(whole, likeness=-8.0))
    assert reward(attempt(whole, asked=12_000)) == reward(attempt(whole, asked=1200))
    assert reward(attempt(whole, energy=0.5)) == config.variety / 2
    assert reward(attempt(whole, apart=0.2)) == pytest.approx(reward(attempt(whole, apart=0.1)) - 3 * np.log(2))
    assert reward(attempt(whole, apart=np.inf)) == reward(attempt(whole, apart=1.0)) < reward(attempt(whole, apart=0))
    assert reward(attempt(Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int)), asked=12)) == -config.empty
    with pytest.raises(ConfigError, match="likeness"):
        RewardConfig(likeness=-1.0)


def test_no_more_is_asked_for_than_the_real_mesh_has():
    whole = box(1, 1, 1)
    open_box, bent = Mesh(whole.vertices, whole.faces[:-2]), Mesh(whole.vertices**3 + whole.vertices, whole.faces[:-1])
    assert reward(attempt(open_box, real=open_box)) == 0 > reward(attempt(open_box, real=whole))
    assert reward(attempt(whole, real=open_box)) == 0
    assert reward(attempt(open_box, real=bent)) < 0


def test_to_be_all_alike_costs_as_much_as_to_be_unlike():
    rng = np.random.default_rng(0)

    def cloud(x: float) -> np.ndarray:
        return rng.normal(size=(200, 3)) * 0.01 + [x, 0, 0]

    real = cloud(0.0)
    alike, one_off = energies(real, [cloud(1.0)] * 3), energies(real, [cloud(0.0), cloud(0.0), cloud(2.0)])
    assert alike == pytest.approx([-1.0] * 3, abs=0.05)
    assert one_off == pytest.approx([1.0, 1.0, 0.0], abs=0.05)
    some = energies(real, [cloud(1.0), None, cloud(-1.0)])
    assert some[1] == 0 and some[[0, 2]] == pytest.approx([1.0, 1.0], abs=0.05)
    assert energies(real, [real, None]).tolist() == [0, 0]
    assert energies(real, [None, None]).tolist() == [0, 0]


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0, 2.0])
def test_the_energy_is_largest_for_what_is_spread_as_the_real_is(spread):
    rng, there = np.random.default_rng(1), np.random.default_rng(2).normal(size=400)

    def worth(width: float) -> float:
        written = rng.normal(size=(400, 8)) * width
        groups = zip(there, written, strict=True)
        place = [energies(np.array([[x, 0, 0]]), [np.array([[y, 0, 0]]) for y in row]).mean() for x, row in groups]
        return float(np.mean(place)) - float(np.mean(np.abs(written[:, :1] - written[:, 1:]))) / 2

    assert worth(1.0) >= worth(spread) - 0.03  # each counts the others in full, the score in halves


def test_open_sides_are_the_boundary_edges_of_the_mesh():
    sample = MeshDataset("tiny")
    for index in range(8):
        mesh = canonicalize(sample.mesh(index).normalized(), 128).mesh()
        corners = quantize(mesh.vertices, 128)[mesh.faces]
        assert open_sides(corners).sum() == topology_report(mesh).boundary_edges
    assert open_sides(np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 0], [0, 0, 1]]])).tolist() == [
        2,
        2,
    ]
    assert open_sides(np.zeros((0, 3, 3), dtype=int)).tolist() == []


def test_advantages_compare_the_meshes_of_one_wish():
    found = advantages(np.array([[1.0, 2.0, 3.0], [-50.0, -50.0, -50.0]]))
    assert found[0, 0] == -found[0, 2] < 0 == found[0, 1]
    assert (found[1] == 0).all()


# sharpening


@pytest.mark.parametrize("tokenizer", [CoordinateTokenizer(num_discrete_coors=16), PatchTokenizer()])
def test_a_sharpened_model_writes_as_at_that_temperature(tokenizer):
    model = toy(tokenizer).transformer.double().eval()
    codes = tokenizer.encode(box(1, 0.5, 0.25))[None]
    with torch.no_grad():
        context = model.context_of(None, 1, 0.0)
        plain = model.next_logits(codes, context)
        model.head.sharpen((0.5,))
        sharp = model.next_logits(codes, context)
        model.head.sharpen((2.0,))
        back = model.next_logits(codes, context)
    torch.testing.assert_close(back, plain)
    if isinstance(tokenizer, CoordinateTokenizer):  # one digit: exactly the temperature
        torch.testing.assert_close(sharp, (plain / 0.5).log_softmax(dim=-1))
    entropy = [-(row.exp() * row.masked_fill(row == -torch.inf, 0.0)).sum(dim=-1)[0] for row in (plain, sharp)]
    assert (entropy[1] < entropy[0]).all()


def test_temperatures_must_fit_the_digits():
    model = toy().transformer
    with pytest.raises(ConfigError, match="one for each of 4 digits"):
        model.head.sharpen((0.5, 0.5))
    with pytest.raises(ConfigError, match="positive"):
        model.head.sharpen((0.0,))


# the likelihood of what was written


@pytest.mark.parametrize("tokenizer", [CoordinateTokenizer(), PatchTokenizer()])
def test_nats_of_codes_are_those_of_the_next_code(tokenizer):
    model = toy(tokenizer).transformer.double().eval()
    rows = [tokenizer.encode(box(1, 0.5, 0.25)), tokenizer.encode(box(1, 1, 1))[:9]]
    codes = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    with torch.no_grad():
        nats = model.losses(codes).nats_of_codes(codes)
        logits = model.next_logits(codes, model.context_of(None, 2, 0.0))
    for row, own in enumerate(rows):
        said = torch.cat((own, torch.tensor([model.vocab_size])))
        torch.testing.assert_close(nats[row, : len(said)], -logits[row, torch.arange(len(said)), said])
        assert (nats[row, len(said) :] == 0).all()


@pytest.mark.parametrize("tokenizer", [CoordinateTokenizer(), PatchTokenizer()])
def test_each_code_belongs_to_its_face(tokenizer):
    codes = tokenizer.encode(box(1, 0.5, 0.25))[None]
    faces = faces_of(tokenizer, codes)[0]
    assert len(faces) == codes.shape[1] + 1
    assert faces[0] == 0 and faces[-1] == 12 and (np.diff(faces) >= 0).all()


def objective_of(pipeline: MeshPipeline, **changes) -> TuningObjective:
    return TuningObjective(pipeline, TuningConfig(**{"group_size": 2, **changes}), RewardConfig(), None)


def written(pipeline: MeshPipeline, *meshes: Mesh, ends=True) -> GenerationResult:
    rows = [pipeline.tokenizer.encode(mesh) for mesh in meshes]
    codes = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
    counts = torch.tensor([mesh.num_faces for mesh in meshes])
    return GenerationResult(codes, counts, ("end" if ends else "max_faces",) * len(rows))


def test_the_better_of_two_becomes_likelier_and_the_worse_less_likely():
    pipeline = toy()
    objective, model = objective_of(pipeline, blame=0.0, kl_weight=0.0, regret=1.0), pipeline.transformer.eval()
    result = written(pipeline, box(1, 1, 1), box(1, 0.2, 0.4))
    wishes = [Wish(box(1, 1, 1), category="box")] * 2
    conditions = objective._conditions(model, wishes)

    def likelihoods():
        context = model.context_of(conditions, 2, 0.0)
        return model.likelihood(result.codes, context=context).nats_of_codes(result.codes).sum(dim=1)

    before = likelihoods().detach()
    loss, _ = objective._policy_loss(model, conditions, result, np.array([1.0, -1.0]))
    count = int((result.codes >= 0).sum() + 2)
    assert float(loss.detach()) == pytest.approx(float(before[0] - before[1]) / count, abs=1e-5)
    loss.backward()
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0 if weight.grad is None else 0.05 * weight.grad
    after = likelihoods().detach()
    assert after[0] < before[0] and after[1] > before[1]


def test_of_what_was_worse_only_a_share_counts_and_nothing_of_an_end_that_was_not_written():
    pipeline = toy()
    model, result = pipeline.transformer.eval(), written(pipeline, box(1, 1, 1), box(1, 1, 1))
    cut = dataclasses.replace(result, stopped_by=("max_faces", "max_faces"))
    wishes, worse = [Wish(box(1, 1, 1))] * 2, -np.ones(2)
    options = {"blame": 0.0, "kl_weight": 0.0}
    full, third = (objective_of(pipeline, regret=share, **options) for share in (1.0, 0.25))
    conditions = full._conditions(model, wishes)
    with torch.no_grad():
        whole = float(full._policy_loss(model, conditions, result, worse)[0])
        assert float(third._policy_loss(model, conditions, result, worse)[0]) == pytest.approx(whole / 4)
        without = float(full._policy_loss(model, conditions, cut, worse)[0])
    context = model.context_of(conditions, 2, 0.0)
    ends = model.likelihood(result.codes, context=context).nats_of_codes(result.codes)[:, -1].sum().detach()
    count = int((result.codes >= 0).sum()) + 2
    assert without == pytest.approx(whole + float(ends) / count, abs=1e-5)


def test_codes_of_faces_with_open_sides_are_blamed():
    pipeline = toy()
    half = Mesh(box(1, 1, 1).vertices, box(1, 1, 1).faces[:-2])
    codes = written(pipeline, half, box(1, 0.5, 1)).codes
    blame = objective_of(pipeline, blame=1.0)._blame(pipeline.tokenizer, codes).numpy()
    lengths = (codes >= 0).sum(dim=1).tolist()
    assert (blame[1, : lengths[1]] < 0).all()  # closed: better than the mean
    assert (blame[0, : lengths[0]] > 0).any() and (blame[0, : lengths[0]] < 0).any()
    assert all((blame[row, length:] == 0).all() for row, length in enumerate(lengths))


def test_a_penalty_grows_with_the_distance_from_the_beginning():
    pipeline = toy()
    objective, model, result = objective_of(pipeline), pipeline.transformer.eval(), written(pipeline, box(1, 1, 1))
    conditions = objective._conditions(model, [Wish(box(1, 1, 1))])
    assert float(objective._policy_loss(model, conditions, result, np.zeros(1))[1]) == 0
    found = []
    for _ in range(2):
        model.head.sharpen((0.8,))
        found.append(float(objective._policy_loss(model, conditions, result, np.zeros(1))[1]))
    assert 0 < found[0] < found[1]


# wishes and runs


def test_wishes_are_drawn_from_what_meshes_could_be_asked_for_by():
    examples = WishExamples(records(), KINDS, ("box",), seed=3)
    wishes = [examples.get(index, epoch) for index in range(6) for epoch in range(60)]
    assert {wish.faces for wish in wishes} == {12}
    assert {wish.category for wish in wishes} == {None, "box"}
    texts = [wish.text for wish in wishes]
    assert None in texts and "a box" in texts and len(set(texts)) > 5
    share = np.mean([wish.text is None and wish.category is None for wish in wishes])
    assert 0.08 < share < 0.23
    again = WishExamples(records(), KINDS, ("box",), seed=3).get(2, 7)
    assert (again.text, again.category) == (examples.get(2, 7).text, examples.get(2, 7).category)
    assert {WishExamples(records(), KINDS, ("door",)).get(0, epoch).category for epoch in range(20)} == {None}


def trainer_of(folder, steps: int, judge=None, **changes) -> TuningTrainer:
    tuning = TuningConfig(group_size=2, rows_at_once=3, temperatures=(0.9,))
    options = {**QUICK, "num_train_steps": steps, "checkpoint_folder": str(folder), **changes}
    return TuningTrainer(toy(), records(), judge=judge, tuning=tuning, **options)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path):
    whole, parts = trainer_of(tmp_path / "a", 3), trainer_of(tmp_path / "b", 3)
    whole()
    parts.config = dataclasses.replace(parts.config, num_train_steps=2)
    parts()
    again = trainer_of(tmp_path / "b", 3)
    again.resume()
    again()
    assert equal_weights(weights_of(whole.model), weights_of(again.model))


def test_going_on_with_other_rewards_is_said(tmp_path):
    trainer_of(tmp_path, 1)()
    again = trainer_of(tmp_path, 1, rewards=RewardConfig(size=1.0))
    with pytest.warns(UserWarning, match="rewards.size was 8.0, is now 1.0"):
        again.resume()


def test_validation_asks_the_same_of_each_model_and_changes_nothing(tmp_path):
    asked = []

    def judge(meshes, texts, categories):
        asked.append((len(meshes), texts, categories))
        return [-1.0] * len(meshes)

    trainer = trainer_of(tmp_path, 1, judge, val_num_batches=1)
    trainer.val_examples = WishExamples(records(), KINDS, ("box",))
    before = weights_of(trainer.model)
    one, two = trainer.validate(), trainer.validate()
    assert one == two and equal_weights(before, weights_of(trainer.model))
    assert {"loss", "reward", "open_edges", "parts", "ended", "faces", "likeness"} <= one.keys()
    assert asked[0] == asked[1] and asked[0][0] == 4
    trainer()
    assert any("kl" in figures for figures in read_metrics(tmp_path))


def test_models_that_cannot_be_tuned_are_refused(tmp_path):
    unsized = toy(condition_on_faces=False)
    with pytest.raises(TrainingError, match="how many faces to write"):
        TuningTrainer(unsized, records(), checkpoint_folder=str(tmp_path))


def test_a_model_that_follows_shapes_is_tuned_to_come_near_them(tmp_path):
    follower = toy(condition_on_points=True, num_point_latents=4, point_encoder_depth=1, categories=())
    follower.config = dataclasses.replace(follower.config, num_points=32, beside_edges=0.5)
    wish = WishExamples(records(), ("num_faces", "points")).get(0, 0)
    assert wish.follows and wish.text is None and wish.category is None
    assert {WishExamples(records(), ("points",)).get(0, epoch).sized for epoch in range(20)} == {True, False}
    objective = objective_of(follower)
    conditions = objective._conditions(follower.transformer, [wish, dataclasses.replace(wish, sized=False)])
    assert conditions.points is not None and conditions.points.shape == (2, 32, 6)
    assert torch.equal(conditions.points[0], wish.target.seen(32, 0.5))
    assert conditions.num_faces is not None and conditions.num_faces.tolist() == [12, -1]
    worth, figures = objective._worth([wish] * 2, written(follower, wish.real, box(1, 1, 1)))
    assert worth[0] > worth[1] and 0 < float(figures["apart"]) < 0.5
    trainer = TuningTrainer(
        follower, records(), tuning=TuningConfig(group_size=2), checkpoint_folder=str(tmp_path), **QUICK
    )
    trainer()
    assert {"apart", "energy"} <= read_metrics(tmp_path)[-1].keys()


def test_what_is_tuned_samples_at_temperature_one(tmp_path):
    pipeline = toy()
    pipeline.config = dataclasses.replace(pipeline.config, temperature=0.5)
    before = {name: weight.clone() for name, weight in pipeline.transformer.head.named_parameters()}
    trainer = TuningTrainer(
        pipeline, records(), tuning=TuningConfig(group_size=2), checkpoint_folder=str(tmp_path), **QUICK
    )
    torch.testing.assert_close(pipeline.transformer.head.first.weight, 2 * before["first.weight"])
    trainer()
    tuned = trainer.tuned()
    assert tuned.config == dataclasses.replace(pipeline.config, temperature=1.0) and not tuned.transformer.training
    assert equal_weights(weights_of(tuned.transformer), weights_of(trainer.ema_model))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"group_size": 1}, "at least 2"),
        ({"room": 0.5}, "room"),
        ({"regret": -1.0}, "regret"),
        ({"temperatures": (0.0,)}, "be positive"),
        ({"rows_at_once": 0}, "rows_at_once"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields, says):
    with pytest.raises(ConfigError, match=says):
        TuningConfig(**fields)


def test_a_model_is_tuned_from_the_command_line(tmp_path, capsys):
    toy().save_pretrained(tmp_path / "model")
    settings = ["num_train_steps=1", "batch_size=2", "group_size=2", "rewards.size=1", "progress=false"]
    settings += ["temperatures=0.9"]
    changes = [word for setting in settings for word in ("--set", setting)]
    command = ["tune", str(tmp_path / "model"), "tiny", "--max-faces", "60", "--no-judge", "--no-val"]
    assert main([*command, "-o", str(tmp_path / "run"), *changes]) == 0
    assert "next: meshgpt generate --model" in capsys.readouterr().out
    tuned = MeshPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    assert tuned.generate(seed=0, max_faces=4, candidates=1)[0].codes.numel() > 0
    adapter = [*command, "-o", str(tmp_path / "small"), "--adapter-rank", "2", *changes]
    assert main(adapter) == 0
    small = MeshPipeline.from_pretrained(tmp_path / "small" / "pipeline").transformer.state_dict()
    for name, weight in tuned.transformer.state_dict().items():
        assert torch.allclose(small[name].float(), weight.float(), atol=2e-2), name
    assert main([*adapter[:-1], "x=1", "--adapter-rank", "0"]) == 1
    assert "--adapter-rank must be at least 1, got 0" in capsys.readouterr().err
    assert main([*command[:4], "1", "--no-val", "-o", str(tmp_path / "other")]) == 1
    assert "no mesh of tiny has at most 1 faces" in capsys.readouterr().err
