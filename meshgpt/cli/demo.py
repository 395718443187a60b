"""`meshgpt demo`: a local page to write meshes on; with `--out`, sixteen meshes as files and a summary of them."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from meshgpt.cli.generate import Saved, Saving, check_output, save_page
from meshgpt.errors import ConfigError

if TYPE_CHECKING:
    from meshgpt.pipeline import GeneratedMesh

TRAINED_ON = "cc0-lowpoly+cc0-more"


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    demo = commands.add_parser("demo", parents=[shared], help="serve a page to write meshes on, or write 16 as files")
    help = "write meshes to this folder, with a contact sheet, a viewer and a summary, and serve no page"
    demo.add_argument("-o", "--out", type=Path, metavar="DIR", help=help)
    demo.add_argument("-n", "--num-meshes", type=int, help="with --out: how many (default: 16)")
    demo.add_argument("--seed", type=int, help="with --out: mesh i is written with SEED + i (default: 0)")
    demo.add_argument("--max-faces", type=int, help="with --out: stop a mesh here")
    demo.add_argument("--model", default="lowpoly", help="a bundled model, a folder or a Hub name")
    help = "what follows shapes on the page, where --model does not (default: lowpoly-points)"
    demo.add_argument("--follower", default="lowpoly-points", metavar="MODEL", help=help)
    demo.add_argument("--device", default="cpu", help="cpu, cuda, mps (default: cpu)")
    demo.add_argument("--host", default="127.0.0.1", help="where the page is served (default: 127.0.0.1, this machine)")
    demo.add_argument("--port", type=int, default=7860, help="0 for any that is free (default: 7860)")
    demo.add_argument("--no-browser", action="store_true", help="do not open the page in a browser")
    demo.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        write(arguments)
        return
    for name in ("num_meshes", "seed", "max_faces"):
        if getattr(arguments, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')} goes with --out DIR; on the page there are fields for it")
    serve(arguments)


def serve(arguments: argparse.Namespace) -> None:
    """The page, until Ctrl-C."""
    from meshgpt.demo.page import load_gradio

    load_gradio()  # before anybody waits for models
    from meshgpt.demo.server import serve
    from meshgpt.demo.studio import Studio
    from meshgpt.evaluation.judge import ShapeJudge

    studio = Studio.load(arguments.model, arguments.follower, arguments.device, ShapeJudge())
    serve(studio, arguments.host, arguments.port, not arguments.no_browser)


def write(arguments: argparse.Namespace) -> None:
    """Files of meshes, and what is to be said of them."""
    from meshgpt.mesh.picture import contact_sheet, save_png
    from meshgpt.pipeline import MeshPipeline

    check_output(arguments.out, "glb")
    pipe = MeshPipeline.from_pretrained(arguments.model, device=arguments.device)
    options = {} if arguments.max_faces is None else {"max_faces": arguments.max_faces}
    count, start = 16 if arguments.num_meshes is None else arguments.num_meshes, time.perf_counter()
    saving = Saving(arguments.out, "glb", {"model": str(arguments.model), **options}, tell=False)
    written = saving.generate(pipe.generate, seed=arguments.seed or 0, num_meshes=count, **options)
    seconds, saved = time.perf_counter() - start, saving.saved
    page = save_page(saved, arguments.out / "index.html", f"meshgpt demo: {arguments.model}")
    sheet = save_png(contact_sheet([item.mesh for item in saved if item.path]), arguments.out / "contact_sheet.png")
    lines = list(summary(written, saved, seconds, pipe.config.candidates))
    print("\n".join(lines))
    (arguments.out / "summary.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"files: {arguments.out}/seed-*.glb\npicture: {sheet}\nviewer: {page}")


def summary(written: "list[GeneratedMesh]", saved: list[Saved], seconds: float, candidates: int = 1) -> Iterator[str]:
    """Lines of text: each mesh, then how many are valid, and how many copy a mesh of the training set.

    candidates: of how many each mesh was chosen, which the figures below then speak of.
    """
    from meshgpt.data.dataset import MeshDataset
    from meshgpt.evaluation.copies import CopyFinder
    from meshgpt.mesh.topology import topology_report

    dataset = MeshDataset(TRAINED_ON)
    finder = CopyFinder(dataset)
    reports = [topology_report(item.mesh) for item in written]
    copies = [finder.find(item.mesh) for item in written]
    names = dataset.column("name")
    for item, report, copy in zip(saved, reports, copies, strict=True):
        notes = [f"{report.components} parts", "watertight" if report.watertight else "open"]
        notes += [] if copy is None else [f"{'is' if copy.exact else 'is like'} '{names[copy.index]}'"]
        yield f"  {item.caption:<28} {', '.join(notes)}"
    faces = sum(report.faces for report in reports)
    chosen = f"; each was chosen from {candidates}, for its form" if candidates > 1 else ""
    yield f"{len(written)} meshes, {faces} faces, in {seconds:.1f} s{chosen}"
    sound = sum(r.faces > 0 and not r.degenerate_faces and not r.duplicate_faces for r in reports)
    wound = sum(report.faces > 0 and report.consistently_wound for report in reports)
    closed = sum(report.watertight for report in reports)
    ended = sum(item.stopped_by == "end" for item in written)
    yield f"valid: {sound} without degenerate or duplicate faces, {wound} consistently wound, {closed} watertight"
    yield f"ended by the model itself: {ended} of {len(written)}"
    exact, alike = (sum(copy is not None and copy.exact is kind for copy in copies) for kind in (True, False))
    yield (
        f"copies of a training mesh: {exact} of {len(written)} have the same faces, {alike} more are the same"
        " up to stretching, quarter turns and mirroring"
    )
