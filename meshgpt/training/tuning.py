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
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, no_type_check

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from meshgpt.config import Config, resolve_config
from meshgpt.errors import TrainingError
from meshgpt.mesh.canonical import quantize
from meshgpt.mesh.form import Form
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.surface import compare_surfaces, sample_surface
from meshgpt.pipeline import JUDGE, MeshPipeline
from meshgpt.text.captions import NO_WORD, CaptionWriter, described
from meshgpt.tokenizers.tokenizer import MeshTokenizer
from meshgpt.training.examples import MeshExamples
from meshgpt.training.objective import Losses, Objective
from meshgpt.training.rewards import Attempt, RewardConfig, advantages, energies, open_sides, reward
from meshgpt.training.settings import TrainerConfig
from meshgpt.training.trainer import Trainer
from meshgpt.transformer.conditions import Conditions
from meshgpt.transformer.generation import GenerationResult
from meshgpt.transformer.held import as_in_evaluation
from meshgpt.transformer.transformer import MeshTransformer
from meshgpt.wishes import Target, Wishes

SEEDS = 2**31 - 1
COMPARED = 2048  # points by which a mesh is compared with the shape to follow
POINTS = 512  # by which the meshes written for one wish are compared with one another and with the real one
FARTHEST = 6.0  # nats by which one code became less likely, beyond which the penalty grows no more
DEFAULTS = {"num_train_steps": 100, "batch_size": 4, "learning_rate": 3e-4, "scheduler": "wsd", "warmup_steps": 5}
DEFAULTS |= {"ema_decay": 0.9, "log_every": 5, "val_every": 25, "val_num_batches": 4, "checkpoint_every": 25}


@dataclasses.dataclass(frozen=True)
class TuningConfig(Config):
    """group_size: meshes written for each wish. room: how many times as many faces as asked for a mesh may have before
    it is cut off. blame: how much the open sides of its own face count for a code, beside its mesh. regret: how much
    what was worse than others counts, beside what was better. kl_weight: of the penalty for leaving the model that
    tuning began with. temperatures: of the digits of a code, one for all or one for each; scores are divided by them
    before tuning begins, since a model at temperature 1 writes hardly a whole mesh. None: that at which the pipeline
    samples. The tuned one samples at 1.
    rows_at_once: of which gradients are computed together; fewer need no less memory, but less padding.
    """

    group_size: int = 8
    room: float = 1.25
    blame: float = 0.7
    regret: float = 0.3
    kl_weight: float = 0.03
    temperatures: tuple[float, ...] = ()
    rows_at_once: int = 12

    def validate(self) -> None:
        self.require(self.group_size >= 2, "group_size", "be at least 2: meshes are compared with one another")
        self.require(self.room >= 1, "room", "be at least 1")
        for field in ("blame", "regret", "kl_weight"):
            self.require(getattr(self, field) >= 0, field, "not be negative")
        self.require(all(each > 0 for each in self.temperatures), "temperatures", "be positive")
        self.require(self.rows_at_once >= 1, "rows_at_once", "be at least 1")


@dataclasses.dataclass(frozen=True, eq=False)
class Wish:
    """What one mesh is asked to be: a text, a category, a number of faces (`sized`), a shape to follow.

    real: the normalised mesh that the wish was taken from; faces: how many it has.
    """

    real: Mesh
    text: str | None = None
    category: str | None = None
    sized: bool = True
    follows: bool = False

    @property
    def faces(self) -> int:
        return self.real.num_faces

    @property
    def asked_for_kind(self) -> int:
        """In how many ways a kind of thing is asked for: by text, by category."""
        return (self.text is not None) + (self.category is not None)

    @cached_property
    def form(self) -> Form:
        return Form.of(self.real)

    @cached_property
    def points(self) -> Float[np.ndarray, "p 3"]:
        return sample_surface(self.real, POINTS, np.random.default_rng(0))[0]  # as `_points`

    @cached_property
    def target(self) -> Target:
        return Target.of(self.real)


