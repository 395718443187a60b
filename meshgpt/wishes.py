"""What a user asks of a pipeline, mesh by mesh: words, a category, a number of faces, a shape to follow."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
from torch import Tensor

from meshgpt.errors import ConditionError
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.frame import Frame
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.shape_files import as_shape
from meshgpt.mesh.surface import SurfaceReport, compare_surfaces

KEYWORDS = {"text": "text", "category": "category", "faces": "num_faces", "points": "points", "mesh": "points"}
COMPARED = 4096  # points by which a mesh is compared with the shape it should follow


@dataclass(frozen=True, eq=False)
class Target:
    """A shape to follow, normalised, and where it was before."""

    shape: Mesh | PointCloud
    frame: Frame

    @classmethod
    @no_type_check
    def of(cls, shape) -> "Target":
        """Of a `Mesh`, a `PointCloud`, an array of points (n, 3) or (n, 6) with normals, a file, or a `Target`."""
        if isinstance(shape, Target):
            return shape
        shape = as_shape(shape)
        return cls(shape.normalized(), Frame.of(shape.bounds)) if isinstance(shape, Mesh) else cls(*shape.normalized())

    @property
    def placed(self) -> Mesh | PointCloud:
        """The shape where it was."""
        if isinstance(self.shape, Mesh):
            return self.frame.restore_mesh(self.shape)
        return PointCloud(self.frame.restore(self.shape.points), self.shape.normals)

    def seen(self, count: int, beside_edges: float = 0.0) -> Tensor:
        """(p, 6): the at most `count` points that a model sees of it, the same ones each time."""
        rng = np.random.default_rng(0)
        if isinstance(self.shape, PointCloud):
            return self.shape.subsampled(count, rng).tensor()
        return PointCloud.from_mesh(self.shape, count, rng, beside_edges).tensor()

    def compare(self, mesh: Mesh) -> SurfaceReport | None:
        """How far a normalised mesh is from the shape; None for one without area."""
        return compare_surfaces(mesh, self.shape, COMPARED) if mesh.face_areas.sum() > 0 else None


@dataclass(frozen=True, eq=False)
class Wishes:
    """One entry for each mesh in every list; None where a kind is not asked for.

    Texts and categories are as they were given: the transformer checks them.
    """

    count: int
    texts: list[Any] | None = None
    categories: list[Any] | None = None
    faces: list[Any] | None = None
    targets: list[Target | None] | None = None

    @classmethod
    @no_type_check
    def of(cls, num_meshes, kinds, *, text=None, category=None, faces=None, points=None, mesh=None) -> "Wishes":
        """What is given once is for all meshes; a list has an entry for each. `kinds`: what the model takes.

        Raises `ConditionError` for what it does not take and for lists of different lengths.
        """
        given = {"text": text, "category": category, "faces": faces, "points": points, "mesh": mesh}
        given = {name: value for name, value in given.items() if value is not None}
        for name in given:
            if KEYWORDS[name] not in kinds:
                raise ConditionError(refusal(name, kinds))
        if "points" in given and "mesh" in given:
            raise ConditionError("both points and mesh are given: leave one out")
        lists = {name: list(value) for name, value in given.items() if isinstance(value, (list, tuple))}
        counts = {name: len(value) for name, value in lists.items()}
        if 0 in counts.values():
            name = next(name for name, count in counts.items() if count == 0)
            raise ConditionError(f"{name} is an empty list: give an entry for each mesh, or leave it out")
        counts |= {} if num_meshes is None else {"num_meshes": num_meshes}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{count} for {name}" for name, count in counts.items())
            raise ConditionError(f"the wishes are for different numbers of meshes: {listed}")
        count = next(iter(counts.values()), 1)
        each = {name: lists.get(name, [value] * count) for name, value in given.items()}
        _check_budgets(each.get("faces", []))
        shapes = each.get("mesh", each.get("points"))
        targets = None
        if shapes is not None:
            distinct = {id(shape): shape for shape in shapes}
            known = {key: None if shape is None else Target.of(shape) for key, shape in distinct.items()}
            targets = [known[id(shape)] for shape in shapes]
        return cls(count, each.get("text"), each.get("category"), each.get("faces"), targets)

    def conditions(self, build: Callable[..., Any], num_points: int, beside_edges: float = 0.0) -> Any:
        """The `Conditions` of all meshes, made by a transformer's `conditions_of`."""
        asked: dict[str, Any] = {"texts": self.texts, "categories": self.categories, "num_faces": self.faces}
        if self.targets is not None:
            asked["points"] = [
                None if target is None else target.seen(num_points, beside_edges) for target in self.targets
            ]
        return build(self.count, **{name: value for name, value in asked.items() if value is not None})

    @property
    def are_any(self) -> bool:
        return any(part is not None for part in (self.texts, self.categories, self.faces, self.targets))


@no_type_check
def _check_budgets(faces: list[int | None]) -> None:
    for count in faces:
        is_number = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
        if count is not None and not (is_number and count >= 1):
            raise ConditionError(f"faces must be a number of at least 1, got {count!r}")


def refusal(name: str, kinds: tuple[str, ...]) -> str:
    """Why a model that takes `kinds` does not take the keyword `name`."""
    if not kinds:
        return f"this model was trained without conditions and takes no `{name}`: leave it out"
    known = ", ".join(keyword for keyword, kind in KEYWORDS.items() if kind in kinds)
    return f"this model takes no `{name}`, it was trained with {known}: leave it out"
