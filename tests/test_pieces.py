"""Learning from pieces of long meshes: which pieces when, what the model is told of them, and runs that go on."""

import numpy as np
import pytest
import torch
from test_transformer import make, make_codes
from toy_tokenizers import RawTokenizer

from meshgpt.cli.main import main
from meshgpt.errors import CodesError, TrainingError
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.strip import StripTokenizer
from meshgpt.training.examples import MeshExamples, MeshView
from meshgpt.training.log import read_metrics
from meshgpt.training.mesh_objectives import TransformerObjective
from meshgpt.training.mesh_trainers import MeshTransformerTrainer
from meshgpt.training.signals import StopSignals
from meshgpt.training.tokens import PieceCodes, TokenCache, piece_start, tokenized
from meshgpt.transformer.forms import Pieces
from meshgpt.transformer.transformer import MeshTransformer
from tests.training_toys import equal_weights, weights_of

SIZES = {
    "dim": 16, "attn_depth": 1, "attn_heads": 2, "attn_dim_head": 8, "fine_attn_depth": 1, "fine_attn_heads": 1,
    "max_seq_len": 180,
}  # fmt: skip
SETTINGS = {"num_train_steps": 6, "batch_size": 4, "learning_rate": 1e-3, "progress": False, "log_every": 2}


def pieces(before, ends):
    return Pieces(torch.tensor(before), torch.tensor(ends))


@pytest.fixture(scope="module")
def meshes(tiny_dataset):
    return tiny_dataset.filter(max_faces=60)[:12]


def examples_of(data, folder, piece_faces, num_variants=1, seed=0):
    tokenizer = RawTokenizer()
    augment = (lambda mesh, rng: mesh) if num_variants > 1 else None
    view = MeshExamples(data, MeshView(tokenizer.num_discrete_coors, 3, augment), seed)
    return tokenized(tokenizer, view, TokenCache(folder), num_variants, 9 * 10_000, piece_faces)


# which pieces


