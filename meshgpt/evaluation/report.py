"""The page that people look at: every figure of an evaluation, pictures and a viewer, in one file on its own."""

import base64
import html
import json
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, no_type_check

from meshgpt.evaluation.charts import curves, histogram
from meshgpt.evaluation.evaluate import Shown
from meshgpt.evaluation.tables import SETS, Table, cell, published_tables, tables_of, value_at
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.picture import contact_sheet, png_bytes
from meshgpt.mesh.viewer import viewer_page

STYLE = resources.files("meshgpt.evaluation") / "assets" / "report.css"
CURVES = ("loss", "val_loss", "bits_per_face", "val_bits_per_face", "triangle_accuracy", "val_triangle_accuracy")
SMALL, LARGE = 128, 160  # pixels of a mesh beside its nearest, and on the contact sheet
IN_VIEWER = 48
WORDS = {"shapes", "source"}  # columns of text
MANY_ROWS = 20  # of a table that is folded up


@no_type_check
def write_report(
    figures: dict[str, Any],
    path: str | Path,
    shown: Shown | None = None,
    log: Sequence[dict[str, Any]] = (),
    card: str = "",
) -> Path:
    """Writes the page of an evaluation and makes its folder.

    shown: meshes for the pictures. log: the lines of a run's metrics.jsonl, of which curves are drawn. card: what the
    model's own README says. Whatever texts and names hold is shown as plain text.
    """
    path, shown = Path(path), shown or Shown()
    first, *rest = tables_of(figures) or [Table("", (), ())]
    parts = [*_head(figures), *_tables([first]), *_pictures(shown), *_tables(rest), *_charts(figures, log)]
    parts += [*_viewer(shown), *_tables(published_tables(figures)), *_recipe(figures, card)]
    return _write_page(path, f"{figures.get('model', 'meshes')} on {figures.get('data', 'data')}", parts)


@no_type_check
def write_tables(tables: Sequence[Table], path: str | Path, title: str) -> Path:
    """Writes a page of tables and makes its folder."""
    return _write_page(Path(path), title, [f"<h1>{html.escape(title)}</h1>", *_tables(tables)])


def _write_page(path: Path, title: str, parts: Sequence[str]) -> Path:
    style = STYLE.read_text(encoding="utf-8")
    page = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
    page += f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
    page += f"<body><main>{''.join(parts)}</main></body></html>\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


@no_type_check
def _head(figures: dict[str, Any]) -> Iterator[str]:
    settings = figures.get("settings", {})
    yield f"<h1>{html.escape(str(figures.get('model', 'meshes')))}</h1>"
    told = [f"measured on {figures.get('data', 'data')}"]
    if settings:
        sets = f"{settings['seeds']} sets of" if settings["seeds"] > 1 else "one set of"
        told += [f"{sets} {settings['count']} meshes"]
        told += [f"up to {settings['max_faces']} faces"] if settings.get("max_faces") else []
        told += [{"none": "written unasked"}.get(settings["ask"], f"asked by {settings['ask']}")]
    yield f"<p>{html.escape(', '.join(told))}</p>"
    tiles = [(kind.title, cell(kind, value_at(figures, kind)), value_at(figures, kind, "train"), kind) for kind in SETS]
    if "sets" in figures:
        cells = (
            f"<div class=tile><b>{value}</b><span>{title}</span><span>train meshes: {cell(kind, floor)}</span></div>"
            for title, value, floor, kind in tiles
        )
        yield f"<div class=tiles>{''.join(cells)}</div>"
    for name, network in figures.get("networks", {}).items():
        right = network.get("val_accuracy")
        known = "" if right is None else f", right about {right:.1%} of val meshes"
        yield f"<p>{html.escape(name)}: {html.escape(network['what'])}; {network['categories']} categories{known}.</p>"


