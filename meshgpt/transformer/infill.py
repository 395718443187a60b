"""Infill: faces that are kept wherever they stand in canonical order, and new ones written in order between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from meshgpt.data.batch import MeshBatch
from meshgpt.errors import GenerationError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.grammar import OrderGrammar
from meshgpt.mesh.mesh import Mesh
from meshgpt.tokenizers.tokenizer import MeshTokenizer

ANY = -1  # as many new faces as the model writes


@dataclass(frozen=True)
class Infill:
    """What is kept of each mesh, and how many faces are written besides.

    Given all faces before it, the model proposes the next face. If that comes before the next kept face it is written;
    if not, or if the model would end the mesh, the kept face takes its place. So faces strictly increase, none of the
    kept ones is passed over, and a kept face is as likely to come next as all faces from it on are together.
    """

    kept: Int[Tensor, "b n t"]  # codes of faces in canonical order, padded with -1
    new_faces: Int[Tensor, " b"]  # exactly so many; ANY

    @classmethod
    @no_type_check
    def of(cls, tokenizer, meshes, new_faces=None) -> "Infill":
        """Keeps all faces of a mesh, or of each of a list, whose coordinates lie where they do in the whole mesh.

        That is in [-1, 1], as `normalized()` made the whole mesh; a part is not normalised again. new_faces: how many
        to write, one number or one a mesh, None for as many as the model writes. Raises `GenerationError` for a
        tokenizer whose codes are not the coordinates of vertices in order, and for what cannot be kept.
        """
        check_infill(tokenizer)
        meshes = [meshes] if isinstance(meshes, Mesh) else list(meshes)
        if not meshes:
            raise GenerationError("no mesh to keep is given: the list is empty")
        rows = [_codes(tokenizer, mesh, index) for index, mesh in enumerate(meshes)]
        counts = new_faces if isinstance(new_faces, Sequence) else [new_faces] * len(rows)
        counts = [ANY if count is None else count for count in counts]
        if len(counts) != len(rows) or min(counts) < ANY:
            raise GenerationError(f"new_faces must be 0 or more, one number or one for each mesh, got {new_faces!r}")
        return cls(pad_sequence(rows, batch_first=True, padding_value=-1), torch.tensor(counts))

    def __len__(self) -> int:
        return len(self.kept)

    def checked(self, tokenizer: MeshTokenizer, limit: int, rows: int) -> "Infill":
        """The same for `rows` meshes. Raises `GenerationError` for another tokenizer, or more codes than `limit`."""
        check_infill(tokenizer)
        unit = self.kept.shape[2]
        if unit != tokenizer.tokens_per_face:
            raise GenerationError(f"faces of {unit} codes are to be kept, the model's have {tokenizer.tokens_per_face}")
        needed = (self.kept[..., 0] >= 0).sum(dim=1) + self.new_faces.clamp(min=0)
        if int(needed.max()) * unit > limit:
            raise GenerationError(
                f"{int(needed.max())} faces, kept and new, are {int(needed.max()) * unit} codes, and {limit} are to be "
                "written at most: keep fewer, or raise max_faces or max_seq_len"
            )
        if len(self) not in (1, rows):
            raise GenerationError(f"an infill of {len(self)} meshes for a batch of {rows}")
        return Infill(self.kept.expand(rows, -1, -1), self.new_faces.expand(rows))

    def begin(self, most_faces: int, device: Any) -> "Filling":
        """The state of an infill of at most `most_faces` faces a mesh, of which none is written yet."""
        return Filling(self.kept.to(device), self.new_faces.to(device), most_faces)


@no_type_check
def check_infill(tokenizer) -> None:
    """Raises `GenerationError` for a tokenizer that cannot say faces between others."""
    grammar = tokenizer.grammar
    if isinstance(grammar, OrderGrammar) and not isinstance(tokenizer, nn.Module):
        return
    if tokenizer.tokens_per_face is None:
        why = "says a face by those before it, and a new face would change the codes of all behind it"
    else:
        why = "gives the vertices of a face codes that depend on the faces around it, which are not written yet"
    raise GenerationError(f"{type(tokenizer).__name__} cannot infill: it {why}. Use a CoordinateTokenizer")


@no_type_check
def infill_prompt(prompt, infill) -> tuple[Any, Infill | None]:
    """An empty prompt of as many rows as `infill` has, and the infill; without one, the prompt as it was."""
    if infill is None:
        return prompt, None
    if not isinstance(infill, Infill):
        raise GenerationError(f"infill must be an Infill, got {type(infill).__name__}: make one with Infill.of")
    if prompt is not None:
        raise GenerationError("both a prompt and an infill are given: keep the faces of the prompt by the infill, too")
    return torch.empty(len(infill), 0, dtype=torch.long), infill


@no_type_check
def _codes(tokenizer, mesh, index: int) -> Tensor:
    """The faces (n t) of a mesh as codes, in canonical order."""
    if not isinstance(mesh, Mesh):
        raise GenerationError(f"what is to be kept must be a Mesh, got {type(mesh).__name__}")
    if not (np.abs(mesh.bounds) <= 1).all():
        raise GenerationError(f"mesh {index} reaches beyond [-1, 1]: place the part as in the whole mesh, normalized()")
    grid = canonicalize(tokenizer.with_own_corners(mesh), tokenizer.num_discrete_coors)
    if len(grid.faces) == 0:
        raise GenerationError(f"mesh {index} has no face left on the grid: there is nothing to keep")
    flat = tokenizer.codes_from_batch(MeshBatch.from_meshes([grid.mesh()]))[0]
    return rearrange(flat, "(n t) -> n t", t=tokenizer.tokens_per_face)


class Filling:
    """An infill under way: which kept face comes next in each row, and how many new ones are still to be written."""

    def __init__(self, kept: Int[Tensor, "b n t"], new_faces: Int[Tensor, " b"], most_faces: int):
        self.kept = F.pad(kept, (0, 0, 0, 1), value=-1)  # behind the last one: none
        self.new_faces, self.most_faces = new_faces, most_faces
        self.place = torch.zeros_like(new_faces)  # of the next kept face
        self.forced = torch.zeros_like(new_faces, dtype=torch.bool)  # whether the face being written is that one

    def _next(self) -> Int[Tensor, "b t"]:
        return self.kept[torch.arange(len(self.kept), device=self.kept.device), self.place]

    def may_end(self) -> Bool[Tensor, " b"]:
        """True for rows in which the model may propose the end; before all is kept it means the next kept face."""
        return self.new_faces <= 0

    def choose(
        self, codes: Int[Tensor, " b"], said: Int[Tensor, "b t"], place: int, faces: Int[Tensor, " b"], end: int
    ) -> Int[Tensor, " b"]:
        """What is written where the model proposes `codes` (the end as `end`) behind the codes `said` of a face.

        faces: how many each row has. With no room but for what is left to keep, that is written.
        """
        upcoming = self._next()
        remains = upcoming[:, 0] >= 0
        if place == 0:
            left = (self.kept[..., 0] >= 0).sum(dim=1) - self.place
            no_more = (self.new_faces == 0) | (faces + left >= self.most_faces)
            codes = torch.where(~remains & (self.new_faces == 0), end, codes)
            self.forced = remains & no_more
        alike = (said[:, :place] == upcoming[:, :place]).all(dim=1)
        self.forced = self.forced | (remains & alike & (codes > upcoming[:, place]))
        return torch.where(self.forced, upcoming[:, place], codes)

    def finish_face(self, faces: Int[Tensor, "b t"]) -> None:
        """Hears what was written."""
        was_kept = (faces == self._next()).all(dim=1)
        self.place = self.place + was_kept.long()
        self.new_faces = torch.where((self.new_faces > 0) & ~was_kept, self.new_faces - 1, self.new_faces)

    def select(self, rows: Int[Tensor, " r"]) -> None:
        self.kept, self.new_faces = self.kept[rows], self.new_faces[rows]
        self.place, self.forced = self.place[rows], self.forced[rows]
