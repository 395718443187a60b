"""Teaching a `ShapeRecognizer`: real meshes with their categories and captions, changed anew each time."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from meshgpt.config import Config
from meshgpt.data.dataset import MeshDataset
from meshgpt.errors import DataError
from meshgpt.evaluation.recognition import RecognizerConfig, ShapeRecognizer, surface_points
from meshgpt.mesh.mesh import MARGIN
from meshgpt.text.captions import NO_WORD
from meshgpt.text.encoder import text_encoder

POOL = 2  # so many times the points that a mesh is shown with are taken from it, once for the whole training
NOTHING = -1  # no category


@dataclass(frozen=True)
class Lessons(Config):
    """How a recognizer learns: AdamW (arXiv:1711.05101), a rate that rises for a tenth of the steps and then falls."""

    steps: int = 4000
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    label_smoothing: float = 0.1
    caption_weight: float = 1.0  # of the contrastive loss beside that of the categories
    category_names: float = 0.3  # share of captions in whose place the name of the category stands
    balance: float = 0.5  # 0: all meshes are seen equally often, 1: all categories
    stretch: float = 1.25  # each axis is scaled by up to this factor and its inverse
    turn: float = 0.2  # radians about y that a mesh is turned by at most, either way, beside quarters
    warp: float = 0.08  # height of the wave along each axis by which shapes are bent
    jitter: float = 0.01  # standard deviation of what is added to each coordinate
    ema_decay: float = 0.995  # of the averaged weights, which are the result
    bfloat16: bool = True  # the network computes in half precision: twice as fast where the processor knows it

    def validate(self) -> None:
        self.require(self.steps >= 1, "steps", "be at least 1")
        self.require(self.batch_size >= 2, "batch_size", "be at least 2: a batch is normalised, its captions compared")
        self.require(self.stretch >= 1, "stretch", "be at least 1")
        for name in ("label_smoothing", "category_names", "balance", "ema_decay"):
            self.require(0 <= getattr(self, name) <= 1, name, "lie in [0, 1]")


@dataclass(frozen=True)
class Material:
    """All there is to learn from: n meshes as points, and the number of each one's category and caption.

    texts: embeddings of the names of all categories, then of all captions, whose numbers go on from there.
    """

    clouds: Float[Tensor, "n p 6"]
    categories: Int[Tensor, " n"]  # NOTHING where a mesh has none
    captions: Int[Tensor, " n"]
    texts: Float[Tensor, "t e"]
    weights: Float[Tensor, " n"]


@no_type_check
def train_recognizer(
    dataset: MeshDataset,
    config: RecognizerConfig | None = None,
    lessons: Lessons | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    on_step: Callable[[int, float], None] | None = None,
    start: ShapeRecognizer | None = None,
) -> ShapeRecognizer:
    """A recognizer of the meshes of `dataset`, all of which it learns from: leave out those to test it on.

    config: where it names no categories, all of the data set but 'other', which says nothing. Meshes of categories that
    it does not name teach captions only. start: one that goes on learning, with its own config, and stays as it is.
    on_step(step, loss) hears of every step. Raises `DataError` for a data set
    without categories or of meshes without surface.
    """
    lessons = lessons or Lessons()
    config = start.config if start else config or RecognizerConfig(categories_of(dataset))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (copy.deepcopy(start) if start else ShapeRecognizer(config)).to(device).train()
        model.look.to(memory_format=torch.channels_last)  # how convolutions on a processor like it
        material = study_material(dataset, config, lessons.balance, seed)
        averaged = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=lessons.weight_decay)
        for step in range(lessons.steps):
            for group in optimizer.param_groups:
                group["lr"] = lessons.learning_rate * rate(step / lessons.steps)
            loss = lesson(model, material, lessons, generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            _average(averaged, model, min(lessons.ema_decay, step / (step + 10)))
            if on_step is not None:
                on_step(step + 1, loss.item())
    averaged.look.to(memory_format=torch.contiguous_format)  # as it is when it is loaded: the same to the last bit
    return averaged.eval()


@no_type_check
def categories_of(dataset: MeshDataset) -> tuple[str, ...]:
    """The categories of a data set that say something. Raises `DataError` where there are none."""
    categories = tuple(name for name in dataset.categories if name not in NO_WORD)
    if not categories:
        raise DataError(f"{dataset!r} has no categories, and a recognizer learns them: add them to its records")
    return categories


@no_type_check
def study_material(dataset: MeshDataset, config: RecognizerConfig, balance: float, seed: int) -> Material:
    meshes = [dataset.mesh(index) for index in range(len(dataset))]
    clouds, real = surface_points(meshes, POOL * config.num_points, seed)
    if not real.all():
        name = dataset.column("name")[int((~real).nonzero()[0])]
        raise DataError(f"mesh '{name}' of {dataset!r} has no surface, {int((~real).sum())} meshes in all: filter them")
    numbers = {name: number for number, name in enumerate(config.categories)}
    captions = [caption or name for caption, name in zip(*map(dataset.column, ("caption", "category")), strict=True)]
    distinct = {text: len(numbers) + number for number, text in enumerate(dict.fromkeys(captions))}
    texts = text_encoder(config.text_encoder).embed([*numbers, *distinct]).pooled
    return Material(
        clouds.half(),
        torch.tensor([numbers.get(name, NOTHING) for name in dataset.column("category")]),
        torch.tensor([distinct[caption] for caption in captions]),
        texts,
        torch.from_numpy(dataset.balanced_weights(("category",), balance)).float(),
    )


def lesson(
    model: ShapeRecognizer, material: Material, lessons: Lessons, generator: torch.Generator
) -> Float[Tensor, ""]:
    """The loss of a batch drawn at random: cross-entropy of categories, and of captions against those of the others."""
    rows = torch.multinomial(material.weights, lessons.batch_size, replacement=True, generator=generator)
    shown = (lessons.batch_size, model.config.num_points)
    points = torch.randint(material.clouds.shape[1], shown, generator=generator)
    clouds = changed(material.clouds[rows[:, None], points].float(), lessons, generator)
    categories, texts = material.categories[rows], material.captions[rows]
    named = (torch.rand(len(rows), generator=generator) < lessons.category_names) & (categories != NOTHING)
    texts = torch.where(named, categories, texts)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=lessons.bfloat16):
        logits, shapes = (part.float() for part in model(clouds.to(model.device)))
    loss = contrastive_loss(shapes, model.read_texts(material.texts[texts]), texts.to(model.device), model.log_scale)
    if not (categories != NOTHING).any():
        return lessons.caption_weight * loss
    return lessons.caption_weight * loss + F.cross_entropy(
        logits, categories.to(model.device), ignore_index=NOTHING, label_smoothing=lessons.label_smoothing
    )


def contrastive_loss(
    shapes: Float[Tensor, "b d"], texts: Float[Tensor, "b d"], identities: Int[Tensor, " b"], log_scale: Tensor
) -> Float[Tensor, ""]:
    """Which text belongs to which shape, and the other way round (CLIP, arXiv:2103.00020, Figure 3).

    Texts of one identity are one text: what belongs to several shapes of a batch is shared out among them.
    """
    scores = log_scale.exp().clamp(max=100.0) * shapes @ texts.T
    same = (identities[:, None] == identities[None]).to(scores.dtype)
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def changed(clouds: Float[Tensor, "b p 6"], lessons: Lessons, generator: torch.Generator) -> Float[Tensor, "b p 6"]:
    """Each cloud stretched along its axes, turned, mirrored and bent at random, normalised and jittered.

    Normals follow all of that but the bending, which is slight.
    """
    b = len(clouds)
    reach = math.log(lessons.stretch)
    factors = ((torch.rand(b, 1, 3, generator=generator) * 2 - 1) * reach).exp()
    signs = torch.randint(2, (2, b, 1), generator=generator) * 2.0 - 1
    factors = factors * torch.stack((signs[0], torch.ones(b, 1), signs[1]), dim=-1)
    swapped = torch.randint(2, (b, 1, 1), generator=generator).bool()
    points, normals = clouds[..., :3] * factors, F.normalize(clouds[..., 3:] / factors, dim=-1)
    angle = (torch.rand(b, generator=generator) * 2 - 1) * lessons.turn
    turn = _turns_about_y(angle)
    points, normals = (torch.where(swapped, part.flip(-1), part) @ turn for part in (points, normals))
    waves = torch.randn(b, 3, 3, generator=generator) * 2  # a radian or two from one end to the other
    phase, height = (torch.rand(2, b, 1, 3, generator=generator) * 2 - 1).unbind()
    points = points + lessons.warp * height * torch.sin(points @ waves + torch.pi * phase)
    low, high = points.amin(dim=1, keepdim=True), points.amax(dim=1, keepdim=True)
    longest = (high - low).amax(dim=-1, keepdim=True)
    points = (points - (low + high) / 2) * (2 * MARGIN / longest)
    noise = torch.randn(points.shape, generator=generator) * lessons.jitter
    return torch.cat((points + noise, normals), dim=-1)


def _turns_about_y(angle: Float[Tensor, " b"]) -> Float[Tensor, "b 3 3"]:
    cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack((cosine, zero, -sine, zero, one, zero, sine, zero, cosine), dim=-1).reshape(-1, 3, 3)


def rate(progress: float) -> float:
    """From a tenth to 1 over the first tenth of the steps, then down along a cosine."""
    if progress < 0.1:
        return 0.1 + 9 * progress
    return 0.5 + 0.5 * math.cos(math.pi * (progress - 0.1) / 0.9)


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    for mean, value in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
