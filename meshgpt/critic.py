"""Which meshes look made by hand: a small network that knows real meshes from those that a model writes.

Discriminator rejection sampling (Azadi et al., arXiv:1810.06758): where a classifier tells two distributions apart as
well as can be, its logit is the logarithm of their ratio, and what a model writes is the more like real meshes, the
more by that logit is chosen from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshgpt.checkpoint import Pretrained
from meshgpt.config import Config, resolve_config
from meshgpt.mesh.figures import NUM_FIGURES, figures_of
from meshgpt.mesh.mesh import Mesh

FARTHEST = 4.0  # deviations from the mean, beyond which a figure counts as no more unusual


@dataclass(frozen=True)
class MeshCriticConfig(Config):
    """dim: of the one hidden layer. dropout: of it, in training. num_figures: see `figures_of`.

    accuracy: how often it is right about a pair of a real and a written mesh that it did not learn from, where that was
    measured.
    """

    num_figures: int = NUM_FIGURES
    dim: int = 32
    dropout: float = 0.3
    accuracy: float | None = None

    def validate(self) -> None:
        self.require(self.num_figures >= 1, "num_figures", "be at least 1")
        self.require(self.dim >= 1, "dim", "be at least 1")
        self.require(0 <= self.dropout < 1, "dropout", "lie in [0, 1)")


class MeshCritic(nn.Module, Pretrained):
    """Meshes to logits of having been made by hand, by `figures_of` each: `critic.judge(meshes)`."""

    config_class, part = MeshCriticConfig, "critic"
    mean: Tensor
    deviation: Tensor

    @no_type_check
    def __init__(self, config: MeshCriticConfig | None = None, **keywords):
        super().__init__()
        self.config = config = resolve_config(MeshCriticConfig, config, keywords)
        self.hidden = nn.Linear(config.num_figures, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.to_logit = nn.Linear(config.dim, 1)
        self.register_buffer("mean", torch.zeros(config.num_figures))
        self.register_buffer("deviation", torch.ones(config.num_figures))

    def measure(self, figures: Float[Tensor, "n f"]) -> None:
        """Keeps mean and deviation of the figures of all meshes to learn from."""
        self.mean.copy_(figures.mean(dim=0))
        self.deviation.copy_(figures.std(dim=0).clamp(min=1e-6))

    def forward(self, figures: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """Logits from the figures of meshes."""
        unusual = ((figures - self.mean) / self.deviation).clamp(-FARTHEST, FARTHEST)
        return self.to_logit(self.dropout(nn.functional.silu(self.hidden(unusual))))[:, 0]

    @torch.no_grad()
    @no_type_check
    def judge(self, meshes: Sequence[Mesh]) -> list[float]:
        """Logits of meshes, in evaluation mode; minus infinity for one without faces."""
        if not meshes:
            return []
        was_training = self.training
        self.eval()
        figures = np.stack([figures_of(mesh) for mesh in meshes]).astype(np.float32)
        found = self(torch.from_numpy(figures).to(self.mean)).tolist()
        self.train(was_training)
        return [logit if mesh.num_faces else -np.inf for logit, mesh in zip(found, meshes, strict=True)]
