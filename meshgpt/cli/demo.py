"""`meshgpt demo`: sixteen meshes from the bundled model as files, on a contact sheet and in a viewer, and a summary."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from meshgpt.cli.generate import Saved, Saving, check_output, save_page

if TYPE_CHECKING:
    from meshgpt.pipeline import GeneratedMesh

TRAINED_ON = "cc0-lowpoly"


def add_commands(commands: argparse._SubParsersAction, shared: argparse.ArgumentParser) -> None:
    demo = commands.add_parser("demo", parents=[shared], help="generate 16 meshes with the bundled model and sum up")
    demo.add_argument("-o", "--out", type=Path, default=Path("out/demo"), help="folder (default: out/demo)")
    demo.add_argument("-n", "--num-meshes", type=int, default=16, help="how many (default: 16)")
    demo.add_argument("--seed", type=int, default=0, help="mesh i is written with SEED + i (default: 0)")
    demo.add_argument("--max-faces", type=int, help="stop a mesh here")
    demo.add_argument("--model", default="lowpoly", help="a bundled model, a folder or a Hub name")
    demo.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from meshgpt.mesh.picture import contact_sheet, save_png
    from meshgpt.pipeline import MeshPipeline

    check_output(arguments.out, "glb")
    pipe = MeshPipeline.from_pretrained(arguments.model)
    options = {} if arguments.max_faces is None else {"max_faces": arguments.max_faces}
    start = time.perf_counter()
    saving = Saving(arguments.out, "glb", {"model": str(arguments.model), **options}, tell=False)
    written = saving.generate(pipe.generate, seed=arguments.seed, num_meshes=arguments.num_meshes, **options)
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

    dataset = MeshDataset.bundled(TRAINED_ON)
    finder = CopyFinder(dataset)
    reports = [topology_report(item.mesh) for item in written]
    copies = [finder.find(item.mesh) for item in written]
    names = dataset.column("name")
    for item, report, copy in zip(saved, reports, copies, strict=True):
        notes = [f"{report.components} parts", "watertight" if report.watertight else "open"]
        notes += [] if copy is None else [f"{'is' if copy.exact else 'is like'} '{names[copy.index]}'"]
        yield f"  {item.caption:<28} {', '.join(notes)}"
    faces = sum(report.faces for report in reports)
    chosen = f"; each was chosen from {candidates}, for its closed edges" if candidates > 1 else ""
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
