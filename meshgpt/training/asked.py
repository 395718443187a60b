"""Examples that say what each mesh could have been asked for by: a caption, its category, its size, its surface."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, no_type_check

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from meshgpt.config import Config
from meshgpt.data.pack import MeshRecord
from meshgpt.errors import ConditionError, DataError, MeshError, TrainingError
from meshgpt.mesh.canonical import dequantize, quantize
from meshgpt.mesh.clouds import CloudAugmentation, PointCloud
from meshgpt.mesh.mesh import Mesh
from meshgpt.text.cache import TextEmbeddingCache
from meshgpt.text.captions import NO_WORD, CaptionWriter, described
from meshgpt.tokenizers.tokenizer import MeshTokenizer
from meshgpt.training.examples import Examples, MeshExamples
from meshgpt.training.identity import described as identified
from meshgpt.training.tokens import FACES_AT_ONCE, PieceCodes, TokenCache, TokenExamples, token_key
from meshgpt.transformer.conditions import Conditions, text_conditions
from meshgpt.transformer.held import as_in_evaluation
from meshgpt.transformer.transformer import MeshTransformer, tokenizer_device

NUM_WORDINGS = 16  # captions of a mesh that take turns, epoch by epoch
FACE_JITTER = 0.15  # a budget is soft: training tells a number of faces up to this share beside the true one
CLOUDS = CloudAugmentation(points=(256, 1024))
TEXTS_AT_ONCE = 512
TEXT_KEYS = ("caption", "texts", "text")


@dataclass(frozen=True)
class AskedCodes:
    """The codes (n,) of a mesh or a piece of it, and what is asked of the mesh: `Conditions` of one row."""

    codes: Int[Tensor, " n"] | PieceCodes
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

    asking: {kind: what asks it}. settings: plain values and configs on which the asking depends.
    """

    @no_type_check
    def __init__(self, tokens: TokenExamples, asking: dict[str, Asking], seed: int, settings: dict[str, Any]):
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
        settings = [value.to_dict() if isinstance(value, Config) else value for value in self.settings.values()]
        return hashlib.sha256(f"{self.tokens.fingerprint} {json.dumps(settings)}".encode()).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        identity = self.tokens.identity
        for name in sorted(self.settings.keys() - {"kinds", "categories"}):  # which the model's config has
            identity |= identified(name, self.settings[name])
        return identity

    def get(self, index: int, epoch: int) -> AskedCodes:
        codes, mesh = self.tokens.get(index, epoch), int(self.kept[index])
        entry = self.tokens.entry(index, epoch)
        faces = self.tokens.faces_of(entry)
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
    usual writer, and texts of other data sets stay as they are. Embeddings that items bring (`text_embeds`) stand for
    their texts. exact: captions as they are, the true number of faces and points of the very surface, for validation.
    """
    config, clouds = model.config, clouds or CLOUDS
    if clouds.turns != 1:
        raise TrainingError(f"clouds.turns = {clouds.turns} would turn a cloud without its mesh: turn meshes (augment)")
    told = None
    if config.takes("text") or config.takes("category"):
        told = Told.by(tokens.meshes, config.text_width if config.takes("text") else None)
        captions = CaptionWriter() if captions is None and told.of_records else captions
    asking: dict[str, Asking] = {}
    if config.takes("text"):
        asking["text"] = captions_of(told, model, TextEmbeddingCache(cache.folder), captions, exact, seed)
    if config.takes("category"):
        asking["category"] = Categories.of(told.words, config.categories)
    if not exact:
        warn_where_nothing_is_said(asking)
    if config.takes("num_faces"):
        asking["num_faces"] = FaceBudget(0.0 if exact else FACE_JITTER)
    if config.takes("points"):
        most = clouds.points[1]
        asking["points"] = surfaces_of(model.tokenizer, tokens, cache, most, None if exact else clouds)
    settings = {"kinds": list(config.kinds), "categories": list(config.categories)}
    settings |= {"captions": captions, "clouds": clouds, "exact": exact}
    if told is not None and not (told.of_records and hasattr(tokens.meshes.dataset, "fingerprint")):
        settings["words"] = told.digest()  # else the fingerprint of the data set knows
    return AskedExamples(tokens, asking, seed, settings)


@no_type_check
def warn_where_nothing_is_said(asking: dict[str, Asking]) -> None:
    nothing = {"text": "no mesh has a text", "category": "no mesh is of a category of the model"}
    for kind, what in nothing.items():
        if kind in asking and (asking[kind].numbers < 0).all():
            warnings.warn(f"{what}: the model will not learn to follow them", stacklevel=5)


# words


@dataclass(frozen=True)
class Told:
    """What a data set says of its meshes: for each what `described` finds, and its own embeddings (n, d) or None.

    of_records: whether all items are records.
    """

    words: list[dict[str, str]]
    embeds: list[np.ndarray | None]
    of_records: bool

    @staticmethod
    @no_type_check
    def by(meshes: MeshExamples, dim: int | None) -> "Told":
        """dim: the width that embeddings must have; None where they do not matter.

        Raises `DataError` for a text that is no string, for embeddings that do not fit, and for a text without
        embeddings where other items have them.
        """
        words, embeds, of_records = [], [], True
        for index, item in enumerate(meshes.items()):
            of_records &= isinstance(item, MeshRecord)
            found = item if isinstance(item, Mapping) else {}
            wrong = [found[key] for key in TEXT_KEYS if not isinstance(found.get(key), str | None)]
            if wrong:
                kind = type(wrong[0]).__name__
                what = f"the text of {meshes.name(index)} is a {kind}: one string is expected, or None"
                raise DataError(f"{what}; tuples need data_kwargs that name their entries")
            words.append(described(item))
            embeds.append(None if dim is None else _own_embeds(found, dim, meshes.name(index)))
        if any(own is not None for own in embeds):
            bare = next((i for i, own in enumerate(embeds) if own is None and words[i]["caption"]), None)
            if bare is not None:
                what = f"{meshes.name(bare)} has a text, but no text_embeds, as others have"
                raise DataError(f"{what}: give them for every text, or for none")
        return Told(words, embeds, bool(words) and of_records)

    @property
    def is_embedded(self) -> bool:
        return any(own is not None for own in self.embeds)

    def digest(self) -> str:
        digest = hashlib.sha256(json.dumps(self.words).encode())
        for own in self.embeds:
            digest.update(b"-" if own is None else own.tobytes())
        return digest.hexdigest()


@no_type_check
def _own_embeds(item: Mapping[str, Any], dim: int, name: str) -> np.ndarray | None:
    """(n, dim): the tokens of an item's own embeddings (n, dim) or (dim,), without padding; None where it has none."""
    embeds, mask = item.get("text_embeds"), item.get("text_mask")
    if embeds is None:
        return None
    try:
        embeds = torch.as_tensor(embeds).detach().cpu()
        embeds = embeds[None] if embeds.ndim == 1 else embeds
        mask = None if mask is None else torch.as_tensor(mask).cpu()[None]
        parts = text_conditions(embeds[None], mask, dim)
    except (ConditionError, TypeError, ValueError) as error:
        raise DataError(f"text_embeds of {name}, as a batch of one: {error}") from error
    return _narrow(parts["text_embeds"][parts["text_mask"]].numpy())


