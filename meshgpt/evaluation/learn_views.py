"""Teaching a `ViewNetwork`: pictures of real meshes with their categories, moved and mirrored anew each time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from meshgpt.config import Config
from meshgpt.data.dataset import MeshDataset
from meshgpt.evaluation.learn_recognition import categories_of, rate
from meshgpt.evaluation.view_network import ViewNetwork, ViewNetworkConfig
from meshgpt.evaluation.views import VIEWS, views


@dataclass(frozen=True)
class ViewLessons(Config):
    """How a view network learns: AdamW (arXiv:1711.05101), at the rates of `Lessons`."""

    steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    label_smoothing: float = 0.1
    balance: float = 0.5  # 0: all meshes are seen equally often, 1: all categories
    shift: int = 4  # pixels that a picture is moved by at most, along each axis
    contrast: float = 0.3  # grey is made darker or lighter by up to this share

    def validate(self) -> None:
        self.require(self.steps >= 1, "steps", "be at least 1")
        self.require(self.batch_size >= 2, "batch_size", "be at least 2: a batch is normalised")
        self.require(0 <= self.contrast < 1, "contrast", "lie in [0, 1)")
        self.require(self.shift >= 0, "shift", "not be negative")


@no_type_check
def train_view_network(
    dataset: MeshDataset,
    config: ViewNetworkConfig | None = None,
    lessons: ViewLessons | None = None,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> ViewNetwork:
    """A network that knows the meshes of `dataset`: leave out those to measure with.

    Meshes of no category that says something are passed over. on_step(step, loss) hears of every step. Raises
    `DataError` for a data set without categories.
    """
    lessons = lessons or ViewLessons()
    config = config or ViewNetworkConfig(categories_of(dataset))
    known = dataset.filter(categories=[name for name in config.categories if name in dataset.categories])
    pictures = views([known.mesh(index) for index in range(len(known))], VIEWS, config.size)
    numbers = torch.tensor([config.categories.index(name) for name in known.column("category")])
    weights = torch.from_numpy(known.balanced_weights(("category",), lessons.balance)).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ViewNetwork(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=lessons.weight_decay)
    for step in range(lessons.steps):
        for group in optimizer.param_groups:
            group["lr"] = lessons.learning_rate * rate(step / lessons.steps)
        rows = torch.multinomial(weights, lessons.batch_size, replacement=True, generator=generator)
        seen = pictures[rows, torch.randint(VIEWS, (lessons.batch_size,), generator=generator)]
        logits, _ = model(changed(seen, lessons, generator))
        loss = F.cross_entropy(logits, numbers[rows], label_smoothing=lessons.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, loss.item())
    return model.eval()


def changed(
    pictures: UInt8[Tensor, "b h w"], lessons: ViewLessons, generator: torch.Generator
) -> Float[Tensor, "b h w"]:
    """Pictures in [0, 1], each moved, mirrored or not, and with its own darkness."""
    count, size, reach = len(pictures), pictures.shape[-1], lessons.shift
    padded = F.pad(pictures.float() / 255, (reach,) * 4, value=1.0)
    places = torch.arange(size)
    rows, columns = (torch.randint(2 * reach + 1, (count, 1), generator=generator) + places for _ in range(2))
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    moved = padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    dark = 1 + lessons.contrast * (2 * torch.rand(count, generator=generator) - 1)
    return (1 - rearrange(dark, "b -> b 1 1") * (1 - moved)).clamp(0, 1)


@no_type_check
def category_accuracy(model: ViewNetwork, dataset: MeshDataset) -> float:
    """The share of meshes of a known category that the mean over the views puts there."""
    known = dataset.filter(categories=[name for name in model.config.categories if name in dataset.categories])
    logits = model.logits([known.mesh(index) for index in range(len(known))])
    wanted = torch.tensor([model.config.categories.index(name) for name in known.column("category")])
    return float((logits.argmax(dim=1) == wanted).float().mean())
