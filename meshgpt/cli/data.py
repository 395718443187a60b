"""`meshgpt data build`: a folder of mesh files becomes a data set. `meshgpt data inspect`: what is in one."""

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshgpt.data.dataset import MeshDataset

BAR_WIDTH = 40


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    data = commands.add_parser("data", help="build data sets and look into them")
    actions = data.add_subparsers(title="actions", metavar="ACTION", required=True)

    build = actions.add_parser("build", parents=[shared], help="read a folder of mesh files into a data set")
    build.add_argument("folder", type=Path, help="searched with all its subfolders")
    build.add_argument("-o", "--out", type=Path, required=True, help="a folder, or one file if it ends in .zip")
    build.add_argument("--min-faces", type=int, help="refuse meshes of fewer")
    build.add_argument("--max-faces", type=int, help="refuse meshes of more")
    build.add_argument("--decimate", action="store_true", default=None, help="simplify to --max-faces instead")
    build.add_argument("--quads", action="store_true", default=None, help="keep faces of four corners")
    build.add_argument("--up", help="the axis of the files that points up (default: y)")
    build.add_argument("--val-fraction", type=float, help="share of families marked 'val' (default: 0.1)")
    for field in ("licence", "author", "source"):
        build.add_argument(f"--{field}", help="of files whose .json beside them does not say")
    build.add_argument("--workers", type=int, help="processes (default: one a core; 0: none but this one)")
    build.add_argument("--overwrite", action="store_true", help="replace another data set at OUT")
    build.set_defaults(run=run_build)

    inspect = actions.add_parser("inspect", parents=[shared], help="counts, histograms and a contact sheet")
    inspect.add_argument("data", help="a data set: folder, .zip, .npz or a bundled name")
    inspect.add_argument("-o", "--out", type=Path, help="the contact sheet (default: NAME.png)")
    inspect.add_argument("--show", type=int, default=64, help="meshes on the contact sheet (default: 64; 0: no sheet)")
    inspect.add_argument("--size", type=int, default=160, help="pixels a mesh (default: 160)")
    inspect.set_defaults(run=run_inspect)


def run_build(arguments: argparse.Namespace) -> None:
    from meshgpt.data.build import build_dataset

    names = ("min_faces", "max_faces", "decimate", "quads", "up", "val_fraction", "licence", "author", "source")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    report = build_dataset(
        arguments.folder, arguments.out, workers=arguments.workers, overwrite=arguments.overwrite, **given
    )
    print(report.table())


def run_inspect(arguments: argparse.Namespace) -> None:
    from meshgpt.data.dataset import MeshDataset
    from meshgpt.errors import DataError
    from meshgpt.mesh.picture import contact_sheet, save_png

    dataset = MeshDataset(arguments.data)
    if not len(dataset):
        raise DataError(f"{dataset!r} is empty: there is nothing to show")
    print("\n".join(described(dataset)))
    if arguments.show > 0:
        step = max(1, len(dataset) // arguments.show)
        shown = [dataset.mesh(index) for index in range(0, len(dataset), step)][: arguments.show]
        out = arguments.out or Path(f"{dataset.store.path.stem}.png")
        save_png(contact_sheet(shown, size=arguments.size), out)
        print(f"{len(shown)} of them: {out}")


def described(dataset: "MeshDataset") -> Iterator[str]:
    """Lines of text: totals, then what the meshes are, then how many faces they have."""
    faces, vertices = dataset.face_counts, dataset.vertex_counts
    yield f"{dataset.store.path}: {len(dataset)} meshes, {faces.sum()} faces, {vertices.sum()} vertices"
    captioned = sum(bool(caption) for caption in dataset.column("caption"))
    yield f"faces a mesh: {faces.min()} to {faces.max()}, {faces.mean():.1f} on average; {captioned} have captions"
    for column in ("split", "category", "source", "licence"):
        counts = Counter(dataset.column(column))
        unnamed = counts.pop("", 0)
        yield f"{column}: {len(counts)} kinds" + (f", {unnamed} meshes without" if unnamed else "")
        yield from bars(dict(counts.most_common(12)))
        if len(counts) > 12:
            yield f"  ... and {len(counts) - 12} more"
    powers = Counter(int(count).bit_length() - 1 for count in faces if count)
    yield "faces"
    yield from bars({f"{2**power} to {2 ** (power + 1) - 1}": powers[power] for power in sorted(powers)})


def bars(counts: dict[str, int]) -> Iterator[str]:
    """One line for each count, with a bar that is as long as the count is large."""
    longest = max(counts.values(), default=1)
    width = max((len(name) for name in counts), default=0)
    for name, count in counts.items():
        yield f"  {name:<{width}} {count:7d} {'#' * round(BAR_WIDTH * count / longest)}"
