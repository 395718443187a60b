"""generate, retopo and complete on the command line: every wish is heard, written down, or refused with the reason."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from conditioned_toys import CUBE, conditioned_pipeline
from conditioned_toys import knows_letters as knows_letters

from meshgpt.cli.generate import JUDGED_CANDIDATES
from meshgpt.cli.main import main
from meshgpt.mesh.clouds import PointCloud, write_points
from meshgpt.mesh.files import UP_TURNS, read_mesh, turned_back, write_mesh
from meshgpt.mesh.mesh import Mesh
from meshgpt.pipeline import MeshPipeline
from meshgpt.wishes import Target

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PLACED = Mesh(CUBE.vertices * 7 + np.array([5.0, -2.0, 30.0]), CUBE.faces)
pytestmark = pytest.mark.usefixtures("knows_letters")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a pipeline that takes every condition."""
    return str(conditioned_pipeline().save_pretrained(tmp_path_factory.mktemp("conditioned")))


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory):
    pipe = conditioned_pipeline(categories=("chair",), condition_on_faces=True)
    return str(pipe.save_pretrained(tmp_path_factory.mktemp("plain")))


@pytest.fixture
def files(tmp_path):
    """A mesh and a cloud, far from the origin."""
    write_mesh(PLACED, tmp_path / "dense.obj")
    write_points(PointCloud.from_mesh(PLACED, 400, 0), tmp_path / "scan.ply")
    return tmp_path


def extras(path):
    """What a .glb file says about itself."""
    content = path.read_bytes()
    length = int.from_bytes(content[12:16], "little")
    tree = json.loads(content[20 : 20 + length])
    return tree["scenes"][0]["extras"]


# generate


def test_every_wish_reaches_the_model_and_is_written_down(model, files, capsys):
    words = ["a wooden chair", "--category", "chair", "--faces", "6", "--points", str(files / "scan.ply")]
    words += ["--cond-scale", "3", "--cond-scale-end", "1.5", "--rescale-phi", "0.5", "--negative-text", "a table"]
    out = files / "out"
    assert main(["generate", *words, "-n", "2", "--seed", "3", "--model", model, "-o", str(out), "--view"]) == 0
    shown = capsys.readouterr().out
    asked = "asked for 'a wooden chair', category chair, 6 faces, like scan.ply, not 'a table'"
    assert shown.count(asked) == 2 and "seed 4," in shown and "Chamfer" in shown
    said = extras(out / "seed-3.glb")
    assert said["text"] == "a wooden chair" and said["points"] == "scan.ply" and said["faces"] == 6
    assert said["cond_scale"] == 3 and said["negative_text"] == "a table" and said["category"] == "chair"
    assert asked.removeprefix("asked for ")[:20] in (out / "index.html").read_text(encoding="utf-8")
    wished = {"category": "chair", "faces": 6, "points": files / "scan.ply", "negative_text": "a table"}
    guided = {"cond_scale": 3.0, "cond_scale_end": 1.5, "rescale_phi": 0.5}
    pipe = MeshPipeline.from_pretrained(model)
    [again] = pipe.generate("a wooden chair", seed=4, **wished, **guided)
    assert np.allclose(read_mesh(out / "seed-4.glb").bounds, again.mesh.bounds, atol=1e-4)


def test_what_words_ask_for_is_chosen_by_a_recognizer(model, files, capsys):
    words = ["generate", "a wooden chair", "-n", "1", "--seed", "3", "--model", model, "-o", str(files / "out")]
    assert main(words) == 0
    assert re.search(r"looks like it: \d+ %", capsys.readouterr().out)
    assert extras(files / "out" / "seed-3.glb")["candidates"] == JUDGED_CANDIDATES
    for more in (["--no-judge"], ["--candidates", "1"]):
        assert main([*words, *more]) == 0
        assert "looks like" not in capsys.readouterr().out


