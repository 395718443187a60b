"""A data set without end: shapes that are formulas, as samples of their fields."""

import hashlib
from collections.abc import Sequence
from typing import no_type_check

import numpy as np

from meshgpt.data.field_store import FieldSample
from meshgpt.errors import DataError, DataIndexError
from meshgpt.mesh.primitives import EASY, MAKERS, Primitive, make_primitive
from meshgpt.mesh.sampling import SPREADS, sample_near, sample_volume


class PrimitiveDataset:
    """`count` random shapes of some categories in turn; items are `FieldSample`s with analytic distances and captions.

    Shape i depends on `seed` and i alone, whatever else is asked for; so do its points, of which there are `surface`,
    `volume` and `near` (see `FieldConfig`). Samples are kept once made. Raises `DataError` for an unknown category.
    """

    @no_type_check
    def __init__(
        self,
        count: int,
        categories: Sequence[str] = EASY,
        seed: int = 0,
        surface: int = 2048,
        volume: int = 4096,
        near: int = 4096,
    ):
        unknown = [name for name in categories if name not in MAKERS]
        if unknown or not categories:
            raise DataError(f"there is no primitive {unknown[:1]}; there are: {', '.join(MAKERS)}")
        self.count, self.categories, self.seed = count, tuple(categories), seed
        self.counts = surface, volume, near
        self._made: dict[int, FieldSample] = {}

    def __len__(self) -> int:
        return self.count

    @no_type_check
    def primitive(self, index: int) -> Primitive:
        """Shape `index` itself."""
        if not 0 <= index < self.count:
            raise DataIndexError(f"index {index} is beyond the {self.count} shapes of this data set")
        rng = np.random.default_rng((self.seed, int(index)))
        return make_primitive(self.categories[index % len(self.categories)], rng)

    @no_type_check
    def __getitem__(self, index: int) -> FieldSample:
        if index not in self._made:
            self._made[index] = self._sample(index)
        return self._made[index]

    def _sample(self, index: int) -> FieldSample:
        shape, rng = self.primitive(index), np.random.default_rng((self.seed, int(index), 1))
        surface, volume, near = self.counts
        points, normals = shape.sample_surface(surface, rng)
        places = sample_volume(volume, rng), sample_near(points, near, rng, SPREADS)
        rows = [np.column_stack((points, normals, np.zeros(surface)))]
        rows += [np.column_stack((place, shape(place))) for place in places]
        record = {"name": f"{shape.category} {index}", "category": shape.category, "caption": shape.caption}
        on, around, near_by = (row.astype(np.float32) for row in rows)
        return FieldSample(on, around, near_by, record)

    def column(self, name: str) -> np.ndarray:
        """The values (n,) of 'name', 'category' or 'caption' as str objects."""
        shapes = [self.primitive(index) for index in range(self.count)]
        values = {"name": lambda i, s: f"{s.category} {i}", "caption": lambda i, s: s.caption}
        take = values.get(name, lambda i, s: s.category if name == "category" else "")
        return np.array([take(i, shape) for i, shape in enumerate(shapes)] + [""], dtype=object)[:-1]

    @property
    def fingerprint(self) -> str:
        """A hash that is equal for equal contents."""
        return hashlib.sha256(repr((self.count, self.categories, self.seed, self.counts)).encode()).hexdigest()
