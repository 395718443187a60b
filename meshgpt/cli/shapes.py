"""`meshgpt shapes generate`: dense meshes out of fields from noise. `meshgpt shapes reconstruct`: out of a scan.

With `--lowpoly` each goes on through the mesh transformer, as `meshgpt retopo` does it, and both are kept side by side.
"""

import argparse
import json
import secrets
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshgpt.cli.generate import Saved, check_output, described, given, save_page, written_down
from meshgpt.cli.retopo import PARTICLES, particles
from meshgpt.errors import (
    CheckpointError,
    ConditionError,
    DataError,
    GenerationError,
    GenerationInterrupted,
    MeshFileError,
    MissingExtraError,
)

if TYPE_CHECKING:
    from meshgpt.mesh.clouds import PointCloud
    from meshgpt.mesh.mesh import Mesh
    from meshgpt.pipeline import MeshPipeline
    from meshgpt.retopology import Likeness
    from meshgpt.shapes.pipeline import FieldMesh, ShapePipeline

SAMPLERS = ("euler", "heun", "midpoint", "rk4", "ddim", "dopri5")
EXTRACTION = ("resolution", "keep_share", "smooth")
# and the kind of condition of each
WISHES = {"text": "text", "category": "category", "points": "points", "negative_text": "text"}
SUMMARY, BUNDLED = "summary.json", "shapes"
DECIMATED = 200  # faces, where no number was asked for


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    shapes = commands.add_parser(
        "shapes", help="shapes as fields: dense meshes from noise or scans, light ones of them"
    )
    actions = shapes.add_subparsers(title="actions", metavar="ACTION", required=True)

    generate = actions.add_parser("generate", parents=[shared], help="new shapes of a category or a text")
    generate.add_argument("text", nargs="?", help="what to generate, for a model that was trained with texts")
    generate.add_argument("--category", help="of those that the model was trained with")
    generate.add_argument("--points", type=Path, metavar="FILE", help="a cloud or a mesh file to follow")
    generate.add_argument("--negative-text", metavar="TEXT", help="what --guidance leads away from")
    generate.add_argument("-n", "--num", type=int, default=4, help="how many (default: 4)")
    generate.add_argument("-o", "--out", type=Path, default=Path("out"), help="folder for the files (default: out)")
    generate.add_argument("--seed", type=int, help="shape i is made with SEED + i (default: drawn, and told)")
    generate.add_argument(
        "--steps", type=int, dest="num_steps", metavar="N", help="from noise to latents (default: 18)"
    )
    how = "above 1: do more of what is asked (default: of the model)"
    generate.add_argument("--guidance", "--cond-scale", type=float, dest="cond_scale", metavar="SCALE", help=how)
    generate.add_argument("--sampler", choices=SAMPLERS, dest="method", help="how steps are taken (default: heun)")
    again = "how often a shape is encoded and brought back, which evens it (default: of the model; 0: never)"
    generate.add_argument("--rounds", type=int, metavar="N", help=again)
    generate.add_argument("--format", default="glb", help="glb, obj, ply, stl, off or gltf (default: glb)")
    generate.add_argument("--view", action="store_true", help="write index.html beside the meshes, to look at them")
    generate.set_defaults(run=run_generate)

    reconstruct = actions.add_parser("reconstruct", parents=[shared], help="the field of a scan, and its surface")
    reconstruct.add_argument(
        "shape", type=Path, help="a cloud (ply xyz npy pts csv) or a mesh (obj glb gltf ply stl off)"
    )
    reconstruct.add_argument("-o", "--out", type=Path, help="the dense mesh (default: NAME-field.glb beside the input)")
    reconstruct.add_argument("--num-points", type=int, metavar="N", help="so many are encoded (default: of the model)")
    many = "vectors that tell of the shape (default: of the model; more than it was trained with may tell more)"
    reconstruct.add_argument("--latents", type=int, dest="num_latents", metavar="N", help=many)
    reconstruct.add_argument("--as-is", action="store_true", help="take points from all faces of a mesh, open or not")
    reconstruct.add_argument("--up", default="y", help="the axis of the file that points up (default: y)")
    reconstruct.add_argument("--seed", type=int, default=0, help="of the points that are taken (default: 0)")
    reconstruct.add_argument("--report", type=Path, metavar="JSON", help="write the figures to this file")
    reconstruct.set_defaults(run=run_reconstruct)

    for action in (generate, reconstruct):
        action.add_argument("--model", default=BUNDLED, help="a bundled model, a folder or a Hub name")
        action.add_argument("--resolution", type=int, metavar="N", help="cells along each side (default: of the model)")
        less = "parts with less of the area are removed (default: of the model; 0: none)"
        action.add_argument("--keep-share", type=float, metavar="SHARE", help=less)
        even = "how often surfaces are evened out (default: of the model, 10; 0: never)"
        action.add_argument("--smooth", type=int, metavar="N", help=even)
        action.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
        action.add_argument("--picture", type=Path, metavar="PNG", help="draw all side by side")
        _add_lowpoly(action)


