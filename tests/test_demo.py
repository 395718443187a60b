"""The page of `meshgpt demo` without the page: what is asked, scenes while it is written, stops, turns and mistakes."""

import base64
import builtins
import json
import socket
from threading import Event, Thread

import numpy as np
import pytest
from conditioned_toys import CUBE, conditioned_pipeline

from meshgpt.cli.main import main
from meshgpt.demo import studio as studio_module
from meshgpt.demo.page import load_gradio, status
from meshgpt.demo.server import bound
from meshgpt.demo.studio import Studio
from meshgpt.demo.wish import MOST_CANDIDATES, Wish
from meshgpt.errors import ConditionError, MissingExtraError
from meshgpt.mesh.clouds import PointCloud, write_points
from meshgpt.mesh.files import read_mesh, write_mesh
from meshgpt.mesh.mesh import Mesh

ASKED = {"text": "a chair", "seed": 3, "candidates": 2}


@pytest.fixture(scope="module")
def pipe():
    return conditioned_pipeline()


@pytest.fixture(scope="module")
def studio(pipe):
    return Studio(pipe, pipe, "toy")


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(studio_module, "PAUSE", 0.01)
    monkeypatch.setattr(studio_module, "REST", 0.0)


@pytest.fixture(scope="module")
def cube_file(tmp_path_factory):
    return write_mesh(Mesh(CUBE.vertices * 7 + [5, -2, 30], CUBE.faces), tmp_path_factory.mktemp("shapes") / "cube.glb")


def scenes(studio, fields, stop=None):
    return list(studio.write(fields, stop or Event()))


def glb_of(entry, folder):
    (folder / "made.glb").write_bytes(base64.b64decode(entry["glb"]))
    return read_mesh(folder / "made.glb")


# what is asked


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "nothing to write yet. Type"),
        ({"text": "  \n"}, "nothing to write yet. Type"),
        ({"text": "a" * 301}, "301 letters"),
        ({"follow": True, "shape": None}, "no shape yet. Drop"),
        ({**ASKED, "faces": 0}, "face budget must be a whole number of at least 1, not 0. Leave it empty"),
        ({**ASKED, "faces": "many"}, "at least 1, not 'many'"),
        ({**ASKED, "faces": 2.5}, "not 2.5"),
        ({**ASKED, "faces": float("inf")}, "not inf"),
        ({**ASKED, "seed": -1}, "seed must be a whole number from 0 to 2,147,483,647, not -1"),
        ({**ASKED, "seed": 2**31}, "seed must be"),
        ({**ASKED, "candidates": MOST_CANDIDATES + 1}, "number of candidates must be a whole number from 1 to"),
        ({**ASKED, "guidance": 99}, "Guidance must be a number from 0 to 10, not 99"),
    ],
)
def test_what_cannot_be_asked_is_told_in_words_for_a_person(studio, fields, words):
    with pytest.raises(ConditionError) as caught:
        Wish.checked(fields)
    assert words in str(caught.value)
    [scene] = scenes(studio, fields)
    assert scene.kind == "trouble" and words in scene.message and scene.is_over


def test_fields_may_be_empty_and_numbers_may_be_words():
    wish = Wish.checked({"category": "chair", "faces": "", "seed": " 7 ", "candidates": 3.0})
    assert (wish.faces, wish.seed, wish.candidates, wish.name) == (None, 7, 3, "chair")
    assert Wish.checked({"text": " a chair "}).name == "a chair"


# what is shown


def test_a_mesh_grows_before_it_is_there_and_the_last_scene_has_its_file(studio, pipe, tmp_path):
    seen = scenes(studio, ASKED)
    growing = [scene for scene in seen if scene.meshes is not None and not scene.is_over]
    assert growing and growing[0].first and not any(scene.first for scene in growing[1:])
    assert all(entry["growing"] and entry["stays"] for scene in growing for entry in scene.meshes)
    last = seen[-1]
    assert last.kind == "done" and last.last and "Seed" in last.message
    assert {entry["label"] for entry in last.meshes} == {"seed 3", "seed 4"}
    best = last.meshes[0]
    seed = int(best["label"].split()[1])
    [same] = pipe.generate("a chair", seed=seed, candidates=1)
    corners = [sorted(mesh.vertices.tolist()) for mesh in (glb_of(best, tmp_path), same.mesh)]
    assert np.allclose(*corners, atol=1e-6)
    extras = json.dumps({"generator": "meshgpt", "seed": seed})[1:-1]
    assert extras.replace(" ", "") in base64.b64decode(best["glb"]).decode("latin1").replace(" ", "")
    assert best["file"] == f"a-chair-seed-{seed}"


def test_a_judge_chooses_which_is_shown_first(pipe):
    def judge(meshes, texts, categories):
        assert set(texts) == {"a chair"} and set(categories) == {None}
        return [0.0 if index == 2 else -50.0 for index in range(len(meshes))]

    last = scenes(Studio(pipe, None, judge=judge), {**ASKED, "candidates": 3})[-1]
    assert last.meshes[0]["label"] == "seed 5" and "for its likeness and clean form" in last.message


def test_a_budget_and_a_category_are_followed(studio):
    last = scenes(studio, {"category": "table", "faces": "4", "candidates": 3, "seed": 0})[-1]
    assert last.kind == "done" and "for its size and clean form" in last.message
    assert (
        scenes(studio, {"category": "table", "faces": 31})[-1].message
        == "This model writes up to 30 faces. Ask for fewer than 31."
    )
    assert "submarine" in scenes(studio, {"category": "submarine"})[-1].message


