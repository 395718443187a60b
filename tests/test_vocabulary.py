"""Meshes among words: text and ids there and back, chunks, streams, and a real language model's tokenizer."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from meshgpt.errors import CodesError, ConfigError, MissingExtraError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.tokenizers.autoencoder import MeshAutoencoder
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.half_edge import HalfEdgeTokenizer
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.tokenizers.strip import StripTokenizer
from meshgpt.tokenizers.vocabulary import MeshPart, MeshVocabulary

ROOT = Path(__file__).resolve().parent.parent


def learned():
    torch.manual_seed(0)
    small = {"dim_codebook": 24, "encoder_dims_through_depth": (8,), "decoder_dims_through_depth": ()}
    return MeshAutoencoder(**small, num_quantizers=3, codebook_size=128).eval()


KINDS = {
    "coordinates": CoordinateTokenizer,
    "quads": lambda: CoordinateTokenizer(quads=True),
    "half-edges": HalfEdgeTokenizer,
    "strips": StripTokenizer,
    "patches": PatchTokenizer,
    "learned": learned,
}


@pytest.fixture(params=KINDS)
def tokenizer(request):
    return KINDS[request.param]()


@pytest.fixture
def words():
    """A language model's tokenizer that knows a few words."""
    known = {word: number for number, word in enumerate(["[UNK]", "a", "chair", "and", "table"])}
    model = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    return model


# one mesh


def test_text_and_model_ids_lead_back_to_the_same_ids(tokenizer, tiny_meshes):
    vocabulary = MeshVocabulary(tokenizer, offset=1000)
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == tokenizer.vocab_size + 3
    for mesh in tiny_meshes[:3]:
        ids = tokenizer.encode(mesh)
        assert torch.equal(vocabulary.from_text(vocabulary.to_text(ids)), ids)
        model_ids = vocabulary.to_model_ids(ids)
        assert torch.equal(vocabulary.from_model_ids(model_ids), ids)
        assert model_ids[0] == 1000 and model_ids[-1] == 1001 and model_ids[1:-1] == (ids + 1003).tolist()


def test_a_text_spelled_out():
    vocabulary = MeshVocabulary(StripTokenizer())
    assert vocabulary.to_text([128, 3, 0]) == "<mesh><mesh_128><mesh_3><mesh_0></mesh>"
    assert vocabulary.from_text(" <mesh> <mesh_128>\n<mesh_3></mesh>").tolist() == [128, 3]
    assert vocabulary.to_text([]) == "<mesh></mesh>" and vocabulary.from_text("<mesh></mesh>").tolist() == []
    named = MeshVocabulary(StripTokenizer(), name="part")
    assert named.to_text(torch.tensor([7])) == "<part><part_7></part>"
    with pytest.raises(CodesError, match="found 0"):
        named.from_text("<mesh><mesh_7></mesh>")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<mesh><mesh_133></mesh>", "<mesh_133> at character 6: the tokenizer's ids are 0 .. 132"),
        ("<mesh><mesh_007></mesh>", "<mesh_007> at character 6 is not one of the tokens"),
        ("</mesh_more>", "</mesh_more> at character 0 is not one of the tokens"),
        ("a <mesh_5>", "'<mesh_5>' at place 2 stands outside of a mesh"),
        ("</mesh>", "'</mesh>' at place 0 stands outside of a mesh"),
        ("<mesh><mesh_5> and </mesh>", "' and ' at place 14 stands within a mesh"),
        ("<mesh><mesh></mesh>", "'<mesh>' at place 6 stands within a mesh"),
        ("a chair", "expected one mesh, found 0"),
        ("<mesh></mesh><mesh></mesh>", "expected one mesh, found 2"),
    ],
)
def test_a_text_that_is_no_mesh_is_refused_with_the_place(text, message):
    with pytest.raises(CodesError, match=re.escape(message)):
        MeshVocabulary(StripTokenizer()).from_text(text)


def test_ids_that_are_none_of_the_tokenizer_are_refused():
    vocabulary = MeshVocabulary(StripTokenizer())
    for wrong, message in (([133], "id 133 is not one"), ([-1, 4], "id -1 is not one"), ([[1]], "flat list")):
        with pytest.raises(CodesError, match=message):
            vocabulary.to_text(wrong)
    with pytest.raises(CodesError, match="flat list of integers"):
        vocabulary.to_model_ids(torch.zeros(3))