def _add_lowpoly(action: argparse.ArgumentParser) -> None:
    light = action.add_argument_group(
        "a light mesh of each", "as `meshgpt retopo` makes it, or with fewer of its faces, beside the dense one"
    )
    light.add_argument("--lowpoly", action="store_true", help="write it as NAME-light")
    light.add_argument("--lowpoly-model", default="lowpoly-points", metavar="MODEL", help="a model that follows points")
    light.add_argument("--faces", type=int, help="how many it should have (default: as the model sees fit)")
    help = f"so many begun meshes at once, of which those that follow the shape go on ({PARTICLES})"
    light.add_argument("--search", type=int, metavar="N", help=help)
    help = "in place of a search: so many meshes, each on its own, of which the best is kept"
    light.add_argument("--candidates", type=int, metavar="N", help=help)
    help = f"write NAME-decimated too: closed, with as many faces as asked for, as the light mesh or {DECIMATED}"
    light.add_argument("--decimated", action="store_true", help=help)
    light.add_argument("--no-fit", action="store_true", help="leave the vertices where the model put them")


def run_generate(arguments: argparse.Namespace) -> None:
    check_output(arguments.out, arguments.format)
    fewer = Decimation.of(arguments)
    pipe, lighten = load(arguments), Lightening.of(arguments)
    wishes = wished(arguments, pipe)
    options = given(arguments, ("num_steps", "cond_scale", "method", "rounds", *EXTRACTION))
    settings = {"model": str(arguments.model), **written_down({**wishes, **options})}
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    saving = FieldSaving(arguments.out, arguments.format.lstrip("."), settings, lighten, fewer, asked=described(wishes))
    options |= {"seed": seed, "num_shapes": arguments.num, "progress": True}
    try:
        pipe.generate(**wishes, **options, on_shape=lambda _, item: saving.keep(item, f"seed-{item.seed}"))
    finally:
        saving.sum_up()
    if not saving.saved:
        raise GenerationError(f"none of the {arguments.num} fields has a surface: try another seed, or train longer")
    if arguments.picture:
        print(f"picture: {saving.picture(arguments.picture)}")
    if arguments.view:
        title = f"meshgpt shapes {arguments.model}" + (f": {saving.asked}" if saving.asked else "")
        print(f"look at them: {save_page(saving.saved, arguments.out / 'index.html', title)}")


def run_reconstruct(arguments: argparse.Namespace) -> None:
    from meshgpt.mesh.shape_files import read_shape

    out = checked_output(arguments)
    shape, fewer = read_shape(arguments.shape, arguments.up), Decimation.of(arguments)
    pipe, lighten = load(arguments), Lightening.of(arguments)
    options = given(arguments, ("num_points", "num_latents", *EXTRACTION))
    made = pipe.reconstruct(shape, seed=arguments.seed, make_solid=not arguments.as_is, **options)
    print(f"{arguments.shape}: {shape}" + ("" if made.solid is None else f", {made.solid}"))
    if made.is_empty:
        said = "outside" if made.surface.verdict == "outside" else "inside"
        what = f"the field of {arguments.shape} has no surface: every point is {said}"
        raise GenerationError(f"{what}; the model may not know shapes of this kind, or see too few points")
    settings = {"model": str(arguments.model), "follows": arguments.shape.name, **options}
    saving = FieldSaving(out.parent, out.suffix.lstrip("."), settings, lighten, fewer, up=arguments.up)
    try:
        saving.keep(made, out.stem)
    finally:
        if arguments.report and saving.rows:
            figures = {"input": str(arguments.shape), **settings, **saving.rows[0]}
            arguments.report.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
            print(f"figures: {arguments.report}")
    if arguments.picture:
        print(f"picture: {saving.picture(arguments.picture, shape)}")


