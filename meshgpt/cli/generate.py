"""`meshgpt generate`: meshes out of a model, as files, with what they came from written into them."""

import argparse
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshgpt.errors import ConditionError, GenerationError, GenerationInterrupted, MeshFileError

if TYPE_CHECKING:
    from meshgpt.mesh.mesh import Mesh
    from meshgpt.pipeline import GeneratedMesh, MeshPipeline

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "max_faces", "candidates", "retouch")
WISHES = ("text", "category", "faces", "points", "mesh", "negative_text")
GUIDANCE = ("cond_scale", "cond_scale_end", "rescale_phi")
JUDGED_CANDIDATES = 32  # where a recognizer chooses; see `benchmarks/asked_by_name.py`


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    generate = commands.add_parser("generate", parents=[shared], help="write new meshes")
    generate.add_argument("text", nargs="?", help="what to generate, for a model that was trained with texts")
    generate.add_argument("--prompt", type=Path, help="a mesh file to go on from; normalised if it leaves [-1, 1]")
    add_output(generate)
    add_wishes(generate)
    generate.add_argument("--points", type=Path, metavar="FILE", help="a cloud (.ply .xyz ...) to follow, or a mesh")
    generate.add_argument("--mesh", type=Path, metavar="FILE", help="a mesh file whose surface is to be followed")
    add_sampling(generate)
    generate.set_defaults(run=run)


def add_output(command: argparse.ArgumentParser) -> None:
    """How many meshes, by which model, to where."""
    command.add_argument("-n", "--num-meshes", type=int, default=4, help="how many (default: 4)")
    command.add_argument("-o", "--out", type=Path, default=Path("out"), help="folder for the files (default: out)")
    command.add_argument("--model", default="lowpoly", help="a bundled model, a folder or a Hub name")
    command.add_argument("--seed", type=int, help="mesh i is written with SEED + i (default: drawn, and told)")
    command.add_argument("--format", default="glb", help="glb, obj, ply, stl, off or gltf (default: glb)")
    command.add_argument("--view", action="store_true", help="write index.html beside the meshes, to look at them")


def add_wishes(command: argparse.ArgumentParser) -> None:
    """What to ask a model for that was trained with it, and how strongly."""
    command.add_argument("--category", help="of those that the model was trained with")
    command.add_argument("--faces", type=int, help="how many to aim at; --max-faces is a limit")
    command.add_argument("--negative-text", metavar="TEXT", help="what --cond-scale leads away from")
    command.add_argument("--cond-scale", type=float, help="above 1: do more of what is asked (default: of the model)")
    command.add_argument("--cond-scale-end", type=float, help="--cond-scale changes to this over the first 100 faces")
    command.add_argument("--rescale-phi", type=float, help="from 0 to 1: guidance exaggerates less")


def add_sampling(command: argparse.ArgumentParser) -> None:
    command.add_argument("--temperature", type=float, help="below 1 is safer, above 1 wilder; 0 takes the likeliest")
    command.add_argument("--top-k", type=int, help="choose among the k likeliest codes")
    command.add_argument("--top-p", type=float, help="choose among the codes that make up this probability")
    command.add_argument("--min-p", type=float, help="choose among codes of this share of the likeliest one's")
    command.add_argument("--max-faces", type=int, help="stop a mesh here")
    best = (
        "write so many of each and keep the best: nearest to what is followed, else most like what is asked for, closed"
    )
    command.add_argument("--candidates", type=int, help=best)
    forms = "take candidates as they were written: not tidied, and no half of them made whole by its mirror image"
    command.add_argument("--no-retouch", action="store_const", const=False, dest="retouch", help=forms)
    command.add_argument("--no-judge", action="store_true", help="choose candidates by their form alone")
    add_machine(command)


def add_machine(command: argparse.ArgumentParser) -> None:
    """Where the model runs, and how it is read there."""
    command.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    fewer = "how matrices are read; fewer bits are faster for large models on a CPU (default: float32)"
    command.add_argument("--weights", choices=("float32", "bfloat16", "int8"), default="float32", help=fewer)


def load(arguments: argparse.Namespace) -> "MeshPipeline":
    """The model that was named, where and as it is to run."""
    from meshgpt.pipeline import MeshPipeline

    weights = None if arguments.weights == "float32" else arguments.weights
    return MeshPipeline.from_pretrained(arguments.model, device=arguments.device, weights=weights)


def run(arguments: argparse.Namespace) -> None:
    check_output(arguments.out, arguments.format)
    pipe = load(arguments)
    wishes = wished(arguments, pipe)
    judge = judge_of(arguments, wishes)
    options = {**({} if judge is None else {"candidates": JUDGED_CANDIDATES}), **given(arguments, SAMPLING + GUIDANCE)}
    options = {**wishes, **options}
    prompt = None if arguments.prompt is None else read_prompt(arguments.prompt)
    settings = {"model": str(arguments.model), "weights": arguments.weights, **written_down(options)}
    saving = Saving(arguments.out, arguments.format, settings, asked=described(wishes))
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    saving.generate(pipe.generate, seed=seed, num_meshes=arguments.num_meshes, prompt=prompt, judge=judge, **options)
    if arguments.view:
        title = f"meshgpt {arguments.model}" + (f": {saving.asked}" if saving.asked else "")
        print(f"look at them: {save_page(saving.saved, arguments.out / 'index.html', title)}")