def test_a_mesh_may_be_followed_and_nothing_asked_is_said_nothing(model, files, capsys):
    words = ["-n", "1", "--seed", "3", "--model", model, "-o", str(files / "out")]
    assert main(["generate", *words, "--mesh", str(files / "dense.obj")]) == 0
    assert "like dense.obj" in capsys.readouterr().out
    assert main(["generate", *words]) == 0
    assert "asked" not in capsys.readouterr().out and "text" not in extras(files / "out" / "seed-3.glb")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--category", "chiar"], "ConditionError: unknown category 'chiar': did you mean 'chair'?"),
        (["--faces", "0"], "ConditionError: faces must be a number of at least 1, got 0"),
        (["--points", "absent.ply"], "MeshFileError: absent.ply: cannot be opened"),
        (["--points", "empty.xyz"], "MeshFileError: empty.xyz"),
        (["--points", "nan.xyz"], "MeshFileError: nan.xyz: point 0 is [nan, 0.0, 0.0]"),
        (["--mesh", "scan.docx"], "MeshFileError: scan.docx"),
        (["--points", "nan.xyz", "--mesh", "empty.xyz"], "both points and mesh"),
        (["--negative-text", "a"], "negative_text without text"),
        (["--cond-scale", "2"], "cond_scale without anything asked for"),
        (["a", "--cond-scale", "-2"], "cond_scale must not be negative"),
        (["a", "--rescale-phi", "2"], "rescale_phi must lie in [0, 1]"),
    ],
)
def test_a_wish_that_cannot_be_served_is_one_line(model, tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    Path("empty.xyz").write_text("")
    Path("nan.xyz").write_text("nan 0 0\n0 1 0\n")
    assert main(["generate", *words, "--model", model]) == 1
    message = capsys.readouterr().err
    assert says in message and message.splitlines()[-1].startswith("meshgpt: ") and "Traceback" not in message


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["generate", "a chair"],
            "cannot do 'a chair': this model takes no `text`, it was trained with category, faces",
        ),
        (["generate", "--points", "x.ply"], "cannot do 'x.ply': this model takes no `points`, it was trained with"),
        (["generate", "--negative-text", "x"], "takes no `negative_text`"),
        (["complete", "dense.obj", "--text", "a chair"], "cannot do 'a chair': this model takes no `text`"),
        (["retopo", "dense.obj"], "needs a model that follows points, this one is trained with category, num_faces"),
    ],
)
def test_a_model_of_other_conditions_is_told_before_anything_is_written(
    plain_model, files, monkeypatch, capsys, words, says
):
    monkeypatch.chdir(files)
    monkeypatch.setattr(MeshPipeline, "generate", None)
    assert main([*words, "--model", plain_model]) == 1
    assert says in capsys.readouterr().err


# retopo


def retopo(files, model, name, *words):
    common = ["--model", model, "--seed", "0", "--candidates", "2", "--nearest", "tiny", "-o", str(files / "light.glb")]
    return main(["retopo", str(files / name), *common, *words])


def test_a_dense_mesh_becomes_a_light_one_beside_others(model, files, capsys):
    words = ["--faces", "6", "--report", str(files / "r" / "report.json"), "--picture", str(files / "sheet.png")]
    assert retopo(files, model, "dense.obj", *words, "--no-fit") == 0
    shown = capsys.readouterr().out
    rows = [line.split()[0] for line in shown.splitlines()]
    assert all(row in rows for row in ("input", "result", "decimated", "nearest")) and "open edges" in shown
    assert "written" not in rows
    figures = json.loads((files / "r" / "report.json").read_text())
    light = read_mesh(files / "light.glb")
    assert figures["result"]["faces"] == light.num_faces <= 8 and figures["faces_asked"] == 6
    assert f"{figures['result']['chamfer']:.4f}" in shown and figures["decimated"]["faces"] <= 6
    assert figures["nearest"]["note"] and (files / "sheet.png").read_bytes().startswith(b"\x89PNG")
    said = extras(files / "light.glb")
    assert said["follows"] == "dense.obj" and said["faces"] == 6 and said["seed"] == figures["seed"]
    pipe = MeshPipeline.from_pretrained(model)
    [alone] = pipe.generate(mesh=read_mesh(files / "dense.obj"), faces=6, max_faces=8, seed=said["seed"])
    assert np.allclose(light.bounds, alone.mesh.bounds, atol=1e-4)


def test_a_search_and_a_fit_are_told_beside_what_was_written(model, files, capsys):
    assert retopo(files, model, "dense.obj", "--search", "3", "--no-nearest") == 0
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert rows.index("written") + 1 == rows.index("result") and extras(files / "light.glb")["search"] == 3


