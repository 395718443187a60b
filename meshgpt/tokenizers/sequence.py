"""What tokenizers without a fixed number of tokens a face share: one mesh at a time to ids and back, and a grammar."""

from abc import abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar, no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from meshgpt.checkpoint import Pretrained
from meshgpt.data.batch import MeshBatch
from meshgpt.errors import CodesError
from meshgpt.mesh.canonical import GridMesh, canonicalize_grid, dequantize, quantize
from meshgpt.mesh.grammar import SequenceGrammar, Surroundings
from meshgpt.mesh.mesh import Mesh
from meshgpt.tokenizers.tokenizer import MeshTokenizer

Errors = Literal["raise", "repair"]
State = TypeVar("State", bound="GrammarState")


@dataclass(frozen=True)
class GrammarState:
    """What a grammar remembers of sentences that are being written: tensors whose first axis is the batch."""

    def select(self: State, rows: Tensor) -> State:
        """The state of some rows, by index or mask."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def where(self: State, rows: Bool[Tensor, " b"], other: State) -> State:
        """This state in `rows`, `other` in the rest."""
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return replace(self, **{name: torch.where(_beside(rows, one), one, two) for name, (one, two) in pairs.items()})


def begun(grammar: SequenceGrammar, codes: Int[Tensor, "b n"], capacity: int) -> GrammarState:
    """The state of a grammar behind tokens padded with -1, read one after the other."""
    state = grammar.start(len(codes), capacity, codes.device)
    for column in codes.unbind(dim=1):
        state = grammar.advance(state, column.clamp(min=0)).where(column >= 0, state)
    return state


def _beside(rows: Tensor, part: Tensor) -> Tensor:
    return rows.reshape(-1, *[1] * (part.ndim - 1))


class SequenceTokenizer(MeshTokenizer, Pretrained):
    """A tokenizer of triangles whose faces share tokens, so that their number a face varies.

    What a subclass writes is `encode_grid`, `decode_grid` and `surroundings`; all else follows from them.
    """

    tokens_per_face = None
    corners = 3
    grammar: SequenceGrammar

    @abstractmethod
    def encode_grid(self, grid: GridMesh) -> np.ndarray:
        """The ids (n,) int64 of a triangle mesh in canonical order; none for a mesh without faces."""

    @abstractmethod
    def decode_grid(self, ids: np.ndarray, errors: Errors = "raise") -> tuple[np.ndarray, np.ndarray]:
        """Vertices (nv, 3), distinct bins, and faces (nf, 3) in the order written, of ids (n,) int64 without padding.

        The beginning of a sentence gives its faces so far. Where no mesh can go on as the ids do, raises `TokenError`,
        or with errors = "repair" gives the faces up to there.
        """

    @abstractmethod
    def surroundings(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The parts of `Surroundings`, (n + 1, m, 3) and (n + 1,): before each of the ids (n,), and behind the last.

        Raises `TokenError` as `decode` does.
        """

    def surroundings_of(self, codes: Int[Tensor, "b n"]) -> Surroundings:
        """Those of rows padded with -1, (b, n + 1, ...); from the end of a row on they stay as they are there."""
        rows = codes.cpu().numpy().astype(np.int64)
        places = np.full((len(rows), rows.shape[1] + 1, self.num_places + self.num_facts, 3), -1, dtype=np.int64)
        faces = np.zeros((len(rows), rows.shape[1] + 1), dtype=np.int64)
        for row, length in enumerate((rows >= 0).sum(axis=1)):
            places[row, : length + 1], faces[row, : length + 1] = self.surroundings(rows[row, :length])
            places[row, length + 1 :], faces[row, length + 1 :] = places[row, length], faces[row, length]
        return Surroundings(torch.from_numpy(places).to(codes.device), torch.from_numpy(faces).to(codes.device))

    def faces_in(self, codes: Int[Tensor, "b n"]) -> Int[Tensor, " b"]:
        return self.surroundings_of(codes).faces[:, -1]

    def codes_from_batch(self, batch: MeshBatch) -> Int[Tensor, "b n"]:
        """Flat ids of each mesh, padded with -1; meshes are brought to canonical order first."""
        rows = [torch.from_numpy(self.encode_grid(self._grid(mesh))) for mesh in batch.meshes()]
        if not rows:
            return torch.zeros((0, 0), dtype=torch.long)
        return pad_sequence(rows, batch_first=True, padding_value=-1).to(batch.vertices.device)

    def _grid(self, mesh: Mesh) -> GridMesh:
        bins = quantize(mesh.vertices, self.num_discrete_coors)
        return canonicalize_grid(bins, mesh.faces, self.num_discrete_coors)

    @no_type_check
    def decode(self, ids, errors="raise"):
        """Flat ids as a mesh of bin centres in [-1, 1], in canonical order; the beginning of a sentence is a mesh too.

        Raises `CodesError` for ids out of range, and `TokenError` where they contradict each other; errors = "repair"
        gives the faces up to there instead.
        """
        if errors not in ("raise", "repair"):
            raise CodesError(f"errors must be 'raise' or 'repair', got {errors!r}")
        ids = torch.as_tensor(ids, dtype=None if len(ids) else torch.long)
        if ids.ndim != 1 or ids.is_floating_point():
            raise CodesError(f"decode takes a flat list of integer ids, got shape {tuple(ids.shape)} of {ids.dtype}")
        self.check_codes(ids)
        if ids.numel() and int(ids.min()) < 0:
            raise CodesError("decode takes ids without padding, got -1: cut the padding off first")
        vertices, faces = self.decode_grid(ids.cpu().numpy().astype(np.int64), errors)
        return canonicalize_grid(vertices, faces, self.num_discrete_coors).mesh()

    @no_type_check
    def decode_from_codes_to_faces(self, codes, face_mask=None, errors="repair"):
        """(coordinates (b, nf, 3, 3), NaN at padding; mask (b, nf)) of ids (b, n) padded with -1.

        Faces come in the order written. A row that contradicts itself gives its faces up to there, unless
        errors = "raise". Faces for which `face_mask` (b, nf) is False are left out. Raises `CodesError` for ids out of
        range, or with padding before an id.
        """
        codes = torch.as_tensor(codes)
        if codes.ndim != 2:
            raise CodesError(f"ids of several meshes have shape (b, n), got {tuple(codes.shape)}")
        self.check_codes(codes)
        rows = [self._corners(row, errors) for row in codes.cpu().numpy().astype(np.int64)]
        most = max((len(row) for row in rows), default=0)
        coordinates = torch.full((len(rows), most, 3, 3), torch.nan)
        mask = torch.zeros((len(rows), most), dtype=torch.bool)
        for index, row in enumerate(rows):
            coordinates[index, : len(row)] = torch.from_numpy(dequantize(row, self.num_discrete_coors)).float()
            mask[index, : len(row)] = True
        if face_mask is not None:
            mask &= face_mask.cpu()
            coordinates = coordinates.masked_fill(~mask[..., None, None], torch.nan)
        return coordinates.to(codes.device), mask.to(codes.device)

    def _corners(self, row: np.ndarray, errors: Errors) -> np.ndarray:
        """Bins (nf, 3, 3) of the corners of the faces of one padded row of ids."""
        length = int((row >= 0).sum())
        if (row[:length] < 0).any():
            raise CodesError(f"id {int((row < 0).argmax())} is padding, and ids come behind it: pad at the end only")
        vertices, faces = self.decode_grid(row[:length], errors)
        return vertices[faces]

    def decode_faces_alone(self, codes: Int[Tensor, "f t"]) -> Float[Tensor, "f k 3"]:
        """Always raises `CodesError`: a face here is said by what was written before it."""
        raise CodesError(f"{type(self).__name__} cannot read a face without those before it: use decode")
