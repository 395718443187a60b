"""A critic learns which meshes a pipeline wrote, and which were made by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus
from tqdm import tqdm

from meshgpt.config import Config
from meshgpt.critic import MeshCritic
from meshgpt.errors import DataError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.figures import figures_of
from meshgpt.mesh.finishing import finished_forms
from meshgpt.mesh.mesh import Mesh
from meshgpt.pipeline import MeshPipeline

HELD_OUT = 5  # one of so many wishes is


@dataclass(frozen=True)
class CriticTraining(Config):
    """How a `MeshCritic` is trained.

    num_meshes: written by the pipeline, each asked for as many faces as some real mesh has, where it can be asked.
    candidates: of each. temperature: of the writing, that of the pipeline if None. num_train_steps, batch_size (as many
    real as written meshes), learning_rate, weight_decay: of AdamW.
    """

    num_meshes: int = 240
    candidates: int = 4
    temperature: float | None = None
    num_train_steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 2e-2
    seed: int = 0

    def validate(self) -> None:
        for field in ("num_meshes", "candidates", "num_train_steps", "batch_size"):
            self.require(getattr(self, field) >= 1, field, "be at least 1")
        self.require(self.num_meshes >= HELD_OUT, "num_meshes", f"be at least {HELD_OUT}: some are held out")
        self.require(self.learning_rate > 0, "learning_rate", "be above 0")
        self.require(self.weight_decay >= 0, "weight_decay", "not be negative")


@no_type_check
def train_critic(
    pipeline: MeshPipeline,
    train: Any,
    val: Any | None = None,
    config: CriticTraining | None = None,
    critic: MeshCritic | None = None,
    progress: bool = True,
) -> MeshCritic:
    """A critic of what a pipeline writes, beside the meshes of `train` (with `mesh(i)` and `face_counts`).

    It learns from all `finished_forms` of what is written; a fifth is held out, and with `val`, or a fifth of `train`
    where that is None, measures the `accuracy` in its config. Raises `DataError` for fewer than `HELD_OUT` meshes.
    """
    config, critic = config or CriticTraining(), critic or MeshCritic()
    if len(train) < HELD_OUT or (val is not None and not len(val)):
        raise DataError(f"a critic learns from {HELD_OUT} meshes at least, and measures on some; got {len(train)}")
    forms = [
        [figures_of(form) for mesh in meshes for form in finished_forms(mesh, bins_of(pipeline)).values()]
        for meshes in written(pipeline, train, config, progress)
    ]
    real = figures_of_all(pipeline, train, progress, "real meshes")
    held_out = real[::HELD_OUT] if val is None else figures_of_all(pipeline, val, progress, "held-out meshes")
    real = np.delete(real, np.s_[::HELD_OUT], axis=0) if val is None else real
    wrong = stacked([each for row, group in enumerate(forms) if row % HELD_OUT for each in group])
    unseen = stacked([each for group in forms[::HELD_OUT] for each in group])
    if not len(wrong) or not len(unseen):
        raise DataError("the pipeline wrote too few meshes that have faces: there is nothing to learn from")
    learn(critic, torch.from_numpy(real).float(), torch.from_numpy(wrong).float(), config)
    with torch.no_grad():
        found = [critic(torch.from_numpy(each).float()) for each in (held_out, unseen)]
    critic.config = critic.config.replace(accuracy=preference(*found))
    return critic


@no_type_check
def written(pipeline: MeshPipeline, data: Any, config: CriticTraining, progress: bool) -> list[list[Mesh]]:
    """Candidates with faces, mesh by mesh, the smallest first: those of one size share a batch."""
    rng = np.random.default_rng(config.seed)
    sizes = np.sort(rng.choice(np.asarray(data.face_counts), config.num_meshes))
    sized = "num_faces" in pipeline.transformer.config.kinds
    options = {} if config.temperature is None else {"temperature": config.temperature}
    found, at_once = [], max(1, 64 // config.candidates)
    with tqdm(total=len(sizes), disable=not progress, desc="writing", unit=" meshes") as bar:
        for start in range(0, len(sizes), at_once):
            some = np.repeat(sizes[start : start + at_once], config.candidates)
            seeds = [config.seed + start * config.candidates + row for row in range(len(some))]
            asked = {"faces": [int(each) for each in some]} if sized else {}
            made = pipeline.generate(num_meshes=len(some), seed=seeds, candidates=1, retouch=False, **asked, **options)
            groups = [made[row : row + config.candidates] for row in range(0, len(made), config.candidates)]
            found += [[item.mesh for item in group if item.mesh.num_faces] for group in groups]
            bar.update(len(groups))
    return found


@no_type_check
def figures_of_all(pipeline: MeshPipeline, data: Any, progress: bool, what: str) -> Float[np.ndarray, "n f"]:
    """Of real meshes, on the grid of the tokenizer."""
    rows = tqdm(range(len(data)), disable=not progress, desc=what, unit=" meshes")
    bins = bins_of(pipeline)
    return stacked([figures_of(canonicalize(data.mesh(row).normalized(), bins).mesh()) for row in rows])


def bins_of(pipeline: MeshPipeline) -> int:
    return pipeline.tokenizer.num_discrete_coors


def stacked(rows: Sequence[np.ndarray]) -> Float[np.ndarray, "n f"]:
    return np.stack(rows) if rows else np.zeros((0, 0))


def learn(critic: MeshCritic, real: Float[Tensor, "n f"], wrong: Float[Tensor, "m f"], config: CriticTraining) -> None:
    """Logistic regression with a hidden layer, real and written meshes in equal numbers."""
    generator = torch.Generator().manual_seed(config.seed)
    critic.measure(torch.cat((real, wrong)))
    optimizer = torch.optim.AdamW(critic.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    critic.train()
    for _ in range(config.num_train_steps):
        one, two = (
            critic(each[torch.randint(len(each), (config.batch_size,), generator=generator)]) for each in (real, wrong)
        )
        loss = softplus(-one).mean() + softplus(two).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    critic.eval()


def preference(real: Float[Tensor, " n"], wrong: Float[Tensor, " m"]) -> float:
    """How often one of the first is above one of the second: the area under the ROC curve."""
    above, equal = (compare(real[:, None], wrong[None]).double().mean() for compare in COMPARISONS)
    return float(above + equal / 2)


COMPARISONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (torch.gt, torch.eq)