def _tables(tables: Sequence[Table]) -> Iterator[str]:
    for table in tables:
        if not table.rows:
            continue
        words = [column in WORDS for column in table.columns]
        kinds = zip(table.columns, words, strict=True)
        head = "".join(f"<th{' class=words' * is_text}>{html.escape(column)}</th>" for column, is_text in kinds)
        rows = []
        for cells in table.rows:
            inner = "".join(
                f"<td{' class=words' * is_text}>{html.escape(cell)}</td>"
                for cell, is_text in zip(cells, words, strict=True)
            )
            rows.append(f"<tr{' class=ours' * (cells[-1] == 'this evaluation')}>{inner}</tr>")
        yield f"<h2>{html.escape(table.title)}</h2>"
        whole = f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        folded = f"<details><summary>{len(rows)} rows</summary>{whole}</details>"
        yield folded if len(rows) > MANY_ROWS else whole
        yield f"<p>{html.escape(table.note)}</p>" if table.note else ""


@no_type_check
def _charts(figures: dict[str, Any], log: Sequence[dict[str, Any]]) -> Iterator[str]:
    drawn = []
    if "novelty" in figures:
        nearest = {name: figures["novelty"][name]["nearest"] for name in ("generated", "val")}
        real = {name: [value for value in values if value is not None] for name, values in nearest.items()}
        drawn.append(histogram(real, "Chamfer distance to the nearest training mesh"))
    if "face_counts" in figures:
        drawn.append(histogram(figures["face_counts"], "Faces"))
    for name in CURVES:
        lines = [line for line in log if name in line and "step" in line]
        if lines:
            points = [line["step"] for line in lines], [line[name] for line in lines]
            drawn.append(curves({name: points}, f"{name} while it was trained", "step"))
    if any(drawn):
        yield f"<h2>Distributions and curves</h2><div class=charts>{''.join(drawn)}</div>"


def _pictures(shown: Shown) -> Iterator[str]:
    real = [mesh for mesh in shown.meshes if mesh.num_faces]
    if not real:
        return
    yield "<h2>What is written</h2><p>The first ones, none left out but those without faces.</p>"
    yield _image(contact_sheet(real, columns=6, size=LARGE), "Generated meshes")
    if not any(mesh is not None for mesh in shown.nearest):
        return
    yield "<h2>Beside the nearest training mesh</h2><p>Left what was written, right the nearest one.</p>"
    pairs = []
    whole = zip(shown.meshes, shown.captions, shown.nearest, shown.nearest_captions, strict=True)
    for mesh, caption, nearest, nearest_caption in whole:
        if nearest is not None:
            picture = contact_sheet([mesh, nearest], columns=2, size=SMALL)
            told = html.escape(f"{caption} – nearest: {nearest_caption}")
            pairs.append(f"<figure>{_image(picture, 'A mesh and its nearest')}<figcaption>{told}</figcaption></figure>")
    yield f"<div class=pairs>{''.join(pairs)}</div>"


def _viewer(shown: Shown) -> Iterator[str]:
    entries: list[tuple[Mesh, str, str]] = []
    nearest = shown.nearest or [None] * len(shown.meshes)
    names = shown.nearest_captions or [""] * len(shown.meshes)
    for place, (mesh, caption, other, name) in enumerate(
        zip(shown.meshes, shown.captions, nearest, names, strict=True)
    ):
        entries += [(mesh, f"mesh {place}", caption)] if mesh.num_faces else []
        entries += [(other, f"nearest to {place}", name)] if other is not None else []
    if not entries:
        return
    meshes, titles, captions = (list(column) for column in zip(*entries[:IN_VIEWER], strict=True))
    page = html.escape(viewer_page(meshes, titles, captions, "Meshes"))
    yield "<h2>Turn them</h2>"
    yield f'<iframe sandbox="allow-scripts allow-downloads" title="Viewer" loading="lazy" srcdoc="{page}"></iframe>'


@no_type_check
def _recipe(figures: dict[str, Any], card: str) -> Iterator[str]:
    if card:
        yield f"<h2>The model, in its own words</h2><pre>{html.escape(card)}</pre>"
    settings = {name: figures[name] for name in ("command", "settings", "options", "version") if name in figures}
    yield f"<h2>How this was measured</h2><pre>{html.escape(json.dumps(settings, indent=1))}</pre>"


def _image(picture: Any, name: str) -> str:
    return f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png_bytes(picture)).decode()}">'