def load(arguments: argparse.Namespace) -> "ShapePipeline":
    """The model that was named. Raises `CheckpointError` where none is and none comes with the package."""
    from meshgpt.checkpoint import bundled_models
    from meshgpt.shapes.pipeline import ShapePipeline

    if arguments.model == BUNDLED and BUNDLED not in bundled_models() and not Path(BUNDLED).exists():
        advice = "train one with `meshgpt train shapes-autoencoder` and `meshgpt train shapes-denoiser`"
        raise CheckpointError(f"no model of shapes comes with this package: name one with --model, or {advice}")
    return ShapePipeline.from_pretrained(arguments.model, device=arguments.device)


def wished(arguments: argparse.Namespace, pipe: "ShapePipeline") -> dict[str, Any]:
    """What is asked for. Raises `ConditionError` for what the model does not take, before anything is made."""
    wishes = given(arguments, tuple(WISHES))
    kinds = () if pipe.prior is None else pipe.prior.config.kinds
    for name in wishes if pipe.prior is not None else ():
        if WISHES[name] not in kinds:
            takes = f"it was trained with {', '.join(kinds)}" if kinds else "it was trained without conditions"
            raise ConditionError(f"'{arguments.model}' takes no {name}, {takes}: leave {wishes[name]!s} out")
    return wishes


def checked_output(arguments: argparse.Namespace) -> Path:
    """Where the dense mesh goes. Raises `MeshFileError` for what cannot be written, before anybody waits for it."""
    out = arguments.out or arguments.shape.with_name(f"{arguments.shape.stem}-field.glb")
    check_output(out.parent, out.suffix or "no extension")
    if out.exists() and arguments.shape.exists() and out.samefile(arguments.shape):
        raise MeshFileError(f"{out} is the input, which would be lost: name another file with -o")
    for path in filter(None, (arguments.report, arguments.picture)):
        path.parent.mkdir(parents=True, exist_ok=True)
    return out


@dataclass(frozen=True)
class Decimation:
    """How decimated meshes are made: of so many faces, or of as many as the light mesh has."""

    faces: int | None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Decimation | None":
        """None where none are wanted. Raises `DataError` for too few faces, `MissingExtraError` without the package."""
        if not arguments.decimated:
            return None
        if find_spec("fast_simplification") is None:
            raise MissingExtraError("fast-simplification", "mesh", "--decimated")
        if arguments.faces is not None and arguments.faces < 4:
            raise DataError(f"--decimated --faces {arguments.faces}: a closed mesh has 4 faces at least")
        return cls(arguments.faces)

    def __call__(self, mesh: "Mesh", light: int | None) -> "Likeness":
        """light: how many faces the light mesh has, if there is one."""
        from meshgpt.data.decimate import decimate
        from meshgpt.retopology import likeness
        from meshgpt.wishes import Target

        count = self.faces or max(light or DECIMATED, 4)
        return likeness("decimated", Target.of(mesh), decimate(mesh, count))


@dataclass(frozen=True)
class Lightening:
    """How light meshes of dense ones are made."""

    pipe: "MeshPipeline"
    model: str
    faces: int | None
    options: dict[str, Any]

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "Lightening | None":
        """None where no light mesh is wanted. Raises `ConditionError` for a model that follows no points."""
        if not arguments.lowpoly:
            return None
        from meshgpt.pipeline import MeshPipeline

        pipe = MeshPipeline.from_pretrained(arguments.lowpoly_model, device=arguments.device)
        if not pipe.transformer.config.takes("points"):
            what = f"--lowpoly-model {arguments.lowpoly_model}: a light mesh needs a model that follows points"
            raise ConditionError(f"{what}; this one does not")
        options = {"search": particles(arguments), "fit": not arguments.no_fit, **given(arguments, ("candidates",))}
        return cls(pipe, str(arguments.lowpoly_model), arguments.faces, options)

    def __call__(self, mesh: "Mesh", seed: int) -> Any:
        """A `Retopology`; raises `GenerationError` where the transformer writes nothing that could be one."""
        from meshgpt.retopology import retopologize

        return retopologize(
            self.pipe, mesh, self.faces, seed=seed, nearest=None, decimated=False, progress=True, **self.options
        )


def noted(made: "Likeness") -> str:
    return f"{made.mesh.num_faces} faces, {made.open_edges:.0%} of the edges open, {made.report}"


def figures_of(made: "Likeness") -> dict[str, Any]:
    return {"faces": made.mesh.num_faces, "open_edges": made.open_edges, **asdict(made.report)}


