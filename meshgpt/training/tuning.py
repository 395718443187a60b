"""A transformer learns from meshes that it writes itself: what turned out well becomes likelier, what did not, less.

Learning from real meshes alone, a model never sees its own mistakes, and drifts where one has happened. Here it writes
several meshes for each wish, each mesh is worth something (`training.rewards`), and the likelihood of each code is
moved by how much its mesh is better than the others for the same wish, and its face more closed than most: policy
gradients with group-relative advantages (GRPO: Shao et al., arXiv:2402.03300), and by single faces, as Mesh-RFT
(arXiv:2505.16761) does. Every batch is used once, so that no ratio of policies is needed; a penalty holds the model
near to where it began.

What the grammar forbids is never written, so nothing speaks against it: what is made less likely must not go there.
Hence bad meshes count less than good ones (`regret`), and the penalty grows fast where written codes become unlikely.
"""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, no_type_check

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from meshgpt.config import Config, resolve_config
from meshgpt.errors import TrainingError
from meshgpt.mesh.canonical import quantize
from meshgpt.mesh.symmetry import mirrored_share
from meshgpt.mesh.topology import loose_share, topology_report
from meshgpt.pipeline import JUDGE, MeshPipeline
from meshgpt.text.captions import NO_WORD, CaptionWriter, described
from meshgpt.tokenizers.tokenizer import MeshTokenizer
from meshgpt.training.examples import MeshExamples
from meshgpt.training.objective import Losses, Objective
from meshgpt.training.rewards import RewardConfig, advantages, open_sides, reward
from meshgpt.training.settings import TrainerConfig
from meshgpt.training.trainer import Trainer
from meshgpt.transformer.conditions import Conditions
from meshgpt.transformer.generation import GenerationResult
from meshgpt.transformer.held import as_in_evaluation
from meshgpt.transformer.transformer import MeshTransformer
from meshgpt.wishes import Wishes

SEEDS = 2**31 - 1
FARTHEST = 6.0  # nats by which one code became less likely, beyond which the penalty grows no more
DEFAULTS = {"num_train_steps": 100, "batch_size": 4, "learning_rate": 3e-4, "scheduler": "wsd", "warmup_steps": 5}
DEFAULTS |= {"ema_decay": 0.9, "log_every": 5, "val_every": 25, "val_num_batches": 4, "checkpoint_every": 25}


@dataclasses.dataclass(frozen=True)
class TuningConfig(Config):
    """group_size: meshes written for each wish. room: how many times as many faces as asked for a mesh may have before
    it is cut off. blame: how much the open sides of its own face count for a code, beside its mesh. regret: how much
    what was worse than others counts, beside what was better. kl_weight: of the penalty for leaving the model that
    tuning began with. temperatures: of the digits of a code, one for all or one for
    each; scores are divided by them before tuning begins, since a model at temperature 1 writes hardly a whole mesh.
    rows_at_once: of which gradients are computed together; fewer need no less memory, but less padding.
    """

    group_size: int = 8
    room: float = 1.25
    blame: float = 0.7
    regret: float = 0.3
    kl_weight: float = 0.03
    temperatures: tuple[float, ...] = (0.8,)
    rows_at_once: int = 12

    def validate(self) -> None:
        self.require(self.group_size >= 2, "group_size", "be at least 2: meshes are compared with one another")
        self.require(self.room >= 1, "room", "be at least 1")
        for field in ("blame", "regret", "kl_weight"):
            self.require(getattr(self, field) >= 0, field, "not be negative")
        self.require(len(self.temperatures) > 0, "temperatures", "have an entry")
        self.require(all(each > 0 for each in self.temperatures), "temperatures", "be positive")
        self.require(self.rows_at_once >= 1, "rows_at_once", "be at least 1")


@dataclasses.dataclass(frozen=True)
class Wish:
    """What one mesh is asked to be: a text, a category, both or neither, and always a number of faces."""

    text: str | None
    category: str | None
    faces: int


class WishExamples(MeshExamples):
    """What the meshes of a data set could have been asked for by, which depends on (seed, epoch, mesh) alone.

    Of 20 wishes 8 have a text and a category, 6 a text, 3 a category and 3 neither; of the texts half are captions in
    one of many wordings, half say "a CATEGORY". A category is one that the model knows.
    """

    @no_type_check
    def __init__(self, dataset, categories: Sequence[str], seed: int = 0):
        super().__init__(dataset, None, seed)
        self.categories, self.captions = frozenset(categories), CaptionWriter()

    def get(self, index: int, epoch: int) -> Wish:
        item = self.dataset[int(index)]
        words, rng = described(item), np.random.default_rng((self.seed, epoch, int(index)))
        kind, draw = words["category"], rng.random()
        named = kind if kind and kind not in NO_WORD else None
        by_name = named is not None and rng.random() < 0.5
        text = f"a {named}" if by_name else self.captions.caption(words, epoch, self.seed)
        category = kind if kind in self.categories else None
        faces = self.plain(index).mesh.num_faces
        return Wish(text if draw < 0.7 else None, category if draw < 0.4 or 0.7 <= draw < 0.85 else None, faces)