class WishExamples(MeshExamples):
    """What the meshes of a data set could have been asked for by, which depends on (seed, epoch, mesh) alone.

    Of a model that follows shapes the mesh itself is asked for, in two of three cases with its number of faces. Of
    others: of 20 wishes 8 have a text and a category, 6 a text, 3 a category and 3 neither; of the texts half are
    captions in one of many wordings, half say "a CATEGORY". A category is one that the model knows.
    """

    @no_type_check
    def __init__(self, dataset, kinds: Sequence[str], categories: Sequence[str] = (), seed: int = 0):
        super().__init__(dataset, None, seed)
        self.kinds, self.categories, self.captions = tuple(kinds), frozenset(categories), CaptionWriter()

    def get(self, index: int, epoch: int) -> Wish:
        rng = np.random.default_rng((self.seed, epoch, int(index)))
        real = self.plain(index).mesh.triangulated().normalized()
        if "points" in self.kinds:
            return Wish(real, sized=rng.random() < 2 / 3, follows=True)
        words = described(self.dataset[int(index)])
        kind, draw = words["category"], rng.random()
        named = kind if kind and kind not in NO_WORD else None
        by_name = named is not None and rng.random() < 0.5
        text = f"a {named}" if by_name else self.captions.caption(words, epoch, self.seed)
        category = kind if kind in self.categories else None
        return Wish(real, text if draw < 0.7 else None, category if draw < 0.4 or 0.7 <= draw < 0.85 else None)


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
                conditions = self._conditions(model, wishes)
                written = self._written(model, conditions, wishes)
            found, metrics = self._worth(wishes, written)
            if not torch.is_grad_enabled():
                return Losses(torch.tensor(-found.mean(), dtype=torch.float32), metrics)
            better = advantages(rearrange(found, "(w s) -> w s", s=self.config.group_size)).reshape(-1)
            loss, kl = self._policy_loss(model, conditions, written, better)
        return Losses(loss, {**metrics, "kl": kl})

    def _written(self, model: MeshTransformer, conditions: Conditions, wishes: Sequence[Wish]) -> GenerationResult:
        most = tuple(math.ceil(wish.faces * self.config.room) for wish in wishes)
        seeds = tuple(torch.randint(SEEDS, (len(wishes),)).tolist())
        options = {"seed": seeds, "row_faces": most, "follow_grammar": model.tokenizer.grammar is not None}
        return model.generate_result(None, len(wishes), conditions=conditions, **options)

    def _conditions(self, model: MeshTransformer, wishes: Sequence[Wish]) -> Conditions:
        """The wishes as far as the model takes them; of shapes as many points are shown as the pipeline would show."""
        kinds, shown = model.config.kinds, self.pipeline.config
        follows = "points" in kinds
        asked = Wishes(
            len(wishes),
            [wish.text for wish in wishes] if "text" in kinds else None,
            [wish.category for wish in wishes] if "category" in kinds else None,
            [wish.faces if wish.sized else None for wish in wishes],
            [wish.target for wish in wishes] if follows else None,
        )
        return asked.conditions(model.conditions_of, shown.num_points, shown.beside_edges)

    def _worth(
        self, wishes: Sequence[Wish], written: GenerationResult
    ) -> tuple[Float[np.ndarray, " b"], dict[str, Tensor]]:
        """Rewards, and what they are made of as means."""
        meshes = [self.pipeline.decoded(row[row >= 0]) for row in written.codes]
        attempts = self._attempts(wishes, meshes, written.stopped_by)
        found = np.array([reward(attempt, self.rewards) for attempt in attempts])
        asked = [attempt for attempt, wish in zip(attempts, wishes, strict=True) if wish.asked_for_kind]
        metrics = {
            "reward": found,
            "open_edges": [attempt.form.boundary for attempt in attempts],
            "parts": [attempt.form.parts for attempt in attempts],
            "loose": [attempt.form.loose for attempt in attempts],
            "symmetry": [attempt.form.symmetry for attempt in attempts],
            "ended": [attempt.ended for attempt in attempts],
            "faces": [mesh.num_faces / wish.faces for mesh, wish in zip(meshes, wishes, strict=True)],
            "likeness": [attempt.likeness for attempt in asked] or [0.0],
            "energy": [attempt.energy for attempt in attempts],
            "apart": [attempt.apart for attempt in attempts if attempt.apart is not None] or [0.0],
        }
        return found, {name: torch.tensor(float(np.mean(values))) for name, values in metrics.items()}

    def _attempts(self, wishes: Sequence[Wish], meshes: Sequence[Mesh], stopped_by: Sequence[str]) -> list[Attempt]:
        likeness, energy = np.zeros(len(wishes)), np.zeros(len(wishes))
        if self.judge is not None and any(wish.asked_for_kind for wish in wishes):
            found = self.judge(meshes, [wish.text for wish in wishes], [wish.category for wish in wishes])
            likeness = np.array(found) / [max(wish.asked_for_kind, 1) for wish in wishes]
        for first in range(0, len(wishes), self.config.group_size):
            group = slice(first, first + self.config.group_size)
            if self.rewards.variety and not wishes[first].follows:
                energy[group] = energies(wishes[first].points, [_points(mesh) for mesh in meshes[group]])
        attempts = []
        for index, (wish, mesh) in enumerate(zip(wishes, meshes, strict=True)):
            attempt = Attempt(Form.of(mesh), wish.form, mesh.num_faces, wish.faces if wish.sized else None)
            apart = _apart(mesh, wish.real) if wish.follows else None
            attempts.append(
                dataclasses.replace(
                    attempt,
                    ended=stopped_by[index] == "end",
                    likeness=float(likeness[index]),
                    energy=float(energy[index]),
                    apart=apart,
                )
            )
        return attempts

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


