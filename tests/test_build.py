"""Building: what a folder holds is taken or refused with a reason, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from meshgpt.data import build as build_module
from meshgpt.data.build import BuildConfig, build_dataset
from meshgpt.data.build_report import BuildReport
from meshgpt.data.dataset import MeshDataset
from meshgpt.data.shards import Shards
from meshgpt.data.sources import find_files, words
from meshgpt.data.workers import Failure, run_in_processes
from meshgpt.errors import ConfigError, DataError
from meshgpt.mesh.files import read_mesh
from meshgpt.mesh.mesh import Mesh

FACES = [[1, 3, 2], [1, 2, 4], [2, 3, 4], [3, 1, 4]]


def write_obj(path: Path, size: float = 1.0, faces: list[list[int]] | None = None) -> Path:
    """A tetrahedron of its own proportions for each size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = [(0, 0, 0), (1, 0, 0), (0, size, 0), (0, 0, 1)]
    lines = [f"v {x} {y} {z}" for x, y, z in corners]
    path.write_text("\n".join(lines + ["f " + " ".join(map(str, face)) for face in faces or FACES]))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five good meshes of two categories, one duplicate, three broken files and two others."""
    root = tmp_path / "meshes"
    for index, size in enumerate((0.3, 0.5, 0.7)):
        write_obj(root / "chairs" / f"OfficeChair_{index}.obj", size)
    write_obj(root / "tables" / "low_table.obj", 0.9)
    write_obj(root / "tables" / "low_table_copy.obj", 0.9)
    write_obj(root / "plain.obj", 0.1)
    (root / "empty.obj").write_text("# nothing")
    (root / "broken.obj").write_text("v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3")
    write_obj(root / "flat.obj", 0.2, faces=[[1, 1, 2]])
    (root / "notes.md").write_text("hello")
    (root / ".hidden.obj").write_text("v")
    return root


def files_of(path: Path) -> dict[str, bytes]:
    """The bytes of a data set, without its report, which tells how long it took."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.name != "report.json"}


def build(folder: Path, out: Path, **keywords) -> BuildReport:
    return build_dataset(folder, out, workers=0, progress=False, **keywords)


# what is taken


def test_names_and_folders_become_captions_categories_and_families(folder, tmp_path):
    build(folder, tmp_path / "out")
    dataset = MeshDataset(tmp_path / "out")
    dataset.verify()
    assert list(dataset.column("name")) == [
        *(f"chairs/OfficeChair_{index}" for index in range(3)),
        "plain",
        "tables/low_table",
    ]
    assert list(dataset.column("caption")) == ["office chair"] * 3 + ["plain", "low table"]
    assert list(dataset.column("category")) == ["chairs"] * 3 + ["", "tables"]
    assert dataset.column("family")[0] == dataset.column("family")[2] == "chairs/office chair"
    assert set(dataset.column("split")) == {"train", "val"}
    assert dataset[0].extra["path"] == "chairs/OfficeChair_0.obj"
    again = read_mesh(folder / "chairs" / "OfficeChair_0.obj")
    assert np.array_equal(dataset.mesh(0).faces, again.faces)
    assert np.allclose(dataset.mesh(0).vertices, again.vertices, atol=1e-4)


def test_every_file_that_is_not_taken_is_named_with_its_reason(folder, tmp_path):
    report = build(folder, tmp_path / "out")
    reasons = {refusal.path: (refusal.kind, refusal.message) for refusal in report.refused}
    assert report.meshes == 5 and set(reasons) == {"tables/low_table_copy.obj", "empty.obj", "broken.obj", "flat.obj"}
    assert reasons["tables/low_table_copy.obj"] == ("duplicate", "the same mesh as tables/low_table.obj")
    assert "nan" in reasons["broken.obj"][1] and str(folder) not in reasons["broken.obj"][1]
    assert report.reasons == {"unreadable": 3, "duplicate": 1} and report.ignored == {".md": 1}
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert saved["reasons"] == report.reasons and len(saved["refused"]) == 4
    table = report.table(examples=1)
    assert "5 meshes" in table and "4 of 9 mesh files refused" in table
    assert "... and 2 more, see report.json" in table and "1 .md" in table
    assert BuildReport.from_json(report.to_json()) == report


