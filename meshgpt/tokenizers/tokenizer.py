"""What every mesh tokenizer offers: meshes to token ids and back."""

from abc import ABC, abstractmethod
from typing import Any, no_type_check

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshgpt.data.batch import MeshBatch, checked_batch
from meshgpt.errors import CodesError, MeshError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.grammar import Surroundings
from meshgpt.mesh.mesh import Mesh


class MeshTokenizer(ABC):
    """A mesh as a sentence of ids 0 .. vocab_size - 1; the end of a sentence and padding (-1) are not among them.

    Equal codes within one mesh mean one vertex.
    """

    vocab_size: int
    tokens_per_face: int | None  # None where it varies
    codes_per_step: int = 0  # what a coarse step reads where `tokens_per_face` varies
    many_codes_per_face: int = 0  # that few meshes have more of
    num_hints: int = 0  # that `hints` gives for each digit
    num_places: int = 0  # that `surroundings_of` tells there
    num_facts: int = 0  # rows of three small numbers that it tells behind them
    tells_likely: bool = False  # whether some of them are where the next vertex is likely to be
    corners: int  # per face: 3, or 4 with quads
    says_tips: bool = False  # whether faces are said as those of a `PatchTokenizer`, see `spelt`
    num_discrete_coors: int
    coordinate_range: tuple[float, float] = (-1.0, 1.0)  # of padded tensors that come in and go out
    grammar: Any = None  # which next tokens can still become a valid mesh, where the tokenizer can say

    @abstractmethod
    def codes_from_batch(self, batch: MeshBatch) -> Int[Tensor, "b n"]:
        """Flat ids of each mesh, whose coordinates lie in [-1, 1], padded with -1."""

    @abstractmethod
    def decode_from_codes_to_faces(
        self, codes: Tensor, face_mask: Tensor | None = None
    ) -> tuple[Float[Tensor, "b nf k 3"], Bool[Tensor, "b nf"]]:
        """Corner coordinates in [-1, 1], NaN at padding, and the mask that is True where there is a face."""

    @abstractmethod
    def decode_faces_alone(self, codes: Int[Tensor, "f t"]) -> Float[Tensor, "f k 3"]:
        """Corner coordinates of single faces, each decoded without its neighbours."""

    def faces_in(self, codes: Int[Tensor, "b n"]) -> Int[Tensor, " b"]:
        """How many whole faces each row of codes, padded with -1, says."""
        return (codes >= 0).sum(dim=1) // (self.tokens_per_face or 1)

    def surroundings_of(self, codes: Int[Tensor, "b n"]) -> Surroundings:
        """What surrounds each token of rows padded with -1, and the one to come, (b, n + 1, ...).

        Only where `tokens_per_face` varies; raises `CodesError` elsewhere.
        """
        raise CodesError(f"{type(self).__name__} says faces one by one: nothing surrounds a code but its face")

    @property
    def digits(self) -> Int[Tensor, "v d"] | None:
        """How codes are spelt, each in another way, where they have parts of their own; see `SpellingHead`."""
        return None

    def hints(self, places: Int[Tensor, "*n m 3"]) -> Int[Tensor, "*n d c"]:
        """For places as in `Surroundings`: digits of the next token with which it says something likely; -1 for none.

        Only where there are `digits`; raises `CodesError` elsewhere.
        """
        raise CodesError(f"the codes of {type(self).__name__} are not spelt: there is nothing to hint at")

    def spelt(
        self, vertices: Int[Tensor, "*n c 3"], places: Int[Tensor, "*n m 3"]
    ) -> tuple[Int[Tensor, "*n c 3"], Int[Tensor, "*n c 3"]]:
        """With which digits the next token says each coordinate, in one of two ways each; -1 where it cannot.

        Only of tokenizers with `says_tips`; raises `CodesError` for others, as `faces_written` does. With those, the
        first digit may also be the number of an open end, the next three are coordinates, and the last says whether
        faces follow, 1 at the side from the gate's second end to the tip, plus 2 at that from its first. The places
        that surround a token are the ends of the gate, the guess, open ends, and the corner of a block that waits.
        """
        raise CodesError(f"the codes of {type(self).__name__} do not say vertices beside a face")

    def faces_written(self, codes: Int[Tensor, "b n"]) -> Int[Tensor, "b nf 3 3"]:
        """Bins (y, z, x) of the corners of each face, in the order written; padded with -1."""
        raise CodesError(f"the codes of {type(self).__name__} do not say vertices beside a face")

    @no_type_check
    def packed(self, vertices, faces, face_edges=None):
        """A checked `MeshBatch`, in [-1, 1], of padded tensors: vertices (b, nv, 3), faces (b, nf, k) with -1."""
        return checked_batch(vertices, faces, self.corners, face_edges)

    @no_type_check
    def encode(self, mesh):
        """A mesh as flat ids (n,), after normalising it and bringing it to canonical order.

        Raises `MeshError` for a mesh with no face left on the grid, or with quads where the tokenizer has triangles.
        """
        if not isinstance(mesh, Mesh):
            raise MeshError(f"encode takes a Mesh, got {type(mesh).__name__}: make one with Mesh(vertices, faces)")
        grid = canonicalize(self.with_own_corners(mesh).normalized(), self.num_discrete_coors)
        if len(grid.faces) == 0:
            raise MeshError(f"no face of {mesh!r} is left on a grid of {self.num_discrete_coors} bins")
        return self.codes_from_batch(MeshBatch.from_meshes([grid.mesh()]))[0]

    def with_own_corners(self, mesh: Mesh) -> Mesh:
        """The mesh with as many corners a face as the tokenizer has: quads cut, or triangles without a fourth."""
        if self.corners == 3:
            return mesh.triangulated()
        return Mesh(mesh.vertices, np.pad(mesh.faces, ((0, 0), (0, 4 - mesh.corners)), constant_values=-1))

    @no_type_check
    def decode(self, ids):
        """Flat ids as a mesh of bin centres in [-1, 1]; not moved, rewound or rescaled.

        Raises `CodesError` for ids out of range or that do not fill whole faces.
        """
        ids = torch.as_tensor(ids, dtype=None if len(ids) else torch.long)
        if ids.ndim != 1 or ids.is_floating_point():
            raise CodesError(f"decode takes a flat list of integer ids, got shape {tuple(ids.shape)} of {ids.dtype}")
        self.check_codes(ids)
        if ids.numel() == 0:
            return Mesh(np.zeros((0, 3)), np.zeros((0, self.corners), dtype=np.int64))
        if int(ids.min()) < 0:
            raise CodesError("decode takes ids without padding, got -1: cut the padding off first")
        coordinates, _ = self.decode_from_codes_to_faces(ids[None].long())
        low, high = self.coordinate_range
        if (low, high) != (-1.0, 1.0):
            coordinates = (coordinates.double() - low) / (high - low) * 2 - 1
        return mesh_from_codes(coordinates[0], rearrange(ids, "(c q) -> c q", c=coordinates.shape[1] * self.corners))

    def check_codes(self, codes: Tensor) -> None:
        """Raises `CodesError` for a code outside -1 .. vocab_size - 1, or a length that is not whole faces."""
        if codes.numel() and (int(codes.max()) >= self.vocab_size or int(codes.min()) < -1):
            bad = int(codes.max()) if int(codes.max()) >= self.vocab_size else int(codes.min())
            raise CodesError(f"code {bad} is out of range: codes are 0 .. {self.vocab_size - 1}, and -1 for padding")
        if self.tokens_per_face and codes.ndim < 3 and codes.shape[-1] % self.tokens_per_face:
            length, unit = codes.shape[-1], self.tokens_per_face
            raise CodesError(f"{length} codes are not whole faces of {unit}: {length % unit} are left over")


def mesh_from_codes(coordinates: Float[Tensor, "nf k 3"], corner_codes: Int[Tensor, "c q"]) -> Mesh:
    """One vertex for each distinct row of codes; a quad whose last two corners are one vertex is a triangle."""
    k = coordinates.shape[1]
    unique, inverse = np.unique(corner_codes.cpu().numpy(), axis=0, return_inverse=True)
    positions = rearrange(coordinates.detach().cpu().double().numpy(), "nf k c -> (nf k) c")
    vertices = np.zeros((len(unique), 3))
    vertices[inverse.reshape(-1)] = positions
    faces = inverse.reshape(-1, k)
    if k == 4:
        faces[:, 3] = np.where(faces[:, 3] == faces[:, 2], -1, faces[:, 3])
    return Mesh(vertices, faces)
