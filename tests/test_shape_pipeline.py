"""`ShapePipeline` and `meshgpt shapes`: fields become meshes by seeds and wishes, scans come back in their place, light
meshes lie beside the dense ones, and what cannot be is one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conditioned_toys import CUBE, conditioned_pipeline, letters
from conditioned_toys import knows_letters as knows_letters
from field_toys import ASKED, COARSE, small_autoencoder, small_pipeline, small_prior
from field_toys import balls as balls

from meshgpt.cli.main import main
from meshgpt.errors import (
    CheckpointError,
    ConditionError,
    ConfigError,
    GenerationError,
    GenerationInterrupted,
    MeshError,
)
from meshgpt.mesh.clouds import PointCloud, write_points
from meshgpt.mesh.files import read_mesh, write_mesh
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.solid import enclosed_volume
from meshgpt.mesh.topology import topology_report
from meshgpt.pipeline import MeshPipeline
from meshgpt.shapes.pipeline import ShapePipeline, ShapePipelineConfig, coarse_of

PLACED = Mesh(CUBE.vertices * 7 + np.array([5.0, -2.0, 30.0]), CUBE.faces)
SCAN = PointCloud.from_mesh(PLACED, 300, 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(small_pipeline().save_pretrained(tmp_path_factory.mktemp("shapes")))


@pytest.fixture(scope="module")
def light_model(tmp_path_factory):
    """The folder of a mesh pipeline that takes points."""
    pipe = conditioned_pipeline(condition_on_points=True, num_point_latents=4, point_encoder_depth=1)
    return str(pipe.save_pretrained(tmp_path_factory.mktemp("light")))


# generating


def test_shapes_are_closed_on_the_ground_and_their_seeds_decide(balls):
    pipe = small_pipeline()
    made = pipe.generate(category="chair", seed=4, num_shapes=3, batch_size=2)
    assert [item.seed for item in made] == [4, 5, 6] and not any(item.is_empty for item in made)
    for item in made:
        assert topology_report(item.mesh).boundary_edges == 0 and enclosed_volume(item.mesh) > 0
        assert item.mesh.bounds[0, 1] == pytest.approx(0, abs=1e-9)
    [alone] = pipe.generate(category="chair", seed=5)
    assert torch.allclose(alone.latents, made[1].latents, atol=1e-5)
    assert np.allclose(alone.mesh.bounds, made[1].mesh.bounds, atol=1e-4)
    assert not torch.allclose(made[0].latents, made[1].latents, atol=1e-2)
    drawn = pipe.generate(category="chair", num_shapes=2)
    assert len({item.seed for item in drawn}) == 2
    assert len(pipe(category=["chair", "table"], seed=0)) == 2 and pipe.categories == ("chair", "table")


def test_every_wish_is_heard(balls):
    pipe = small_pipeline(letters=letters, **ASKED)
    plain = pipe.generate(seed=0)[0].latents
    wishes = [{"text": "a chair"}, {"category": "table"}, {"points": SCAN}, {"points": [CUBE]}]
    for wish in wishes:
        assert not torch.allclose(pipe.generate(seed=0, **wish)[0].latents, plain, atol=1e-4), wish
    guided = pipe.generate("a chair", seed=0, cond_scale=3.0, negative_text="a table")[0].latents
    assert not torch.allclose(guided, pipe.generate("a chair", seed=0)[0].latents, atol=1e-4)


def test_what_follows_a_shape_comes_back_in_its_place_and_size(balls):
    pipe = small_pipeline(condition_on_points=True, num_point_latents=4, point_encoder_depth=1)
    made = pipe.generate(points=PLACED, seed=0, num_shapes=2)
    for item in made:
        assert np.allclose(item.mesh.bounds.mean(axis=0), PLACED.bounds.mean(axis=0), atol=0.3)
        assert 0.4 < (item.mesh.bounds[1] - item.mesh.bounds[0]).max() / (2 * 7 * 0.9) < 0.7


def test_what_is_generated_can_be_encoded_and_brought_back(balls, monkeypatch):
    pipe = ShapePipeline(small_autoencoder(normals=True), small_prior(categories=("chair", "table")), COARSE)
    [plain] = pipe.generate(category="chair", seed=4)
    [once], [same] = (pipe.generate(category="chair", seed=4, rounds=1, num_latents=9) for _ in range(2))
    assert plain.latents.shape == (6, 3) and once.latents.shape == (9, 3) and torch.equal(once.latents, same.latents)
    assert np.allclose(once.mesh.bounds, plain.mesh.bounds, atol=0.3) and once.seed == 4
    keep = ShapePipeline._encoded

    def empty_afterwards(self, *given):
        balls["radius"] = -1.0
        return keep(self, *given)

    monkeypatch.setattr(ShapePipeline, "_encoded", empty_afterwards)
    [kept] = pipe.generate(category="chair", seed=4, rounds=2)
    assert not kept.is_empty and torch.equal(kept.latents, plain.latents)
    assert pipe.generate(category="chair", seed=4, rounds=2)[0].is_empty


def test_an_empty_or_a_full_field_is_told_and_not_an_error(balls):
    for radius, verdict in ((-1.0, "outside"), (9.0, "inside")):
        balls["radius"] = radius
        [item] = small_pipeline().generate(category="chair", seed=0)
        assert item.is_empty and item.surface.verdict == verdict and item.mesh.num_faces == 0
        assert json.loads(json.dumps(item.to_dict()))["verdict"] == verdict


def test_ctrl_c_carries_what_is_done(balls):
    pipe, seen = small_pipeline(), []

    def on_shape(index, item):
        seen.append((index, item.seed))
        if index == 1:
            raise KeyboardInterrupt

    with pytest.raises(GenerationInterrupted) as caught:
        pipe.generate(category="chair", seed=7, num_shapes=4, on_shape=on_shape)
    assert seen == [(0, 7), (1, 8)] and [item.seed for item in caught.value.written] == [7, 8]


# reconstructing


@pytest.mark.parametrize("kind", [{}, {"normals": True}])
def test_a_scan_comes_back_in_its_place_and_a_seed_decides_which_points_are_seen(balls, kind):
    pipe = ShapePipeline(small_autoencoder(**kind), config=COARSE)
    for shape in (SCAN, PointCloud(SCAN.points), SCAN.points, PLACED):
        made = pipe.reconstruct(shape)
        assert np.allclose(made.mesh.bounds.mean(axis=0), PLACED.bounds.mean(axis=0), atol=0.3)
        assert made.fit is not None and made.fit.chamfer < 1 and (made.solid is not None) == (shape is PLACED)
        assert torch.equal(pipe.reconstruct(shape).latents, made.latents)
        assert not torch.equal(pipe.reconstruct(shape, seed=1).latents, made.latents)


def test_an_open_mesh_is_made_solid_first_unless_told_otherwise(balls):
    pipe = ShapePipeline(small_autoencoder(), config=COARSE)
    sheet = Mesh(CUBE.vertices, CUBE.faces[:2])
    made = pipe.reconstruct(sheet)
    assert made.solid is not None and made.solid.method == "shell" and made.to_dict()["solid"]["method"] == "shell"
    with pytest.raises(ConditionError, match="all 64 points lie in one plane: there is no inside"):
        pipe.reconstruct(sheet, make_solid=False)
    assert pipe.reconstruct(CUBE, make_solid=False).solid is None


@pytest.mark.parametrize(
    ("points", "error", "says"),
    [
        (np.zeros((0, 3)), ConditionError, "empty cloud"),
        (np.full((5, 3), np.nan), MeshError, "must be finite"),
        (np.ones((5, 3)), ConditionError, "all 5 points lie at one place"),
        (np.outer(np.arange(5), [1, 2, 3]), ConditionError, "all 5 points lie on one line"),
        (np.random.default_rng(0).random((50, 3)) * [1, 1, 1e-6], ConditionError, "all 50 points lie in one plane"),
        (np.random.default_rng(0).random((19, 3)), ConditionError, "a cloud of 19 points says too little of a shape"),
        (np.ones((5, 4)), ConditionError, "points must be a PointCloud"),
        (Mesh([], []), ConditionError, "no faces"),
    ],
)
def test_points_that_enclose_nothing_are_refused(balls, points, error, says):
    with pytest.raises(error, match=says):
        ShapePipeline(small_autoencoder(), config=COARSE).reconstruct(points)


# folders and settings


def test_a_pipeline_comes_back_from_its_folder(balls, tmp_path):
    pipe = small_pipeline()
    again = ShapePipeline.from_pretrained(pipe.save_pretrained(tmp_path))
    assert again.config == pipe.config and again.categories == ("chair", "table")
    one, other = (each.generate(category="table", seed=1)[0] for each in (pipe, again))
    assert torch.allclose(one.latents, other.latents, atol=1e-5)
    ShapePipeline(pipe.autoencoder).save_pretrained(tmp_path)
    alone = ShapePipeline.from_pretrained(tmp_path)
    assert alone.prior is None and not (tmp_path / "prior").exists()
    with pytest.raises(GenerationError, match="no prior"):
        alone.generate()


def test_an_autoencoder_alone_reconstructs(balls, tmp_path):
    pipe = ShapePipeline.from_pretrained(small_autoencoder().save_pretrained(tmp_path))
    assert pipe.prior is None and not pipe.reconstruct(SCAN, resolution=16).is_empty


def test_folders_of_other_models_are_named(tmp_path, light_model):
    small_prior().save_pretrained(tmp_path / "prior alone")
    for folder, kind in ((light_model, "MeshPipeline"), (tmp_path / "prior alone", "LatentDiffusion")):
        with pytest.raises(CheckpointError, match=f"holds a {kind}, which models no shapes as fields"):
            ShapePipeline.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="there is no folder and no bundled model 'nosuch'"):
        ShapePipeline.from_pretrained("nosuch")
    with pytest.raises(ConfigError, match="do not belong together"):
        ShapePipeline(small_autoencoder(dim_latent=4), small_prior())


def test_any_resolution_is_reached_from_a_coarse_grid():
    assert [coarse_of(cells) for cells in (16, 32, 48, 96, 100, 128, 256)] == [16, 32, 48, 48, 50, 32, 32]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"resolutoin": 9}, ConfigError, "no option 'resolutoin'; there are"),
        ({"resolution": 4096}, ConfigError, "resolution must lie between 8 and 1024"),
        ({"num_points": 0}, ConfigError, "num_points must be at least 1"),
        ({"method": "magic"}, GenerationError, "method must be one of"),
        ({"cond_scale": 2.0}, GenerationError, "cond_scale without anything asked for"),
        ({"negative_text": "a"}, GenerationError, "negative_text without text"),
        ({"num_shapes": 0}, GenerationError, "num_shapes and batch_size must be at least 1"),
        ({"category": "char"}, ConditionError, "unknown category 'char': did you mean 'chair'"),
        ({"text": "a chair"}, ConditionError, "takes no `texts`"),
        ({"points": []}, ConditionError, "empty list"),
        ({"seed": [1, 2], "category": "chair"}, GenerationError, "2 seeds for 1 shapes"),
        ({"category": ["chair", "table"], "num_shapes": 3}, ConditionError, "different numbers"),
    ],
)
def test_calls_that_cannot_be_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        small_pipeline().generate(**options)


def test_settings_that_cannot_be_are_refused():
    wrong = {
        "rounds": -1,
        "keep_share": 1.0,
        "cond_scale": -1.0,
        "asked_points": 0,
        "num_latents": -1,
        "resolution": 4,
        "smooth": -1,
    }
    for field, value in wrong.items():
        with pytest.raises(ConfigError, match=field):
            ShapePipelineConfig().replace(**{field: value})


# the commands


def lightly(light_model, *words):
    return ["--lowpoly", "--lowpoly-model", light_model, "--candidates", "1", "--no-fit", *words]


def test_generate_writes_dense_and_light_meshes_with_a_summary(balls, model, light_model, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--category", "chair", "-n", "2", "--seed", "3", "--model", model, "-o", str(out), "--format", "obj"]
    words += ["--steps", "4", "--sampler", "euler", "--guidance", "1.5", "--view", "--picture", str(out / "all.png")]
    assert main(["shapes", "generate", *words, *lightly(light_model)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("asked for category chair") == 2 and "seed-4-light.obj: " in shown
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["num_steps"] == 4 and summary["category"] == "chair" and summary["cond_scale"] == 1.5
    for row, seed in zip(summary["shapes"], (3, 4), strict=True):
        assert row["seed"] == seed and row["verdict"] == "surface" and row["file"] == f"seed-{seed}.obj"
        assert read_mesh(out / row["file"]).num_faces == row["faces"] > 100
        assert read_mesh(out / row["light"]["file"]).num_faces == row["light"]["faces"] < 20
        assert row["light"]["model"] == light_model and row["light"]["chamfer"] > 0
    assert (out / "all.png").stat().st_size > 1000 and "seed-3-light" in (out / "index.html").read_text("utf-8")
    pipe = ShapePipeline.from_pretrained(model)
    [again] = pipe.generate(category="chair", seed=4, num_steps=4, method="euler", cond_scale=1.5)
    assert np.allclose(read_mesh(out / "seed-4.obj").bounds, again.mesh.bounds, atol=1e-4)


def test_decimated_meshes_are_closed_and_lie_beside_the_dense_ones(balls, model, light_model, tmp_path, capsys):
    pytest.importorskip("fast_simplification")
    words = ["shapes", "generate", "--category", "chair", "--seed", "0", "--model", model, "--decimated"]
    alone, both = tmp_path / "alone", tmp_path / "both"
    words += ["--picture", str(tmp_path / "all.png")]
    assert main([*words, "-n", "1", "-o", str(alone), "--faces", "40"]) == 0
    mesh = read_mesh(alone / "seed-0-decimated.glb")
    assert 30 <= mesh.num_faces <= 40 and topology_report(mesh).watertight
    [row] = json.loads((alone / "summary.json").read_text())["shapes"]
    assert row["decimated"]["open_edges"] == 0 and row["decimated"]["chamfer"] < 0.05 and "light" not in row
    assert "seed-0-decimated.glb: 40 faces, 0% of the edges open, Chamfer" in capsys.readouterr().out
    assert main([*words, "-n", "1", "-o", str(both), *lightly(light_model)]) == 0
    [row] = json.loads((both / "summary.json").read_text())["shapes"]
    assert row["decimated"]["faces"] <= max(row["light"]["faces"], 4) and row["light"]["file"] == "seed-0-light.glb"


def test_empty_fields_are_told_and_others_kept(balls, model, light_model, tmp_path, monkeypatch, capsys):
    words = ["shapes", "generate", "-n", "2", "--seed", "0", "--model", model, "-o", str(tmp_path)]
    keep, balls["radius"] = ShapePipeline._decoded, 0.5

    def second_is_empty(self, latents, seed, *rest):
        balls["radius"] = -1.0 if seed == 1 else 0.5
        return keep(self, latents, seed, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ShapePipeline, "_decoded", second_is_empty)
        assert main([*words, *lightly(light_model)]) == 0
    assert "nothing: seed 1, nothing is inside, so there is no surface" in capsys.readouterr().out
    rows = json.loads((tmp_path / "summary.json").read_text())["shapes"]
    assert [row["file"] for row in rows] == ["seed-0.glb", None]
    balls["radius"] = -1.0
    assert main([*words, *lightly(light_model)]) == 1
    assert capsys.readouterr().err.endswith("none of the 2 fields has a surface: try another seed, or train longer\n")


def test_ctrl_c_keeps_files_and_summary(balls, model, light_model, tmp_path, monkeypatch, capsys):
    generate = MeshPipeline.generate

    def interrupted(self, **options):
        def on_face(mesh, face, codes):
            if face == 2 and options["seed"] == 1:
                raise KeyboardInterrupt

        return generate(self, on_face=on_face, **options)

    monkeypatch.setattr(MeshPipeline, "generate", interrupted)
    words = ["shapes", "generate", "-n", "3", "--seed", "0", "--model", model, "-o", str(tmp_path)]
    assert main([*words, *lightly(light_model)]) == 130
    shown = capsys.readouterr()
    assert "the best of 1 so far" in shown.out and shown.err.endswith("meshgpt: interrupted\n")
    rows = json.loads((tmp_path / "summary.json").read_text())["shapes"]
    assert [row["light"]["file"] for row in rows] == ["seed-0-light.glb", "seed-1-light.glb"]
    assert sorted(path.name for path in tmp_path.glob("*.glb")) == [
        "seed-0-light.glb", "seed-0.glb", "seed-1-light.glb", "seed-1.glb",
    ]  # fmt: skip


def test_a_light_mesh_that_does_not_come_is_told_and_the_dense_one_kept(
    balls, model, light_model, tmp_path, monkeypatch, capsys
):
    def nothing(*given, **options):
        raise GenerationError("none of the 1 candidates has a face")

    monkeypatch.setattr("meshgpt.retopology.retopologize", nothing)
    words = ["shapes", "generate", "-n", "1", "--seed", "0", "--model", model, "-o", str(tmp_path)]
    assert main([*words, *lightly(light_model)]) == 0
    assert "no light mesh of seed-0.glb: none of the 1 candidates has a face" in capsys.readouterr().out
    assert read_mesh(tmp_path / "seed-0.glb").num_faces > 100


@pytest.mark.parametrize("name", ["scan.ply", "dense.obj"])
def test_reconstruct_writes_beside_the_scan_in_its_place(balls, model, light_model, tmp_path, name, capsys):
    write_mesh(PLACED, tmp_path / "dense.obj")
    write_points(SCAN, tmp_path / "scan.ply")
    words = [str(tmp_path / name), "--model", model, "--report", str(tmp_path / "r.json"), "--resolution", "16"]
    words += ["--picture", str(tmp_path / "r.png"), "--num-points", "50"]
    assert main(["shapes", "reconstruct", *words, *lightly(light_model, "--faces", "5")]) == 0
    stem = Path(name).stem
    found = read_mesh(tmp_path / f"{stem}-field.glb")
    assert np.allclose(found.bounds.mean(axis=0), PLACED.bounds.mean(axis=0), atol=0.3)
    assert 1 <= read_mesh(tmp_path / f"{stem}-field-light.glb").num_faces <= 6
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["fit"]["chamfer"] > 0 and report["light"]["faces"] <= 6 and report["num_points"] == 50
    assert ("solid" in report) == (name == "dense.obj") and (tmp_path / "r.png").stat().st_size > 1000
    assert "closed, volume" in capsys.readouterr().out or name == "scan.ply"


def test_a_scan_lies_in_the_axes_of_its_file(balls, model, tmp_path):
    tall = Mesh(CUBE.vertices * [1, 1, 3] + np.array([0, 0, 10.0]), CUBE.faces)
    write_mesh(tall, tmp_path / "z.obj")
    assert main(["shapes", "reconstruct", str(tmp_path / "z.obj"), "--up", "z", "--model", model]) == 0
    assert np.allclose(read_mesh(tmp_path / "z-field.glb").bounds.mean(axis=0), [0, 0, 10], atol=0.1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["generate", "--category", "sofa"], "ConditionError: unknown category 'sofa': known are chair, table"),
        (["generate", "a chair"], "takes no text, it was trained with category: leave a chair out"),
        (["generate", "--points", "x.ply"], "takes no points, it was trained with category"),
        (["generate", "--resolution", "2"], "resolution must lie between 8 and 1024, got 2"),
        (["generate", "--steps", "1"], "num_steps must be at least 2, got 1"),
        (["generate", "--format", "fbx"], "--format fbx: meshes are written as"),
        (["generate", "--guidance", "2"], "cond_scale without anything asked for"),
        (["generate", "-n", "0"], "num_shapes and batch_size must be at least 1"),
        (["generate", "--lowpoly", "--lowpoly-model", "lowpoly"], "a light mesh needs a model that follows points"),
        (["generate", "--decimated", "--faces", "3"], "--decimated --faces 3: a closed mesh has 4 faces at least"),
        (["generate", "--smooth", "-1"], "smooth must not be negative, got -1"),
        (["reconstruct", "scan.ply", "--latents", "-1"], "num_latents must not be negative, got -1"),
        (["reconstruct", "absent.ply"], "absent.ply: cannot be opened"),
        (["reconstruct", "empty.xyz"], "MeshFileError: empty.xyz"),
        (["reconstruct", "nan.npy"], "MeshFileError: nan.npy"),
        (["reconstruct", "flat.npy"], "points lie in one plane"),
        (["reconstruct", "scan.ply", "-o", "scan.ply"], "is the input, which would be lost"),
        (["reconstruct", "scan.ply", "-o", "x.fbx"], "meshes are written as"),
    ],
)
def test_a_command_that_cannot_be_done_is_one_line(balls, model, tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    write_points(SCAN, "scan.ply")
    Path("empty.xyz").write_text("")
    np.save("nan.npy", np.full((4, 3), np.nan))
    np.save("flat.npy", np.random.default_rng(0).random((40, 3)) * [1, 0, 1])
    assert main(["shapes", *words, "--model", model]) == 1
    message = capsys.readouterr().err
    assert says in message and message.splitlines()[-1].startswith("meshgpt: ") and "Traceback" not in message


def test_an_empty_field_of_a_scan_is_one_line(balls, model, light_model, tmp_path, capsys):
    balls["radius"] = -1.0
    write_points(SCAN, tmp_path / "scan.ply")
    assert main(["shapes", "reconstruct", str(tmp_path / "scan.ply"), "--model", model, *lightly(light_model)]) == 1
    assert "scan.ply has no surface: every point is outside" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.glb"))


def test_a_folder_of_another_kind_of_model_is_one_line(light_model, tmp_path, capsys):
    assert main(["shapes", "generate", "--model", light_model, "-o", str(tmp_path)]) == 1
    assert "holds a MeshPipeline, which models no shapes as fields" in capsys.readouterr().err


def test_without_a_model_the_way_to_one_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("meshgpt.checkpoint.bundled_models", lambda: ["lowpoly"])
    assert main(["shapes", "generate", "--category", "chair"]) == 1
    assert "no model of shapes comes with this package: name one with --model, or train one" in capsys.readouterr().err
