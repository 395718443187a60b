"""What is asked of a batch of meshes, as values: text, category, number of faces, points; a row may lack any."""

import dataclasses
import difflib
import math
from collections.abc import Sequence
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshgpt.errors import ConditionError

KINDS = ("text", "category", "num_faces", "points")
_PARTS = {
    "text": ("text_embeds", "text_mask"),
    "category": ("categories",),
    "num_faces": ("num_faces",),
    "points": ("points", "point_mask"),
}


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What is asked of b meshes. A part that is None is asked of none of them; each row may lack any part.

    text_embeds: (b n dt), the states of an encoder's tokens, and text_mask: (b n), True where there is a token (a row
    without any has no text). categories: (b), numbers of the config's categories, -1 for none. num_faces: (b), how many
    faces the mesh should have, -1 for any. points: (b p 6), positions in the frame of the normalised mesh and unit
    normals (0 where unknown), and point_mask: (b p), True where there is a point.
    """

    batch_size: int
    text_embeds: Float[Tensor, "b n dt"] | None = None
    text_mask: Bool[Tensor, "b n"] | None = None
    categories: Int[Tensor, " b"] | None = None
    num_faces: Int[Tensor, " b"] | None = None
    points: Float[Tensor, "b p 6"] | None = None
    point_mask: Bool[Tensor, "b p"] | None = None

    def __len__(self) -> int:
        return self.batch_size

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which kinds of condition at least one row has a place for."""
        return tuple(kind for kind in KINDS if getattr(self, _PARTS[kind][0]) is not None)

    def present(self, kind: str) -> Bool[Tensor, " b"]:
        """(b): True for rows of which this is asked; the kind must be one of `kinds`."""
        if kind == "text":
            assert self.text_mask is not None
            return self.text_mask.any(dim=1)
        if kind == "points":
            assert self.point_mask is not None
            return self.point_mask.any(dim=1)
        return getattr(self, _PARTS[kind][0]) >= 0

    def to(self, device: Any, non_blocking: bool = False) -> "Conditions":
        return self._map(lambda part: part.to(device, non_blocking=non_blocking), self.batch_size)

    def select(self, rows: Int[Tensor, " r"]) -> "Conditions":
        """The conditions of some of the rows."""
        return self._map(lambda part: part[rows], len(rows))

    def keep(self, kept: dict[str, Bool[Tensor, " b"]]) -> "Conditions":
        """Without the kinds where `kept` is False; kinds that it does not name stay."""
        changes: dict[str, Tensor] = {}
        for kind, rows in kept.items():
            if kind not in self.kinds:
                continue
            if kind in ("text", "points"):
                name = _PARTS[kind][1]
                changes[name] = getattr(self, name) & rows[:, None]
            else:
                name = _PARTS[kind][0]
                changes[name] = torch.where(rows, getattr(self, name), -1)
        return dataclasses.replace(self, **changes)

    def without(self, kinds: Sequence[str]) -> "Conditions":
        """The same without these kinds."""
        names = [name for kind in kinds for name in _PARTS[kind]]
        return dataclasses.replace(self, **dict.fromkeys(names))

    @classmethod
    def join(cls, items: Sequence["Conditions"]) -> "Conditions":
        """One batch of several, one after the other; parts of different lengths are padded."""
        parts: dict[str, Tensor] = {}
        for field in (field.name for field in dataclasses.fields(cls) if field.name != "batch_size"):
            given = [getattr(item, field) for item in items]
            example = next((part for part in given if part is not None), None)
            if example is not None:
                parts[field] = _stacked([_filled(part, example, len(i)) for part, i in zip(given, items, strict=True)])
        return cls(sum(len(item) for item in items), **parts)

    def _map(self, function: Any, batch_size: int) -> "Conditions":
        names = [field.name for field in dataclasses.fields(self) if field.name != "batch_size"]
        parts = {name: getattr(self, name) for name in names}
        mapped = {name: None if part is None else function(part) for name, part in parts.items()}
        return Conditions(batch_size, **mapped)


def _filled(part: Tensor | None, example: Tensor, count: int) -> Tensor:
    """`part`, or where there is none, `count` rows that ask nothing, of the kind of `example`."""
    if part is not None:
        return part
    shape = (count, *(0 if axis == 1 else size for axis, size in enumerate(example.shape) if axis))
    none = 0 if example.ndim > 1 else -1
    return example.new_full(shape, none)


def _stacked(parts: list[Tensor]) -> Tensor:
    if parts[0].ndim == 1:
        return torch.cat(parts)
    longest = max(part.shape[1] for part in parts)
    behind = (0, 0) * (parts[0].ndim - 2)
    return torch.cat([F.pad(part, (*behind, 0, longest - part.shape[1])) for part in parts])


# from what callers give


