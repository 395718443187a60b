"""Rankings against brute force; a recognizer learns to tell made shapes and their captions, and says who follows."""

import itertools
import math

import numpy as np
import pytest
import torch

from meshgpt.data.dataset import MeshDataset
from meshgpt.data.pack import MeshRecord, write_dataset
from meshgpt.errors import CheckpointError, ConfigError, DataError, TextEncoderError
from meshgpt.evaluation import judge as judge_module
from meshgpt.evaluation.judge import UNSEEN, ShapeJudge
from meshgpt.evaluation.learn_recognition import (
    NOTHING,
    Lessons,
    categories_of,
    changed,
    contrastive_loss,
    lesson,
    rate,
    study_material,
    train_recognizer,
)
from meshgpt.evaluation.ranking import Share, hits_at, share_at
from meshgpt.evaluation.recognition import RecognizerConfig, ShapeRecognizer, pictures, surface_points
from meshgpt.evaluation.text_following import (
    Prompt,
    caption_prompts,
    category_prompts,
    real_meshes,
    text_following,
)
from meshgpt.mesh.mesh import Mesh
from meshgpt.text.encoder import CallableEncoder, register

BOX = [[0, 1, 3], [0, 3, 2], [4, 7, 5], [4, 6, 7], [0, 5, 1], [0, 4, 5], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4]]
BOX += [[1, 5, 7], [1, 7, 3]]
WORDS = ("tile", "flat", "post", "tall")


def box(*sides):
    corners = np.array(list(itertools.product((-1, 1), repeat=3))) * np.array(sides)
    return Mesh(corners, BOX)


def speck():
    """A mesh without a surface."""
    return Mesh(np.zeros((3, 3)), [[0, 1, 2]])


def spot_words(texts):
    """Which words a text has."""
    return torch.tensor([[float(word in text.split()) for word in WORDS] for text in texts]), None


register("words", lambda: CallableEncoder(spot_words, len(WORDS), "words"), len(WORDS))
SMALL = {"text_encoder": "words", "dim_text": 4, "num_points": 64, "resolution": 8, "dim": 8, "dim_hidden": 32}
TWO = RecognizerConfig(("post", "tile"), dim_embed=16, **SMALL)


