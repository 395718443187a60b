"""Meshes written for people who watch: one wish at a time, seen while it grows, ended when they say so."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event, Lock, Thread
from time import perf_counter
from typing import Any, no_type_check

import numpy as np
import torch
from torch import Tensor

from meshgpt.demo.scenes import Scene, described, followed_scene, growing, shape_entry, trouble, written_scene
from meshgpt.demo.wish import FEWEST_POINTS, Wish
from meshgpt.errors import ConditionError, GenerationInterrupted, MeshGPTError
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.shape_files import read_shape
from meshgpt.pipeline import JUDGE, GeneratedMesh, MeshPipeline
from meshgpt.retopology import best_fitted, written_for
from meshgpt.steering import SteeringConfig
from meshgpt.wishes import Target

PAUSE = 0.25  # seconds between two looks at what is being written
REST = 3.0  # a look may take one part of the time in so many and one


@dataclass(eq=False)
class _Work:
    """What a thread does, and what there is to see of it: `begun` gives the meshes, normalised, and `stage` says more.

    finish: makes the last scene of what `do` gave, or of what there was of it when it was stopped.
    """

    do: Callable[[], list[GeneratedMesh]]
    begun: Callable[[], list[Mesh]]
    finish: Callable[[list[GeneratedMesh], bool, float], Scene]
    entries: Callable[[list[Mesh]], list[dict[str, Any]]]
    stage: Callable[[], str]
    written: list[GeneratedMesh] = field(default_factory=list)
    error: Exception | None = None
    interrupted: bool = False

    def run(self) -> None:
        try:
            self.written = self.do()
        except GenerationInterrupted as interrupt:
            self.written, self.interrupted = interrupt.written, True
        except KeyboardInterrupt:
            self.interrupted = True
        except Exception as error:
            self.error = error


class Studio:
    """The models of the page, and whose turn it is.

    writer: what texts and categories are for, or None. follower: what shapes are for, or None. Both may be the same.
    judge: chooses among candidates, see `MeshPipeline.generate`.
    """

    def __init__(
        self,
        writer: MeshPipeline | None,
        follower: MeshPipeline | None,
        name: str = "meshgpt",
        judge: JUDGE | None = None,
    ):
        self.writer, self.follower, self.name, self.judge = writer, follower, name, judge
        self._turn, self._waiting = Lock(), 0

    @classmethod
    @no_type_check
    def load(cls, model="lowpoly", follower="lowpoly-points", device="cpu", judge=None) -> "Studio":
        """With models that are bundled, in a folder or on the Hub; a model that follows shapes itself does both."""
        writer = MeshPipeline.from_pretrained(model, device=device)
        kinds = writer.transformer.config.kinds
        other = writer if "points" in kinds else MeshPipeline.from_pretrained(follower, device=device)
        return cls(writer if {"text", "category"} & set(kinds) else None, other, str(model), judge)

    @property
    def takes_text(self) -> bool:
        return self.writer is not None and "text" in self.writer.transformer.config.kinds

    @property
    def categories(self) -> tuple[str, ...]:
        """Those that the model was trained with."""
        return () if self.writer is None else tuple(self.writer.transformer.config.categories or ())

    @property
    def guidance(self) -> float:
        return 1.0 if self.writer is None else self.writer.config.cond_scale

    @no_type_check
    def look(self, path, up="y") -> Scene:
        """Shows a shape before anything is written for it."""
        try:
            target = self._target(Path(path), up)
            words = f"{described(target.shape)}. Press the button, and a light mesh is written along its surface."
            return Scene("done", words, [shape_entry(target, Path(path))], first=True, last=True)
        except Exception as error:
            return trouble(error, Path(path))

    @no_type_check
    def write(self, fields, stop) -> Iterator[Scene]:
        """Scenes until the mesh is there. fields: what `Wish.checked` takes. stop: an `Event` that ends it early.

        Nothing is raised: what goes wrong is told in the last scene.
        """
        shape = fields.get("shape")
        try:
            yield from self._in_turn(Wish.checked(fields), stop)
        except Exception as error:
            yield trouble(error, Path(shape) if shape else None)

    def _in_turn(self, wish: Wish, stop: Event) -> Iterator[Scene]:
        work = self._following(wish, stop) if wish.shape is not None else self._describing(wish, stop)
        self._waiting += 1
        try:
            if not self._turn.acquire(blocking=False):
                yield from self._wait(stop)
                if stop.is_set():
                    return
        finally:
            self._waiting -= 1
        try:
            yield from _watched(work, stop)
        finally:
            self._turn.release()

    def _wait(self, stop: Event) -> Iterator[Scene]:
        """Until it is our turn, which is then taken, or until we are told to stop."""
        yield Scene("waiting", "Another mesh is being written for someone else. Yours is next in line.")
        while not self._turn.acquire(timeout=PAUSE):
            if stop.is_set():
                yield Scene("stopped", "Stopped while waiting.")
                return
        if stop.is_set():
            self._turn.release()
            yield Scene("stopped", "Stopped while waiting.")

    # Meshes for a text or a category

    def _describing(self, wish: Wish, stop: Event) -> _Work:
        pipe = self.writer
        if pipe is None:
            raise ConditionError("This model takes neither texts nor categories. Drop a shape for it to follow.")
        self._check_budget(pipe, wish)
        seed = secrets.randbelow(2**31 - 1000) if wish.seed is None else wish.seed
        pieces: list[list[Tensor]] = [[] for _ in range(wish.candidates)]

        def hear(row: int, face: int, codes: Tensor) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            pieces[row].append(codes)

        options: dict[str, Any] = {"text": wish.text, "category": wish.category, "faces": wish.faces}
        if wish.guidance is not None:
            options["cond_scale"] = wish.guidance
        options = {name: value for name, value in options.items() if value is not None}
        return _Work(
            partial(
                pipe.generate,
                seed=seed,
                num_meshes=wish.candidates,
                batch_size=wish.candidates,
                candidates=1,
                judge=self.judge if wish.candidates > 1 else None,
                on_face=hear,
                **options,
            ),
            lambda: _begun(pipe, [torch.cat(row) for row in map(list, pieces) if row]),
            partial(written_scene, wish, self.name),
            lambda meshes: [growing(mesh, wish.name, f"no. {i + 1}") for i, mesh in enumerate(meshes)],
            lambda: "",
        )

    # A mesh for a shape

    def _following(self, wish: Wish, stop: Event) -> _Work:
        pipe, path = self.follower, wish.shape
        if pipe is None or path is None:
            raise ConditionError("This model follows no shapes.")
        self._check_budget(pipe, wish)
        target = self._target(path, wish.up)
        seed = secrets.randbelow(2**31 - 1000) if wish.seed is None else wish.seed
        newest: list[Tensor] = []
        stages = ["Looking at the shape…"]

        def check(*_: Any) -> None:
            if stop.is_set():
                raise KeyboardInterrupt

        def hear(codes: Tensor, scores: np.ndarray) -> None:
            check()
            row = codes[int(np.argmin(scores))]
            newest[:] = [row[row >= 0]]
            stages[:] = [""]

        def do() -> list[GeneratedMesh]:
            config = SteeringConfig(particles=wish.candidates)
            hooks = {"on_chunk": hear, "on_face": check}
            written = written_for(pipe, target, wish.faces, seed=seed, search=config, **hooks)
            stages[:] = ["Fitting the best ones to the shape…"]
            generated, fitted = best_fitted(written, target, wish.faces)
            return [replace(generated, mesh=fitted)]

        return _Work(
            do,
            lambda: _begun(pipe, list(newest)),
            partial(followed_scene, wish, target),
            lambda meshes: [
                *(growing(mesh, wish.name, "light mesh") for mesh in meshes),
                shape_entry(target, path),
            ],
            lambda: stages[0],
        )

    def _target(self, path: Path, up: str) -> Target:
        shape = read_shape(path, up)
        count = len(np.unique(shape.points, axis=0)) if isinstance(shape, PointCloud) else FEWEST_POINTS
        if count < FEWEST_POINTS:
            places = f"{count} point{'s'[: count != 1]} in different places"
            raise ConditionError(f"{path.name} has {places}. A surface can be followed from {FEWEST_POINTS} on.")
        return Target.of(shape)

    def _check_budget(self, pipe: MeshPipeline, wish: Wish) -> None:
        most = pipe.transformer.config.max_seq_len // (pipe.tokenizer.tokens_per_face or 1)
        if wish.faces is not None and wish.faces > most:
            raise ConditionError(f"This model writes up to {most} faces. Ask for fewer than {wish.faces:,}.")


def _watched(work: _Work, stop: Event) -> Iterator[Scene]:
    """Runs it in a thread, and tells what there is of it every now and then. Whoever looks away ends it."""
    began, first = perf_counter(), True
    thread = Thread(target=work.run, daemon=True)
    thread.start()
    yield Scene("writing", "Beginning…")
    try:
        pause = PAUSE
        while thread.is_alive():
            thread.join(pause)
            looked = perf_counter()
            meshes = work.begun()
            if meshes and thread.is_alive():
                words = "Stopping…" if stop.is_set() else work.stage() or _progress(meshes)
                yield Scene("writing", words, work.entries(meshes), first=first)
                first = False
            elif thread.is_alive() and work.stage():
                yield Scene("writing", work.stage())
            pause = max(PAUSE, REST * (perf_counter() - looked))
    finally:
        stop.set()
        thread.join()
    if work.error is not None:
        raise work.error
    yield work.finish(work.written, work.interrupted, perf_counter() - began)


def _progress(meshes: Sequence[Mesh]) -> str:
    faces = [mesh.num_faces for mesh in meshes]
    if len(faces) == 1:
        return f"Writing: {faces[0]} faces so far"
    return f"Writing {len(faces)} candidates: {min(faces)} to {max(faces)} faces so far"


def _begun(pipe: MeshPipeline, codes: Sequence[Tensor]) -> list[Mesh]:
    """What the codes of each stand for so far, in [-1, 1]; a mesh that cannot be read yet has no faces."""
    meshes = []
    for row in codes:
        try:
            meshes.append(pipe.decoded(row.cpu()))
        except MeshGPTError:
            meshes.append(Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64)))
    return meshes