def test_what_is_no_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="that of a mesh tokenizer, got str"):
        MeshVocabulary("strip")
    with pytest.raises(ConfigError, match="letters and digits"):
        MeshVocabulary(StripTokenizer(), name="a_b")
    with pytest.raises(ConfigError, match="must not be negative"):
        MeshVocabulary(StripTokenizer(), offset=-1)
    with pytest.raises(CodesError, match="no id for <mesh_1>: add"):
        MeshVocabulary(CoordinateTokenizer(num_discrete_coors=2)).placed([5, 6, 7, 8, None])
    with pytest.raises(CodesError, match="5 tokens need as many different ids, got 4"):
        MeshVocabulary(CoordinateTokenizer(num_discrete_coors=2)).placed([5, 6, 7, 8, 8])


# among words


def test_words_and_meshes_come_apart_as_they_were_put_together():
    vocabulary = MeshVocabulary(StripTokenizer(), offset=10)
    first, second = vocabulary.split_text("a <mesh><mesh_1></mesh>")
    assert first == "a " and second.ids.tolist() == [1] and second.begins and second.ends
    parts = vocabulary.split_model_ids([1, 2, *vocabulary.to_model_ids([4, 5]), *vocabulary.to_model_ids([6]), 3])
    assert parts[0] == [1, 2] and parts[3] == [3]
    assert [part.ids.tolist() for part in parts[1:3]] == [[4, 5], [6]]
    assert vocabulary.split_text("") == [] and vocabulary.split_model_ids(torch.tensor([1])) == [[1]]


def test_a_mesh_that_is_not_closed_goes_to_the_end_and_says_so():
    [part] = MeshVocabulary(StripTokenizer()).split_text("<mesh><mesh_1><mesh_2>")
    assert part.ids.tolist() == [1, 2] and part.begins and not part.ends


def test_pieces_of_a_mesh_are_joined_across_words_and_alone_say_what_they_lack():
    vocabulary = MeshVocabulary(StripTokenizer())
    text = "see <mesh><mesh_1><mesh_more> and on <mesh_more><mesh_2></mesh> done"
    see, mesh, on, done = vocabulary.split_text(text)
    assert (see, on, done) == ("see ", " and on ", " done")
    assert mesh.ids.tolist() == [1, 2] and mesh.begins and mesh.ends
    [piece] = vocabulary.split_text("<mesh_more><mesh_2><mesh_more>")
    assert piece.ids.tolist() == [2] and not piece.begins and not piece.ends


@pytest.mark.parametrize("size", [14, 40, 10_000])
def test_chunks_fit_are_whole_faces_and_join_again(tokenizer, tiny_meshes, size):
    vocabulary, ids = MeshVocabulary(tokenizer, offset=5), tokenizer.encode(tiny_meshes[0])
    chunks = vocabulary.chunks(ids, size)
    assert all(len(chunk) <= size for chunk in chunks) and (len(chunks) == 1) == (len(ids) + 2 <= size)
    assert torch.equal(vocabulary.from_model_ids(sum(chunks, [])), ids)
    assert torch.equal(vocabulary.from_text(vocabulary.text_chunks(ids, size)), ids)
    for chunk in chunks:
        [piece] = vocabulary.split_model_ids(chunk)
        assert isinstance(piece, MeshPart) and len(piece.ids) % (tokenizer.tokens_per_face or 1) == 0


def test_chunks_that_hold_no_face_are_refused():
    with pytest.raises(CodesError, match="max_tokens = 10 leaves no room for 9 ids"):
        MeshVocabulary(CoordinateTokenizer()).chunks([1] * 9, 10)
    assert MeshVocabulary(CoordinateTokenizer()).chunks([], 11) == [[0, 1]]


# a stream


def test_a_stream_gives_every_face_once_and_the_mesh_in_the_end(tokenizer, tiny_meshes):
    vocabulary, mesh = MeshVocabulary(tokenizer, offset=50), tiny_meshes[2]
    stream, faces = vocabulary.stream(), []
    ids = tokenizer.encode(mesh)
    for model_id in [3, 4, *vocabulary.to_model_ids(ids), 7]:
        faces.append(stream.push(model_id))
    together = np.concatenate(faces)
    assert together.shape[1:] == (tokenizer.corners, 3) and len(together) == len(tokenizer.decode(ids).faces)
    assert canonicalize(stream.mesh) == canonicalize(tokenizer.decode(ids)) and not stream.inside
    at_once = sum(map(len, faces)) - max(map(len, faces))
    assert at_once > 0.9 * len(together)
    if not isinstance(tokenizer, MeshAutoencoder):
        known, _ = tokenizer.decode_from_codes_to_faces(ids[None])
        np.testing.assert_allclose(together, known[0].numpy())


