"""Training with conditions: what is asked of each mesh, that it is learned to the letter, and that runs go on."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_tokenizers import PairTokenizer
from training_toys import equal_weights, weights_of

from meshgpt.cli.main import main
from meshgpt.data.augment import Augmentation
from meshgpt.data.cached import cache_text_embeds_for_dataset
from meshgpt.data.pack import MeshRecord
from meshgpt.errors import ConditionError, ConfigError, DataError, TrainingError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.clouds import CloudAugmentation, PointCloud
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.surface import point_distances
from meshgpt.text import minilm
from meshgpt.text.captions import CaptionWriter
from meshgpt.text.embedding import CallableEncoder
from meshgpt.text.encoder import register
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.training import asked as asked_module
from meshgpt.training.asked import FACE_JITTER, NUM_WORDINGS
from meshgpt.training.log import read_metrics
from meshgpt.training.mesh_trainers import MeshTransformerTrainer
from meshgpt.training.signals import StopSignals
from meshgpt.transformer import conditioned as conditioned_module
from meshgpt.transformer.conditions import Conditions
from meshgpt.transformer.transformer import MeshTransformer

real = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (minilm.CARRIER_MODULE, "tokenizers")),
    reason="the extra [text] is not installed",
)
WIDTH = 12
EACH = {
    "text": {"condition_on_text": True, "dim_text": WIDTH},
    "category": {"categories": ("door", "frame", "grave", "tree")},
    "num_faces": {"condition_on_faces": True},
    "points": {"condition_on_points": True, "num_point_latents": 8, "point_encoder_depth": 1},
}
ALL = {name: value for options in EACH.values() for name, value in options.items()}
NOTHING_DROPPED = {"text_condition_cond_drop_prob": 0.0, "condition_drop_prob": 0.0, "unconditional_prob": 0.0}
READ = []


def spoken(texts):
    """A toy encoder: a token a word, of numbers drawn by its letters, which float16 holds exactly."""
    READ.extend(texts)
    words = [text.split() for text in texts]
    mask = torch.tensor([[place < len(row) for place in range(max(map(len, words)))] for row in words])
    embeddings = torch.zeros(*mask.shape, WIDTH)
    for row, spelled in zip(embeddings, words, strict=True):
        for token, word in zip(row, spelled, strict=False):
            token.copy_(torch.from_numpy(np.random.default_rng(list(word.encode())).standard_normal(WIDTH)).half())
    return embeddings, mask


register("spoken", lambda: CallableEncoder(spoken, WIDTH), WIDTH)


def transformer(tokenizer=None, seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"dim": (32, 24), "attn_depth": 1, "attn_heads": 2, "attn_dim_head": 16, "fine_attn_heads": 2}
    sizes |= {"fine_attn_dim_head": 8, "max_seq_len": 1200, "text_condition_model_types": ("spoken",)}
    return MeshTransformer(tokenizer or PairTokenizer(), **sizes | options)


def trainer(folder, model, data, **keywords):
    settings = {"num_train_steps": 4, "batch_size": 2, "learning_rate": 1e-3, "progress": False, "log_every": 1}
    return MeshTransformerTrainer(model, data, **settings | {"checkpoint_folder": str(folder)} | keywords)


def asked_of(folder, options, data, exact=False, **keywords):
    """What the trainer of a model with such conditions asks of `data`."""
    found = trainer(folder, transformer(**options), data, **keywords, **({"val_dataset": data} if exact else {}))
    return found.val_examples if exact else found.examples


def text_of(conditions):
    return conditions.text_embeds[0][conditions.text_mask[0]]


@pytest.fixture(scope="module")
def four(tiny_dataset):
    """A door, a tree, a grave and a frame: 28, 44, 62 and 88 faces, of budgets that jitter does not mix up."""
    return tiny_dataset[[13, 14, 49, 29]]


@pytest.fixture
def pairs(four):
    """The four as a plain list of dicts."""
    return [
        {"vertices": r.mesh.vertices, "faces": r.mesh.faces, "texts": r.caption, "category": r.category} for r in four
    ]


class Named(list):
    """A data set of tuples that says what their entries are."""

    def __init__(self, items, *names):
        super().__init__(items)
        self.data_kwargs = list(names)


# what is learned


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*(pytest.param(kind, marks=real if kind == "text" else ()) for kind in EACH), "all"])
def test_conditions_overfit_until_the_meshes_come_back_exactly(kind, tmp_path, tiny_dataset, four):
    data = four if kind == "num_faces" else tiny_dataset[[13, 15, 26, 19]]  # small ones: 28, 30, 32 and 39 faces
    options = {**(ALL if kind == "all" else EACH[kind]), **NOTHING_DROPPED}
    if "categories" in options:
        options["categories"] = tuple(data.categories)
    if kind == "text":  # this one by the real encoder
        options |= {"dim_text": None, "text_condition_model_types": ("minilm",)}
    sizes = {"dim": (64, 64), "attn_depth": 2, "attn_dim_head": 32, "fine_attn_depth": 1, "fine_attn_dim_head": 32}
    model = transformer(**sizes, **options)
    settings = {"num_train_steps": 150, "batch_size": 4, "learning_rate": 5e-3, "warmup_steps": 10}
    settings |= {"scheduler": "wsd", "decay_fraction": 0.3, "ema_decay": 0.0, "log_every": 150}
    trainer(tmp_path, model, data, **settings)()

    meshes = [canonicalize(record.mesh.normalized()) for record in data]
    clouds = [PointCloud.from_mesh(grid.mesh(), 800, seed).tensor() for seed, grid in enumerate(meshes)]
    wishes = {
        "text": ("texts", [record.caption for record in data]),
        "category": ("categories", [record.category for record in data]),
        "num_faces": ("num_faces", [len(grid.faces) for grid in meshes]),
        "points": ("points", clouds),
    }
    given = dict(wishes.values() if kind == "all" else [wishes[kind]])
    written = model.generate(**given, temperature=0.0, return_codes=True)
    for codes, grid in zip(written, meshes, strict=True):
        assert canonicalize(model.tokenizer.decode(codes[codes >= 0])) == grid


def test_what_is_dropped_teaches_nothing_also_after_a_validation(tmp_path, four):
    """Validation asks for everything; were it to leave the model in its mode, the next step would learn from texts."""

    def change(**options):
        model = transformer(**ALL, **options)
        before = weights_of(model)
        run = trainer(tmp_path / str(len(options)), model, four, val_dataset=four, val_every=1, ema_decay=0.0)
        run()
        changes = {name: (tensor - before[name]).abs().max() for name, tensor in weights_of(run.model).items()}
        return changes, read_metrics(run.folder)

    changes, figures = change(unconditional_prob=1.0)
    asks = ("conditioner.text", "conditioner.category", "conditioner.num_faces", "conditioner.points")
    assert all(value == 0 for name, value in changes.items() if name.startswith(asks))
    assert changes["to_start.weight"] > 0
    shown = [line for line in figures if "val_bits_per_face" in line]
    assert len(shown) == 4
    assert all(abs(line["val_bits_per_face"] - line["val_bits_per_face_unasked"]) > 1e-4 for line in shown)
    changes, _ = change()
    assert all(max(value for name, value in changes.items() if name.startswith(kind)) > 0 for kind in asks)


def test_texts_are_dropped_at_every_step_as_often_as_the_config_says(tmp_path, four, monkeypatch):
    left, original = [], conditioned_module.dropped_at_random

    def noting(conditions, config, probability=None):
        found = original(conditions, config, probability)
        left.append([float(found.present(kind).float().mean()) for kind in ("text", "category")])
        return found

    monkeypatch.setattr(conditioned_module, "dropped_at_random", noting)
    options = {"text_condition_cond_drop_prob": 0.5, "condition_drop_prob": 0.2, "unconditional_prob": 0.1}
    settings = {"num_train_steps": 40, "batch_size": 4, "val_every": 7, "log_every": 40}
    trainer(tmp_path, transformer(**EACH["text"], **EACH["category"], **options), four, val_dataset=four, **settings)()
    assert len(left) == 40
    for part in (left, left[20:]):  # of 80 draws, four deviations are allowed
        assert np.mean(part, axis=0) == pytest.approx([0.9 * 0.5, 0.9 * 0.8], abs=0.22)


def test_validation_tells_the_likelihood_of_what_is_asked_by_hand(tmp_path, four):
    model = transformer(**ALL)
    run = trainer(tmp_path, model, four, val_dataset=four, batch_size=4, ema_decay=0.0)
    figures = run.validate()
    codes = torch.nn.utils.rnn.pad_sequence([model.tokenizer.encode(r.mesh) for r in four], True, -1)
    clouds = [run.val_examples.get(index, 0).conditions.points[0] for index in range(4)]
    given = {"texts": [r.caption for r in four], "categories": [r.category for r in four], "points": clouds}
    conditions = model.conditions_of(**given, num_faces=[r.mesh.num_faces for r in four])
    model.eval()
    assert figures["bits_per_face"] == pytest.approx(float(model.losses(codes, conditions).bits_per_face), rel=1e-6)
    assert figures["bits_per_face_unasked"] == pytest.approx(float(model.losses(codes).bits_per_face), rel=1e-6)
    assert abs(figures["bits_per_face"] - figures["bits_per_face_unasked"]) > 1e-3


# runs go on


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_with_all_conditions_goes_on_bit_for_bit(workers, tmp_path, four):
    def run(folder, seed=0, **keywords):
        options = {"augment": Augmentation(), "num_variants": 2, "cache_folder": tmp_path / "cache"}
        options |= {"val_dataset": four, "val_every": 2, "num_train_steps": 6}
        return trainer(tmp_path / folder, transformer(seed=seed, dropout=0.1, **ALL), four, **options, **keywords)

    whole = run("whole")
    whole()
    first = run("parts", num_workers=workers, checkpoint_every=3)
    first._begin()
    for _ in range(3):
        first.train_step(StopSignals())
        first._after_step()
    second = run("parts", seed=9, num_workers=workers)
    assert second.resume() and second.step == 3
    second()
    assert equal_weights(weights_of(second.model), weights_of(whole.model))
    assert equal_weights(weights_of(second.ema_model), weights_of(whole.ema_model))


TINY = ("dim=[32,24]", "attn_depth=1", "attn_heads=2", "fine_attn_heads=2", "attn_dim_head=16", "max_seq_len=600")
TINY += ("fine_attn_dim_head=8", "num_point_latents=4", "point_encoder_depth=1", "copy_dim=0", "code_digits=1")
TINY += ('text_condition_model_types=["spoken"]', "warmup_steps=0", "scheduler=constant", "progress=false")
TINY += ("batch_size=2", "checkpoint_every=2", "val_every=2", "val_num_batches=1", "log_every=1")


def train_by_words(folder, steps, *more, changes=()):
    """The averaged model of a run by the command line."""
    words = ["train", "transformer", "tiny", "--out", str(folder), "--preset", "tiny", "--no-augment", "--debug"]
    words += ["--tokenizer", "coordinates", "--max-faces", "39", *more]
    words += ["--condition", "text", "category", "faces", "points"]
    for setting in (*TINY, f"num_train_steps={steps}", *changes):
        words += ["--set", setting]
    assert main(words) == 0
    return MeshTransformer.from_pretrained(folder, CoordinateTokenizer())


def test_the_command_line_goes_on_bit_for_bit(tmp_path, capsys):
    whole = train_by_words(tmp_path / "whole", 4)
    assert whole.config.kinds == ("text", "category", "num_faces", "points") and "plant" in whole.config.categories
    train_by_words(tmp_path / "parts", 2)
    again = train_by_words(tmp_path / "parts", 4, "--resume")
    assert "step 4" in capsys.readouterr().out
    assert equal_weights(weights_of(again), weights_of(whole))


def test_the_command_line_says_how_to_word_captions_and_how_bad_clouds_are(tmp_path, monkeypatch):
    given, original = [], MeshTransformerTrainer.__init__

    def noting(self, *arguments, **keywords):
        given.append((keywords["captions"], keywords["clouds"]))
        original(self, *arguments, **keywords)

    monkeypatch.setattr(MeshTransformerTrainer, "__init__", noting)
    changes = ("captions.dropout=0.25", "captions.plain=1", "clouds.noise=[0, 0.1]", "clouds.points=[20, 30]")
    train_by_words(tmp_path / "a", 1, "--no-val", changes=changes)
    clouds = dataclasses.replace(asked_module.CLOUDS, noise=(0, 0.1), points=(20, 30))
    assert given == [(CaptionWriter(dropout=0.25, plain=1), clouds)]
    with pytest.raises(ConfigError, match="did you mean 'captions.dropout'"):
        train_by_words(tmp_path / "b", 1, changes=("captions.dropot=0.25",))


def test_a_run_that_is_asked_otherwise_goes_on_with_a_warning(tmp_path, pairs):
    def run(data, **keywords):
        return trainer(tmp_path, transformer(**EACH["text"], **EACH["points"]), data, num_train_steps=1, **keywords)

    run(pairs)()
    assert run(pairs).resume()
    changed = [{**item, "texts": "another " + item["texts"]} for item in pairs]
    others = {
        "words was [0-9a-f]+, is now [0-9a-f]+; the run goes on": run(changed),
        "captions was None, is now CaptionWriter; the run goes on": run(pairs, captions=CaptionWriter()),
        r"clouds.points was \[256, 1024\], is now \[512, 2048\]; the run": run(pairs, clouds=CloudAugmentation()),
    }
    for message, other in others.items():
        with pytest.warns(UserWarning, match=message):
            other.resume()


# what is asked


def test_what_the_trainer_asks_is_what_a_caller_would(tmp_path, four):
    model = transformer(**ALL)
    found = trainer(tmp_path, model, four, val_dataset=four).val_examples
    for index, record in enumerate(four):
        example = found.get(index, 0)
        given = {"texts": record.caption, "categories": record.category, "num_faces": record.mesh.num_faces}
        wanted = model.conditions_of(**given, points=example.conditions.points[0])
        for field in dataclasses.fields(Conditions):
            one, other = (getattr(conditions, field.name) for conditions in (example.conditions, wanted))
            assert one == other if isinstance(one, int) else torch.equal(one, other), field.name
        assert torch.equal(example.codes, model.tokenizer.encode(record.mesh))
        again = found.get(index, 0).conditions.points
        assert torch.equal(again, example.conditions.points) and again.shape == (1, asked_module.CLOUDS.points[1], 6)


def test_training_asks_in_other_words_and_numbers_from_epoch_to_epoch(tmp_path, four):
    examples, writer = asked_of(tmp_path, ALL, four), CaptionWriter()
    told, budgets, sizes = set(), [], set()
    for epoch in range(NUM_WORDINGS):
        conditions = examples.get(2, epoch).conditions
        text = writer.caption(four[2], epoch, 0)
        told.add(text)
        assert torch.equal(text_of(conditions), spoken([text])[0][0])
        assert torch.equal(text_of(conditions), text_of(examples.get(2, epoch + NUM_WORDINGS).conditions))
        budgets.append(int(conditions.num_faces))
        sizes.add(int(conditions.point_mask.sum()))
        assert conditions.categories.tolist() == [2]
        assert torch.equal(conditions.points, examples.get(2, epoch).conditions.points)
    faces = four[2].mesh.num_faces
    assert len(told) > 4 and len(set(budgets)) > 4 and len(sizes) > 4
    assert faces / (1 + FACE_JITTER) - 1 <= min(budgets) < faces < max(budgets) <= faces * (1 + FACE_JITTER) + 1


@pytest.mark.parametrize("tokenizer", [PairTokenizer(), CoordinateTokenizer(quads=True)], ids=["triangles", "quads"])
def test_points_lie_on_the_variant_whose_codes_are_learned(tokenizer, tmp_path, four):
    model = transformer(tokenizer, **EACH["points"], max_seq_len=1600)
    clean = CloudAugmentation(points=(300, 300), noise=(0.0, 0.0), missing=0.0, drop_normals=0.0)
    options = {"augment": Augmentation(), "num_variants": 3, "clouds": clean}
    examples = trainer(tmp_path, model, four, **options).examples
    far = []
    for epoch in range(3):
        example = examples.get(3, epoch)
        assert example.conditions.points.shape == (1, 300, 6)
        points = example.conditions.points[0, :, :3].double().numpy()
        for other in range(3):
            mesh = model.tokenizer.decode(examples.get(3, other).codes)
            far.append(point_distances(points, PointCloud.from_mesh(mesh, 30000, 0).points)[0].mean())
    far = np.array(far).reshape(3, 3)
    assert far.diagonal().max() < 0.01 and far.argmin(axis=1).tolist() == [0, 1, 2]


def test_two_data_sets_share_one_cache_and_a_second_run_makes_nothing_again(tmp_path, four, monkeypatch):
    calls, original = [], PairTokenizer.codes_from_batch

    def counting(self, batch):
        calls.append(batch.batch_size)
        return original(self, batch)

    monkeypatch.setattr(PairTokenizer, "codes_from_batch", counting)
    options = {"val_dataset": four[:2], "cache_folder": tmp_path / "cache"}
    READ.clear()
    first = trainer(tmp_path / "a", transformer(**ALL), four, **options)
    read, made = list(READ), sum(calls)
    assert len(set(read)) == len(read) > 8 and made == 4 + 2
    second = trainer(tmp_path / "b", transformer(**ALL), four, **options)
    assert READ == read and sum(calls) == made
    for one, other in ((first.examples, second.examples), (first.val_examples, second.val_examples)):
        for kind in ("text_embeds", "points", "num_faces", "categories"):
            assert torch.equal(getattr(one.get(1, 3).conditions, kind), getattr(other.get(1, 3).conditions, kind))
    assert first.val_examples.get(1, 0).conditions.categories.tolist() == [3]


def test_a_mesh_of_a_category_that_the_model_does_not_know_is_of_none(tmp_path, four):
    found = asked_of(tmp_path / "a", {"categories": ("tree", "door")}, four)
    assert [int(found.get(index, 0).conditions.categories) for index in range(4)] == [1, 0, -1, -1]
    with pytest.warns(UserWarning, match="no mesh is of a category of the model"):
        found = asked_of(tmp_path / "b", {"categories": ("spaceship", "castle")}, four)
    assert [int(found.get(index, 0).conditions.categories) for index in range(4)] == [-1] * 4


def test_meshes_without_a_caption_are_called_by_their_category_or_not_at_all(tmp_path, four):
    kinds = [("old door", "door"), ("", "tree"), ("", "other"), ("", "")]
    records = [MeshRecord(r.mesh, caption=text, category=kind) for r, (text, kind) in zip(four, kinds, strict=True)]
    plain = asked_of(tmp_path / "a", EACH["text"], records, exact=True)
    conditions = [plain.get(index, 0).conditions for index in range(4)]
    assert [bool(c.present("text")) for c in conditions] == [True, True, False, False]
    assert torch.equal(text_of(conditions[0]), spoken(["old door"])[0][0])
    assert torch.equal(text_of(conditions[1]), spoken(["tree"])[0][0])
    told = asked_of(tmp_path / "b", EACH["text"], records)
    assert [bool(told.get(index, 5).conditions.present("text")) for index in range(4)] == [True, True, False, False]
    run = trainer(tmp_path / "c", transformer(**EACH["text"]), records, num_train_steps=3)
    assert np.isfinite(run()["loss"])


def test_where_no_mesh_has_a_text_there_is_a_warning_and_no_encoder_is_needed(tmp_path, tiny_meshes):
    options = {"condition_on_text": True, "dim_text": 5, "text_condition_model_types": ("owner/unheard-of",)}
    with pytest.warns(UserWarning, match="no mesh has a text"):
        run = trainer(tmp_path, transformer(**options), tiny_meshes[13:15], num_train_steps=1)
    assert run.examples.get(0, 0).conditions.text_embeds.shape == (1, 1, 5)
    assert np.isfinite(run()["loss"])


def test_a_mesh_without_area_is_asked_for_without_points(tmp_path, four):
    line = Mesh([[0, 0, 0], [0.5, 0, 0], [1, 0, 0]], [[0, 1, 2]])
    data = [line, four[0].mesh]
    run = trainer(tmp_path, transformer(**EACH["points"]), data, val_dataset=data, num_train_steps=2)
    for examples in (run.examples, run.val_examples):
        assert [bool(examples.get(index, 0).conditions.present("points")) for index in range(2)] == [False, True]
    assert np.isfinite(run()["loss"])


def test_the_docs_tell_how_a_model_is_asked():
    text = (Path(__file__).resolve().parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
    low, high = asked_module.CLOUDS.points
    assert f"up to {FACE_JITTER * 100:.0f} % more" in text
    assert f"{low} to {high} points" in text and f"{high} clean points" in text


# embeddings that the data set brings


def embedded(pairs, **more):
    """The pairs with embeddings in place of their texts, padded with two rows of zeros."""
    rows = [torch.nn.functional.pad(spoken([item["texts"]])[0][0], (0, 0, 0, 2)) for item in pairs]
    return [{**item, "text_embeds": row, **more} for item, row in zip(pairs, rows, strict=True)]


def test_embeddings_of_the_data_set_teach_what_their_texts_teach(tmp_path, pairs):
    known = {**EACH["text"], "dropout": 0.1}
    unknown = {**known, "text_condition_model_types": ("owner/unheard-of",)}
    taught = trainer(tmp_path / "a", transformer(**known), pairs, val_dataset=pairs)
    READ.clear()
    bare = [{key: item[key] for key in ("vertices", "faces", "text_embeds")} for item in embedded(pairs)]
    given = trainer(tmp_path / "b", transformer(**unknown), bare, val_dataset=bare)
    assert not READ[4:]  # what this test embeds itself
    taught(), given()
    assert equal_weights(weights_of(given.model), weights_of(taught.model))


def test_embeddings_come_in_tuples_in_dicts_by_decorators_pooled_and_masked(tmp_path, pairs):
    options = {**EACH["text"], "text_condition_model_types": ("owner/unheard-of",)}
    rows = [spoken([item["texts"]])[0][0] for item in pairs]
    meshes = [(torch.tensor(item["vertices"]), torch.tensor(item["faces"])) for item in pairs]

    def found(number, data):
        examples = asked_of(tmp_path / str(number), options, data)
        return [text_of(examples.get(index, 0).conditions) for index in range(len(data))]

    class Plain(list):
        data_kwargs = ["vertices", "faces", "texts"]

    Cached = cache_text_embeds_for_dataset(spoken, max_text_len=1, cache_path=tmp_path / "texts")(Plain)
    named = Named([(*mesh, row) for mesh, row in zip(meshes, rows, strict=True)], "vertices", "faces", "text_embeds")
    for one, other in zip(found(0, named), rows, strict=True):
        assert torch.equal(one, other)
    cached = Cached([(*mesh, item["texts"]) for mesh, item in zip(meshes, pairs, strict=True)])
    for one, other in zip(found(1, cached), rows, strict=True):
        assert torch.equal(one, other[:1])
    for one, other in zip(found(2, embedded(pairs)), rows, strict=True):
        assert torch.equal(one, other)
    pooled = [{**item, "text_embeds": row.mean(dim=0).numpy()} for item, row in zip(pairs, rows, strict=True)]
    for one, other in zip(found(3, pooled), rows, strict=True):
        assert torch.equal(one, other.mean(dim=0)[None])
    masked = embedded(pairs)
    masked[2]["text_mask"] = [False, *[True] * (len(masked[2]["text_embeds"]) - 1)]
    assert torch.equal(found(4, masked)[2], masked[2]["text_embeds"][1:])
    mixed = embedded(pairs)
    mixed[1] = {**mixed[1], "texts": None, "text_embeds": None}
    assert [len(one) for one in found(5, mixed)] == [len(rows[0]), 0, len(rows[2]), len(rows[3])]


def test_texts_of_tuples_are_read_by_the_models_encoder(tmp_path, four):
    entries = [(r.mesh.vertices, r.mesh.faces, r.caption) for r in four]
    for number, data in enumerate([entries, Named(entries, "vertices", "faces", "texts")]):
        examples = asked_of(tmp_path / str(number), EACH["text"], data)
        for index, record in enumerate(four):
            for epoch in (0, 7):  # they are nobody's to reword
                found = examples.get(index, epoch).conditions
                assert torch.equal(text_of(found), spoken([record.caption])[0][0])


def test_vectors_beyond_float16_and_finer_than_it_stay_what_they_are(tmp_path, pairs):
    fine, large = torch.full((2, WIDTH), 1 / 3), torch.full((3, WIDTH), 1e6)
    items = embedded(pairs)
    items[0]["text_embeds"], items[1]["text_embeds"] = fine, large
    examples = asked_of(tmp_path / "a", EACH["text"], items)
    assert torch.equal(text_of(examples.get(0, 0).conditions), fine)
    assert torch.equal(text_of(examples.get(1, 0).conditions), large)
    model = transformer(**EACH["text"])
    model.use_text_encoder(lambda texts: (torch.full((len(texts), 2, WIDTH), 1e6), None))
    examples = trainer(tmp_path / "b", model, pairs).examples
    assert torch.equal(text_of(examples.get(0, 0).conditions), torch.full((2, WIDTH), 1e6))


def test_equal_embeddings_are_kept_once(tmp_path, pairs):
    items = embedded(pairs)
    items[3]["text_embeds"] = items[0]["text_embeds"].clone()
    captions = asked_of(tmp_path, EACH["text"], items).asking["text"]
    assert captions.numbers[:, 0].tolist() == [0, 1, 2, 0] and captions.vectors.dtype == np.float16
    assert len(captions.vectors) == sum(len(item["text_embeds"]) - 2 for item in items[:3])


# refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_embeds": torch.rand(3, 7)}, "text_embeds of mesh 1.*: text_embeds are 7 wide, the model takes 12"),
        ({"text_embeds": torch.full((2, WIDTH), torch.nan)}, "of mesh 1, .*NaN or infinite value in row 0, token 0"),
        ({"text_embeds": torch.rand(1, 2, WIDTH)}, r"of mesh 1, .*must be floats .*got \(1, 1, 2, 12\)"),
        ({"text_embeds": "a tree"}, "text_embeds of mesh 1, as a batch of one"),
        ({"text_mask": [True]}, r"of mesh 1, .*text_mask is \(1, 1\)"),
        ({"text_embeds": None}, "mesh 1 has a text, but no text_embeds, as others have: give them for every text"),
        ({"texts": ["a tree"]}, "the text of mesh 1 is a list: one string is expected, or None"),
    ],
)
def test_malformed_texts_and_embeddings_are_refused_with_their_number(change, message, tmp_path, pairs):
    items = embedded(pairs)
    items[1] |= change
    with pytest.raises(DataError, match=message):
        asked_of(tmp_path, EACH["text"], items)


def test_what_cannot_be_asked_is_refused(tmp_path, pairs):
    with pytest.raises(TrainingError, match="clouds.turns = 4 would turn a cloud without its mesh"):
        asked_of(tmp_path, EACH["points"], pairs, clouds=CloudAugmentation(turns=4))
    with pytest.raises(TrainingError, match="captions would reword texts that this data set gives as text_embeds"):
        asked_of(tmp_path, EACH["text"], embedded(pairs), captions=CaptionWriter())
    with pytest.raises(TrainingError, match="captions for a model that takes no text"):
        asked_of(tmp_path, EACH["points"], pairs, captions=CaptionWriter())
    with pytest.raises(TrainingError, match="clouds for a model that takes no points"):
        trainer(tmp_path, transformer(), pairs, clouds=CloudAugmentation())
    with pytest.raises(ConditionError, match=r"gives 12 numbers a token, the model takes 7 \(dim_text\)"):
        asked_of(tmp_path, {"condition_on_text": True, "dim_text": 7}, pairs)