def test_sidecars_say_more_than_names(folder, tmp_path):
    (folder / "plain.json").write_text(
        json.dumps({"text": "a tall spike", "license": "CC0-1.0", "creator": "Ann", "label": "spike", "year": 1999})
    )
    (folder / "tables" / "low_table.txt").write_text("a low\n wooden table \n")
    (folder / "chairs" / "OfficeChair_1.txt").write_text(" ")
    build(folder, tmp_path / "out", licence="MIT", source="mine")
    dataset = MeshDataset(tmp_path / "out")
    plain = dataset[3]
    assert (plain.caption, plain.category, plain.licence, plain.author) == ("a tall spike", "spike", "CC0-1.0", "Ann")
    assert plain.extra["year"] == 1999
    assert dataset[4].caption == "a low wooden table" and dataset[4].licence == "MIT" and dataset[4].source == "mine"
    assert dataset[1].caption == "office chair"


@pytest.mark.parametrize("text", ["{", "[1]", "x" * (2 << 20)])
def test_a_sidecar_that_cannot_be_read_refuses_its_mesh(folder, tmp_path, text):
    (folder / "plain.json").write_text(text)
    refused = {refusal.path: refusal.message for refusal in build(folder, tmp_path / "out").refused}
    assert "the sidecar plain.json cannot be read" in refused["plain.obj"]


def test_top_folders_named_after_splits_decide_the_split(tmp_path):
    for index, split in enumerate(("train", "Validation", "test")):
        write_obj(tmp_path / "in" / split / "obj" / "cups" / f"cup{index}.obj", 0.2 + 0.1 * index)
    build(tmp_path / "in", tmp_path / "out")
    dataset = MeshDataset(tmp_path / "out")
    assert dict(zip(dataset.column("name"), dataset.column("split"), strict=True)) == {
        "Validation/obj/cups/cup1": "val",
        "test/obj/cups/cup2": "test",
        "train/obj/cups/cup0": "train",
    }
    assert set(dataset.column("category")) == {"cups"}


def test_words_of_names():
    assert words("WoodenChair_02_B") == "wooden chair"
    assert words("table-round.v2") == "table round"
    assert words("HTMLSign") == "html sign"
    assert words("123") == "123"