class TuningObjective(Objective):
    """Policy gradients on meshes that the model writes while it learns. `reference`: the model that it began as."""

    @no_type_check
    def __init__(self, pipeline: MeshPipeline, config: TuningConfig, rewards: RewardConfig, judge: JUDGE | None):
        self.pipeline, self.config, self.rewards, self.judge = pipeline, config, rewards, judge
        self.reference = copy.deepcopy(pipeline.transformer).eval().requires_grad_(False)

    def collate(self, examples: Sequence[Wish]) -> list[Wish]:
        return list(examples)

    def to_device(self, batch: list[Wish], device: torch.device) -> list[Wish]:
        return batch

    def weight(self, batch: list[Wish]) -> float:
        return float(len(batch))

    def losses(self, model: nn.Module, batch: list[Wish]) -> Losses:
        assert isinstance(model, MeshTransformer)
        wishes = [wish for wish in batch for _ in range(self.config.group_size)]
        with as_in_evaluation(model):
            with torch.no_grad():
                conditions = conditions_of(model, wishes)
                written = self._written(model, conditions, wishes)
            found, metrics = self._worth(wishes, written)
            if not torch.is_grad_enabled():
                return Losses(torch.tensor(-found.mean(), dtype=torch.float32), metrics)
            better = advantages(rearrange(found, "(w s) -> w s", s=self.config.group_size)).reshape(-1)
            loss, kl = self._policy_loss(model, conditions, written, better)
        return Losses(loss, {**metrics, "kl": kl})

    def _written(self, model: MeshTransformer, conditions: Conditions, wishes: Sequence[Wish]) -> GenerationResult:
        most = round(max(wish.faces for wish in wishes) * self.config.room)
        seeds = tuple(torch.randint(SEEDS, (len(wishes),)).tolist())
        options = {"seed": seeds, "max_faces": most, "follow_grammar": model.tokenizer.grammar is not None}
        return model.generate_result(None, len(wishes), conditions=conditions, **options)

    def _worth(
        self, wishes: Sequence[Wish], written: GenerationResult
    ) -> tuple[Float[np.ndarray, " b"], dict[str, Tensor]]:
        """Rewards, and what they are made of as means."""
        meshes = [self.pipeline.decoded(row[row >= 0]) for row in written.codes]
        likeness = [0.0] * len(meshes)
        if self.judge is not None:
            likeness = list(self.judge(meshes, [wish.text for wish in wishes], [wish.category for wish in wishes]))
        asked = [(wish.text is not None) + (wish.category is not None) for wish in wishes]
        likeness = [value / max(times, 1) for value, times in zip(likeness, asked, strict=True)]
        ended = [reason == "end" for reason in written.stopped_by]
        rows = zip(meshes, ended, wishes, likeness, strict=True)
        found = np.array([reward(mesh, end, wish.faces, like, self.rewards) for mesh, end, wish, like in rows])
        reports = [topology_report(mesh) for mesh in meshes]
        metrics = {
            "reward": found.mean(),
            "open_edges": np.mean([report.boundary_edges / max(report.edges, 1) for report in reports]),
            "parts": np.mean([report.components for report in reports]),
            "loose": np.mean([loose_share(mesh) for mesh in meshes]),
            "symmetry": np.mean([mirrored_share(mesh) for mesh in meshes]),
            "ended": np.mean(ended),
            "faces": np.mean([mesh.num_faces / wish.faces for mesh, wish in zip(meshes, wishes, strict=True)]),
            "likeness": np.mean([value for value, times in zip(likeness, asked, strict=True) if times] or [0.0]),
        }
        return found, {name: torch.tensor(float(value)) for name, value in metrics.items()}

    def _policy_loss(
        self, model: MeshTransformer, conditions: Conditions, written: GenerationResult, better: np.ndarray
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The mean over codes of advantage times -log p with the penalty; and the penalty alone, in nats a code."""
        blame = self._blame(model.tokenizer, written.codes)
        ended = torch.tensor([reason == "end" for reason in written.stopped_by])
        lengths = (written.codes >= 0).sum(dim=1)
        total, losses, penalties = int((lengths + 1).sum()), [], []
        for rows in lengths.argsort(descending=True).split(self.config.rows_at_once):
            codes, asked = written.codes[rows, : int(lengths[rows].max())], conditions.select(rows)
            nats = self._nats(model, codes, asked)
            with torch.no_grad():
                before = self._nats(self.reference, codes, asked)
            advantage = torch.as_tensor(better)[rows, None].to(nats) - blame[rows, : nats.shape[1]].to(nats)
            advantage = torch.where(advantage < 0, self.config.regret * advantage, advantage)
            cut = (torch.arange(nats.shape[1]) == lengths[rows, None]) & ~ended[rows, None]  # an end it did not write
            apart = (nats - before).clamp(max=FARTHEST)
            penalty = (apart.exp() - 1 - apart).masked_fill(cut.to(nats.device), 0.0)  # k3 of Schulman, >= 0
            moved = (advantage * nats).masked_fill(cut.to(nats.device), 0.0)
            losses.append((moved + self.config.kl_weight * penalty).sum())
            penalties.append(penalty.detach().sum())
        return torch.stack(losses).sum() / total, torch.stack(penalties).sum() / total

    def _nats(self, model: MeshTransformer, codes: Int[Tensor, "b n"], conditions: Conditions) -> Tensor:
        return model.likelihood(codes, context=model.context_of(conditions, len(codes), 0.0)).nats_of_codes(codes)

    def _blame(self, tokenizer: MeshTokenizer, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n1"]:
        """Of each code, by how much its face has more open sides than the mean, in their deviation; 0 for ends."""
        coordinates, mask = tokenizer.decode_from_codes_to_faces(codes)
        bins = quantize(coordinates.nan_to_num(0.0), tokenizer.num_discrete_coors, *tokenizer.coordinate_range)
        sides = [open_sides(row[keep].cpu().numpy()) for row, keep in zip(bins, mask, strict=True)]
        together = np.concatenate([*sides, np.zeros(0)])
        mean, deviation = (together.mean(), together.std()) if len(together) else (0.0, 0.0)
        blame = np.zeros((codes.shape[0], codes.shape[1] + 1), dtype=np.float32)
        for row, (own, face) in enumerate(zip(sides, faces_of(tokenizer, codes), strict=True)):
            said = np.flatnonzero((codes[row] >= 0).cpu().numpy() & (face[:-1] < len(own)))
            blame[row, said] = self.config.blame * (own[face[said]] - mean) / (deviation + 0.2)
        return torch.from_numpy(blame)


def faces_of(tokenizer: MeshTokenizer, codes: Int[Tensor, "b n"]) -> Int[np.ndarray, "b n1"]:
    """Which face each code belongs to, and the one to come."""
    if tokenizer.tokens_per_face is None:
        return tokenizer.surroundings_of(codes).faces.cpu().numpy()
    places = np.arange(codes.shape[1] + 1) // tokenizer.tokens_per_face
    return np.broadcast_to(places, (codes.shape[0], len(places)))


def conditions_of(model: MeshTransformer, wishes: Sequence[Wish]) -> Conditions:
    """The wishes as far as the model takes them."""
    kinds = model.config.kinds
    texts = [wish.text for wish in wishes] if "text" in kinds else None
    categories = [wish.category for wish in wishes] if "category" in kinds else None
    asked = Wishes(len(wishes), texts, categories, [wish.faces for wish in wishes])
    return asked.conditions(model.conditions_of, num_points=0)


class TuningTrainer(Trainer):
    """Tunes the transformer of a pipeline on meshes that it writes: `TuningTrainer(pipeline, dataset, ...)()`.

    dataset: a `MeshDataset` of records; its meshes say what is asked for, and are not learned from otherwise. judge: a
    function of (meshes, texts, categories) that gives log-probabilities, such as `evaluation.judge.ShapeJudge()`; what
    is tuned by one must be measured by another. Further keywords are the fields of `TrainerConfig`; `batch_size` counts
    wishes. Raises `TrainingError` for a model that cannot be told how many faces to write: it would learn to write few.
    """

    @no_type_check
    def __init__(
        self,
        pipeline: MeshPipeline,
        dataset,
        config=None,
        *,
        val_dataset=None,
        judge: JUDGE | None = None,
        rewards: RewardConfig | None = None,
        tuning: TuningConfig | None = None,
        **keywords,
    ):
        model, tuning = pipeline.transformer, tuning or TuningConfig()
        accelerator_kwargs = keywords.pop("accelerator_kwargs", None)
        config = resolve_config(TrainerConfig, config, keywords if config is not None else {**DEFAULTS, **keywords})
        kinds = model.config.kinds
        if "num_faces" not in kinds or "points" in kinds:
            why = "it follows points" if "points" in kinds else "it cannot be told how many faces to write"
            raise TrainingError(f"this model cannot be tuned: {why}; train one with --condition text category faces")
        model.head.sharpen(tuning.temperatures)
        known = model.config.categories
        super().__init__(
            model,
            WishExamples(dataset, known, config.seed),
            TuningObjective(pipeline, tuning, rewards or RewardConfig(), judge),
            config,
            val_examples=None if val_dataset is None else WishExamples(val_dataset, known, config.seed),
            accelerator_kwargs=accelerator_kwargs,
        )

    def _identity(self) -> dict[str, Any]:
        objective = self.objective
        configs = {"tuning": objective.config.to_dict(), "rewards": objective.rewards.to_dict()}
        fields = {f"{name}.{field}": value for name, config in configs.items() for field, value in config.items()}
        return {**super()._identity(), **fields, "judge": type(objective.judge).__name__}
