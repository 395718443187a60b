"""The network that sees pictures: the pictures are always the same, it learns, and it comes back from a file."""

import numpy as np
import pytest
import torch

from meshgpt.errors import ConfigError, DataError
from meshgpt.evaluation.learn_views import ViewLessons, category_accuracy, changed, train_view_network
from meshgpt.evaluation.view_network import ViewNetwork, ViewNetworkConfig
from meshgpt.evaluation.views import views
from meshgpt.mesh.mesh import Mesh

NOTHING = Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ViewNetwork(categories=("chair", "table"), dim=2, size=16).eval()


def test_pictures_depend_on_the_shape_alone(tiny_meshes):
    shown = views(tiny_meshes[:2], 3, 32)
    assert shown.shape == (2, 3, 32, 32) and shown.dtype == torch.uint8
    moved = Mesh(tiny_meshes[1].vertices * 2 + 5, tiny_meshes[1].faces)
    assert (views([moved], 3, 32)[0].int() - shown[1].int()).abs().float().mean() < 0.5
    assert torch.equal(views([tiny_meshes[1].flipped()], 3, 32)[0], shown[1])  # winding is not seen
    assert shown.float().std() > 10 and (views([NOTHING], 2, 16) == 255).all()


def test_no_views_at_all_are_refused(tiny_meshes):
    with pytest.raises(ConfigError, match="at least 1 view"):
        views(tiny_meshes[:1], 0)


@pytest.mark.parametrize("fields", [{"categories": ()}, {"size": 20}, {"dim": 0}])
def test_impossible_networks_are_refused(fields):
    with pytest.raises(ConfigError):
        ViewNetworkConfig(**{"categories": ("chair",), **fields})


@pytest.mark.parametrize("fields", [{"steps": 0}, {"batch_size": 1}, {"contrast": 1.0}, {"shift": -1}])
def test_impossible_lessons_are_refused(fields):
    with pytest.raises(ConfigError):
        ViewLessons(**fields)


def test_features_are_of_each_view_and_the_mode_stays(network, tiny_meshes):
    network.train()
    features = network.features(tiny_meshes[:3])
    assert features.shape == (3, 8, 8) and network.training
    assert torch.allclose(network.features(tiny_meshes[2:3])[0], features[2], atol=1e-5)
    network.eval()
    logits, _ = network(views(tiny_meshes[:1], 8, 16)[0].float() / 255)
    assert torch.allclose(network.logits(tiny_meshes[:1])[0], logits.mean(dim=0), atol=1e-5)


def test_it_learns_the_same_each_time_and_better_than_chance(tiny_dataset):
    some = tiny_dataset.filter(categories=["book", "key", "symbol", "stairs"])
    lessons, losses = ViewLessons(steps=60, batch_size=16, learning_rate=1e-2), []
    config = ViewNetworkConfig(("book", "key", "stairs", "symbol"), dim=4, size=32)
    model = train_view_network(some, config, lessons, on_step=lambda step, loss: losses.append(loss))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.2 and category_accuracy(model, some) > 0.7
    again = train_view_network(some, config, ViewLessons(steps=2, batch_size=16, learning_rate=1e-2))
    more = train_view_network(some, config, ViewLessons(steps=2, batch_size=16, learning_rate=1e-2))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), more.parameters(), strict=True))


def test_every_parameter_gets_a_gradient(network):
    network.train()
    network(torch.rand(4, 16, 16))[0].square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_it_comes_back_from_a_file(network, tmp_path, tiny_meshes):
    again = ViewNetwork.from_pretrained(network.eval().save_pretrained(tmp_path))
    assert torch.equal(again.features(tiny_meshes[:1]), network.features(tiny_meshes[:1]))


def test_what_is_changed_stays_a_picture_and_unchanged_it_is_the_same_or_its_mirror_image():
    pictures = torch.randint(256, (6, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    generator = torch.Generator().manual_seed(1)
    moved = changed(pictures, ViewLessons(), generator)
    assert moved.shape == (6, 8, 8) and 0 <= moved.min() and moved.max() <= 1
    still = changed(pictures, ViewLessons(shift=0, contrast=0.0), generator)
    for one, other in zip(still, pictures.float() / 255, strict=True):
        assert torch.allclose(one, other) or torch.allclose(one, other.flip(1))


def test_a_data_set_without_categories_teaches_nothing(tiny_dataset):
    with pytest.raises(DataError, match="is empty"):
        train_view_network(tiny_dataset, ViewNetworkConfig(("none of these",)))