def test_files_of_one_stem_keep_their_extension_in_the_name(tmp_path):
    write_obj(tmp_path / "in" / "a.obj", 0.3)
    (tmp_path / "in" / "a.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    build(tmp_path / "in", tmp_path / "out.zip", val_fraction=0.0)
    dataset = MeshDataset(tmp_path / "out.zip")
    assert list(dataset.column("name")) == ["a.obj", "a.off"] and set(dataset.column("split")) == {"train"}
    assert json.loads((tmp_path / "out.report.json").read_text())["meshes"] == 2


def test_face_limits_and_decimation(tmp_path):
    write_obj(tmp_path / "in" / "small.obj")
    u = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = [(np.cos(a), h, np.sin(a)) for h in np.linspace(0, 2, 12) for a in u]
    faces = [
        face
        for row in range(11)
        for i in range(24)
        for a, b in [(row * 24 + i + 1, row * 24 + (i + 1) % 24 + 1)]
        for face in ([a, b, b + 24], [a, b + 24, a + 24])
    ]
    text = [f"v {x} {y} {z}" for x, y, z in ring] + ["f " + " ".join(map(str, face)) for face in faces]
    (tmp_path / "in" / "tube.obj").write_text("\n".join(text))
    report = build(tmp_path / "in", tmp_path / "few", max_faces=100)
    assert [(r.path, r.kind, r.message) for r in report.refused] == [
        ("tube.obj", "too many faces", "528 faces, more than 100")
    ]
    report = build(tmp_path / "in", tmp_path / "many", min_faces=5)
    assert [(r.path, r.kind) for r in report.refused] == [("small.obj", "too few faces")]
    build(tmp_path / "in", tmp_path / "reduced", max_faces=100, decimate=True)
    assert sorted(MeshDataset(tmp_path / "reduced").face_counts)[0] == 4
    assert 30 < MeshDataset(tmp_path / "reduced").face_counts.max() <= 100
    report = build(tmp_path / "in", tmp_path / "limited", max_megabytes=0.001)
    assert [(r.path, r.kind) for r in report.refused] == [("tube.obj", "limit")]


def test_a_mesh_that_vanishes_on_the_grid_is_refused(tmp_path):
    write_obj(tmp_path / "in" / "good.obj")
    (tmp_path / "in" / "dust.obj").write_text("v 0 0 0\nv 1 0 0\nv 0.00001 0 0.00001\nf 1 2 3")
    report = build(tmp_path / "in", tmp_path / "out", val_fraction=0.0)
    assert [(r.path, r.kind) for r in report.refused] == [("dust.obj", "vanishes")]


def _reader(path: Path) -> Mesh:
    if "Chair" in path.name:
        raise RuntimeError("no chairs")
    return read_mesh(path)


def test_a_reader_of_ones_own_may_fail_on_a_file(folder, tmp_path):
    report = build(folder, tmp_path / "out", read=_reader)
    assert report.meshes == 2 and report.reasons["error"] == 3
    assert "RuntimeError: no chairs" in report.table()


def test_quads_can_be_kept(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "quad.obj").write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4")
    build(tmp_path / "in", tmp_path / "out", quads=True, up="z")
    mesh = MeshDataset(tmp_path / "out").mesh(0)
    assert mesh.faces.shape == (1, 4)
    assert np.ptp(mesh.vertices[:, 1]) == 0


# what is refused as a whole


def test_a_folder_without_meshes_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        build(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no mesh file in it; read are obj, glb"):
        build(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "a.obj").write_text("#")
    with pytest.raises(DataError, match="none of its 1 mesh files could be taken\n0 meshes"):
        build(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [("min_faces", 0), ("max_faces", 0), ("decimate", True), ("val_fraction", 1.0), ("num_discrete_coors", 1)]
    + [("coordinates", "int8"), ("seconds_per_file", 0.0), ("max_megabytes", 0.0)],
)
def test_impossible_settings_are_named(field, value):
    with pytest.raises(ConfigError, match=f"BuildConfig.{field} must"):
        BuildConfig(**{field: value})


def test_another_data_set_is_not_overwritten_unasked(folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="exists already and is not the result of this build"):
        build(folder, out)
    assert (out / "precious.txt").read_text() == "mine"
    assert build(folder, out, overwrite=True).meshes == 5 and not (out / "precious.txt").exists()


def test_a_finished_build_is_not_done_again_until_a_file_changes(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = build(folder, out)
    monkeypatch.setattr(build_module, "read_mesh", lambda *_, **__: pytest.fail("it was read again"))
    assert build(folder, out) == first
    monkeypatch.undo()
    write_obj(folder / "new.obj", 0.45)
    with pytest.raises(DataError, match="is not the result of this build"):
        build(folder, out)
    assert build(folder, out, overwrite=True).meshes == 6


def test_a_result_inside_the_folder_is_not_read_as_a_source(folder):
    assert build(folder, folder / "out").meshes == 5
    write_obj(folder / "out" / "extra.obj", 0.33)
    assert build(folder, folder / "out").meshes == 5


# stopped and gone on


def test_a_stop_at_any_file_costs_nothing_and_changes_nothing(folder, tmp_path, monkeypatch, capsys):
    build(folder, tmp_path / "whole")
    reads = []

    def counting(path, **keywords):
        reads.append(path.name)
        if len(reads) in (3, 6):
            raise KeyboardInterrupt
        return read_mesh(path, **keywords)

    monkeypatch.setattr(build_module, "read_mesh", counting)
    for done in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            build_dataset(folder, tmp_path / "parts", workers=0)
        assert f"stopped at {done} of 9 files; the same call goes on from there" in capsys.readouterr().err
        assert not (tmp_path / "parts").exists()
    report = build(folder, tmp_path / "parts")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole") and report.meshes == 5
    assert len(reads) == 9 + 2  # each of the nine files once, and the two that were stopped at
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meshes", "parts", "whole"]


def test_half_written_and_damaged_shards_are_read_again(folder, tmp_path, monkeypatch):
    build(folder, tmp_path / "whole")
    monkeypatch.setattr(build_module, "SHARD_SIZE", 1)
    monkeypatch.setattr(Shards, "remove", lambda self: None)
    monkeypatch.setattr(build_module, "_save", lambda *_: None)
    build(folder, tmp_path / "parts")
    shards = sorted((tmp_path / ".parts.building").glob("*.npz"))
    assert len(shards) == 9
    shards[0].write_bytes(shards[0].read_bytes()[:100])
    shards[1].write_bytes(b"")
    shards[2].rename(shards[2].with_name(shards[2].name + ".part"))
    monkeypatch.undo()
    build(folder, tmp_path / "parts")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


SCRIPT = """
import sys, time
from meshgpt.data import build
from meshgpt.mesh.files import read_mesh
build.SHARD_SECONDS = 0.05
def slow(path, **keywords):
    time.sleep(0.1)
    return read_mesh(path, **keywords)
build.read_mesh = slow
build.build_dataset(sys.argv[1], sys.argv[2], workers=0, progress=False)
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_loses_next_to_nothing(folder, tmp_path):
    for index in range(20):
        write_obj(folder / "more" / f"m{index}.obj", 1.1 + index / 10)
    build(folder, tmp_path / "whole")
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(tmp_path / "parts")])
    deadline = time.monotonic() + 60
    while len(list((tmp_path / ".parts.building").glob("*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "parts").exists() and (tmp_path / ".parts.building").exists()
    build(folder, tmp_path / "parts")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


# other processes


def _treacherous(path: Path) -> Mesh:
    if "low_table" in path.name:
        time.sleep(60)
    if path.name == "plain.obj":
        os._exit(7)
    return read_mesh(path)


@pytest.mark.slow
def test_a_file_that_hangs_or_kills_its_reader_is_refused_and_the_rest_is_read(folder, tmp_path):
    report = build_dataset(
        folder, tmp_path / "out", workers=2, progress=False, read=_treacherous, seconds_per_file=2.0, val_fraction=0.0
    )
    reasons = {refusal.path: refusal for refusal in report.refused}
    assert report.meshes == 3
    assert reasons["tables/low_table.obj"].kind == reasons["tables/low_table_copy.obj"].kind == "timeout"
    assert "took more than 2 seconds" in reasons["tables/low_table.obj"].message
    assert reasons["plain.obj"].kind == "crash" and "exit code 7" in reasons["plain.obj"].message
    assert reasons["broken.obj"].kind == "unreadable"
    build(folder, tmp_path / "same", val_fraction=0.0, read=_treacherous_in_name_only)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "same")


def _treacherous_in_name_only(path: Path) -> Mesh:
    if path.name in ("plain.obj", "low_table.obj", "low_table_copy.obj"):
        raise DataError("refused")
    return read_mesh(path)


def test_a_process_that_cannot_start_says_what_to_do():
    with pytest.raises(DataError, match="a worker process ended before it began .*__name__ == '__main__'.*workers=0"):
        list(run_in_processes(Unloadable(), [1], 1, 5.0))


def _exit(*_) -> None:
    os._exit(3)


class Unloadable:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return _exit, ()

    def __call__(self, item):
        return item


def test_a_failure_is_told_apart_from_a_result():
    assert Failure("crash", "x") == Failure("crash", "x") != Failure("timeout", "x")


def test_hidden_files_and_folders_are_passed_over(folder):
    (folder / ".git").mkdir()
    write_obj(folder / ".git" / "a.obj")
    files, others = find_files(folder)
    assert not any(part.startswith(".") for file in files for part in Path(file.path).parts)
    assert others == {".md": 1}