def test_a_scan_becomes_a_light_mesh_and_the_table_says_what_is_missing(model, files, capsys):
    assert retopo(files, model, "scan.ply", "--no-nearest", "--temperature", "0.5") == 0
    shown = capsys.readouterr().out
    assert "decimated: none, a cloud has no faces" in shown and "nearest" not in shown
    assert "PointCloud(400 points, with normals)" in shown and read_mesh(files / "light.glb").num_faces


def test_the_light_mesh_lies_in_the_axes_of_the_file(model, files):
    """A scan with z up gives what the same scan with y up gives, turned."""
    cloud = PointCloud.from_mesh(PLACED, 400, 0)
    turn = np.array(UP_TURNS["z"], dtype=np.float64)
    write_points(PointCloud(cloud.points @ turn, cloud.normals @ turn), files / "z.ply")
    assert retopo(files, model, "scan.ply", "--no-nearest") == 0
    upright = read_mesh(files / "light.glb")
    assert retopo(files, model, "z.ply", "--no-nearest", "--up", "z") == 0
    lying = read_mesh(files / "light.glb")
    assert np.allclose(np.sort((upright.vertices @ turn)[:, 2]), np.sort(lying.vertices[:, 2]), atol=1e-3)


@pytest.mark.parametrize("up", UP_TURNS)
def test_a_mesh_is_turned_back_to_where_it_came_from(up, tmp_path):
    write_mesh(PLACED, tmp_path / "mesh.ply")
    again = turned_back(read_mesh(tmp_path / "mesh.ply", up=up), up)
    assert np.allclose(again.bounds, PLACED.bounds)


def test_ctrl_c_keeps_the_best_so_far(model, files, monkeypatch, capsys):
    generate = MeshPipeline.generate

    def interrupted(self, **options):
        def on_face(mesh, face, codes):
            if face == 2 and mesh == 1:
                raise KeyboardInterrupt

        return generate(self, on_face=on_face, batch_size=1, **options)

    monkeypatch.setattr(MeshPipeline, "generate", interrupted)
    assert retopo(files, model, "dense.obj") == 130
    shown = capsys.readouterr()
    assert "the best of 2 so far" in shown.out and shown.err.endswith("meshgpt: interrupted\n")
    assert extras(files / "light.glb")["seed"] == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["absent.glb"], "absent.glb: cannot be opened"),
        (["empty.xyz"], "MeshFileError: empty.xyz"),
        (["nan.npy"], "MeshFileError: nan.npy"),
        (["dense.obj", "--faces", "0"], "faces must be a number of at least 1, got 0"),
        (["dense.obj", "--candidates", "0"], "candidates must be at least 1, got 0"),
        (["dense.obj", "-o", "light.fbx"], "light.fbx: cannot be written, its extension is none of"),
        (["dense.obj", "-o", "dense.obj"], "dense.obj is the input, which would be lost"),
        (["dense.obj", "--nearest", "nosuch", "--candidates", "1"], "DataError"),
        (["dense.obj", "--up", "w"], "up is 'w'"),
    ],
)
def test_retopology_that_cannot_be_is_one_line(model, files, monkeypatch, capsys, words, says):
    monkeypatch.chdir(files)
    Path("empty.xyz").write_text("")
    np.save("nan.npy", np.full((4, 3), np.nan))
    assert main(["retopo", *words, "--model", model]) == 1
    assert says in capsys.readouterr().err
    assert read_mesh("dense.obj").num_faces == 12


# complete


def test_the_lower_half_is_kept_and_the_rest_written(model, files, capsys):
    out = files / "out"
    words = ["--keep", "0.5", "-n", "2", "--seed", "1", "--max-faces", "10", "--text", "a box", "-o", str(out)]
    assert main(["complete", str(files / "dense.obj"), *words, "--model", model, "--view"]) == 0
    shown = capsys.readouterr().out
    assert "6 of 12 faces are kept, the lower 100% of its height" in shown and "asked for 'a box'" in shown
    said = extras(out / "seed-1.glb")
    assert said["completes"] == "dense.obj" and said["kept_faces"] == 6 and said["text"] == "a box"
    pipe = MeshPipeline.from_pretrained(model)
    begun = Target.of(PLACED).frame.restore(pipe.begun(PLACED, 0.5).vertices)
    for seed in (1, 2):
        vertices = read_mesh(out / f"seed-{seed}.glb").vertices
        distances = np.linalg.norm(begun[:, None] - vertices[None], axis=2).min(axis=1)
        assert distances.max() < 1e-3
    assert (out / "index.html").exists()


