"""Tokenizer and transformer in one folder: a seed or a begun mesh goes in, finished meshes come out."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, no_type_check
from warnings import warn

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from meshgpt.checkpoint import find_model, load_config, save_model, save_parts, saved_class, upload
from meshgpt.config import Config
from meshgpt.data.batch import MeshBatch
from meshgpt.errors import CheckpointError, GenerationError, GenerationInterrupted
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.mesh import Mesh, drop_unused_vertices
from meshgpt.mesh.topology import orient, topology_report
from meshgpt.tokenizers.autoencoder import MeshAutoencoder
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.tokenizer import MeshTokenizer
from meshgpt.transformer.generation import GenerationResult
from meshgpt.transformer.transformer import MeshTransformer

TOKENIZERS: dict[str, Any] = {"MeshAutoencoder": MeshAutoencoder, "CoordinateTokenizer": CoordinateTokenizer}
CANDIDATE_STRIDE = 1_000_003  # between the seeds of one mesh's candidates
SMALLEST_AREA = 1e-9  # a face with less has its corners on one line; on 1,024 bins the least area else is 1.9e-6
STREAMED = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class MeshPipelineConfig(Config):
    """How a pipeline samples unless a call says otherwise; see `Sampling`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    min_faces: int = 1
    max_faces: int | None = None
    follow_grammar: bool | None = None  # None: where the tokenizer has a grammar
    candidates: int = 1  # of so many, the mesh with the smallest share of open and non-manifold edges is kept

    def validate(self) -> None:
        self.require(self.candidates >= 1, "candidates", "be at least 1")


@dataclass(frozen=True)
class GeneratedMesh:
    """A finished mesh, and how it came about."""

    mesh: Mesh
    seed: int
    codes: Tensor  # (n,), the prompt's first
    stopped_by: str  # "end": by the model; else by a limit, "max_faces" or "max_seq_len", or by Ctrl-C, "interrupted"


