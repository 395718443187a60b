"""One HTML page to turn and inspect meshes: a single file that needs no network, no server and no other file."""

import base64
import hashlib
import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any, no_type_check

import numpy as np

from meshgpt.errors import DataError

ASSETS = resources.files("meshgpt.mesh") / "assets"
MOST_MESHES = 2000


@no_type_check
def write_viewer(meshes, path, titles=None, captions=None, title="Meshes") -> Path:
    """Writes a page that shows `meshes`, to click through, turn and download; makes its folder. See `viewer_page`."""
    page, path = viewer_page(meshes, titles, captions, title), Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


@no_type_check
def viewer_page(meshes, titles=None, captions=None, title="Meshes") -> str:
    """The HTML of a page that shows `meshes`; it may also stand within another one, as `srcdoc` of a frame.

    titles: a short name for each mesh; "mesh 1" and so on if not given. captions: a sentence for each, or None.
    title: of the page. All of them are shown as plain text, whatever they hold.

    Positions are kept as float32, faces exactly, quads as quads. Raises `DataError` for no meshes, more than
    `MOST_MESHES`, and titles or captions that are not as many as the meshes.
    """
    meshes = list(meshes)
    if not 1 <= len(meshes) <= MOST_MESHES:
        raise DataError(f"a viewer page shows from 1 to {MOST_MESHES} meshes, got {len(meshes)}")
    titles = [f"mesh {i + 1}" for i in range(len(meshes))] if titles is None else list(titles)
    captions = [""] * len(meshes) if captions is None else list(captions)
    for name, texts in (("titles", titles), ("captions", captions)):
        if len(texts) != len(meshes):
            raise DataError(f"{len(meshes)} meshes need as many {name}, got {len(texts)}")
    entries = [packed(*parts) for parts in zip(meshes, titles, captions, strict=True)]
    return _page(entries, str(title))


@no_type_check
def live_viewer_page(nothing="Meshes appear here.", title="Meshes") -> str:
    """The HTML of a page to stand in a frame within one of the same origin, which tells it what to show.

    To its parent it posts "ready", and takes messages {meshes, first, last}: entries made by `packed`, which replace
    those shown before, and whether they begin or finish something; the view stays in between. nothing: its words where
    there are no meshes.
    """
    return _page([], str(title), str(nothing))


@no_type_check
def packed(mesh, title, caption="", **more) -> dict[str, Any]:
    """One mesh as the page reads it: base64 of little-endian float32 vertices and int16 or int32 faces.

    more: `label`, a shorter title; `file`, the name of what is downloaded, without extension; `glb`, bytes in base64
    to download as GLB in place of one made of what is shown; `stays`, True for one in [-1, 1] that is not moved into
    the middle; `growing`, True where more faces will come. Raises `DataError` for coordinates beyond float32.
    """
    index = "int16" if mesh.num_vertices <= 2**15 else "int32"
    with np.errstate(over="ignore"):
        vertices = mesh.vertices.astype("<f4")
    if not np.isfinite(vertices).all():
        raise DataError(f"mesh '{title}' has coordinates beyond the range of float32; normalise it first")
    return {
        "title": str(title),
        "caption": "" if caption is None else str(caption),
        "count": mesh.num_faces,
        "corners": mesh.corners,
        "index": index,
        "vertices": base64.b64encode(vertices.tobytes()).decode(),
        "faces": base64.b64encode(mesh.faces.astype(np.dtype(index).newbyteorder("<")).tobytes()).decode(),
        **more,
    }


def _page(entries: list[dict[str, Any]], title: str, live: str = "") -> str:
    """The template with its parts put in; nothing that is put in is searched for further places."""
    parts = {name: (ASSETS / file).read_text(encoding="utf-8") for name, file in _FILES.items()}
    data = json.dumps({"meshes": entries, "live": live}, ensure_ascii=False, separators=(",", ":"))
    parts["meshes"] = re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", data)
    parts["title"] = html.escape(title)
    parts["policy"] = _policy(parts)
    template = (ASSETS / "viewer.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


_FILES = {"style": "viewer.css", "three": "three.min.js", "script": "viewer.js"}


def _policy(parts: dict[str, str]) -> str:
    """A content security policy under which only the page's own script and style run and nothing is ever fetched."""

    def allowed(*names: str) -> str:
        digests = (hashlib.sha256(parts[name].encode()).digest() for name in names)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return f"default-src 'none'; script-src {allowed('three', 'script')}; style-src {allowed('style')}; base-uri 'none'"
