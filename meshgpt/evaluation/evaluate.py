"""Everything that is measured of a model in one go: beside what it writes stand real meshes, seen and not seen."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, no_type_check

import numpy as np
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from meshgpt.config import Config
from meshgpt.data.dataset import BUNDLED, MeshDataset
from meshgpt.data.nearest import NearestMeshes
from meshgpt.errors import DataError
from meshgpt.evaluation.authors import ASKS, Author, Written
from meshgpt.evaluation.chamfer import chamfer_matrix
from meshgpt.evaluation.clouds import NORMALISATIONS, surface_clouds
from meshgpt.evaluation.copies import CopyFinder
from meshgpt.evaluation.frechet import frechet_distance, kernel_distance
from meshgpt.evaluation.novelty import novelty
from meshgpt.evaluation.recognition import ShapeRecognizer
from meshgpt.evaluation.set_metrics import compare_sets
from meshgpt.evaluation.surface_following import surface_following
from meshgpt.evaluation.text_following import Prompt, text_following
from meshgpt.evaluation.tokenizer_report import grouped_reports
from meshgpt.evaluation.validity import mesh_statistics
from meshgpt.evaluation.view_network import ViewNetwork
from meshgpt.mesh.mesh import Mesh
from meshgpt.tokenizers.tokenizer import MeshTokenizer

EVALUATORS = BUNDLED / "evaluators"
GENERATED, TRAIN, VAL = "generated", "train", "val"
SHOWN = 24  # meshes that are kept for the pictures of a report


@dataclass(frozen=True)
class EvaluationConfig(Config):
    """What is measured, and on how much.

    count: meshes of each set; fewer where val has fewer. seeds: so many sets are written and drawn, and figures are
    means over them. points: on each mesh. normalise: where they lie, see `surface_clouds`. max_faces: of real meshes.
    ask: how the model is asked, see `PipelineAuthor`. novelty: whether the nearest training meshes are looked for,
    which takes a second or two a mesh.
    """

    count: int = 100
    seeds: int = 3
    points: int = 2048
    normalise: str = "box"
    max_faces: int | None = None
    ask: str = "none"
    novelty: bool = True
    device: str = "cpu"

    def validate(self) -> None:
        for name in ("count", "seeds", "points"):
            self.require(getattr(self, name) >= 1, name, "be at least 1")
        self.require(self.count >= 2, "count", "be at least 2: sets are compared")
        self.require(self.max_faces is None or self.max_faces >= 1, "max_faces", "be at least 1")
        self.require(self.normalise in NORMALISATIONS, "normalise", f"be one of {', '.join(NORMALISATIONS)}")
        self.require(self.ask in ASKS, "ask", f"be one of {', '.join(ASKS)}")


@dataclass(frozen=True)
class Networks:
    """What looks at the meshes: pictures for FID and KID, points and texts for categories and retrieval."""

    views: ViewNetwork
    recognizer: ShapeRecognizer | None = None

    @classmethod
    def bundled(cls) -> "Networks":
        return cls(ViewNetwork.from_pretrained(EVALUATORS), ShapeRecognizer.from_pretrained(EVALUATORS))


@dataclass(frozen=True)
class Shown:
    """Meshes for pictures: some of those that were written first, and the training mesh nearest to each."""

    meshes: list[Mesh] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    nearest: list[Mesh | None] = field(default_factory=list)
    nearest_captions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Evaluation:
    """`figures`: everything measured, as JSON. `shown`: meshes for a report."""

    figures: dict[str, Any]
    shown: Shown


@no_type_check
def evaluate_meshes(
    author: Author,
    train: MeshDataset,
    val: MeshDataset,
    config: EvaluationConfig | None = None,
    networks: Networks | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """The figures of `config.seeds` sets of meshes of an author, of as many training meshes, and of `val`.

    Sets are of equal size, and val, which nobody has seen, is the reference of all: what training meshes reach is the
    floor under every distance between sets. tell: hears what is being done. Raises `DataError` where there are fewer
    than 2 meshes to compare with.
    """
    config, networks = config or EvaluationConfig(), networks or Networks.bundled()
    train, val = (_chosen(data, config, networks) for data in (train, val))
    count = min(config.count, len(train), len(val))
    if count < 2:
        raise DataError(f"{len(train)} meshes of train and {len(val)} of val: 2 are needed of each to compare sets")
    config = replace(config, count=count)
    runs: list[list[Written]] = []
    sets: dict[str, list[dict[str, float]]] = {GENERATED: [], TRAIN: []}
    for seed in range(config.seeds):
        reference, seen = _drawn(val, count, (seed, 0)), _drawn(train, count, (seed, 1))
        runs.append(author.write(seed, reference))
        tell(f"seed {seed}: comparing sets of {count} meshes")
        meshes = {GENERATED: [item.mesh for item in runs[-1]], TRAIN: _meshes(seen)}
        for name, figures in _compared(meshes, _meshes(reference), seed, config, networks).items():
            sets[name].append(figures)
    written = [item for run in runs for item in run]
    tell("counting faults of meshes")
    figures: dict[str, Any] = {
        "settings": config.to_dict(),
        "networks": described(networks),
        "sets": {name: {key: _spread([each[key] for each in runs]) for key in runs[0]} for name, runs in sets.items()},
        "meshes": {
            GENERATED: mesh_statistics([item.mesh for item in written]).to_dict(),
            TRAIN: mesh_statistics(_meshes(train)).to_dict(),
            VAL: mesh_statistics(_meshes(val)).to_dict(),
        },
        "written": _writing(written),
        "face_counts": {
            GENERATED: [item.mesh.num_faces for item in written],
            VAL: val.face_counts.tolist(),
        },
    }
    if config.ask != "none":
        tell("how well meshes follow what was asked for")
        references = [_drawn(val, count, (seed, 0)) for seed in range(config.seeds)]
        figures["following"] = _following(written, references, config, networks)
    shown = Shown([item.mesh for item in runs[0][:SHOWN]], [_caption(item) for item in runs[0][:SHOWN]])
    if config.novelty:
        tell("looking for the nearest training meshes")
        found, shown = _novelty(runs[0], _drawn(val, count, (0, 0)), train, shown)
        figures["novelty"] = found
    return Evaluation(figures, shown)


@no_type_check
def evaluate_tokenizer(tokenizer: MeshTokenizer, data: MeshDataset) -> dict[str, Any]:
    """`grouped_reports` of the meshes of `data`, for JSON."""
    groups = grouped_reports(tokenizer, _meshes(data), [str(name) for name in data.column("category")])
    return {grouping: {name: each.to_dict() for name, each in some.items()} for grouping, some in groups.items()}


def described(networks: Networks) -> dict[str, Any]:
    """Which networks looked, and how often each is right about real meshes that it never saw."""
    told: dict[str, Any] = {
        "views": {
            "what": "ViewNetwork, trained on pictures of the train split; not Inception-v3",
            "categories": len(networks.views.config.categories),
            "val_accuracy": networks.views.config.accuracy,
        }
    }
    if networks.recognizer is not None:
        told["recognizer"] = {
            "what": "ShapeRecognizer, trained on points and captions of the train split",
            "categories": len(networks.recognizer.config.categories),
            "val_accuracy": networks.recognizer.config.accuracy,
        }
    return told


def _chosen(data: MeshDataset, config: EvaluationConfig, networks: Networks) -> MeshDataset:
    """The meshes that count: those not too large, and those of a category where it is asked for."""
    data = data if config.max_faces is None else data.filter(max_faces=config.max_faces)
    if config.ask in ("category", "name"):
        known = set(data.categories) & set(networks.recognizer.config.categories if networks.recognizer else ())
        data = data.filter(categories=sorted(known))
    return data


def _drawn(data: MeshDataset, count: int, seed: tuple[int, int]) -> MeshDataset:
    return data[np.random.default_rng(seed).permutation(len(data))[:count]]


def _meshes(data: MeshDataset) -> list[Mesh]:
    return [data.mesh(index) for index in range(len(data))]


def _compared(
    sets: dict[str, list[Mesh]], reference: list[Mesh], seed: int, config: EvaluationConfig, networks: Networks
) -> dict[str, dict[str, float]]:
    """Every distance between each of some sets and the reference."""
    clouds = surface_clouds(reference, config.points, (seed, 0), config.normalise)
    among = chamfer_matrix(clouds, device=config.device)
    looks = _looks(networks, reference)
    found = {}
    for stream, (name, meshes) in enumerate(sets.items(), start=1):
        others = surface_clouds(meshes, config.points, (seed, stream), config.normalise)
        seen = _looks(networks, meshes)
        found[name] = {
            **asdict(compare_sets(others, clouds, among, config.device)),
            "fid": frechet_distance(seen, looks),
            "kid": kernel_distance(seen, looks),
        }
    return found


def _looks(networks: Networks, meshes: Sequence[Mesh]) -> Float[Tensor, "n d"]:
    return rearrange(networks.views.features(meshes), "n v d -> (n v) d")


def _spread(values: list[float]) -> dict[str, Any]:
    """Mean and deviation (of the sample, 0 of one) of what each seed gave."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": deviation, "values": values}