class MeshPipeline:
    """Writes meshes: `MeshPipeline.from_pretrained("lowpoly")(seed = 0, num_meshes = 4)` -> list of `Mesh`.

    A mesh comes out welded, without duplicate faces or such as have no area, wound consistently where that is possible,
    standing on the ground (y = 0), its longest side about 1.9.
    """

    config_class, part = MeshPipelineConfig, "pipeline"

    def __init__(
        self, tokenizer: MeshTokenizer, transformer: MeshTransformer, config: MeshPipelineConfig | None = None
    ):
        self.tokenizer, self.transformer = tokenizer, transformer
        self.config = config or MeshPipelineConfig()

    @no_type_check
    def __call__(self, text=None, *, seed=None, num_meshes=1, prompt=None, **options) -> list[Mesh]:
        """Finished meshes; the arguments are those of `generate`. Warns where a mesh was cut off by a limit."""
        written = self.generate(text, seed=seed, num_meshes=num_meshes, prompt=prompt, **options)
        cut = [item for item in written if item.stopped_by != "end"]
        if cut:
            limits = ", ".join(f"seed {item.seed} by {item.stopped_by}" for item in cut[:4])
            what = f"{len(cut)} of {len(written)} meshes were cut off before the model ended them ({limits})"
            warn(f"{what}: allow more faces, or see generate(...) for which", stacklevel=2)
        return [item.mesh for item in written]

    @no_type_check
    def generate(
        self,
        text=None,
        *,
        seed=None,
        num_meshes=1,
        prompt=None,
        batch_size=16,
        on_face=None,
        on_mesh=None,
        progress=False,
        **options,
    ) -> list[GeneratedMesh]:
        """`num_meshes` meshes, `batch_size` at a time; what a seed gives does not depend on either.

        seed: mesh i is written with seed + i; without one, seeds are drawn and told in the result. prompt: a `Mesh` in
        [-1, 1] to go on from; its faces come first. on_face(mesh, face, codes) hears of every face as it is written,
        on_mesh(mesh, generated) of every mesh. candidates: so many are written of each mesh, and the one with the
        fewest open and non-manifold edges is kept. progress: shows a bar. Further keywords: the fields of `Sampling`.
        Raises `GenerationError` for what this model cannot do, and for Ctrl-C `GenerationInterrupted`, which has what
        was written before, faces of unfinished meshes too.
        """
        if text is not None:
            raise GenerationError("this model was trained without texts and takes none: leave `text` out")
        if num_meshes < 1 or batch_size < 1:
            raise GenerationError(f"num_meshes and batch_size must be at least 1, got {num_meshes} and {batch_size}")
        options = {**self.config.to_dict(), **options}
        candidates = options.pop("candidates")
        if candidates < 1:
            raise GenerationError(f"candidates must be at least 1, got {candidates}")
        if options["follow_grammar"] is None:
            options["follow_grammar"] = self.tokenizer.grammar is not None
        seeds = self._seeds(seed, num_meshes)
        codes = None if prompt is None else self.prompt_codes(prompt)
        best: list[GeneratedMesh] = []
        with tqdm(total=num_meshes * candidates, disable=not progress, unit=" meshes") as bar:
            for start in range(0, num_meshes, batch_size):
                rows, result = seeds[start : start + batch_size], None
                try:
                    for round in range(candidates):
                        result = self.transformer.generate_result(
                            None if codes is None else codes.expand(len(rows), -1),
                            len(rows),
                            seed=tuple(row + CANDIDATE_STRIDE * round for row in rows),
                            on_face=_shifted(on_face, start),
                            progress=_shown_on(bar, start * candidates + (round + 1) * len(rows)),
                            **options,
                        )
                        best[start:] = self._better(best[start:], rows, result)
                    for index, item in enumerate(best[start:] if on_mesh else (), start):
                        on_mesh(index, item)
                except KeyboardInterrupt as interrupt:
                    result = getattr(interrupt, "result", result)
                    if result is not None:
                        best[start:] = self._better(best[start:], rows, result)
                    raise GenerationInterrupted(filter(_is_something, best), result) from interrupt
            bar.update(bar.total - bar.n)
        return best

    def _better(self, best: list[GeneratedMesh], seeds: list[int], result: GenerationResult) -> list[GeneratedMesh]:
        """Of each mesh the best so far, or what was written now if it is better; of no mesh yet: what was written."""
        codes = [row[row >= 0] for row in result.codes]
        new = [
            GeneratedMesh(self.finished(row), seed, row, reason)
            for row, seed, reason in zip(codes, seeds, result.stopped_by, strict=True)
        ]
        return [min(pair, key=_faults) for pair in zip(best, new, strict=True)] if best else new

    def _seeds(self, seed: int | np.integer | Sequence[int | np.integer] | None, num_meshes: int) -> list[int]:
        if seed is None:
            return [secrets.randbelow(2**31) for _ in range(num_meshes)]
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + index for index in range(num_meshes)]
        if len(seed) != num_meshes:
            raise GenerationError(f"{len(seed)} seeds for {num_meshes} meshes: give one for each, or a single number")
        return [int(each) for each in seed]

    @no_type_check
    def prompt_codes(self, mesh) -> Tensor:
        """Codes (1, n) of the mesh to go on from, which is not normalised: it stays where it is in [-1, 1]."""
        if not isinstance(mesh, Mesh):
            raise GenerationError(f"prompt must be a Mesh, got {type(mesh).__name__}")
        reach = float(np.abs(mesh.bounds).max())
        if reach > 1:
            what = f"the prompt reaches to {reach:.3g}, outside [-1, 1]"
            raise GenerationError(f"{what}: place it where it should stand in the finished mesh, or use .normalized()")
        grid = canonicalize(self.tokenizer.with_own_corners(mesh), self.tokenizer.num_discrete_coors)
        if len(grid.faces) == 0:
            raise GenerationError(f"no face of the prompt {mesh!r} is left on the grid")
        return self.tokenizer.codes_from_batch(MeshBatch.from_meshes([grid.mesh()]))

    def finished(self, codes: Tensor) -> Mesh:
        """The mesh that codes stand for, finished; an incomplete last face is left out."""
        unit = self.tokenizer.tokens_per_face or 1
        mesh = self.tokenizer.decode(codes[: len(codes) // unit * unit])
        welded = canonicalize(mesh, self.tokenizer.num_discrete_coors).mesh()
        solid = Mesh(*drop_unused_vertices(welded.vertices, welded.faces[welded.face_areas > SMALLEST_AREA]))
        return orient(solid).grounded()

    def to(self, device: str | torch.device) -> "MeshPipeline":
        """Moves the models; returns the pipeline."""
        for model in (self.tokenizer, self.transformer):
            if isinstance(model, nn.Module):
                model.to(device)
        return self

    @no_type_check
    def save_pretrained(self, folder, dtype=None) -> Path:
        """Writes tokenizer, transformer and settings to one folder; `dtype` bfloat16 or float16 halves the bytes.

        A pipeline that is there already is what `from_pretrained` finds until all of the new one is written.
        """
        with save_parts(folder) as fresh:
            self.tokenizer.save_pretrained(fresh / "tokenizer", dtype=dtype)
            self.transformer.save_pretrained(fresh / "transformer", dtype=dtype)
            save_model(self, self.config, fresh / self.part)
        return Path(folder)

    @classmethod
    @no_type_check
    def from_pretrained(cls, name_or_folder, *, device="cpu", revision=None) -> "MeshPipeline":
        """The pipeline in a folder, one bundled with the package ("lowpoly"), or one on the Hub ("owner/name").

        Raises `CheckpointError` for one that is missing, damaged, or of a tokenizer unknown here.
        """
        tokenizer = load_tokenizer(name_or_folder, revision)
        transformer = MeshTransformer.from_pretrained(name_or_folder, tokenizer, revision=revision)
        config = load_config(find_model(name_or_folder, cls.part, revision), cls)
        return cls(tokenizer, transformer, config).to(device)

    def push_to_hub(self, repository: str, private: bool = False, dtype: str | None = None) -> str:
        """Uploads the pipeline to the Hub repository "owner/name", which is made if need be; gives its address."""
        return upload(self, repository, private, dtype)


@no_type_check
def load_tokenizer(name_or_folder, revision=None) -> MeshTokenizer:
    """The tokenizer in a folder (a run, a pipeline, its own), one bundled with the package, or one on the Hub.

    Raises `CheckpointError` for one that is missing, damaged, or of a kind unknown here.
    """
    folder = find_model(name_or_folder, "tokenizer", revision)
    kind = saved_class(folder)
    if kind not in TOKENIZERS:
        raise CheckpointError(f"{folder} holds a {kind}, which is none of the tokenizers here: {', '.join(TOKENIZERS)}")
    return TOKENIZERS[kind].from_pretrained(folder)


def _faults(item: GeneratedMesh) -> tuple[int, float]:
    """Orders candidates: ended by the model, by a limit, by Ctrl-C; then by the share of edges without two faces."""
    report = topology_report(item.mesh)
    ended = {"end": 0, "interrupted": 2}.get(item.stopped_by, 1)
    return ended, (report.boundary_edges + report.nonmanifold_edges) / max(report.edges, 1)


def _is_something(item: GeneratedMesh) -> bool:
    return item.mesh.num_faces > 0 or item.stopped_by != "interrupted"


def _shown_on(bar: Any, total: int) -> Callable[[int, int], None]:
    """Moves a bar of meshes, of which `total` are done when no row is being written any more."""

    def show(face: int, rows: int) -> None:
        bar.set_postfix(face=face, refresh=False)
        bar.update(total - rows - bar.n)

    return show


def _shifted(on_face: STREAMED | None, start: int) -> STREAMED | None:
    if on_face is None:
        return None
    return lambda row, face, codes: on_face(start + row, face, codes)
