"""Several data sets as one: `MeshDataset("cc0-lowpoly+cc0-more")`."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from meshgpt.data.store import FIELDS, MeshStore
from meshgpt.errors import DataError
from meshgpt.mesh.mesh import Mesh


class JoinedStore:
    """The meshes of `stores` one after the other, read like one `MeshStore`. Nothing is copied or written.

    Raises `DataError` where some are of triangles and some of quads.
    """

    def __init__(self, stores: Sequence[MeshStore]):
        self.stores = list(stores)
        corners = {store.corners: store for store in self.stores}
        if len(corners) > 1:
            what = " and ".join(f"{store.path} of faces with {count} corners" for count, store in corners.items())
            raise DataError(f"{what} cannot be joined: build one of them again with the corners of the other")
        self.path = Path("+".join(str(store.path) for store in self.stores))
        self.corners = self.stores[0].corners
        self.starts = np.cumsum([0, *map(len, self.stores)])
        self.face_offsets = _joined([store.face_offsets for store in self.stores])
        self.vertex_offsets = _joined([store.vertex_offsets for store in self.stores])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def mesh(self, index: int) -> Mesh:
        store, own = self._place(index)
        return store.mesh(own)

    def record(self, index: int) -> dict[str, Any]:
        store, own = self._place(index)
        return store.record(own)

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate([store.columns[name] for store in self.stores]) for name in FIELDS}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all contents, which another order changes."""
        return hashlib.sha256(" ".join(store.fingerprint for store in self.stores).encode()).hexdigest()

    def verify(self) -> None:
        """As `MeshStore.verify`, of each."""
        for store in self.stores:
            store.verify()

    def _place(self, index: int) -> tuple[MeshStore, int]:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.stores[number], index - int(self.starts[number])


def _joined(offsets: Sequence[np.ndarray]) -> np.ndarray:
    """Offsets of rows that lie one after the other, from those of each part."""
    return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part) for part in offsets]))]).astype(np.int64)