@no_type_check
def text_conditions(embeds, mask=None, dim=None) -> dict[str, Tensor]:
    """The text part of `Conditions` from embeddings (b n dt) or (b dt), padding all zeros where no mask is given."""
    embeds = torch.as_tensor(embeds)
    if embeds.ndim == 2:
        embeds = embeds[:, None]
    if embeds.ndim != 3 or not embeds.dtype.is_floating_point:
        raise ConditionError(f"text_embeds must be floats (b, tokens, dim), got {tuple(embeds.shape)} {embeds.dtype}")
    if dim is not None and embeds.shape[-1] != dim:
        raise ConditionError(
            f"text_embeds are {embeds.shape[-1]} wide, the model takes {dim} (dim_text): use its encoder"
        )
    bad = torch.nonzero(~embeds.isfinite().all(dim=-1))
    if len(bad):
        row, token = bad[0].tolist()
        raise ConditionError(f"text_embeds has a NaN or infinite value in row {row}, token {token}")
    mask = (embeds != 0).any(dim=-1) if mask is None else torch.as_tensor(mask).bool()
    if mask.shape != embeds.shape[:2]:
        raise ConditionError(f"text_mask is {tuple(mask.shape)}, text_embeds needs {tuple(embeds.shape[:2])}")
    return {"text_embeds": embeds.float(), "text_mask": mask}


@no_type_check
def category_conditions(categories, names: Sequence[str], batch: int | None) -> dict[str, Tensor]:
    """Numbers (b) of categories that are given by name, number, or None for none; one alone is for all rows."""
    if isinstance(categories, (str, int)):
        categories = [categories] * (batch or 1)
    if isinstance(categories, Tensor):
        categories = categories.tolist()
    return {"categories": torch.tensor([_category(item, names) for item in categories], dtype=torch.long)}


def _category(item: Any, names: Sequence[str]) -> int:
    if item is None:
        return -1
    if isinstance(item, str):
        if item in names:
            return names.index(item)
        near = difflib.get_close_matches(item, names, n=3, cutoff=0.5)
        advice = f"did you mean {' or '.join(repr(name) for name in near)}?" if near else f"known are {_some(names)}"
        raise ConditionError(f"unknown category {item!r}: {advice}")
    if not -1 <= int(item) < len(names):
        raise ConditionError(
            f"category {item} is none of the {len(names)}: give a number from 0, -1 for none, or a name"
        )
    return int(item)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown


@no_type_check
def face_conditions(num_faces, batch: int | None) -> dict[str, Tensor]:
    """How many faces each mesh should have (b); None or -1 for any; one number alone is for all rows."""
    if isinstance(num_faces, int):
        num_faces = [num_faces] * (batch or 1)
    values = [-1 if item is None else int(item) for item in num_faces]
    wrong = [value for value in values if value < 1 and value != -1]
    if wrong:
        raise ConditionError(f"num_faces must be at least 1, or None for any, got {wrong[0]}")
    return {"num_faces": torch.tensor(values, dtype=torch.long)}


@no_type_check
def point_conditions(points) -> dict[str, Tensor]:
    """The point part of `Conditions` from clouds: one tensor (b p 3|6) or (p 3|6), or a list of (p 3|6), any lengths.

    Raises `ConditionError` for an empty cloud, for NaN or infinite values, and for points far outside [-1, 1].
    """
    if isinstance(points, Tensor) or hasattr(points, "shape"):
        points = torch.as_tensor(points)
        points = [points] if points.ndim == 2 else list(points)
    clouds = [None if cloud is None else _cloud(cloud, row) for row, cloud in enumerate(points)]
    most = max((len(cloud) for cloud in clouds if cloud is not None), default=1)
    stacked = torch.zeros(len(clouds), most, 6)
    mask = torch.zeros(len(clouds), most, dtype=torch.bool)
    for row, cloud in enumerate(clouds):
        if cloud is not None:
            stacked[row, : len(cloud)], mask[row, : len(cloud)] = cloud, True
    return {"points": stacked, "point_mask": mask}


@no_type_check
def _cloud(points, row: int) -> Float[Tensor, "p 6"]:
    points = torch.as_tensor(points).detach().float().cpu()
    if points.ndim != 2 or points.shape[-1] not in (3, 6):
        raise ConditionError(f"points {row} must be (p, 3), or (p, 6) with normals, got {tuple(points.shape)}")
    if len(points) == 0:
        raise ConditionError(f"points {row} is an empty cloud: give at least one point, or None for no condition")
    bad = torch.nonzero(~points.isfinite().all(dim=-1))
    if len(bad):
        raise ConditionError(f"points {row} has NaN or infinite values, first in point {int(bad[0])}: remove them")
    reach = float(points[:, :3].abs().max())
    if reach > 2:
        raise ConditionError(
            f"points {row} reach to {reach:.3g}, but a model sees shapes in [-1, 1]: normalise the cloud first "
            "(MeshPipeline does)"
        )
    return F.pad(points, (0, 6 - points.shape[-1]))


def rows_of(batch_size: int | None, counts: dict[str, int]) -> int:
    """The number of rows that all agree on, what is given once being for all. Raises `ConditionError`.

    counts: how many rows were given, by the name that a caller knows.
    """
    several = {name: count for name, count in counts.items() if count != 1}
    if batch_size is not None:
        several = {"batch_size": batch_size, **several}
    if len(set(several.values())) > 1:
        listed = ", ".join(f"{count} for {name}" for name, count in several.items())
        raise ConditionError(f"the conditions are of different numbers of meshes: {listed}")
    return next(iter(several.values()), 1)


def face_bucket(num_faces: Tensor) -> Tensor:
    """Which of `FACE_BUCKETS` a number of faces falls in: four for each doubling, the first for none left."""
    doublings = torch.log2(num_faces.clamp(min=1).double())
    bucket = 1 + (4 * doublings + 1e-9).floor().long()
    return torch.where(num_faces < 1, 0, bucket.clamp(max=FACE_BUCKETS - 1))


FACE_BUCKETS = 2 + int(4 * math.log2(16384))
