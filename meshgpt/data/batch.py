"""Many meshes in one set of tensors: packed inside, padded at the interface."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshgpt.errors import DataError, MeshError
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.topology import check_faces, face_graph


@dataclass(frozen=True)
class MeshBatch:
    """Meshes packed one after another; no padding.

    vertices: (nv, 3) float32. faces: (nf, k) int64, indices into the packed vertices; -1 only as the missing corner of
    a triangle among quads. face_edges: (2, e) int64, pairs of packed faces that share an edge, both directions.
    """

    vertices: Float[Tensor, "nv 3"]
    faces: Int[Tensor, "nf k"]
    vertex_counts: Int[Tensor, " b"]
    face_counts: Int[Tensor, " b"]
    face_edges: Int[Tensor, "2 e"]
    texts: tuple[str, ...] | None = None

    @classmethod
    def from_meshes(cls, meshes: Sequence[Mesh], texts: Sequence[str] | None = None) -> "MeshBatch":
        """Packs meshes; all must have the same number of corners. Raises `DataError` for none, or for a mixture."""
        corners = {mesh.corners for mesh in meshes}
        if len(corners) != 1:
            what = f"{sorted(corners)} corners per face" if corners else "no mesh at all"
            raise DataError(f"a batch needs meshes of one kind, got {what}: triangulate them, or read all with quads")
        offsets = np.cumsum([0, *(mesh.num_vertices for mesh in meshes)])
        parts = [np.where(m.faces >= 0, m.faces + o, -1) for m, o in zip(meshes, offsets, strict=False)]
        faces = torch.from_numpy(np.concatenate(parts))
        return cls(
            vertices=torch.from_numpy(np.concatenate([mesh.vertices for mesh in meshes]).astype(np.float32)),
            faces=faces,
            vertex_counts=torch.tensor([mesh.num_vertices for mesh in meshes]),
            face_counts=torch.tensor([mesh.num_faces for mesh in meshes]),
            face_edges=face_graph(faces),
            texts=None if texts is None else tuple(texts),
        )

    @classmethod
    def from_padded(
        cls,
        vertices: Float[Tensor, "b nv 3"],
        faces: Int[Tensor, "b nf k"],
        face_edges: Int[Tensor, "b e 2"] | None = None,
        pad_id: int = -1,
    ) -> "MeshBatch":
        """Packs a padded batch: faces of `pad_id` are left out, vertices are all kept.

        Raises `MeshError` for a face that refers to a vertex its mesh does not have. `face_edges` of padded faces
        (what `derive_face_edges_from_faces` gives) is used instead of deriving the graph.
        """
        for row in faces:
            check_faces(torch.where(row == pad_id, -1, row), vertices.shape[1])
        mask = padded_face_mask(faces, pad_id)
        offset = (torch.arange(len(faces), device=faces.device) * vertices.shape[1])[:, None, None]
        packed = torch.where(faces == pad_id, -1, faces + offset)[mask]
        edges = face_graph(packed) if face_edges is None else _packed_edges(face_edges, mask, pad_id)
        counts = torch.full((len(faces),), vertices.shape[1], device=faces.device)
        return cls(vertices.reshape(-1, 3), packed, counts, mask.sum(dim=1), edges)

    @property
    def batch_size(self) -> int:
        return len(self.face_counts)

    @property
    def num_faces(self) -> int:
        return len(self.faces)

    @property
    def corners(self) -> int:
        return self.faces.shape[1]

    @property
    def face_mask(self) -> Bool[Tensor, "b nf"]:
        """(b, most faces): True where there is a face, in the padded view."""
        longest = int(self.face_counts.max()) if self.batch_size else 0
        return torch.arange(longest, device=self.faces.device)[None] < self.face_counts[:, None]

    @property
    def face_owner(self) -> Int[Tensor, " nf"]:
        """The mesh each packed face belongs to."""
        return torch.repeat_interleave(torch.arange(self.batch_size, device=self.faces.device), self.face_counts)

    @property
    def corner_indices(self) -> Int[Tensor, "nf k"]:
        """Faces in which the missing corner of a triangle among quads repeats the third: every index is valid."""
        return self.faces if self.corners == 3 else torch.where(self.faces < 0, self.faces[:, 2:3], self.faces)

    def pad_faces(self, values: Tensor, value: float = -1) -> Tensor:
        """(nf, ...) values of packed faces -> (b, most faces, ...), filled with `value`."""
        mask = self.face_mask
        padded = values.new_full((*mask.shape, *values.shape[1:]), value)
        padded[mask] = values
        return padded

    def to(self, device: Any) -> "MeshBatch":
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def meshes(self) -> list[Mesh]:
        """The meshes, one by one."""
        starts = self.vertex_counts.cumsum(0) - self.vertex_counts
        vertices = self.vertices.split(self.vertex_counts.tolist())
        faces = self.faces.split(self.face_counts.tolist())
        local = [torch.where(f < 0, -1, f - s) for f, s in zip(faces, starts, strict=True)]
        return [Mesh(v, f) for v, f in zip(vertices, local, strict=True)]


@no_type_check
def checked_batch(vertices, faces, corners: int, face_edges=None, pad_id: int = -1) -> MeshBatch:
    """A `MeshBatch` of padded tensors of anybody's, whose faces have `corners` corners.

    Raises `MeshError` for what is no tensor, of another shape or kind, and for vertices in use that are not finite.
    """
    if not (torch.is_tensor(vertices) and torch.is_tensor(faces)):
        kinds = f"{type(vertices).__name__}, {type(faces).__name__}"
        raise MeshError(f"vertices and faces must be tensors, got {kinds}")
    if vertices.ndim != 3 or vertices.shape[-1] != 3 or not vertices.is_floating_point():
        raise MeshError(f"vertices must be floats (b, nv, 3), got {tuple(vertices.shape)} of {vertices.dtype}")
    if faces.ndim != 3 or faces.shape[-1] != corners or faces.is_floating_point() or len(faces) != len(vertices):
        expected = f"integers ({len(vertices)}, nf, {corners}) [{'quads' if corners == 4 else 'triangles'}]"
        raise MeshError(f"faces must be {expected}, got {tuple(faces.shape)} of {faces.dtype}")
    batch = MeshBatch.from_padded(vertices.float(), faces.long(), face_edges, pad_id)
    used = batch.corner_indices.unique()
    if not bool(batch.vertices[used].isfinite().all()):
        raise MeshError("a vertex that a face uses is not finite")
    return batch


def padded_face_mask(faces: Int[Tensor, "b nf k"], pad_id: int = -1) -> Bool[Tensor, "b nf"]:
    """True where there is a face. A face with only some of its first three corners padded is a `MeshError`."""
    real = faces[..., :3] != pad_id
    mask = real.all(dim=-1)
    partly = real.any(dim=-1) & ~mask
    if bool(partly.any()):
        mesh, face = partly.nonzero()[0].tolist()
        what = f"face {face} of mesh {mesh} is {faces[mesh, face].tolist()}"
        raise MeshError(f"{what}: padding fills a face or none of it")
    return mask


def _packed_edges(face_edges: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    real = (face_edges != pad_id).all(dim=-1)
    position = (mask.reshape(-1).cumsum(0) - 1).reshape(mask.shape)
    row = torch.arange(len(mask), device=mask.device)[:, None].expand(real.shape)[real]
    pairs = face_edges[real]
    if pairs.numel() and (int(pairs.max()) >= mask.shape[1] or int(pairs.min()) < 0):
        raise MeshError(f"face_edges refer to face {int(pairs.max())}, but there are {mask.shape[1]} faces")
    return torch.stack((position[row, pairs[:, 0]], position[row, pairs[:, 1]]))