def test_a_shape_is_followed_and_stands_beside_the_mesh_in_its_place(studio, cube_file, tmp_path):
    last = scenes(studio, {"shape": str(cube_file), "follow": True, "seed": 1, "candidates": 3, "faces": 6})[-1]
    assert last.kind == "done" and "faces for 12" in last.message and "% of the longest side" in last.message
    light, shape = last.meshes
    assert (light["label"], shape["label"], shape["count"]) == ("light mesh", "your shape", 12)
    low, high = glb_of(light, tmp_path).bounds
    assert (np.abs((low + high) / 2 - [5, -2, 30]) < 7).all()


def test_a_cloud_is_followed_too_and_drawn_as_points(studio, tmp_path):
    path = write_points(PointCloud.from_mesh(CUBE, 300, 0), tmp_path / "scan.xyz")
    scene = studio.look(path)
    assert (
        scene.kind == "done" and scene.message.startswith("A cloud of 300 points.") and scene.meshes[0]["count"] == 2400
    )
    assert scenes(studio, {"shape": path, "follow": True, "candidates": 2, "up": "z"})[-1].kind == "done"


def test_of_a_very_dense_shape_points_are_drawn(studio, cube_file, monkeypatch):
    monkeypatch.setattr("meshgpt.demo.scenes.MOST_SHOWN", 5)
    [entry] = studio.look(cube_file).meshes
    assert entry["caption"] == "A mesh of 12 faces, drawn as points" and entry["count"] > 1000


# what goes wrong


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("broken.glb", b"glTF\2\0\0\0 and then nothing of the kind", "broken.glb"),
        ("broken.obj", b"v 1 2\nf 1 2 3\n", "broken.obj"),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(64), "picture.png"),
        ("empty.stl", b"", "empty.stl"),
        (
            "three.xyz",
            b"0 0 0\n1 0 0\n0 1 0\n",
            "three.xyz has 3 points in different places. A surface can be followed from 100",
        ),
        ("flat.xyz", b"1 1 1\n" * 200, "flat.xyz has 1 point in different places"),
    ],
)
def test_a_file_that_is_no_shape_is_told_by_its_name_and_not_by_its_place(studio, tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    for scene in (studio.look(tmp_path / name), *scenes(studio, {"shape": str(tmp_path / name), "follow": True})[-1:]):
        assert scene.kind == "trouble" and words in scene.message
        assert str(tmp_path) not in scene.message and "Traceback" not in scene.message


def test_a_mistake_of_ours_is_no_traceback_for_the_visitor(studio, monkeypatch, caplog):
    monkeypatch.setattr(type(studio.writer), "generate", lambda *_, **__: 1 / 0)
    last = scenes(studio, ASKED)[-1]
    assert last.kind == "trouble" and "terminal of the server" in last.message and "division" not in last.message
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert scenes(studio, ASKED)[-1].kind == "done"  # the turn was given back


def test_models_that_lack_something_say_so(pipe):
    alone = Studio(None, pipe)
    assert not alone.takes_text and alone.categories == ()
    assert "neither texts nor categories" in scenes(alone, ASKED)[-1].message
    assert "follows no shapes" in scenes(Studio(pipe, None), {"shape": "x.glb"})[-1].message


# stops and turns


def test_a_stop_shows_what_there_is(studio):
    stop = Event()
    seen = []
    for scene in studio.write({**ASKED, "candidates": 1}, stop):
        seen.append(scene)
        stop.set()
    assert seen[-1].kind == "stopped" and seen[-1].message.startswith("Stopped")
    gone = Event()
    gone.set()
    assert scenes(studio, {**ASKED, "candidates": 1}, gone)[-1].kind == "stopped"


def test_a_search_is_stopped_as_well(studio, cube_file):
    gone = Event()
    gone.set()
    assert scenes(studio, {"shape": cube_file, "follow": True, "candidates": 2}, gone)[-1].kind == "stopped"


def test_two_visitors_wait_for_each_other_and_both_get_their_mesh(studio):
    first, others = studio.write(ASKED, Event()), []
    next(first)
    second = Thread(target=lambda: others.extend(studio.write({**ASKED, "seed": 9}, Event())))
    second.start()
    while not others:
        second.join(0.01)
    assert others[0].kind == "waiting"
    assert list(first)[-1].kind == "done"
    second.join(60)
    assert others[-1].kind == "done" and "Seed" in others[-1].message


def test_who_stops_while_waiting_gets_no_turn_and_who_leaves_gives_it_back(studio):
    first, stop = studio.write(ASKED, Event()), Event()
    next(first)
    waiting = studio.write(ASKED, stop)
    assert next(waiting).kind == "waiting"
    stop.set()
    assert [scene.kind for scene in waiting] == ["stopped"]
    first.close()
    assert scenes(studio, ASKED)[-1].kind == "done"


# the command


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "gradio":
            raise ImportError("no module named gradio")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError):
        load_gradio()
    assert main(["demo"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "pip install 'meshgpt[demo]'" in line and "meshgpt demo --out DIR" in line


def test_what_belongs_to_files_needs_a_folder(capsys):
    assert main(["demo", "--num-meshes", "3"]) == 1
    assert "--num-meshes goes with --out DIR" in capsys.readouterr().err


def test_a_port_that_is_taken_says_so():
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(OSError, match="choose another with --port"):
            bound("127.0.0.1", taken.getsockname()[1])
    for port in (70000, -1):
        with pytest.raises(OSError, match="choose another with --port"):
            bound("127.0.0.1", port)
    assert isinstance(taken, socket.socket)


def test_messages_are_text_whatever_they_hold():
    assert "<img" not in status("trouble", "<img src=x>") and 'role="alert"' in status("trouble", "x")
