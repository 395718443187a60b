"""The trainer of models of fields: that of all models, which also keeps the best by validation."""

import json
from pathlib import Path
from typing import Any, no_type_check

import numpy as np

from meshgpt.checkpoint import load_weights, write_text
from meshgpt.config import resolve_config
from meshgpt.training.field_examples import FieldExamples, FieldView, PointBlocks
from meshgpt.training.field_objectives import OccupancyObjective, PointObjective, VectorSetObjective
from meshgpt.training.settings import TrainerConfig
from meshgpt.training.trainer import Trainer

BEST, SCORE = "best", "score.json"


class BestKeepingTrainer(Trainer):
    """A `Trainer` that saves the model in the folder `best` of the run whenever validation finds it better than ever.

    best_by: the figure that counts, "loss" (low is good) or another (high is good).
    """

    best_by = "loss"

    def log(self, **figures: float) -> None:
        super().log(**figures)
        value = figures.get(f"val_{self.best_by}")
        if value is not None and self.is_main and self._better(value):
            self.ema_model.save_pretrained(self.best_folder)  # type: ignore[operator]
            write_text(self.best_folder / SCORE, json.dumps({"step": self.step, self.best_by: value}) + "\n")

    @property
    def best_folder(self) -> Path:
        return self.folder / BEST

    @property
    def best(self) -> dict[str, Any] | None:
        """The step and the figure of the best model so far, None before the first validation."""
        path = self.best_folder / SCORE
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _better(self, value: float) -> bool:
        best = self.best
        if best is None or best["step"] > self.step:  # of a run that went back to an earlier step
            return True
        return value < best["loss"] if self.best_by == "loss" else value > best[self.best_by]

    def restore_best(self) -> None:
        """Gives the model the weights that were best; raises `CheckpointError` before the first validation."""
        load_weights(self.model, self.best_folder)
        self.model.eval()


class OccupancyFieldTrainer(BestKeepingTrainer):
    """Trains an `OccupancyField` on points (n, 3) and whether each is inside (n,), a share of them held out.

    The seed of this package's design: 80 % train, 20 % validate, and the best model by its validation is kept.
    """

    @no_type_check
    def __init__(self, model, points, inside, config=None, *, val_share: float = 0.2, block: int = 1024, **keywords):
        defaults = {"batch_size": 1, "learning_rate": 4e-3, "ema_decay": 0.0, "max_grad_norm": None}
        config = resolve_config(TrainerConfig, config, keywords if config is not None else {**defaults, **keywords})
        order = np.random.default_rng(config.seed).permutation(len(points))
        held_out, kept = np.split(order, [round(len(points) * val_share)])
        points, inside = np.asarray(points), np.asarray(inside)
        train = PointBlocks(points[kept], inside[kept], block, config.seed)
        val = PointBlocks(points[held_out], inside[held_out], len(held_out))
        super().__init__(model, train, PointObjective(), config, val_examples=val)


class OccupancyNetworkTrainer(BestKeepingTrainer):
    """Trains an `OccupancyNetwork` on a data set of `FieldSample`s; view: which of their points are seen.

    The model of the best mean IoU on `val_dataset` is kept. embeddings, val_embeddings: vectors of the shapes, for a
    model that is told by them.
    """

    best_by = "iou"

    @no_type_check
    def __init__(
        self, model, dataset, config=None, *, val_dataset=None, view: FieldView | None = None, embeddings=None,
        val_embeddings=None, **keywords
    ):  # fmt: skip
        config = resolve_config(TrainerConfig, config, keywords)
        view = view or FieldView(cloud=300, noise=0.005)
        val = None
        if val_dataset is not None:
            plain = view.replace(stretch=0.0, mirror=False, turn=False)
            val = FieldExamples(val_dataset, plain, config.seed, val_embeddings)
        train = FieldExamples(dataset, view, config.seed, embeddings)
        super().__init__(model, train, OccupancyObjective(), config, val_examples=val)


class VectorSetTrainer(BestKeepingTrainer):
    """Trains a `VectorSetAutoencoder` on a data set of `FieldSample`s; view: which of their points are seen.

    The model of the best mean IoU on `val_dataset` is kept. Raises `ConfigError` for a view that stretches shapes with
    a model of distances, which then would be wrong.
    """

    best_by = "iou"

    @no_type_check
    def __init__(self, model, dataset, config=None, *, val_dataset=None, view: FieldView | None = None, **keywords):
        config, view = resolve_config(TrainerConfig, config, keywords), view or FieldView()
        if model.config.target == "distance":
            view.require(not view.stretch, "stretch", "be 0 for a model of distances, which stretching makes wrong")
        val = None
        if val_dataset is not None:
            val = FieldExamples(val_dataset, view.replace(stretch=0.0, mirror=False, turn=False), config.seed)
        train = FieldExamples(dataset, view, config.seed)
        super().__init__(model, train, VectorSetObjective(), config, val_examples=val)