@no_type_check
def captions_of(
    told: Told,
    model: MeshTransformer,
    cache: TextEmbeddingCache,
    writer: CaptionWriter | None,
    exact: bool,
    seed: int,
) -> "Captions":
    """The texts of a data set as the model reads them. Raises `TrainingError` for a writer where words are missing."""
    if not told.is_embedded:
        return Captions.embedded(wordings(told.words, None if exact else writer, NUM_WORDINGS, seed), model, cache)
    if writer is not None:
        raise TrainingError("captions would reword texts that this data set gives as text_embeds: leave captions out")
    return Captions.given(told.embeds, model.config.text_width)


@dataclass(frozen=True)
class Captions:
    """numbers: (meshes, wordings), which text each mesh has in epoch 0, 1, ..., counting round; -1 for none.

    vectors: (n, d), the tokens of all texts one after another, text i at offsets[i] .. offsets[i + 1]; float16 where
    that loses nothing, as of what a `TextEmbeddingCache` keeps.
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
        captions: Sequence[Sequence[str | None]], model: MeshTransformer, cache: TextEmbeddingCache
    ) -> "Captions":
        """captions: for each mesh its wordings, None for none, the same number of each; read by the model's encoder.

        Raises `ConditionError` for an encoder of another width than the model's.
        """
        texts = list(dict.fromkeys(text for row in captions for text in row if text))
        parts, lengths, dim = [], [], model.config.text_width
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            found = cache.embed(model.text_encoder, texts[start : start + TEXTS_AT_ONCE])
            if found.dim != dim:
                what = f"the text encoder gives {found.dim} numbers a token, the model takes {dim} (dim_text)"
                raise ConditionError(f"{what}: use the encoder that it was made for, or text_embeds in the data set")
            parts.append(_narrow(found.embeddings[found.mask].numpy()))
            lengths += found.mask.sum(dim=1).tolist()
        numbers = {text: number for number, text in enumerate(texts)}
        return Captions.packed([[numbers.get(text, -1) for text in row] for row in captions], parts, lengths, dim)

    @staticmethod
    @no_type_check
    def given(embeds: Sequence[np.ndarray | None], dim: int) -> "Captions":
        """embeds: (n, dim) of each mesh, None for none; equal ones are kept once."""
        keys = [None if own is None else str(own.dtype).encode() + own.tobytes() for own in embeds]
        kept = {key: own for key, own in zip(keys, embeds, strict=True) if key is not None}
        numbers, parts = {key: number for number, key in enumerate(kept)}, list(kept.values())
        table = [[numbers.get(key, -1)] for key in keys]
        return Captions.packed(table, parts, [len(part) for part in parts], dim)

    @staticmethod
    @no_type_check
    def packed(table: Sequence[Sequence[int]], parts: Sequence[np.ndarray], lengths: Sequence[int], dim: int):
        offsets = np.cumsum([0, *lengths], dtype=np.int64)
        vectors = np.concatenate([np.zeros((0, dim), dtype=np.float16), *parts])
        return Captions(np.asarray(table, dtype=np.int64), vectors, offsets)


def _narrow(vectors: np.ndarray) -> np.ndarray:
    """As float16 where that loses nothing."""
    with np.errstate(over="ignore"):
        half = vectors.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), vectors) else vectors


@no_type_check
def wordings(
    items: Sequence[Mapping[str, str]], writer: CaptionWriter | None, count: int, seed: int
) -> list[list[str | None]]:
    """For each item `count` captions: by `writer`, or where that is None, what the item says itself, once."""
    if writer is None:
        return [[_plain_text(item)] for item in items]
    return [[writer.caption(item, variant, seed) for variant in range(count)] for item in items]


def _plain_text(item: Mapping[str, str]) -> str | None:
    return item["caption"] or (item["category"] if item["category"] not in NO_WORD else None)


# category and number of faces


@dataclass(frozen=True)
class Categories:
    """numbers: (meshes,), -1 where a mesh is of none that the model knows."""

    numbers: np.ndarray

    def __call__(self, place: Place) -> dict[str, Tensor]:
        return {"categories": torch.tensor([self.numbers[place.mesh]], dtype=torch.long)}

    @staticmethod
    @no_type_check
    def of(items: Sequence[Mapping[str, str]], names: Sequence[str]) -> "Categories":
        known = {name: number for number, name in enumerate(names)}
        numbers = np.array([known.get(item["category"], -1) for item in items], dtype=np.int64)
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
            share = 0.0 if self.augment is None else self.augment.share_beside_edges(place.rng)
            cloud = PointCloud.from_mesh(self.mesh(place.entry), self.num_points, place.rng, share)
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
        faces = tokens.faces_of(number)
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