def judge_of(arguments: argparse.Namespace, wishes: dict[str, Any]) -> Any:
    """What chooses among candidates that were asked for by a text or a category, and follow no shape."""
    by_words, by_shape = {"text", "category"} & wishes.keys(), {"points", "mesh"} & wishes.keys()
    if arguments.no_judge or arguments.candidates == 1 or by_shape or not by_words:
        return None
    from meshgpt.evaluation.judge import ShapeJudge

    return ShapeJudge()


def given(arguments: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of these names that were given."""
    return {name: value for name in names if (value := getattr(arguments, name, None)) is not None}


def wished(arguments: argparse.Namespace, pipe: "MeshPipeline") -> dict[str, Any]:
    """What is asked for. Raises `ConditionError` for what the model does not take, before anything is read."""
    from meshgpt.wishes import KEYWORDS, refusal

    wishes, kinds = given(arguments, WISHES), pipe.transformer.config.kinds
    for name in ("text", "category", "negative_text"):
        if not wishes.get(name, name).strip():
            raise ConditionError(f"the {name.replace('_', ' ')} is empty: say what you would like, or leave it out")
    for name in wishes:
        if KEYWORDS.get(name, "text") not in kinds:
            raise ConditionError(f"'{arguments.model}' cannot do {str(wishes[name])!r}: {refusal(name, kinds)}")
    return wishes


def written_down(options: dict[str, Any]) -> dict[str, Any]:
    """Options as a file keeps them: paths by their names."""
    return {name: value.name if isinstance(value, Path) else value for name, value in options.items()}


def described(wishes: dict[str, Any]) -> str:
    """What is asked for, in a few words; nothing for nothing."""
    forms = {"text": "'{}'", "category": "category {}", "faces": "{} faces", "negative_text": "not '{}'"}
    parts = (forms.get(name, "like {}").format(value) for name, value in written_down(wishes).items())
    return ", ".join(parts)


def check_output(folder: Path, extension: str) -> None:
    """Makes the folder; raises `MeshFileError` for a format that cannot be written, before anybody waits for meshes."""
    from meshgpt.mesh.files import FORMATS

    if extension.lower().lstrip(".") not in FORMATS:
        raise MeshFileError(f"--format {extension}: meshes are written as {', '.join(FORMATS)}")
    if folder.exists() and not folder.is_dir():
        raise MeshFileError(f"{folder} is a file: name a folder with --out")
    folder.mkdir(parents=True, exist_ok=True)


def read_prompt(path: Path) -> "Mesh":
    """The mesh in a file, moved into [-1, 1] where it is not there already."""
    from meshgpt.mesh.files import read_mesh

    mesh = read_mesh(path)
    return mesh.normalized() if abs(mesh.bounds).max() > 1 else mesh


@dataclass(frozen=True)
class Saved:
    """A generated mesh and its file, None where it has no faces and so cannot be a file."""

    mesh: "Mesh"
    path: Path | None
    caption: str


class Saving:
    """Writes `folder/seed-S.EXTENSION` for each mesh; seed and settings are kept in the file where its format can.

    asked: what the meshes should be, for the captions. up: the axis of the files that points up. tell: prints a line
    for each mesh.
    """

    def __init__(
        self, folder: Path, extension: str, settings: dict[str, Any], asked: str = "", up: str = "y", tell: bool = True
    ):
        self.folder, self.extension, self.settings = folder, extension.lstrip("."), settings
        self.asked, self.up, self.tell = asked, up, tell
        self.saved: list[Saved] = []

    def generate(self, write: "Callable[..., list[GeneratedMesh]]", **options: Any) -> "list[GeneratedMesh]":
        """What `write`, a pipeline's `generate` or `complete`, gives; each batch is saved before the next is begun.

        At Ctrl-C, what there is.
        """
        try:
            return write(on_mesh=lambda _, item: self.keep(item), progress=True, **options)
        except GenerationInterrupted as interrupt:
            for item in interrupt.written[len(self.saved) :]:
                self.keep(item)
            raise

    def keep(self, item: "GeneratedMesh") -> None:
        """Writes the file of one mesh and tells of it."""
        from tqdm import tqdm

        from meshgpt.mesh.files import turned_back, write_mesh

        caption, path = f"seed {item.seed}, {item.mesh.num_faces} faces", None
        caption += "" if item.stopped_by == "end" else f", cut off by {item.stopped_by}"
        caption += f", {item.retouched}" if item.retouched else ""
        caption += "" if item.fit is None else f", Chamfer {item.fit.chamfer:.4f}"
        caption += "" if item.match is None else f", looks like it: {100 * math.exp(item.match):.0f} %"
        caption += f"; asked for {self.asked}" if self.asked else ""
        if item.mesh.num_faces:
            metadata = {"generator": "meshgpt", "seed": item.seed, "form": item.form, **self.settings}
            mesh = turned_back(item.mesh, self.up)
            path = write_mesh(mesh, self.folder / f"seed-{item.seed}.{self.extension}", metadata=metadata)
        self.saved.append(Saved(item.mesh, path, caption))
        if self.tell:
            tqdm.write(f"{path or 'nothing'}: {caption}")  # a bar that is shown stays below


def save_page(saved: list[Saved], path: Path, title: str) -> Path:
    """The HTML viewer of all that have faces. Raises `GenerationError` where none has."""
    from meshgpt.mesh.viewer import write_viewer

    shown = [item for item in saved if item.path is not None]
    if not shown:
        raise GenerationError("none of the meshes has a face, there is nothing to look at: try another seed")
    names = [item.path.stem for item in shown if item.path]
    return write_viewer([item.mesh for item in shown], path, names, [item.caption for item in shown], title)
