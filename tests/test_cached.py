"""Decorated data sets: embeddings and face graphs computed once, by content, for every instance, process and run."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from meshgpt.data.cached import cache_face_edges_for_dataset, cache_text_embeds_for_dataset
from meshgpt.data.dataset import MeshDataset
from meshgpt.data.folder import DatasetFromTransforms
from meshgpt.errors import DataError
from meshgpt.mesh.topology import derive_face_edges_from_faces
from meshgpt.text.embedding import CallableEncoder

VERTICES = torch.rand(5, 3)
FACES = torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4], [-1, -1, -1]])
ASKED = []


def embed(texts):
    """One token a letter, padded with two tokens of zeros."""
    ASKED.append(texts)
    return torch.tensor([[[float(ord(c)), 1.0] for c in text] + [[0.0, 0.0]] * 2 for text in texts])


class Plain(Dataset):
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.fixture
def cached(tmp_path):
    ASKED.clear()
    return cache_text_embeds_for_dataset(embed, max_text_len=4, cache_path=str(tmp_path / "texts"))(Plain)


@pytest.fixture
def edged(tmp_path):
    return cache_face_edges_for_dataset(max_edges_len=100, cache_path=tmp_path / "edges")(Plain)


def codes(item):
    return item["text_embeds"][:, 0].int().tolist()


def test_texts_become_embeddings_of_their_tokens(cached):
    data = cached((VERTICES, FACES, "ab"), {"vertices": VERTICES, "faces": FACES, "texts": "long text", "other": 1})
    assert set(data[0]) == {"vertices", "faces", "text_embeds"} and codes(data[0]) == [ord("a"), ord("b")]
    assert data[0]["text_embeds"].dtype == torch.float32 and data[0]["vertices"] is VERTICES
    assert codes(data[1]) == [ord(c) for c in "long"] and data[1]["other"] == 1
    assert [codes(item) for item in data] == [codes(data[0]), codes(data[1])]


def test_a_validation_set_gets_its_own_items_and_shares_what_is_equal(cached):
    train, val = cached((VERTICES, FACES, "ab"), (VERTICES, FACES, "cd")), cached(*[(VERTICES, FACES, "cd")] * 5)
    assert codes(train[0]) == [97, 98] and codes(val[0]) == codes(val[4]) == codes(train[1]) == [99, 100]
    assert ASKED == [["ab"], ["cd"]]


def test_another_run_computes_nothing_and_harms_nothing(cached, tmp_path):
    before = codes(cached((VERTICES, FACES, "ab"))[0])
    [path] = (tmp_path / "texts").iterdir()
    content = path.read_bytes()
    again = cache_text_embeds_for_dataset(embed, 4, str(tmp_path / "texts"))(Plain)
    data = again((VERTICES, FACES, "ab"), cache_memmap_file_mode="w+")
    assert codes(data[0]) == before and ASKED == [["ab"]] and path.read_bytes() == content
    other = cache_text_embeds_for_dataset(lambda texts: embed(texts) + 1, 4, str(tmp_path / "texts"))(Plain)
    assert codes(other((VERTICES, FACES, "ab"))[0])[:2] == [98, 99], "another function has its own file"


def test_functions_may_be_named_and_models_are_known_by_their_encoder(tmp_path):
    class Model:
        def __init__(self, factor):
            self.factor = factor
            self.text_encoder = CallableEncoder(embed, name="letters", identity="letters")

        def embed_texts(self, texts):
            return embed(texts), torch.ones(1, 4)

    for options in ({"identity": "mine"}, {}):
        first, second = (
            cache_text_embeds_for_dataset(Model(factor).embed_texts, 9, tmp_path / str(len(options)), **options)(Plain)
            for factor in (1, 2)
        )
        ASKED.clear()
        assert len(first((VERTICES, FACES, "ab"))[0]["text_embeds"]) == 4, "the mask decides, where there is one"
        assert len(second((VERTICES, FACES, "ab"))[0]["text_embeds"]) == 4 and ASKED == [["ab"]]


def test_our_encoders_serve_as_functions(tmp_path):
    encoder = CallableEncoder(embed, name="letters")
    decorated = cache_text_embeds_for_dataset(encoder.embed, 9, tmp_path)(Plain)
    assert codes(decorated((VERTICES, FACES, "ab"))[0])[:2] == [97, 98]
    assert decorated((VERTICES, FACES))[0]["text_embeds"].shape == (0, 2), "no text, no token"


def test_face_edges_are_whole_numbers_the_first_time_and_ever_after(edged):
    data = edged((VERTICES, FACES), (VERTICES, FACES[:2]), {"faces": FACES.tolist(), "vertices": VERTICES})
    for _ in range(2):
        for item, faces in zip(data, (FACES, FACES[:2], FACES), strict=True):
            assert torch.equal(item["face_edges"], derive_face_edges_from_faces(faces))
            assert item["face_edges"].dtype == torch.int64
    assert torch.equal(edged((VERTICES, FACES[:1]))[0]["face_edges"], torch.tensor([[0, 0]]))


def test_face_edges_are_found_again(edged, monkeypatch):
    before = edged((VERTICES, FACES))[0]["face_edges"]
    monkeypatch.setattr("meshgpt.data.cached.derive_face_edges_from_faces", None)
    assert torch.equal(edged((VERTICES * 2, FACES))[0]["face_edges"], before)


def test_too_many_edges_are_refused_or_cut(tmp_path):
    with pytest.raises(DataError, match="7 pairs of neighbouring faces, more than max_edges_len 3"):
        cache_face_edges_for_dataset(3, tmp_path)(Plain)((VERTICES, FACES))[0]
    cut = cache_face_edges_for_dataset(3, tmp_path, assert_edge_len_lt_max=False)(Plain)((VERTICES, FACES))[0]
    assert torch.equal(cut["face_edges"], derive_face_edges_from_faces(FACES)[:3])


def test_both_together_on_a_folder_of_files(tmp_path):
    for name in ("chair", "table"):
        (tmp_path / f"{name}.tri").write_text("")

    def read(path):
        return VERTICES.numpy(), FACES[:3].numpy(), path.stem

    with_texts = cache_text_embeds_for_dataset(embed, 9, tmp_path / "texts")(DatasetFromTransforms)
    both = cache_face_edges_for_dataset(9, tmp_path / "edges")(with_texts)
    data = both(tmp_path, transforms={"tri": read})
    item = data[1]
    assert set(item) == {"vertices", "faces", "category", "text_embeds", "face_edges"} and len(data) == 2
    assert codes(item) == [ord(c) for c in "table"] and item["vertices"].dtype == torch.float32
    assert torch.equal(item["face_edges"], derive_face_edges_from_faces(item["faces"]))


def test_data_kwargs_name_the_entries_of_tuples(tmp_path):
    class Ordered(Plain):
        data_kwargs = ["texts", "faces", "vertices"]

    item = cache_text_embeds_for_dataset(embed, 9, tmp_path)(Ordered)(("ab", FACES, VERTICES))[0]
    assert item["faces"] is FACES and codes(item) == [97, 98] and Ordered.data_kwargs == ["texts", "faces", "vertices"]


def test_records_of_a_mesh_dataset_have_both(tmp_path, tiny_dataset):
    decorated = cache_face_edges_for_dataset(10_000, tmp_path)(MeshDataset)
    item = decorated(tiny_dataset.store.path)[3]
    assert item["texts"] == tiny_dataset[3].caption and item["category"] == tiny_dataset[3].category
    assert np.array_equal(item["faces"], tiny_dataset[3].mesh.faces)


def test_the_decorated_class_is_a_subclass_and_leaves_the_other_as_it_was(cached):
    assert issubclass(cached, Plain) and cached.__name__ == "Plain"
    assert Plain((VERTICES, FACES, "ab"))[0][2] == "ab"


@cache_face_edges_for_dataset(100, "unused")
class Decorated(Plain):
    """Stands in a module, as those of users do."""


def test_instances_travel_to_workers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pickle.loads(pickle.dumps(Decorated(*[(VERTICES, FACES[: 1 + number % 3]) for number in range(6)])))
    assert Decorated.__doc__ == "Stands in a module, as those of users do."
    loaded = list(DataLoader(data, batch_size=None, num_workers=2))
    assert all(torch.equal(item["face_edges"], derive_face_edges_from_faces(item["faces"])) for item in loaded)
    [path] = (tmp_path / "unused").iterdir()
    assert path.stat().st_size > 0


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (5, "item 0 of the data set is of type int"),
        ({"faces": FACES}, r"with the names \['faces'\]: expected vertices and faces"),
        ((1, 2, 3, 4), "has 4 entries, data_kwargs names"),
        ((VERTICES, FACES, ["two", "texts"]), "one string, got list"),
    ],
)
def test_items_that_cannot_be_used_are_named(cached, item, message):
    with pytest.raises(DataError, match=message):
        cached(item)[0]


def test_wrong_decorations_are_refused(tmp_path):
    with pytest.raises(DataError, match="__getitem__"):
        cache_face_edges_for_dataset(3)(int)
    with pytest.raises(DataError, match="max_text_len must be at least 1, got 0"):
        cache_text_embeds_for_dataset(embed, 0)
    wrong = cache_text_embeds_for_dataset(lambda texts: torch.zeros(2, 3), 4, tmp_path)(Plain)
    with pytest.raises(DataError, match=r"gave \(2, 3\) for the one text 'ab': expected \(1, n, d\)"):
        wrong((VERTICES, FACES, "ab"))[0]