def made(count, seed):
    """Records of flat tiles and tall posts, no two alike, and one thing of neither kind."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        wide, deep, thin = rng.uniform(0.7, 1.0), rng.uniform(0.7, 1.0), rng.uniform(0.05, 0.2)
        yield MeshRecord(
            box(wide, thin, deep), f"tile {number}", "flat tile", "tile", source="made", family=f"t{number}"
        )
        yield MeshRecord(
            box(thin, wide, thin), f"post {number}", "tall post", "post", source="made", family=f"p{number}"
        )
    yield MeshRecord(box(1, 1, 1), "cube", "thing", "other", source="made", family="cube")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return MeshDataset(write_dataset(made(12, 0), tmp_path_factory.mktemp("made") / "shapes.zip"))


@pytest.fixture(scope="module")
def recognizer(shapes):
    return train_recognizer(shapes, TWO, Lessons(steps=40, batch_size=8, category_names=0.2, ema_decay=0.8))


def unseen(count=6):
    records = [record for record in made(count, seed=99) if record.category != "other"]
    return [record.mesh for record in records], [record.category for record in records]


# rankings


def hits_by_hand(scores, relevant, k):
    """Over all orders of the answers that the scores allow."""
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return sum(any(relevant[answer] for answer in order[:k]) for order in orders) / len(orders)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_hits_are_the_share_of_all_orders_that_the_scores_allow(k):
    rng = np.random.default_rng(k)
    scores = rng.integers(3, size=(40, 6)).astype(np.float32)  # few values: many ties
    scores[0] = -np.inf
    relevant = rng.random((40, 6)) < 0.3
    by_hand = [hits_by_hand(*row, k) for row in zip(scores, relevant, strict=True)]
    found = hits_at(torch.from_numpy(scores), torch.from_numpy(relevant), k)
    assert found.tolist() == pytest.approx(by_hand, abs=1e-6)
    assert share_at(torch.from_numpy(scores), torch.from_numpy(relevant), k).hits == pytest.approx(sum(by_hand))


def test_without_ties_hits_are_those_of_topk():
    scores = torch.randn(200, 30, generator=torch.Generator().manual_seed(0))
    right = torch.randint(30, (200,), generator=torch.Generator().manual_seed(1))
    for k in (1, 5):
        expected = (scores.topk(k, dim=1).indices == right[:, None]).any(dim=1).float()
        assert torch.equal(hits_at(scores, torch.nn.functional.one_hot(right, 30).bool(), k), expected)


def test_scores_all_alike_get_what_guessing_gets():
    relevant = torch.eye(8, dtype=torch.bool)
    assert share_at(torch.zeros(8, 8), relevant, 2).value == pytest.approx(2 / 8)


def test_questions_without_a_right_answer_or_any_answer_are_missed():
    assert hits_at(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool), 3).tolist() == [0, 0]
    assert hits_at(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool), 1).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("scores", "relevant", "k", "words"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.bool), 1, r"\(2, 3\) and relevant \(3, 2\)"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.bool), 1, r"\(questions, answers\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool), 0, "k must be at least 1, got 0"),
        (torch.tensor([[0.0], [math.nan]]), torch.ones(2, 1, dtype=torch.bool), 1, "question 1"),
    ],
)
def test_a_ranking_that_is_none_is_refused(scores, relevant, k, words):
    with pytest.raises(DataError, match=words):
        hits_at(scores, relevant, k)


@pytest.mark.parametrize(("hits", "count"), [(0, 7), (3, 10), (9, 9), (250, 500)])
def test_the_interval_holds_the_shares_that_the_sample_does_not_speak_against(hits, count):
    """Its ends are the p with |share - p| = 1.96 sqrt(p (1 - p) / n)."""
    share = Share(hits, count)
    for end in share.interval:
        assert abs(share.value - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / count), abs=1e-6)
    assert share.interval[0] <= share.value <= share.interval[1]


def test_a_share_of_nothing_is_no_number_and_a_share_says_itself():
    assert math.isnan(Share(0, 0).value) and Share(0, 0).interval == (0, 1)
    assert str(Share(5, 8)) == "62.5 (30.6 .. 86.3)"


# what the recognizer sees


def test_pictures_show_a_box_as_it_is():
    clouds, seen = surface_points([box(1, 0.5, 0.25)], 20_000, 0)
    side, above, front = pictures(clouds, 16)[0]
    assert seen.all() and side.shape == (9, 16, 16)
    covered = [
        (picture[0].any(dim=1).sum().item(), picture[0].any(dim=0).sum().item()) for picture in (side, above, front)
    ]
    assert covered == [(8, 4), (16, 4), (8, 16)]  # rows and columns: up or along x, across
    middle = front[:, 8, 8]
    assert middle[0] == 1 and middle[3] == pytest.approx(1) and middle[4:6].abs().max() < 1e-6  # looks at its normals
    assert middle[6:8].tolist() == pytest.approx([0.2375, -0.2375])  # front and back face
    assert [picture[8].unique().tolist() for picture in (side, above, front)] == [[0], [1], [0]]


def test_pictures_do_not_depend_on_the_order_of_points_the_batch_or_winding():
    clouds, _ = surface_points([box(1, 0.5, 0.25), box(0.3, 1, 1)], 500, 0)
    shown = pictures(clouds, 16)
    assert torch.allclose(pictures(clouds[1:], 16), shown[1:], atol=1e-6)
    mixed = clouds[:, torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    assert torch.allclose(pictures(mixed, 16), shown, atol=1e-5)
    mixed[:, ::2, 3:] *= -1
    assert torch.allclose(pictures(mixed, 16), shown, atol=1e-5)


def test_what_a_mesh_looks_like_depends_neither_on_its_place_nor_its_size_nor_the_others(recognizer):
    meshes = unseen()[0]
    moved = [Mesh(mesh.vertices * 7 + [1, -20, 3], mesh.faces) for mesh in meshes]
    found, again = recognizer.recognize(meshes), recognizer.recognize([speck(), *moved])
    assert torch.allclose(again.embeddings[1:], found.embeddings, atol=1e-4)
    alone = recognizer.recognize(meshes[3:4])
    assert torch.allclose(alone.logits, found.logits[3:4], atol=1e-5)


def test_a_mesh_without_surface_is_not_seen_and_recognizing_keeps_the_mode(recognizer):
    recognizer.train()
    looks = recognizer.recognize([speck(), box(1, 1, 1), Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))])
    assert looks.seen.tolist() == [False, True, False] and not looks.logits[::2].any()
    assert recognizer.training and not recognizer.eval().training
    assert recognizer.recognize([]).logits.shape == (0, 2)


# learning


def test_it_learns_to_tell_two_made_kinds_and_their_captions(recognizer):
    meshes, categories = unseen()
    looks = recognizer.recognize(meshes)
    assert [recognizer.config.categories[best] for best in looks.logits.argmax(dim=1)] == categories
    texts = recognizer.read_texts(torch.stack([*spot_words(["flat tile", "tall post"])[0]]))
    best = (looks.embeddings @ texts.T).argmax(dim=1)
    assert [("tile", "post")[text] for text in best] == categories


def test_learning_is_repeated_by_its_seed_and_leaves_the_callers_randomness_alone(shapes):
    lessons, heard = Lessons(steps=2, batch_size=4), []
    torch.manual_seed(5)
    first = train_recognizer(shapes, TWO, lessons, on_step=lambda step, loss: heard.append((step, loss)))
    drawn = torch.rand(3)
    again = train_recognizer(shapes, TWO, lessons)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    assert [step for step, _ in heard] == [1, 2] and all(math.isfinite(loss) for _, loss in heard)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    other = train_recognizer(shapes, TWO, lessons, seed=1)
    assert not torch.equal(first.to_logits.weight, other.to_logits.weight)


def test_every_parameter_learns(shapes):
    model, lessons = ShapeRecognizer(TWO), Lessons(batch_size=8)
    lesson(model, study_material(shapes, TWO, 0.5, 0), lessons, torch.Generator().manual_seed(0)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_meshes_of_no_category_teach_captions_only(shapes):
    material = study_material(shapes, TWO, 0.0, 0)
    assert (material.categories == NOTHING).sum() == 1
    assert material.texts.shape == (2 + 3, 4) and material.captions.min() == 2
    nameless = material.__class__(**{**vars(material), "categories": torch.full_like(material.categories, NOTHING)})
    model = ShapeRecognizer(TWO)
    lesson(model, nameless, Lessons(batch_size=8), torch.Generator().manual_seed(0)).backward()
    assert model.to_logits.weight.grad is None and model.read.weight.grad is not None


def test_the_contrastive_loss_is_that_of_clip_where_texts_differ_and_least_where_all_fits():
    generator = torch.Generator().manual_seed(0)
    shapes, texts = (torch.nn.functional.normalize(torch.randn(5, 8, generator=generator), dim=-1) for _ in range(2))
    scores, own = 4.0 * shapes @ texts.T, torch.arange(5)
    expected = (torch.nn.functional.cross_entropy(scores, own) + torch.nn.functional.cross_entropy(scores.T, own)) / 2
    assert contrastive_loss(shapes, texts, own, torch.tensor(4.0).log()) == pytest.approx(expected.item())
    twice = torch.tensor([0, 0, 1, 1, 2])
    fits = contrastive_loss(torch.eye(8)[twice], torch.eye(8)[twice], twice, torch.tensor(4.6))
    assert fits == pytest.approx(4 * math.log(2) / 5, abs=1e-4)  # nothing tells two of one text apart
    assert fits < contrastive_loss(torch.eye(8)[twice], torch.eye(8)[twice.flip(0)], twice, torch.tensor(4.6))


def test_changed_clouds_stay_normalised_and_normals_stay_upright_on_their_faces():
    clouds, _ = surface_points([box(1, 0.5, 0.25)] * 16, 2000, 0)
    found = changed(clouds, Lessons(jitter=0.0, warp=0.0, turn=0.0, stretch=1.3), torch.Generator().manual_seed(0))
    low, high = found[..., :3].amin(dim=1), found[..., :3].amax(dim=1)
    assert torch.allclose(low, -high, atol=1e-5) and torch.allclose((high - low).amax(dim=1), torch.tensor(1.9))
    lies_on = ((found[..., :3].abs() - high[:, None]).abs() < 1e-4) & (found[..., 3:].abs() > 0.99)
    assert lies_on.any(dim=-1).all()  # each point on the face of the box that its normal stands on
    assert set(high.argmax(dim=1).tolist()) == {0, 2}  # some are turned
    same = changed(clouds, Lessons(jitter=0.0, warp=0.0, turn=0.0, stretch=1.0), torch.Generator().manual_seed(0))
    assert torch.allclose(same[..., :3].abs().sort(dim=-1).values, clouds[..., :3].abs().sort(dim=-1).values, atol=1e-3)


def test_bent_and_turned_clouds_stay_upright_and_near_what_they_were():
    clouds, _ = surface_points([box(0.25, 1, 0.25)] * 8, 500, 0)
    bent = changed(clouds, Lessons(jitter=0.0, turn=0.0, stretch=1.0), torch.Generator().manual_seed(0))
    straight = changed(clouds, Lessons(jitter=0.0, turn=0.0, stretch=1.0, warp=0.0), torch.Generator().manual_seed(0))
    assert 0.001 < (bent - straight).abs().amax() < 0.4
    turned = changed(clouds, Lessons(jitter=0.0, warp=0.0, stretch=1.0), torch.Generator().manual_seed(0))
    assert torch.allclose(turned[..., 1], straight[..., 1], atol=1e-5)
    assert torch.allclose(turned[..., 3:].norm(dim=-1), torch.ones(8, 500), atol=1e-5)
    assert ((turned[..., 3] * straight[..., 3] + turned[..., 5] * straight[..., 5]) >= -1e-6).all()


def test_the_rate_rises_then_falls():
    rates = [rate(step / 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[10] == pytest.approx(1) and rates[-1] < 0.01


def test_a_recognizer_is_saved_and_loaded(recognizer, tmp_path):
    recognizer.save_pretrained(tmp_path / "saved")
    again = ShapeRecognizer.from_pretrained(tmp_path / "saved")
    meshes = unseen()[0]
    assert again.config == recognizer.config and not again.training
    assert torch.equal(again.recognize(meshes).logits, recognizer.eval().recognize(meshes).logits)
    with pytest.raises(CheckpointError, match="holds no recognizer"):
        ShapeRecognizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"categories": ()},
        {"categories": ("a", "a")},
        {"categories": ("a",), "resolution": 12},
        {"categories": ("a",), "num_points": 0},
        {"categories": ("a",), "dropout": 1.0},
    ],
)
def test_a_recognizer_that_cannot_be_is_refused(fields):
    with pytest.raises(ConfigError):
        RecognizerConfig(**fields)


@pytest.mark.parametrize(
    "fields", [{"steps": 0}, {"batch_size": 1}, {"stretch": 0.9}, {"balance": 2}, {"ema_decay": -1}]
)
def test_lessons_that_teach_nothing_are_refused(fields):
    with pytest.raises(ConfigError):
        Lessons(**fields)


def test_data_that_cannot_be_learned_from_is_refused(tmp_path):
    nameless = [MeshRecord(box(1, 1, 1), "a", "a thing"), MeshRecord(box(1, 2, 1), "b", "thing", "other")]
    with pytest.raises(DataError, match="has no categories"):
        train_recognizer(MeshDataset(write_dataset(nameless, tmp_path / "nameless.zip")))
    specks = [MeshRecord(box(1, 1, 1), "a", "tile", "tile"), MeshRecord(speck(), "b", "post", "post")]
    with pytest.raises(DataError, match="mesh 'b' .* has no surface, 1 meshes in all"):
        train_recognizer(MeshDataset(write_dataset(specks, tmp_path / "specks.zip")), TWO, Lessons(steps=1))


def test_the_categories_to_learn_are_those_that_say_something(shapes):
    assert categories_of(shapes) == ("post", "tile")


def test_a_recognizer_goes_on_learning_and_the_first_stays_as_it_is(recognizer, shapes):
    before = {name: value.clone() for name, value in recognizer.state_dict().items()}
    again = train_recognizer(shapes, lessons=Lessons(steps=2, batch_size=8), start=recognizer)
    assert again.config == recognizer.config and not again.training
    assert all(torch.equal(value, before[name]) for name, value in recognizer.state_dict().items())
    assert not torch.equal(again.to_logits.weight, recognizer.to_logits.weight)
    assert (again.to_logits.weight - recognizer.to_logits.weight).abs().max() < 0.1


# following a text


PROMPTS = [Prompt("flat tile", "tile"), Prompt("tall post", "post")]


def test_meshes_that_are_what_was_asked_for_follow_and_others_do_not(recognizer):
    meshes, categories = unseen()
    asked = [("tile", "post").index(category) for category in categories]
    right = text_following(recognizer, meshes, asked, PROMPTS)
    assert right.category[1] == right.retrieval[1] == Share(12, 12)
    wrong = text_following(recognizer, meshes, [1 - index for index in asked], PROMPTS)
    assert wrong.category[1] == wrong.retrieval[1] == Share(0, 12)
    assert wrong.category[5] == wrong.retrieval[5] == Share(12, 12)  # there are but two


def test_meshes_without_surface_are_misses_and_counted(recognizer):
    found = text_following(recognizer, [speck(), unseen()[0][0]], [0, 0], PROMPTS)
    assert found.without_surface == 1 and found.category[5] == found.retrieval[5] == Share(1, 2)
    told = found.to_dict()
    assert told["category top-1"] == 50.0 and told["R@5"] == 50.0 and told["without_surface"] == 1
    assert told["R@1 from-to"] == [pytest.approx(100 * end, abs=0.1) for end in found.retrieval[1].interval]


def test_texts_may_be_more_than_were_asked_for_but_not_fewer(recognizer):
    mesh = unseen()[0][0]
    assert text_following(recognizer, [mesh], [0], PROMPTS, ["tall post", "flat tile"]).retrieval[1].value == 1
    with pytest.raises(DataError, match="'flat tile' was asked for and is none of the 1 texts"):
        text_following(recognizer, [mesh], [0], PROMPTS, ["tall post"])


@pytest.mark.parametrize(("count", "asked"), [(0, []), (1, [0, 1]), (2, [0])])
def test_nothing_to_measure_is_said(recognizer, count, asked):
    with pytest.raises(DataError, match=f"{count} meshes for {len(asked)} prompts"):
        text_following(recognizer, unseen()[0][:count], asked, PROMPTS)


def test_prompts_are_the_commonest_caption_of_each_category_or_the_names_of_the_largest(tmp_path):
    told = [("oak", "tree"), ("pine", "tree"), ("pine", "tree"), ("stone", "rock"), ("axe", "axe"), ("ax", "axe")]
    records = [MeshRecord(box(1, 1 + i, 1), str(i), *each, family=str(i)) for i, each in enumerate(told)]
    dataset = MeshDataset(write_dataset(records, tmp_path / "told.zip"))
    prompts = caption_prompts(dataset, ("axe", "boat", "rock", "tree"))
    assert prompts == [Prompt("ax", "axe"), Prompt("stone", "rock"), Prompt("pine", "tree")]
    largest = category_prompts(dataset, ("axe", "boat", "rock", "tree"), 2)
    assert largest == [Prompt("a tree", "tree"), Prompt("an axe", "axe")]
    meshes, asked = real_meshes(dataset, prompts, by_caption=True)
    assert asked == [2, 2, 1, 0] and np.array_equal(meshes[3].vertices, dataset.mesh(5).vertices)
    assert real_meshes(dataset, largest, by_caption=False)[1] == [0, 0, 0, 1, 1]
    assert real_meshes(dataset, largest, by_caption=False, most=1)[1] == [0, 1]


def test_real_meshes_of_the_sample_are_seen(tiny_meshes):
    clouds, seen = surface_points(tiny_meshes, 64, 0)
    assert seen.all() and clouds[..., :3].abs().max() <= 0.951
    assert torch.allclose(clouds[..., 3:].norm(dim=-1), torch.ones(64, 64), atol=1e-5)


# choosing by it


def test_a_judge_prefers_what_was_asked_for(recognizer, shapes):
    judge = ShapeJudge(recognizer)
    meshes = [shapes.mesh(index) for index in range(6)]
    names = list(shapes.column("category"))[:6]
    looks = recognizer.recognize(meshes).logits.log_softmax(dim=-1)
    nothing = [None] * 6
    for category in recognizer.config.categories:
        column = looks[:, recognizer.config.categories.index(category)].tolist()
        assert judge(meshes, nothing, [category] * 6) == pytest.approx(column)
        assert judge(meshes, [f"A large {category}, worn"] * 6, nothing) == pytest.approx(column)
    right = judge(meshes, nothing, names)
    wrong = judge(meshes, nothing, [next(c for c in recognizer.config.categories if c != name) for name in names])
    assert np.mean(right) > np.mean(wrong)


def test_a_judge_reads_any_text_and_says_nothing_where_nothing_is_asked(recognizer, shapes):
    judge = ShapeJudge(recognizer)
    meshes = [shapes.mesh(0), speck()]
    said = judge(meshes, ["something round", "something round"], [None, None])
    assert said[0] < 0 and said[1] == UNSEEN
    assert judge(meshes, [None, None], [None, None]) == [0.0, 0.0]
    assert judge(meshes[:1], [torch.zeros(3, 384)], [None]) == [0.0]
    both = judge(meshes[:1], ["something round"], [recognizer.config.categories[0]])[0]
    alone = judge(meshes[:1], [None], [recognizer.config.categories[0]])[0]
    assert both == pytest.approx(alone + said[0])


def test_a_judge_that_can_read_no_texts_says_so_and_leaves_the_choice(recognizer, shapes, monkeypatch):
    def missing(name):
        raise TextEncoderError("the text encoder is not there")

    monkeypatch.setattr(judge_module, "text_encoder", missing)
    with pytest.warns(
        UserWarning, match="candidates are not chosen by 'something round': the text encoder is not there"
    ):
        assert ShapeJudge(recognizer)([shapes.mesh(0)], ["something round"], [None]) == [0.0]
