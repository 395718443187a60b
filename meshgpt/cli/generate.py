"""`meshgpt generate`: meshes out of a model, as files, with what they came from written into them."""

import argparse
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshgpt.errors import GenerationError, GenerationInterrupted, MeshFileError

if TYPE_CHECKING:
    from meshgpt.mesh.mesh import Mesh
    from meshgpt.pipeline import GeneratedMesh, MeshPipeline

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "max_faces", "candidates")


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    generate = commands.add_parser("generate", parents=[shared], help="write new meshes")
    generate.add_argument("text", nargs="?", help="what to generate, for a model that was trained with texts")
    generate.add_argument("-n", "--num-meshes", type=int, default=4, help="how many (default: 4)")
    generate.add_argument("-o", "--out", type=Path, default=Path("out"), help="folder for the files (default: out)")
    generate.add_argument("--model", default="lowpoly", help="a bundled model, a folder or a Hub name")
    generate.add_argument("--seed", type=int, help="mesh i is written with SEED + i (default: drawn, and told)")
    generate.add_argument("--prompt", type=Path, help="a mesh file to go on from; normalised if it leaves [-1, 1]")
    generate.add_argument("--format", default="glb", help="glb, obj, ply, stl, off or gltf (default: glb)")
    generate.add_argument("--temperature", type=float, help="below 1 is safer, above 1 wilder; 0 takes the likeliest")
    generate.add_argument("--top-k", type=int, help="choose among the k likeliest codes")
    generate.add_argument("--top-p", type=float, help="choose among the codes that make up this probability")
    generate.add_argument("--min-p", type=float, help="choose among codes of this share of the likeliest one's")
    generate.add_argument("--max-faces", type=int, help="stop a mesh here")
    generate.add_argument("--candidates", type=int, help="write so many of each, keep the one of most closed edges")
    generate.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    generate.add_argument("--view", action="store_true", help="write index.html beside the meshes, to look at them")
    generate.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from meshgpt.pipeline import MeshPipeline

    if arguments.text is not None:
        raise GenerationError(
            f"text conditioning is not in the model '{arguments.model}', which writes meshes from a seed or from a"
            f" begun mesh (--prompt): leave {arguments.text!r} out"
        )
    check_output(arguments.out, arguments.format)
    pipe = MeshPipeline.from_pretrained(arguments.model, device=arguments.device)
    options = {name: getattr(arguments, name) for name in SAMPLING if getattr(arguments, name) is not None}
    prompt = None if arguments.prompt is None else read_prompt(arguments.prompt)
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    saving = Saving(arguments.out, arguments.format, {"model": str(arguments.model), **options})
    saving.generate(pipe, seed=seed, num_meshes=arguments.num_meshes, prompt=prompt, **options)
    if arguments.view:
        print(f"look at them: {save_page(saving.saved, arguments.out / 'index.html', f'meshgpt {arguments.model}')}")


def check_output(folder: Path, extension: str) -> None:
    """Makes the folder; raises `MeshFileError` for a format that cannot be written, before anybody waits for meshes."""
    from meshgpt.mesh.files import FORMATS

    if extension.lower().lstrip(".") not in FORMATS:
        raise MeshFileError(f"--format {extension}: meshes are written as {', '.join(FORMATS)}")
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
    """Writes `folder/seed-S.EXTENSION` for each mesh; seed and settings are kept in the file where its format can."""

    def __init__(self, folder: Path, extension: str, settings: dict[str, Any], tell: bool = True):
        self.folder, self.extension, self.settings, self.tell = folder, extension.lstrip("."), settings, tell
        self.saved: list[Saved] = []

    def generate(self, pipe: "MeshPipeline", **options: Any) -> "list[GeneratedMesh]":
        """What the pipeline generates; each batch is saved before the next is begun, and at Ctrl-C what there is."""
        try:
            return pipe.generate(on_mesh=lambda _, item: self.keep(item), progress=True, **options)
        except GenerationInterrupted as interrupt:
            for item in interrupt.written[len(self.saved) :]:
                self.keep(item)
            raise

    def keep(self, item: "GeneratedMesh") -> None:
        """Writes the file of one mesh and tells of it."""
        from tqdm import tqdm

        from meshgpt.mesh.files import write_mesh

        caption, path = f"seed {item.seed}, {item.mesh.num_faces} faces", None
        caption += "" if item.stopped_by == "end" else f", cut off by {item.stopped_by}"
        if item.mesh.num_faces:
            metadata = {"generator": "meshgpt", "seed": item.seed, **self.settings}
            path = write_mesh(item.mesh, self.folder / f"seed-{item.seed}.{self.extension}", metadata=metadata)
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