def test_a_completion_lies_in_the_axes_of_the_file(model, files):
    lying = Mesh(PLACED.vertices @ np.array(UP_TURNS["z"], dtype=np.float64), PLACED.faces)
    write_mesh(lying, files / "z.obj")
    words = ["--up", "z", "-n", "1", "--seed", "0", "--max-faces", "12", "--keep", "1", "-o", str(files)]
    assert main(["complete", str(files / "z.obj"), *words, "--model", model, "--format", "ply"]) == 0
    assert np.allclose(read_mesh(files / "seed-0.ply").bounds, lying.bounds, atol=0.1)


def test_completions_are_saved_at_ctrl_c_where_they_stand(model, files, monkeypatch):
    generate = MeshPipeline.generate

    def interrupted(self, **options):
        def on_face(mesh, face, codes):
            if face == 8:
                raise KeyboardInterrupt

        return generate(self, on_face=on_face, **{**options, "min_faces": 10, "max_faces": 12})

    monkeypatch.setattr(MeshPipeline, "generate", interrupted)
    words = ["-n", "2", "--seed", "0", "-o", str(files / "out"), "--model", model]
    assert main(["complete", str(files / "dense.obj"), *words]) == 130
    for seed in (0, 1):
        centre = read_mesh(files / "out" / f"seed-{seed}.glb").bounds.mean(axis=0)
        assert np.abs(centre - (5, -2, 30)).max() < 7


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["absent.glb"], "absent.glb: cannot be opened"),
        (["dense.obj", "--keep", "0"], "keep must be a share of the faces in (0, 1], got 0.0"),
        (["dense.obj", "--keep", "0.01"], "0.01 of the 12 faces of the mesh is none"),
        (["dense.obj", "--format", "fbx"], "--format fbx: meshes are written as"),
    ],
)
def test_a_completion_that_cannot_be_is_one_line(model, files, monkeypatch, capsys, words, says):
    monkeypatch.chdir(files)
    assert main(["complete", *words, "--model", model]) == 1
    assert says in capsys.readouterr().err


# the examples


@pytest.mark.filterwarnings("default")
def test_the_examples_of_conditions_run(model, files, monkeypatch, capsys):
    def run(name, *words):
        monkeypatch.setattr("sys.argv", [name, *words, "--model", model, "--seed", "0"])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    monkeypatch.chdir(files)
    assert "'a box', seed 1:" in run("06_text_to_mesh.py", "a box", "-n", "2", "--max-faces", "6", "--not", "a cup")
    words = ["--candidates", "2", "--faces", "6", "--nearest", "tiny"]
    assert "nearest" in run("07_points_to_mesh.py", *words)
    assert "decimated" in run("07_points_to_mesh.py", "dense.obj", *words, "--out", "other")
    assert "6 of 12 faces are kept" in run("08_complete_a_mesh.py", "dense.obj", "-n", "2", "--max-faces", "8")
    for path in ("text/sheet.png", "text/index.html", "points/beside.png", "points/light.glb", "completed/index.html"):
        assert (files / "out" / path).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "toaster"], "ConfigError: device 'toaster' cannot be used here"),
        (["--seed", str(10**30)], "GenerationError: a seed must lie within"),
        ([" "], "ConditionError: the text is empty"),
        (["--category", ""], "ConditionError: the category is empty"),
        (["-o", __file__], "is a file: name a folder with --out"),
    ],
)
def test_what_a_stranger_mistypes_is_one_line(words, message, tmp_path, capsys):
    folder = [] if "-o" in words else ["-o", str(tmp_path)]
    assert main(["generate", *words, "-n", "1", *folder]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_data_set_to_compare_with_is_looked_for_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("meshgpt.retopology.written_for", lambda *_, **__: pytest.fail("written"))
    write_mesh(CUBE, tmp_path / "cube.glb")
    assert main(["retopo", str(tmp_path / "cube.glb"), "--nearest", "nothing"]) == 1
    assert "DataError" in capsys.readouterr().err
