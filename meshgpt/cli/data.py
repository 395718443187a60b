"""`meshgpt data build`: a folder of mesh files becomes a data set. `meshgpt data fields`: its meshes as fields.

`meshgpt data inspect`: what is in one.
"""

import argparse
from pathlib import Path
from typing import Any


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
    build.add_argument("--fields", action="store_true", help="also what `data fields OUT` makes")
    build.set_defaults(run=run_build)

    fields = actions.add_parser(
        "fields", parents=[shared], help="make meshes solid and sample inside, outside, distance"
    )
    fields.add_argument("data", help="a data set: folder, .zip, .npz or a bundled name")
    fields.add_argument("-o", "--out", type=Path, help="a folder (default: 'fields' within DATA, or DATA.fields)")
    fields.add_argument("--surface", type=int, help="points on each surface (default: 4096)")
    fields.add_argument("--sharp", type=int, help="of those, along sharp edges (default: 1024)")
    fields.add_argument("--volume", type=int, help="points in the box (default: 8192)")
    fields.add_argument("--near", type=int, help="points near the surface (default: 8192)")
    fields.add_argument("--max-faces", type=int, help="leave longer meshes out")
    fields.add_argument("--categories", nargs="+", metavar="NAME", help="only meshes of these")
    fields.add_argument("--workers", type=int, help="processes (default: one a core; 0: none but this one)")
    fields.add_argument("--overwrite", action="store_true", help="replace what is at OUT")
    fields.set_defaults(run=run_fields)

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
    if arguments.fields:
        _make_fields(str(arguments.out), None, arguments, {})


def run_fields(arguments: argparse.Namespace) -> None:
    names = ("surface", "sharp", "volume", "near")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    chosen = {"max_faces": arguments.max_faces, "categories": arguments.categories}
    _make_fields(arguments.data, arguments.out, arguments, chosen, **given)


def _make_fields(
    data: str, out: Path | None, arguments: argparse.Namespace, chosen: dict[str, Any], **given: int
) -> None:
    from meshgpt.data.dataset import MeshDataset
    from meshgpt.data.field_store import SUBFOLDER
    from meshgpt.data.fields import build_fields

    dataset = MeshDataset(data).filter(**chosen)
    beside = Path(data) / SUBFOLDER if Path(data).is_dir() else Path(data).with_suffix(f".{SUBFOLDER}")
    made = build_fields(dataset, out or beside, workers=arguments.workers, overwrite=arguments.overwrite, **given)
    ways = ", ".join(f"{count} {method}" for method, count in made.methods.items())
    print(f"{len(made)} shapes ({ways}) -> {made.path}; {len(made.refused)} refused")
    for name, why in made.refused[:3]:
        print(f"  {name}: {why}")


def run_inspect(arguments: argparse.Namespace) -> None:
    from meshgpt.data.dataset import MeshDataset
    from meshgpt.data.inspect import dataset_sheet, inspect_dataset

    dataset = MeshDataset(arguments.data)
    print(f"{dataset.store.path}: {inspect_dataset(dataset).table()}")
    if arguments.show > 0:
        out = arguments.out or Path(f"{dataset.store.path.stem}.png")
        dataset_sheet(dataset, out, count=arguments.show, size=arguments.size)
        print(f"\n{min(arguments.show, len(dataset))} of them: {out}")
