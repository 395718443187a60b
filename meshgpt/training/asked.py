"""Examples that say what each mesh could have been asked for by: a caption, its category, its size, its surface."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, no_type_check

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from meshgpt.data.pack import MeshRecord
from meshgpt.errors import MeshError, TrainingError
from meshgpt.mesh.canonical import dequantize, quantize
from meshgpt.mesh.clouds import CloudAugmentation, PointCloud
from meshgpt.mesh.mesh import Mesh
from meshgpt.text.cache import TextEmbeddingCache
from meshgpt.text.captions import CaptionWriter, described
from meshgpt.text.encoder import TextEncoder
from meshgpt.tokenizers.tokenizer import MeshTokenizer
from meshgpt.training.examples import Examples
from meshgpt.training.tokens import FACES_AT_ONCE, TokenCache, TokenExamples, token_key
from meshgpt.transformer.conditions import Conditions
from meshgpt.transformer.held import as_in_evaluation
from meshgpt.transformer.transformer import MeshTransformer, tokenizer_device

NUM_WORDINGS = 16  # captions of a mesh that take turns, epoch by epoch
FACE_JITTER = 0.15  # a budget is soft: training tells a number of faces up to this share beside the true one
CLOUDS = CloudAugmentation(points=(256, 1024))
TEXTS_AT_ONCE = 512


@dataclass(frozen=True)
class AskedCodes:
    """The codes (n,) of a mesh, and what is asked of it: `Conditions` of one row."""

    codes: Int[Tensor, " n"]
    conditions: Conditions


@dataclass(frozen=True)
class Place:
    """Which mesh of the data set is learned from, in which epoch, as which kept entry of codes."""

    mesh: int
    epoch: int
    entry: int
    num_faces: int
    rng: np.random.Generator


class Asking(Protocol):
    """One kind of condition: the parts of `Conditions` of one row, the same names for every mesh."""

    def __call__(self, place: Place) -> dict[str, Tensor]: ...


class AskedExamples(Examples):
    """Codes of meshes with what is asked of them, which depends on (seed, epoch, mesh) alone.

    asking: {kind: what asks it}. settings: plain values on which the asking depends.
    """

    @no_type_check
    def __init__(self, tokens: TokenExamples, asking: dict[str, Asking], seed: int, settings: Any):
        super().__init__(tokens)
        self.tokens, self.asking, self.seed, self.settings = tokens, asking, seed, settings

    @property
    def sizes(self) -> np.ndarray:
        return self.tokens.sizes

    @property
    def kept(self) -> np.ndarray:
        return self.tokens.kept

    def name(self, index: int) -> str:
        return self.tokens.name(index)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.tokens.fingerprint} {json.dumps(self.settings)}".encode()).hexdigest()

    def get(self, index: int, epoch: int) -> AskedCodes:
        codes, mesh = self.tokens.get(index, epoch), int(self.kept[index])
        faces, entry = len(codes) // self.tokens.face_size, self.tokens.entry(index, epoch)
        parts: dict[str, Tensor] = {}
        for number, asking in enumerate(self.asking.values()):
            rng = np.random.default_rng((self.seed, epoch, mesh, number))
            parts |= asking(Place(mesh, epoch, entry, faces, rng))
        return AskedCodes(codes, Conditions(1, **parts))


@no_type_check
def asked(
    model: MeshTransformer,
    tokens: TokenExamples,
    cache: TokenCache,
    seed: int = 0,
    captions: CaptionWriter | None = None,
    clouds: CloudAugmentation | None = None,
    exact: bool = False,
) -> AskedExamples:
    """`tokens` with all that the model can be asked for.

    captions: writes `NUM_WORDINGS` captions of each mesh; if not given, records of a `MeshDataset` are reworded by the
    usual writer, and texts of other data sets stay as they are. exact: captions as they are, the true number of faces
    and points of the very surface, for validation.
    """
    config, tokenizer = model.config, model.tokenizer
    clouds = clouds or CLOUDS
    if clouds.turns != 1:
        raise TrainingError(f"clouds.turns = {clouds.turns} would turn a cloud without its mesh: turn meshes (augment)")
    items = tokens.meshes.items() if {"text", "category"} & set(config.kinds) else []
    if captions is None and items and all(isinstance(item, MeshRecord) for item in items):
        captions = CaptionWriter()
    asking: dict[str, Asking] = {}
    if config.takes("text"):
        texts = wordings(items, None if exact else captions, NUM_WORDINGS, seed)
        asking["text"] = Captions.embedded(texts, model.text_encoder, TextEmbeddingCache(cache.folder))
    if config.takes("category"):
        asking["category"] = Categories.of(items, config.categories)
    if config.takes("num_faces"):
        asking["num_faces"] = FaceBudget(0.0 if exact else FACE_JITTER)
    if config.takes("points"):
        most = clouds.points[1]
        asking["points"] = surfaces_of(tokenizer, tokens, cache, most, None if exact else clouds)
    settings = [list(config.kinds), list(config.categories), captions and captions.to_dict(), clouds.to_dict(), exact]
    return AskedExamples(tokens, asking, seed, settings)


# text


@dataclass(frozen=True)
class Captions:
    """numbers: (meshes, wordings), which text each mesh has in epoch 0, 1, ..., counting round; -1 for none.

    vectors: (n, d) float16, the tokens of all texts one after another, text i at offsets[i] .. offsets[i + 1].
    """

    numbers: np.ndarray
    vectors: np.ndarray
    offsets: np.ndarray

    def __call__(self, place: Place) -> dict[str, Tensor]:
        number = int(self.numbers[place.mesh, place.epoch % self.numbers.shape[1]])
        if number < 0:
            blank = torch.zeros(1, 1, self.vectors.shape[1])
            return {"text_embeds": blank, "text_mask": torch.zeros(1, 1, dtype=torch.bool)}
        vectors = torch.from_numpy(self.vectors[self.offsets[number] : self.offsets[number + 1]].astype(np.float32))
        return {"text_embeds": vectors[None], "text_mask": torch.ones(1, len(vectors), dtype=torch.bool)}

    @staticmethod
    @no_type_check
    def embedded(
        captions: Sequence[Sequence[str | None]], encoder: TextEncoder, cache: TextEmbeddingCache
    ) -> "Captions":
        """captions: for each mesh its wordings, None for none; the same number of each."""
        numbers: dict[str | None, int] = {None: -1}
        table = [[numbers.setdefault(text or None, len(numbers) - 1) for text in row] for row in captions]
        texts = [text for text in numbers if text is not None]
        if not texts:
            warnings.warn("no mesh has a text: the model will not learn to follow texts", stacklevel=4)
        parts, lengths = [np.zeros((0, encoder.dim), dtype=np.float16)], []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            found = cache.embed(encoder, texts[start : start + TEXTS_AT_ONCE])
            parts.append(found.embeddings[found.mask].numpy().astype(np.float16))
            lengths += found.mask.sum(dim=1).tolist()
        offsets = np.concatenate([[0], lengths]).cumsum().astype(np.int64)
        return Captions(np.asarray(table, dtype=np.int64), np.concatenate(parts), offsets)


@no_type_check
def wordings(items: Sequence[Any], writer: CaptionWriter | None, count: int, seed: int) -> list[list[str | None]]:
    """For each item `count` captions: by `writer`, or where that is None, what the item says itself, once."""
    if writer is None:
        return [[_plain_text(item)] for item in items]
    return [[writer.caption(item, variant, seed) for variant in range(count)] for item in items]


def _plain_text(item: Any) -> str | None:
    said = described(item)
    return said["caption"] or said["category"] or None


# category and number of faces


@dataclass(frozen=True)
class Categories:
    """numbers: (meshes,), -1 where a mesh is of none that the model knows."""

    numbers: np.ndarray

    def __call__(self, place: Place) -> dict[str, Tensor]:
        return {"categories": torch.tensor([self.numbers[place.mesh]], dtype=torch.long)}

    @staticmethod
    @no_type_check
    def of(items: Sequence[Any], names: Sequence[str]) -> "Categories":
        known = {name: number for number, name in enumerate(names)}
        numbers = np.array([known.get(described(item)["category"], -1) for item in items], dtype=np.int64)
        if (numbers < 0).all():
            warnings.warn("no mesh is of a category of the model: it will not learn to follow them", stacklevel=4)
        return Categories(numbers)


@dataclass(frozen=True)
class FaceBudget:
    """The number of faces, times a factor drawn between 1 / (1 + jitter) and 1 + jitter, evenly in its logarithm."""

    jitter: float = 0.0

    def __call__(self, place: Place) -> dict[str, Tensor]:
        factor = (1 + self.jitter) ** place.rng.uniform(-1, 1)
        return {"num_faces": torch.tensor([max(round(place.num_faces * factor), 1)])}


# points


@dataclass(frozen=True)
class Surfaces:
    """Points, with normals, of the surface that codes decode to.

    bins: the grid coordinates of all corners one after another, those of entry i at offsets[i] .. offsets[i + 1].
    `augment` makes a cloud worse; without it `num_points` are as they are.
    """

    bins: np.ndarray
    offsets: np.ndarray
    num_discrete_coors: int
    corners: int
    num_points: int
    augment: CloudAugmentation | None = None

    def __call__(self, place: Place) -> dict[str, Tensor]:
        try:
            cloud = PointCloud.from_mesh(self.mesh(place.entry), self.num_points, place.rng)
        except MeshError:  # no area: there is no surface to point at
            return {"points": torch.zeros(1, 1, 6), "point_mask": torch.zeros(1, 1, dtype=torch.bool)}
        points = (cloud if self.augment is None else self.augment(cloud, place.rng)).tensor()
        return {"points": points[None], "point_mask": torch.ones(1, len(points), dtype=torch.bool)}

    def mesh(self, entry: int) -> Mesh:
        """The faces of an entry, each with corners of its own."""
        bins = self.bins[self.offsets[entry] : self.offsets[entry + 1]]
        vertices = dequantize(rearrange(bins, "(v c) -> v c", c=3), self.num_discrete_coors)
        return Mesh(vertices, rearrange(np.arange(len(vertices)), "(f k) -> f k", k=self.corners))


@no_type_check
def surfaces_of(
    tokenizer: MeshTokenizer, tokens: TokenExamples, cache: TokenCache, num_points: int, augment
) -> Surfaces:
    """The surfaces of all entries of `tokens`, from the cache or decoded now (and kept there)."""
    key = token_key(tokenizer, tokens.meshes, tokens.num_variants)
    key = hashlib.sha256(f"surfaces {key}".encode()).hexdigest()[:32]

    def entry(numbers: range) -> list[np.ndarray]:
        rows = {}
        with torch.no_grad(), as_in_evaluation(tokenizer):
            for chosen in _groups(tokens, numbers):
                codes = [tokens.codes_of(number) for number in chosen]
                padded = torch.nn.utils.rnn.pad_sequence(codes, batch_first=True, padding_value=-1)
                rows |= dict(zip(chosen, _decoded_bins(tokenizer, padded), strict=True))
        return [rows.get(number, np.zeros(0, dtype=np.int32)) for number in numbers]

    bins, offsets = cache.get(key, len(tokens.offsets) - 1, entry)
    return Surfaces(bins, offsets, tokenizer.num_discrete_coors, tokenizer.corners, num_points, augment)


def _groups(tokens: TokenExamples, numbers: range) -> list[list[int]]:
    """Entries with codes, in groups that have at most `FACES_AT_ONCE` faces when padded to the longest."""
    groups, longest = [[]], 0
    for number in numbers:
        faces = int(tokens.offsets[number + 1] - tokens.offsets[number]) // tokens.face_size
        if not faces:
            continue
        longest = max(longest, faces)
        if groups[-1] and longest * (len(groups[-1]) + 1) > FACES_AT_ONCE:
            groups.append([])
            longest = faces
        groups[-1].append(number)
    return [group for group in groups if group]


def _decoded_bins(tokenizer: MeshTokenizer, codes: Int[Tensor, "b n"]) -> list[np.ndarray]:
    """For each row the bins of its corners, flat, x y z of each."""
    coordinates, mask = tokenizer.decode_from_codes_to_faces(codes.to(tokenizer_device(tokenizer, codes.device)))
    bins = quantize(coordinates.nan_to_num(0.0), tokenizer.num_discrete_coors, *tokenizer.coordinate_range)
    return [row[keep].flatten().cpu().numpy().astype(np.int32) for row, keep in zip(bins, mask, strict=True)]