def _writing(written: list[Written]) -> dict[str, Any]:
    """How the meshes came about; None where nobody knows."""
    made = [item for item in written if item.stopped_by]
    if not made:
        return {"ended": None, "raw_degenerate": None, "raw_duplicate": None, "faces_per_second": None}
    seconds = sum(item.seconds for item in made)
    return {
        "ended": float(np.mean([item.stopped_by == "end" for item in made])),
        "raw_degenerate": float(np.mean([item.degenerate > 0 for item in made])),
        "raw_duplicate": float(np.mean([item.duplicate > 0 for item in made])),
        "faces_per_second": sum(item.mesh.num_faces for item in made) / seconds if seconds else None,
    }


def _following(
    written: list[Written], references: list[MeshDataset], config: EvaluationConfig, networks: Networks
) -> dict[str, Any]:
    """How well the meshes are what was asked for; beside them the real ones that it describes."""
    records = [record for reference in references for record in reference]
    if config.ask == "points":
        pairs = [item.mesh for item in written], [record.mesh for record in records]
        real = [record.mesh for record in records]
        return {GENERATED: surface_following(*pairs).to_dict(), VAL: surface_following(real, real, seed=1).to_dict()}
    if networks.recognizer is None:
        return {}
    captions = [record.caption or record.category for record in records]
    prompts = [Prompt(caption, record.category) for caption, record in zip(captions, records, strict=True)]
    if config.ask != "text":
        prompts = [Prompt(record.category, record.category) for record in records]
    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    found = {
        name: text_following(networks.recognizer, meshes, range(len(prompts)), prompts, texts).to_dict()
        for name, meshes in (
            (GENERATED, [item.mesh for item in written]),
            (VAL, [record.mesh for record in records]),
        )
    }
    return {**found, "texts": len(texts)}


def _novelty(
    run: list[Written], held_out: MeshDataset, train: MeshDataset, shown: Shown
) -> tuple[dict[str, Any], Shown]:
    """Of the first set and of as many real meshes that were held out; and the nearest meshes of what is shown."""
    tools = NearestMeshes(train), CopyFinder(train)
    generated = novelty([item.mesh for item in run], *tools)
    names = train.column("name")
    nearest = generated.nearest[: len(shown.meshes)]
    shown = replace(
        shown,
        nearest=[None if found is None else train.mesh(found.index) for found in nearest],
        nearest_captions=["" if found is None else f"{names[found.index]}, {found.chamfer:.3f}" for found in nearest],
    )
    real = novelty(_meshes(held_out), *tools)
    return {GENERATED: generated.to_dict(), VAL: real.to_dict(), "of": len(run)}, shown


def _caption(item: Written) -> str:
    cut = "" if item.stopped_by in ("", "end") else f", cut off by {item.stopped_by}"
    return f"{item.mesh.num_faces} faces{cut}"
