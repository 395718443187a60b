"""`meshgpt view`: a page to turn meshes in. `meshgpt render`: a picture, a contact sheet or a turntable."""

import argparse
import math
import webbrowser
from pathlib import Path
from typing import Any

from meshgpt.cli.inputs import add_inputs, named_meshes
from meshgpt.errors import ConfigError


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    view = commands.add_parser("view", parents=[shared], help="write an HTML page to turn and inspect meshes")
    add_inputs(view)
    view.add_argument("-o", "--out", type=Path, default=Path("meshes.html"), help="the page (default: meshes.html)")
    view.add_argument("--title", default="Meshes", help="title of the page")
    view.add_argument("--open", action="store_true", help="open the page in the browser")
    view.set_defaults(run=run_view)

    render = commands.add_parser(
        "render", parents=[shared], help="draw a mesh; several become a contact sheet, a .gif a turntable"
    )
    add_inputs(render)
    render.add_argument("-o", "--out", type=Path, default=Path("meshes.png"), help=".png or .gif (default: meshes.png)")
    render.add_argument("--size", type=int, default=None, help="pixels a mesh (default: 512, on a contact sheet 256)")
    render.add_argument("--columns", type=int, default=None, help="of a contact sheet")
    render.add_argument("--azimuth", type=float, default=None, help="degrees about the up axis")
    render.add_argument("--elevation", type=float, default=None, help="degrees above the horizon")
    render.add_argument("--no-wireframe", action="store_true", help="faces only")
    render.add_argument("--no-titles", action="store_true", help="a contact sheet without file names")
    render.set_defaults(run=run_render)


def run_view(arguments: argparse.Namespace) -> None:
    from meshgpt.mesh.viewer import write_viewer

    meshes = named_meshes(arguments)
    captions = [f"{mesh.num_faces} faces, {mesh.num_vertices} vertices" for mesh in meshes.values()]
    page = write_viewer(meshes.values(), arguments.out, list(meshes), captions, arguments.title)
    print(f"{page}: {len(meshes)} meshes")
    if arguments.open:
        webbrowser.open(page.resolve().as_uri())


def run_render(arguments: argparse.Namespace) -> None:
    from meshgpt.mesh import picture

    kind = arguments.out.suffix.lower()
    if kind not in (".png", ".gif"):
        raise ConfigError(f"--out {arguments.out}: pictures are written as .png, one that turns as .gif")
    if arguments.columns is not None and arguments.columns < 1:
        raise ConfigError(f"--columns must be at least 1, got {arguments.columns}")
    meshes, fields = named_meshes(arguments), _fields(arguments)
    first, size = next(iter(meshes.values())), 384 if kind == ".gif" else 512 if len(meshes) == 1 else 256
    size = size if arguments.size is None else arguments.size
    if kind == ".gif":
        picture.save_gif(picture.turntable(first, size=size, **fields), arguments.out)
    elif len(meshes) == 1:
        picture.save_png(picture.render(first, size, **fields), arguments.out)
    else:
        titles = None if arguments.no_titles else list(meshes)
        sheet = picture.contact_sheet(meshes.values(), arguments.columns, size, titles, **fields)
        picture.save_png(sheet, arguments.out)
    print(f"{arguments.out}: {len(meshes)} {'mesh' if len(meshes) == 1 else 'meshes'}")


def _fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Camera` and `Style` that were given."""
    degrees = {"azimuth": arguments.azimuth, "elevation": arguments.elevation}
    fields = {name: math.radians(value) for name, value in degrees.items() if value is not None}
    return {**fields, **({"wireframe": False} if arguments.no_wireframe else {})}