@pytest.mark.parametrize(("faces", "piece"), [(11, 10), (20, 10), (25, 10), (101, 10), (7, 1)])
def test_a_round_of_pieces_learns_from_every_face_and_begins_and_ends_the_mesh(faces, piece):
    count = -(-faces // piece) + 1
    for first in (0, count, 5 * count):
        starts = [piece_start(faces, piece, turn, (0, 3)) for turn in range(first, first + count)]
        assert min(starts) == 0 and max(starts) == faces - piece
        assert set().union(*(range(start, start + piece) for start in starts)) == set(range(faces))


def test_pieces_begin_anywhere_by_seed_and_turn():
    def starts(seed):
        return [piece_start(100, 10, turn, (seed, 0)) for turn in range(1100)]

    assert starts(0)[:99] == starts(0)[:99] != starts(1)[:99]
    assert set(starts(0)) == set(range(91))
    covered = np.bincount([face for start in starts(0) for face in range(start, start + 10)])
    assert covered[20:80].min() > 0.7 * covered[20:80].max()
    assert piece_start(10, 10, 7, (0,)) == piece_start(3, 10, 7, (0,)) == 0


def test_examples_are_pieces_of_their_meshes(tmp_path, meshes):
    whole, cut = (examples_of(meshes, tmp_path, piece, num_variants=2) for piece in (None, 7))
    assert len(cut) == len(whole) and cut.sizes.max() == 7 * 9 and whole.sizes.max() > 7 * 9
    for index in range(len(cut)):
        said = whole.get(index, 0)
        faces, seen = len(said) // 9, set()
        for epoch in range(0, 2 * (-(-faces // 7) + 1), 2):
            piece = cut.get(index, epoch)
            assert isinstance(piece, PieceCodes) and len(piece) == min(7, faces) * 9
            assert torch.equal(piece.codes, said[piece.before * 9 :][: len(piece)])
            assert piece.ends == (piece.before * 9 + len(piece) == len(said))
            assert torch.equal(piece.codes, cut.get(index, epoch).codes)
            seen |= set(range(piece.before, piece.before + len(piece) // 9))
        assert seen == set(range(faces))
    assert cut.fingerprint != whole.fingerprint and cut.identity["piece_faces"] == 7


# what the model is told


def test_no_end_follows_a_piece_that_the_mesh_goes_on_behind():
    model = make(window=4).eval()
    codes = make_codes(model, [60, 60, 24])
    whole, cut = model.losses(codes), model.losses(codes, pieces=pieces([0, 0, 0], [False, True, False]))
    logits = model.forward_on_codes(codes, return_loss=False)
    ends = -torch.stack((logits[0, 60, -1], logits[1, 60, -1], logits[2, 24, -1])) / np.log(2)
    kept = torch.tensor([0.0, 1.0, 0.0])
    torch.testing.assert_close(whole.row_bits - cut.row_bits, ends * (1 - kept), atol=1e-3, rtol=1e-4)
    assert (whole.num_tokens, cut.num_tokens, cut.num_faces) == (147, 145, 24)
    whole_again = model.losses(codes, pieces=pieces([0, 0, 0], [True, True, True]))
    assert torch.equal(whole_again.loss, whole.loss)


def test_the_model_is_told_that_a_piece_is_not_the_beginning():
    model = make(window=4).eval()
    codes, inside = make_codes(model, [36, 36]), pieces([0, 9], [True, True])
    assert torch.equal(model.losses(codes, pieces=inside).row_bits, model.losses(codes).row_bits)  # it begins with 0
    with torch.no_grad():
        model.goes_on.normal_()
    told, plain = model.losses(codes, pieces=inside).row_bits, model.losses(codes).row_bits
    assert told[0] == plain[0] and told[1] != plain[1]
    model.losses(codes, pieces=inside).loss.backward()
    assert model.goes_on.grad.abs().max() > 0
    assert make().goes_on is None


def test_budgets_count_the_faces_before_a_piece():
    """Told of 9 faces before, a model with 20 to write knows of 11; the same as one that has 11 to write."""
    model = make(window=2, condition_on_faces=True, attn_depth=1).eval()
    codes = make_codes(model, [60])
    with torch.no_grad():
        model.conditioner.num_faces.weight.zero_()  # what is asked in all; only what remains is left
    bits = [
        model.losses(codes, model.conditions_of(1, num_faces=[budget]), pieces=pieces([before], [True])).loss
        for budget, before in ((20, 9), (11, 0), (20, 0))
    ]
    torch.testing.assert_close(bits[0], bits[1])
    assert bits[0] != bits[2]


@pytest.mark.parametrize("options", [{}, {"copy_dim": 8}, {"distance_bias": True, "fine_context_faces": 1}])
def test_behind_its_first_windows_a_piece_is_as_likely_as_within_the_whole(options):
    """What a face is told reaches back a window a layer, and one more where vertices are pointed at."""
    depth, window = 2, 4
    model = make(window=window, attn_depth=depth, max_seq_len=480, **options).eval()
    codes, start = make_codes(model, [80 * 6]), 30
    warm = (depth + ("copy_dim" in options)) * window
    with torch.no_grad():
        whole = model.next_logits(codes)[:, (start + warm) * 6 : -1]
        piece = model.next_logits(codes[:, start * 6 :])[:, warm * 6 : -1]
        early = model.next_logits(codes)[:, start * 6], model.next_logits(codes[:, start * 6 :])[:, 0]
    torch.testing.assert_close(piece, whole, atol=1e-4, rtol=0)
    assert not torch.allclose(early[0][:, :-1], early[1][:, :-1], atol=1e-3)


def test_models_that_need_whole_meshes_say_so(tmp_path, meshes):
    def trainer(tokenizer, piece_faces=10, **options):
        model = MeshTransformer(tokenizer, **{**SIZES, **options})
        return MeshTransformerTrainer(
            model, meshes, piece_faces=piece_faces, checkpoint_folder=str(tmp_path), **SETTINGS
        )

    with pytest.raises(TrainingError, match="piece_faces = 10, but the model needs whole meshes: faces of a StripTok"):
        trainer(StripTokenizer(), window=4)
    with pytest.raises(TrainingError, match="whole meshes: without a window"):
        trainer(CoordinateTokenizer())
    with pytest.raises(TrainingError, match="positions are learned"):
        trainer(CoordinateTokenizer(), window=4, abs_pos_emb=True)
    with pytest.raises(TrainingError, match="local_points"):
        trainer(CoordinateTokenizer(), window=4, condition_on_points=True, local_points=2)
    for wrong in (0, 21):
        with pytest.raises(TrainingError, match=f"piece_faces = {wrong} must lie in 1 .. 20"):
            trainer(CoordinateTokenizer(), wrong, window=4)
    with pytest.warns(UserWarning, match="sees 11 faces back, and a piece has 10"):
        trainer(CoordinateTokenizer(), window=11)
    with pytest.raises(CodesError, match="pieces for a model that needs whole meshes: without a window"):
        make().losses(make_codes(make(), [12]), pieces=pieces([0], [True]))


# the trainer


def run(folder, data, model_seed=0, **keywords):
    torch.manual_seed(model_seed)
    model = MeshTransformer(CoordinateTokenizer(), **SIZES, window=10, condition_on_faces=True)
    settings = SETTINGS | {"checkpoint_folder": str(folder)} | keywords
    return MeshTransformerTrainer(model, data, piece_faces=12, **settings)


def test_a_run_on_pieces_takes_meshes_of_any_length_and_goes_on_bit_for_bit(tmp_path, meshes):
    whole = run(tmp_path / "a", meshes, val_dataset=meshes[:4])
    assert len(whole.examples) == len(meshes) and whole.examples.sizes.max() == 12 * 9
    batch = TransformerObjective().collate([whole.examples.get(index, 2) for index in range(len(meshes))])
    faces = (batch.codes >= 0).sum(dim=1) // 9
    assert batch.pieces.before.max() > 0 and not batch.pieces.ends.all()
    assert batch.num_tokens == int((batch.codes >= 0).sum() + batch.pieces.ends.sum())
    assert (batch.conditions.num_faces.float() > 0.8 * (batch.pieces.before + faces)).all()  # of the whole mesh
    whole()
    assert {"bits_per_face", "val_bits_per_face"} <= set(read_metrics(tmp_path / "a")[-1]) | set(whole.validate())
    first = run(tmp_path / "b", meshes, checkpoint_every=3)
    first._begin()
    for _ in range(3):
        first.train_step(StopSignals())
        first._after_step()
    second = run(tmp_path / "b", meshes, model_seed=9)
    assert second.resume() and second.step == 3
    second()
    assert equal_weights(weights_of(second.model), weights_of(whole.model))


def test_the_command_line_learns_from_pieces_in_a_window_as_long(tmp_path):
    words = ["train", "transformer", "tiny", "--tokenizer", "coordinates", "--out", str(tmp_path / "m"), "--no-val"]
    settings = ("num_train_steps=1", "batch_size=2", "progress=false", "dim=16", "attn_depth=1", "max_seq_len=180")
    words += ["--no-augment", "--preset", "tiny", *(word for setting in settings for word in ("--set", setting))]
    assert main([*words, "--piece-faces", "12", "--debug"]) == 0
    assert MeshTransformer.from_pretrained(tmp_path / "m", CoordinateTokenizer()).config.window == 12
    assert main([*words, "--piece-faces", "30"]) == 1
