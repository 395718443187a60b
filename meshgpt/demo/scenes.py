"""What the page shows: a message, and meshes as the viewer takes them."""

import base64
import logging
import re
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from meshgpt.demo.wish import Wish
from meshgpt.errors import MeshError, MeshGPTError
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.files import turned_back, write_mesh
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.topology import topology_report
from meshgpt.mesh.viewer import packed
from meshgpt.pipeline import GeneratedMesh, faults
from meshgpt.retopology import drawn_cloud, likeness
from meshgpt.wishes import Target

MOST_SHOWN = 150_000  # faces of a shape that are drawn; of a denser one, points
SIDE = 1.9  # the longest side of a normalised shape
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scene:
    """What the page shows from now on.

    kind: "waiting", "writing", "done", "stopped" or "trouble". meshes: entries of the viewer, the best first; None
    leaves those there are. first, last: whether they begin something, or finish it.
    """

    kind: str
    message: str
    meshes: list[dict[str, Any]] | None = None
    first: bool = False
    last: bool = False

    @property
    def is_over(self) -> bool:
        return self.kind in ("done", "stopped", "trouble")


def growing(mesh: Mesh, title: str, label: str) -> dict[str, Any]:
    return packed(mesh, title, "being written", label=label, stays=True, growing=True)


def shape_entry(target: Target, path: Path) -> dict[str, Any]:
    shape = target.shape
    what = described(shape)
    if isinstance(shape, Mesh) and shape.num_faces > MOST_SHOWN:
        shape, what = PointCloud.from_mesh(shape, 4000, 0), f"{what}, drawn as points"
    mesh = shape if isinstance(shape, Mesh) else drawn_cloud(shape)
    return packed(mesh, path.name, what, label="your shape", stays=True)


def described(shape: Mesh | PointCloud) -> str:
    if isinstance(shape, PointCloud):
        return f"A cloud of {len(shape):,} points"
    return f"A mesh of {shape.num_faces:,} faces"


def _finished(mesh: Mesh, wish: Wish, seed: int, caption: str, **metadata: Any) -> dict[str, Any]:
    """A mesh with the file that is downloaded, which says what it came from."""
    asked = {"text": wish.text, "category": wish.category, "faces": wish.faces, "cond_scale": wish.guidance}
    kept = {name: value for name, value in {**asked, **metadata}.items() if value is not None}
    words = re.sub(r"\W+", "-", wish.name.lower()).strip("-")[:60] or "mesh"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mesh.glb"
        write_mesh(turned_back(mesh, wish.up), path, metadata={"generator": "meshgpt", "seed": seed, **kept})
        glb = base64.b64encode(path.read_bytes()).decode()
    return packed(mesh, wish.name, caption, label=f"seed {seed}", file=f"{words}-seed-{seed}", glb=glb)


def written_scene(wish: Wish, model: str, written: list[GeneratedMesh], stopped: bool, seconds: float) -> Scene:
    solid = [item for item in written if item.mesh.num_faces]
    if not solid:
        return _nothing(stopped)
    solid.sort(key=partial(faults, faces=wish.faces))
    best, count = solid[0], len(solid)
    captions = [f"seed {item.seed}{_cut(item)}" + f", {item.retouched}" * bool(item.retouched) for item in solid]
    captions[0] += f", the best of {count}" if count > 1 else ""
    meshes = [
        _finished(item.mesh, wish, item.seed, caption, model=model)
        for item, caption in zip(solid, captions, strict=True)
    ]
    reasons = ["size"] * bool(wish.faces) + ["likeness"] * (best.match is not None) + ["clean form"]
    chosen = f", chosen from {count} for its {' and '.join(reasons)}" if count > 1 else ""
    words = f"{best.mesh.num_faces} faces in {seconds:.1f} s, {_closed(best.mesh)}{chosen}. Seed {best.seed}."
    words += _limits(best)
    return Scene("stopped" if stopped else "done", ("Stopped. " if stopped else "") + words, meshes, last=True)


def followed_scene(wish: Wish, target: Target, written: list[GeneratedMesh], stopped: bool, seconds: float) -> Scene:
    assert wish.shape is not None
    solid = [item for item in written if item.mesh.face_areas.sum() > 0]
    if not solid:
        return _nothing(stopped)
    best = min(solid, key=partial(faults, faces=wish.faces))
    caption = f"follows {wish.shape.name}, seed {best.seed}{_cut(best)}"
    entry = _finished(best.mesh, wish, best.seed, caption, follows=wish.shape.name)
    placed = Mesh(target.frame.normalize(best.mesh.vertices), best.mesh.faces)
    entry |= {**packed(placed, wish.name, caption), "label": "light mesh", "stays": True}
    off = likeness("result", target, best.mesh).report.chamfer / SIDE
    before = f" for {target.shape.num_faces:,}" if isinstance(target.shape, Mesh) else ""
    words = f"{best.mesh.num_faces} faces{before} in {seconds:.1f} s, {_closed(best.mesh)}, "
    words += f"{off:.1%} of the longest side away from the shape on average. Seed {best.seed}.{_limits(best)}"
    meshes = [entry, shape_entry(target, wish.shape)]
    return Scene("stopped" if stopped else "done", ("Stopped. " if stopped else "") + words, meshes, last=True)


def _nothing(stopped: bool) -> Scene:
    if stopped:
        return Scene("stopped", "Stopped before a face was written.")
    return Scene("trouble", "No candidate has a face this time. Try another seed, or more candidates.")


def _cut(item: GeneratedMesh) -> str:
    return "" if item.stopped_by == "end" else ", unfinished"


def _limits(item: GeneratedMesh) -> str:
    if item.stopped_by in ("end", "interrupted"):
        return ""
    return " It ran out of room before the model ended it: ask for fewer faces, or take another seed."


def _closed(mesh: Mesh) -> str:
    report = topology_report(mesh)
    return "closed all around" if report.watertight else f"{report.boundary_edges} open edges"


def trouble(error: Exception, path: Path | None) -> Scene:
    """What went wrong in words for the page: a file by its name, not by where the server keeps it."""
    if not isinstance(error, (MeshGPTError, OSError)):
        _LOG.error("the demo could not serve a request", exc_info=error)
        return Scene("trouble", "Something went wrong that should not have. The terminal of the server tells more.")
    words = str(error)
    if path is not None:
        words = words.replace(str(path), path.name)
        if isinstance(error, MeshError) and path.name not in words:
            words = f"{path.name}: {words}"
    begins = path is not None and words.startswith(path.name)
    return Scene("trouble", words if begins else words[:1].upper() + words[1:])