def test_a_stream_gives_what_there_is_of_an_unfinished_mesh(tiny_meshes):
    tokenizer = StripTokenizer()
    vocabulary = MeshVocabulary(tokenizer)
    stream, ids = vocabulary.stream(), tokenizer.encode(tiny_meshes[0])
    given = sum(len(stream.push(model_id)) for model_id in vocabulary.to_model_ids(ids)[:24])
    assert given == stream.mesh.num_faces > 0 and stream.inside


def test_a_stream_goes_on_where_a_mesh_was_cut_and_begins_anew_at_the_next(tiny_meshes):
    tokenizer = HalfEdgeTokenizer()
    vocabulary, ids = MeshVocabulary(tokenizer, offset=9), HalfEdgeTokenizer().encode(tiny_meshes[0])
    stream = vocabulary.stream()
    chunks = vocabulary.chunks(ids, 100)
    assert len(chunks) > 1
    counts = [sum(len(stream.push(model_id)) for model_id in chunk) for chunk in chunks]
    assert stream.ids == ids.tolist() and sum(counts) == len(tokenizer.decode(ids).faces)
    for model_id in vocabulary.to_model_ids(ids[:10]):
        stream.push(model_id)
    assert stream.ids == ids[:10].tolist() and stream.mesh.num_faces == 1


def test_a_stream_survives_ids_that_contradict_each_other(tiny_meshes):
    tokenizer = StripTokenizer()
    vocabulary, ids = MeshVocabulary(tokenizer), tokenizer.encode(tiny_meshes[0]).tolist()
    stream = vocabulary.stream()
    given = sum(len(stream.push(model_id)) for model_id in vocabulary.to_model_ids([*ids, 128, 1, 1, 1, 1, 1, 1]))
    assert given == stream.mesh.num_faces == tokenizer.decode(ids).num_faces


def test_a_stream_refuses_words_within_a_mesh_and_codes_outside_of_one():
    vocabulary = MeshVocabulary(StripTokenizer(), offset=10)
    stream = vocabulary.stream()
    with pytest.raises(CodesError, match="id 15 of the language model stands outside of a mesh"):
        stream.push(15)
    stream.push(10)
    for wrong in (3, 10):
        with pytest.raises(CodesError, match=f"id {wrong} of the language model stands within a mesh"):
            stream.push(wrong)


# in a language model's tokenizer


def test_a_language_tokenizer_keeps_mesh_tokens_whole_among_its_words(words, tokenizer, tiny_meshes):
    vocabulary = MeshVocabulary(tokenizer).added_to(words)
    assert words.get_vocab_size() == 5 + len(vocabulary)
    ids = tokenizer.encode(tiny_meshes[1])
    encoded = words.encode(f"a chair {vocabulary.to_text(ids)} and a table").ids
    assert encoded == [1, 2, *vocabulary.to_model_ids(ids), 3, 1, 4]
    before, mesh, after = vocabulary.split_model_ids(encoded)
    assert torch.equal(mesh.ids, ids) and words.decode(before) == "a chair" and words.decode(after) == "and a table"
    shown = words.decode(encoded[2:-3], skip_special_tokens=False)
    assert torch.equal(vocabulary.from_text(shown), ids)
    assert words.decode(encoded) == "a chair and a table"


def test_tokens_that_are_there_already_keep_their_ids(words):
    words.add_tokens(["<mesh_1>"])
    vocabulary = MeshVocabulary(CoordinateTokenizer(num_discrete_coors=2)).added_to(words)
    assert vocabulary.tokens == ["<mesh>", "</mesh>", "<mesh_more>", "<mesh_0>", "<mesh_1>"]
    assert vocabulary.model_ids.tolist() == [6, 7, 8, 9, 5]
    assert vocabulary.added_to(words).model_ids.tolist() == [6, 7, 8, 9, 5]
    assert vocabulary.from_model_ids([6, 5, 9, 7]).tolist() == [1, 0]


def test_a_tokenizer_that_is_called_as_those_of_transformers_are(words):
    class LikeTransformers:
        def add_tokens(self, tokens):
            return words.add_tokens(tokens)

        def convert_tokens_to_ids(self, token):
            return words.token_to_id(token)

    vocabulary = MeshVocabulary(StripTokenizer()).added_to(LikeTransformers())
    assert vocabulary.model_ids.tolist() == list(range(5, 5 + len(vocabulary)))


def test_without_the_package_the_extra_is_named(words, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"meshgpt\[text\]"):
        MeshVocabulary(StripTokenizer()).added_to(words)


def test_the_example_runs(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["09"])
    runpy.run_path(str(ROOT / "examples" / "09_mesh_tokens_in_a_language_model.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "whole again: True" in shown and "228 faces came" in shown
