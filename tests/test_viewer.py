"""The viewer page: one file, nothing fetched, exact geometry, and text that stays text."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest

from meshgpt.errors import DataError
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.viewer import ASSETS, MOST_MESHES, write_viewer

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
QUADS = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
HOSTILE = """</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> & "quotes" 'too' {{three}} \u2028"""


def cube() -> Mesh:
    return Mesh(CORNERS * [1, 2, 1 / 3], np.concatenate((QUADS, [[0, 1, 3, -1]])))


def entries_of(page: str) -> list[dict]:
    """The meshes as a browser finds them: the text of the data block up to the first closing tag, read as JSON."""
    block = page.split('<script type="application/json" id="meshes">')[1].split("</script")[0]
    return json.loads(block)["meshes"]


def unpacked(entry: dict) -> tuple[np.ndarray, np.ndarray]:
    vertices = np.frombuffer(base64.b64decode(entry["vertices"]), dtype="<f4").reshape(-1, 3)
    faces = np.frombuffer(base64.b64decode(entry["faces"]), dtype="<" + {"int16": "i2", "int32": "i4"}[entry["index"]])
    return vertices, faces.reshape(-1, entry["corners"])


def test_a_page_holds_the_exact_geometry(tmp_path, tiny_meshes):
    large = Mesh(np.random.default_rng(0).normal(size=(40000, 3)), [[0, 39999, 20000]])  # beyond 16-bit indices
    meshes = [cube(), Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int)), large, *tiny_meshes[:5]]
    page = write_viewer(meshes, tmp_path / "page.html").read_text(encoding="utf-8")
    entries = entries_of(page)
    assert [entry["index"] for entry in entries[:3]] == ["int16", "int16", "int32"]
    for mesh, entry in zip(meshes, entries, strict=True):
        vertices, faces = unpacked(entry)
        assert (vertices == mesh.vertices.astype(np.float32)).all() and (faces == mesh.faces).all()
        assert entry["corners"] == mesh.corners and entry["count"] == mesh.num_faces


def test_a_page_refers_to_nothing_outside_itself(tmp_path):
    page = write_viewer([cube()], tmp_path / "page.html").read_text(encoding="utf-8")
    without_comments = re.sub(r"/\*.*?\*/", "", page, flags=re.DOTALL)
    addresses = set(re.findall(r"(?:https?|wss?|ftp):*//[^\s\"'`)]*", without_comments))
    assert addresses <= {"http://www.w3.org/1999/xhtml"}  # the name of a namespace, never fetched
    assert not re.search(r"<(link|iframe|img|object|embed|base)\b|<script[^>]*\bsrc=|@import|url\(", page)


def test_only_the_scripts_and_the_style_of_the_page_may_run(tmp_path):
    page = write_viewer([cube()], tmp_path / "page.html", titles=[HOSTILE]).read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    blocks = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", page, flags=re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_titles_and_captions_are_text_whatever_they_hold(tmp_path):
    path = write_viewer([cube()], tmp_path / "page.html", titles=[HOSTILE], captions=[HOSTILE[::-1]], title=HOSTILE)
    page = path.read_text(encoding="utf-8")
    assert entries_of(page)[0]["title"] == HOSTILE and entries_of(page)[0]["caption"] == HOSTILE[::-1]
    assert "alert(1)</script>" not in page and "<img" not in page and "\u2028" not in page.split("meshes")[-1]
    assert page.count("</script>") == 3
    assert "&lt;/script&gt;" in page.split("</title>")[0]
    script = (ASSETS / "viewer.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", script)


def test_titles_are_made_up_where_none_are_given(tmp_path):
    page = write_viewer([cube(), cube()], tmp_path / "new" / "page.html", captions=["a box", None]).read_text("utf-8")
    assert [(entry["title"], entry["caption"]) for entry in entries_of(page)] == [("mesh 1", "a box"), ("mesh 2", "")]
    assert "<title>Meshes</title>" in page


def test_a_page_is_small_and_carries_the_licence_of_three(tmp_path):
    path = write_viewer([cube()] * 200, tmp_path / "page.html")
    assert path.stat().st_size < 800_000
    licence = (ASSETS / "three.LICENSE.txt").read_text(encoding="utf-8").strip()
    assert licence.startswith("The MIT License") and licence in path.read_text(encoding="utf-8")
    assert sum(len(file.read_bytes()) for file in ASSETS.iterdir()) < 1_000_000


def test_every_part_of_the_page_that_the_script_names_is_there():
    script, template = ((ASSETS / f"viewer.{kind}").read_text(encoding="utf-8") for kind in ("js", "html"))
    options = re.search(r"const options = \{(.*?)\}", script)[1]
    actions = re.search(r"const actions = \{(.*?)\};", script, flags=re.DOTALL)[1]
    named = set(re.findall(r'\$\("(\w+)"\)', script)) | set(re.findall(r"(\w+):", options + actions))
    assert len(named) > 15
    assert named <= set(re.findall(r'id="(\w+)"', template))


def test_what_the_script_uses_of_three_is_in_the_vendored_file():
    script, entry, vendored = (
        (ASSETS / name).read_text(encoding="utf-8") for name in ("viewer.js", "three.entry.js", "three.min.js")
    )
    used = set(re.findall(r"THREE\.(\w+)", script))
    assert used <= set(re.findall(r"\b[A-Z]\w+", entry))
    assert all(f"{name}:()=>" in vendored for name in used)


def test_pages_that_cannot_be_are_refused(tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(DataError, match=f"from 1 to {MOST_MESHES} meshes, got 0"):
        write_viewer([], path)
    with pytest.raises(DataError, match="2 meshes need as many titles, got 1"):
        write_viewer([cube(), cube()], path, titles=["one"])
    with pytest.raises(DataError, match="1 meshes need as many captions, got 2"):
        write_viewer([cube()], path, captions=["one", "two"])
    with pytest.raises(DataError, match="'far' has coordinates beyond the range of float32"):
        write_viewer([Mesh(CORNERS * 1e39, QUADS)], path, titles=["far"])
    assert not path.exists()