@dataclass
class FieldSaving:
    """Writes NAME.EXTENSION for each dense mesh, and NAME-light.EXTENSION for its light one, as soon as there is one,
    and NAME-decimated.EXTENSION.

    saved: all that was written, dense ones, their light ones and their decimated ones in turn. rows: what the summary
    tells of each shape.
    """

    folder: Path
    extension: str
    settings: dict[str, Any]
    lighten: Lightening | None = None
    fewer: Decimation | None = None
    asked: str = ""
    up: str = "y"
    saved: list[Saved] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def keep(self, item: "FieldMesh", name: str) -> None:
        """Writes the files of one shape and tells of them."""
        row: dict[str, Any] = {"file": None, **item.to_dict()}
        self.rows.append(row)
        if item.is_empty:
            said = "nothing is inside" if item.surface.verdict == "outside" else "everything is inside"
            self._tell(f"nothing: seed {item.seed}, {said}, so there is no surface")
            return
        caption = f"seed {item.seed}, {item.mesh.num_faces} faces"
        caption += ", cut off by the box" if item.surface.touches_border else ""
        caption += f", Chamfer {item.fit.chamfer:.4f}" if item.fit is not None else ""
        caption += f"; asked for {self.asked}" if self.asked else ""
        row["file"] = self._written(item.mesh, name, item.seed, caption)
        if self.lighten is not None:
            self._keep_light(self.lighten, item, name, row)
        if self.fewer is not None:
            self._keep_decimated(self.fewer(item.mesh, row.get("light", {}).get("faces")), item.seed, name, row)

    def _keep_light(self, lighten: Lightening, item: "FieldMesh", name: str, row: dict[str, Any]) -> None:
        from meshgpt.pipeline import faults

        try:
            made = lighten(item.mesh, item.seed)
        except GenerationError as error:
            row["light"] = {"file": None, "reason": str(error)}
            self._tell(f"no light mesh of {row['file']}: {error}")
            return
        except GenerationInterrupted as interrupt:
            written = [each for each in interrupt.written if each.mesh.num_faces]
            if written:
                best = min(written, key=lambda each: faults(each, lighten.faces))
                note = f"{best.mesh.num_faces} faces, the best of {len(written)} so far"
                row["light"] = {"file": self._written(best.mesh, f"{name}-light", item.seed, note, lighten.model)}
            raise
        file = self._written(made.mesh, f"{name}-light", item.seed, noted(made.result), lighten.model)
        row["light"] = {"file": file, "model": lighten.model, **figures_of(made.result)}

    def _keep_decimated(self, made: "Likeness", seed: int, name: str, row: dict[str, Any]) -> None:
        file = self._written(made.mesh, f"{name}-decimated", seed, noted(made), "decimation")
        row["decimated"] = {"file": file, **figures_of(made)}

    def _written(self, mesh: "Mesh", name: str, seed: int, caption: str, light_by: str | None = None) -> str:
        from meshgpt.mesh.files import turned_back, write_mesh

        metadata = {"generator": "meshgpt shapes", "seed": seed, **self.settings}
        metadata |= {} if light_by is None else {"light_by": light_by}
        path = write_mesh(turned_back(mesh, self.up), self.folder / f"{name}.{self.extension}", metadata=metadata)
        self.saved.append(Saved(mesh, path, caption))
        self._tell(f"{path}: {caption}")
        return path.name

    @staticmethod
    def _tell(line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line)  # a bar that is shown stays below

    def sum_up(self) -> None:
        """Writes the summary of all shapes that were made, also where there were to be more."""
        if self.rows:
            text = json.dumps({**self.settings, "asked": self.asked, "shapes": self.rows}, indent=2)
            (self.folder / SUMMARY).write_text(text + "\n", encoding="utf-8")
            self._tell(f"summary: {self.folder / SUMMARY}")

    def picture(self, path: Path, shape: "Mesh | PointCloud | None" = None, size: int = 320) -> Path:
        """A contact sheet: what was given, and each dense mesh beside its light one."""
        from meshgpt.mesh.mesh import Mesh
        from meshgpt.mesh.picture import contact_sheet, save_png
        from meshgpt.retopology import drawn_cloud

        shown = [
            (item.mesh, f"{item.path.stem if item.path else ''}, {item.mesh.num_faces} faces") for item in self.saved
        ]
        if shape is not None:
            shown.insert(0, (shape if isinstance(shape, Mesh) else drawn_cloud(shape), "input"))
        meshes, titles = [mesh for mesh, _ in shown], [title for _, title in shown]
        each = 1 + (self.lighten is not None) + (self.fewer is not None)
        columns = len(shown) if shape is not None else None if each == 1 else each * min(4, len(self.rows))
        has_letters = find_spec("PIL") is not None
        return save_png(contact_sheet(meshes, columns, size, titles if has_letters else None, wireframe=False), path)
