"""Codes computed once and kept: for every mesh, and every augmented variant of it, in one flat file that runs share."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, no_type_check

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from meshgpt.checkpoint import file_sha256, locked, sync_folder, write_text, writing
from meshgpt.config import Config
from meshgpt.data.batch import MeshBatch
from meshgpt.errors import DataError
from meshgpt.fingerprint import described_by_content
from meshgpt.tokenizers.tokenizer import MeshTokenizer
from meshgpt.training.examples import Examples, MeshExamples

PART_SIZE = 1024  # entries tokenised between two saves, so that stopping loses little
FACES_AT_ONCE = 8192
MANIFEST_FILE, CODES_FILE, OFFSETS_FILE = "manifest.json", "codes.npy", "offsets.npy"


class TokenCache:
    """A folder of token sets, each under the hash of all that it depends on: tokenizer, data, augmentation, seed."""

    @no_type_check
    def __init__(self, folder):
        self.folder = Path(folder)

    def get(self, key: str, count: int, entry: Callable[[range], list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """(codes, offsets): those kept under `key`, or `count` entries made by `entry(range)` and kept from now on.

        Half-made sets go on from their last part. A damaged set is made again. Of several processes that ask for one
        set, one makes it and the others wait.
        """
        target = self.folder / key
        with writing(target):
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / f".lock-{key}"):
                if not _is_whole(target):
                    self._make(target, count, entry)
        return np.load(target / CODES_FILE, mmap_mode="r"), np.load(target / OFFSETS_FILE)

    def _make(self, target: Path, count: int, entry: Callable[[range], list[np.ndarray]]) -> None:
        parts = target.with_name(f".making-{target.name}")
        parts.mkdir(parents=True, exist_ok=True)
        for start in tqdm(range(0, count, PART_SIZE), desc="tokenising", disable=None, leave=False):
            path = parts / f"part-{start:010d}.npz"
            if not path.exists():
                rows = entry(range(start, min(start + PART_SIZE, count)))
                np.savez(path.with_suffix(".new.npz"), codes=_joined(rows), lengths=np.array([len(r) for r in rows]))
                os.replace(path.with_suffix(".new.npz"), path)
        loaded = [_read_part(path) for path in sorted(parts.glob("part-*[0-9].npz"))]
        fresh = target.with_name(f".writing-{target.name}")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        np.save(fresh / CODES_FILE, _joined([part["codes"] for part in loaded]))
        lengths = [part["lengths"] for part in loaded]
        np.save(fresh / OFFSETS_FILE, np.concatenate([[0], *lengths]).cumsum().astype(np.int64))
        hashes = {name: file_sha256(fresh / name) for name in (CODES_FILE, OFFSETS_FILE)}
        write_text(fresh / MANIFEST_FILE, json.dumps({"sha256": hashes}) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        os.rename(fresh, target)
        sync_folder(self.folder)
        shutil.rmtree(parts, ignore_errors=True)


def _read_part(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as part:  # closed again: there may be more parts than a process may hold files open
        return dict(part)


def _joined(rows: list[np.ndarray]) -> np.ndarray:
    codes = np.concatenate([np.zeros(0, dtype=np.int32), *rows])
    return codes.astype(np.uint16) if not len(codes) or codes.max() < 2**16 else codes.astype(np.int32)


def _is_whole(folder: Path) -> bool:
    try:
        hashes = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["sha256"]
        return all(file_sha256(folder / name) == hashes[name] for name in (CODES_FILE, OFFSETS_FILE))
    except (OSError, ValueError, KeyError, TypeError):
        return False


@dataclass(frozen=True)
class PieceCodes:
    """The codes (n,) of some faces of a mesh, how many faces come before, and whether it ends with them."""

    codes: Tensor
    before: int = 0
    ends: bool = True

    def __len__(self) -> int:
        return len(self.codes)


class TokenExamples(Examples):
    """Codes of meshes: in epoch e, variant e of each, counting round. `size` of an example is its longest variant's.

    Entry i * num_variants + v holds the codes of variant v of mesh i. `faces_in` tells how many faces rows of codes
    (b, n) have. `tokenizer` tells the one that wrote them from others.

    With `piece_faces` a mesh is a `PieceCodes` of at most so many faces, another one each time its variant comes up;
    see `piece_start`.
    """

    piece_faces: int | None = None
    face_size = 1  # codes a face, for pieces

    def __init__(
        self,
        meshes: MeshExamples,
        codes: np.ndarray,
        offsets: np.ndarray,
        num_variants: int,
        faces_in: Callable[[Tensor], Tensor],
        tokenizer: str = "",
    ):
        super().__init__(meshes)
        self.meshes, self.codes, self.offsets, self.num_variants = meshes, codes, offsets, num_variants
        self._faces_in, self.tokenizer = faces_in, tokenizer
        self.lengths = np.diff(offsets).reshape(len(meshes), num_variants)
        self.kept = np.arange(len(meshes))

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def sizes(self) -> np.ndarray:
        sizes = self.lengths[self.kept].max(axis=1, initial=0)
        return sizes if self.piece_faces is None else sizes.clip(max=self.piece_faces * self.face_size)

    def in_pieces(self, piece_faces: int, face_size: int) -> None:
        """From now on gives pieces of at most `piece_faces` faces of `face_size` codes."""
        self.piece_faces, self.face_size = piece_faces, face_size

    def leave_out(self, longest: int) -> None:
        """Leaves out meshes with a variant that is empty or longer than `longest` codes, and says so."""
        too_long, empty = (self.lengths > longest).any(axis=1), (self.lengths == 0).any(axis=1)
        self.kept = np.flatnonzero(~too_long & ~empty)
        if len(self.kept) == len(self.lengths):
            return
        what = f"of {len(self.lengths)} meshes, {too_long.sum()} need more than the {longest} codes of max_seq_len"
        what += f" and {(empty & ~too_long).sum()} have no face left on the grid"
        if len(self.kept) == 0:
            raise DataError(f"{what}: nothing is left to train on; raise max_seq_len or use fewer faces")
        warnings.warn(f"{what}: they are left out", stacklevel=3)

    def get(self, index: int, epoch: int) -> Tensor | PieceCodes:
        codes = self.codes_of(self.entry(index, epoch))
        return codes if self.piece_faces is None else self._piece(codes, self.entry(index, epoch), epoch)

    def _piece(self, codes: Tensor, entry: int, epoch: int) -> PieceCodes:
        assert self.piece_faces is not None
        size, faces, turn = self.face_size, len(codes) // self.face_size, epoch // self.num_variants
        start = piece_start(faces, self.piece_faces, turn, (self.meshes.seed, entry))
        end = start + self.piece_faces
        return PieceCodes(codes[start * size : end * size], start, end >= faces)

    def entry(self, index: int, epoch: int) -> int:
        return int(self.kept[index]) * self.num_variants + epoch % self.num_variants

    def codes_of(self, entry: int) -> Tensor:
        return torch.from_numpy(self.codes[self.offsets[entry] : self.offsets[entry + 1]].astype(np.int64))

    def faces_of(self, entry: int) -> int:
        return int(self._faces_in(self.codes_of(entry)[None]))

    def counts(self, vocab_size: int) -> Tensor:
        """How often each code is said, in all entries."""
        return torch.from_numpy(np.bincount(self.codes, minlength=vocab_size))

    @property
    def codes_per_face(self) -> float:
        """On average; where it varies, by some of the entries."""
        some = range(0, len(self.offsets) - 1, max(1, (len(self.offsets) - 1) // 64))
        codes, faces = sum(len(self.codes_of(entry)) for entry in some), sum(self.faces_of(entry) for entry in some)
        return codes / max(faces, 1)

    def name(self, index: int) -> str:
        return self.meshes.name(int(self.kept[index]))

    @property
    def fingerprint(self) -> str:
        pieces = "" if self.piece_faces is None else f" in pieces of {self.piece_faces}"
        return hashlib.sha256(
            f"{self.meshes.fingerprint} {self.num_variants}{pieces}".encode() + self.kept.tobytes()
        ).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        own = {"num_variants": self.num_variants, "tokenizer": self.tokenizer[:12], "piece_faces": self.piece_faces}
        return {**self.meshes.identity, **super().identity, **own}


def piece_start(faces: int, piece: int, turn: int, seed: tuple[int, ...]) -> int:
    """The first face of the piece of `piece` faces that is learned from when it is a mesh's turn for the n-th time.

    The mesh is cut at multiples of `piece`, all shifted by one random number; what sticks out at either end is moved
    inside. These pieces come in random order, then others by another shift: in each such round every face is learned
    from, and the beginning and the end of the mesh are, too.
    """
    if faces <= piece:
        return 0
    count = -(-faces // piece) + 1
    rng = np.random.default_rng((*seed, turn // count))
    shift, order = int(rng.integers(piece)), rng.permutation(count)
    return int(np.clip(int(order[turn % count]) * piece - shift, 0, faces - piece))


@no_type_check
def tokenized(
    tokenizer: MeshTokenizer,
    meshes: MeshExamples,
    cache: TokenCache,
    num_variants: int = 1,
    longest: int | None = None,
    piece_faces: int | None = None,
) -> TokenExamples:
    """The codes of `num_variants` views of each mesh, from the cache or made now (and kept there).

    Meshes longer than `longest` codes are left out with a warning, or with `piece_faces`, which needs a tokenizer with
    a fixed number of codes a face, learned from in pieces. Raises `DataError` if nothing is left.
    """
    key = token_key(tokenizer, meshes, num_variants)

    def entry(numbers: range) -> list[np.ndarray]:
        rows = {}
        with torch.no_grad():
            for chosen, batch in _batches(meshes, numbers, num_variants):
                codes = tokenizer.codes_from_batch(batch).cpu().numpy()
                rows |= {number: row[row >= 0].astype(np.int32) for number, row in zip(chosen, codes, strict=True)}
        return [rows.get(number, np.zeros(0, dtype=np.int32)) for number in numbers]

    codes, offsets = cache.get(key, len(meshes) * num_variants, entry)
    size = tokenizer.tokens_per_face
    faces_in = tokenizer.faces_in if size is None else partial(_in_pieces_of, size)
    examples = TokenExamples(meshes, codes, offsets, num_variants, faces_in, tokenizer_key(tokenizer))
    if piece_faces is not None:
        examples.in_pieces(piece_faces, size)
    whole = longest is None or piece_faces is not None
    examples.leave_out(int(examples.lengths.max(initial=1)) if whole else longest)
    return examples


def _in_pieces_of(size: int, codes: Tensor) -> Tensor:
    return (codes >= 0).sum(dim=1) // size


@no_type_check
def _batches(meshes: MeshExamples, numbers: range, num_variants: int) -> Iterator[tuple[list[int], MeshBatch]]:
    chosen: list[int] = []
    held: list[Any] = []
    for number in numbers:
        index, variant = divmod(number, num_variants)
        mesh = meshes.get(index, variant).mesh
        if not mesh.num_faces:
            continue
        if held and sum(m.num_faces for m in held) + mesh.num_faces > FACES_AT_ONCE:
            yield chosen, MeshBatch.from_meshes(held)
            chosen, held = [], []
        chosen.append(number)
        held.append(mesh)
    if held:
        yield chosen, MeshBatch.from_meshes(held)


@no_type_check
def token_key(tokenizer: MeshTokenizer, meshes: MeshExamples, num_variants: int) -> str:
    """A hash that changes with the tokenizer's weights and config, the data, the view of them, seed and variants."""
    seed = meshes.seed if num_variants > 1 or getattr(meshes.view, "augment", None) is not None else None
    return _key(tokenizer, [meshes.fingerprint, described_by_content(meshes.view), num_variants, seed])


@no_type_check
def tokenizer_key(tokenizer: MeshTokenizer) -> str:
    """A hash that changes with the tokenizer's weights and config."""
    return _key(tokenizer, [])


@no_type_check
def _key(tokenizer: MeshTokenizer, more: list[Any]) -> str:
    digest = hashlib.sha256()
    config = getattr(tokenizer, "config", None)
    own = [type(tokenizer).__name__, config.to_dict() if isinstance(config, Config) else repr(vars(tokenizer))]
    digest.update(json.dumps(own + more).encode())
    if isinstance(tokenizer, nn.Module):
        for name, tensor in tokenizer.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