def _points(mesh: Mesh) -> Float[np.ndarray, "p 3"] | None:
    """Of its surface, evenly, where it is normalised; None for a mesh without area."""
    if not mesh.face_areas.sum() > 0:
        return None
    return sample_surface(mesh.normalized(), POINTS, np.random.default_rng(0))[0]


def _apart(mesh: Mesh, real: Mesh) -> float:
    """The Chamfer distance; that of one without area counts as infinite."""
    return compare_surfaces(mesh, real, COMPARED).chamfer if mesh.face_areas.sum() > 0 else np.inf


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
        if "num_faces" not in kinds:
            why = "it cannot be told how many faces to write"
            raise TrainingError(f"this model cannot be tuned: {why}; train one with --condition text category faces")
        model.head.sharpen(tuning.temperatures or (pipeline.config.temperature,))
        known, self.pipeline = model.config.categories, pipeline
        super().__init__(
            model,
            WishExamples(dataset, kinds, known, config.seed),
            TuningObjective(pipeline, tuning, rewards or RewardConfig(), judge),
            config,
            val_examples=None if val_dataset is None else WishExamples(val_dataset, kinds, known, config.seed),
            accelerator_kwargs=accelerator_kwargs,
        )

    def tuned(self) -> MeshPipeline:
        """The pipeline with the averaged weights, as it is now."""
        transformer = copy.deepcopy(self.pipeline.transformer)
        transformer.load_state_dict(self.ema_model.state_dict())
        config = dataclasses.replace(self.pipeline.config, temperature=1.0)
        return MeshPipeline(self.pipeline.tokenizer, transformer.eval(), config)

    def _identity(self) -> dict[str, Any]:
        objective = self.objective
        configs = {"tuning": objective.config.to_dict(), "rewards": objective.rewards.to_dict()}
        fields = {f"{name}.{field}": value for name, config in configs.items() for field, value in config.items()}
        return {**super()._identity(), **fields, "judge": type(objective.judge).__name__}
