"""A light mesh for a shape: the best seed, in the shape's place, honestly beside decimation and the nearest mesh."""

import json
from functools import partial

import numpy as np
import pytest
from conditioned_toys import CUBE, TETRAHEDRON, conditioned_pipeline

from meshgpt.data import decimate as decimation
from meshgpt.data.nearest import SHORTLIST, NearestMeshes
from meshgpt.errors import ConditionError, ConfigError, DataError, GenerationError, MissingExtraError
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.fitting import FitConfig, fit_to_surface
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.surface import compare_surfaces, nearest_mesh
from meshgpt.pipeline import faults
from meshgpt.retopology import best_fitted, compared, fitted_to, nearest_meshes, retopologize
from meshgpt.steering import SteeringConfig, steer
from meshgpt.wishes import Target

PLACE = np.array([5.0, -2.0, 30.0])
DENSE = Mesh(CUBE.vertices * 7 + PLACE, CUBE.faces)
CLOUD = PointCloud.from_mesh(DENSE, 500, 0)


def in_place(target, mesh):
    """The mesh where the normalised shape is."""
    return Mesh(target.frame.normalize(mesh.vertices), mesh.faces)


class Shelf:
    """A data set of few meshes."""

    def __init__(self, *meshes):
        self.meshes = meshes

    def __len__(self):
        return len(self.meshes)

    def mesh(self, index):
        return self.meshes[index]


@pytest.fixture(scope="module", autouse=True)
def quick_fits():
    quick = partial(fit_to_surface, config=FitConfig(points=300, steps=1, stiffness=(1.0, 0.05)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meshgpt.retopology.fit_to_surface", quick)
        yield


@pytest.fixture(scope="module")
def pipe():
    return conditioned_pipeline()


@pytest.fixture(scope="module")
def made(pipe):
    return retopologize(pipe, DENSE, candidates=3, seed=0, nearest=Shelf(TETRAHEDRON, CUBE))


# the nearest mesh


def test_the_nearest_mesh_is_the_one_that_a_full_search_finds(tiny_meshes):
    shelf = Shelf(*tiny_meshes[10:])
    assert len(shelf) > SHORTLIST
    search = NearestMeshes(shelf)
    clouds = [PointCloud.from_mesh(mesh.normalized(), 2048, 1) for mesh in shelf.meshes]
    for mesh in tiny_meshes[:3]:
        assert search.find(mesh).index == nearest_mesh(mesh.normalized(), clouds).index


def test_a_mesh_finds_itself_at_any_place_and_size(tiny_dataset):
    search = nearest_meshes(tiny_dataset)
    mesh = tiny_dataset.mesh(7)
    moved = Mesh(mesh.vertices * 30 + PLACE, mesh.faces)
    for shape in (moved, PointCloud.from_mesh(moved, 3000, 0)):
        assert search.find(shape).index == 7
    assert search.find(moved).chamfer == pytest.approx(search.find(mesh).chamfer, rel=1e-6)


def test_a_search_is_kept_for_equal_data_sets_and_prefers_the_split_train(tiny_dataset):
    assert nearest_meshes("tiny") is nearest_meshes(tiny_dataset.__class__("tiny"))
    assert nearest_meshes(nearest_meshes("tiny")) is nearest_meshes("tiny")
    train = tiny_dataset.split("train") if "train" in tiny_dataset.splits else tiny_dataset
    assert len(nearest_meshes("tiny").dataset) == len(train)


def test_meshes_without_a_surface_are_passed_over():
    flat = Mesh(np.zeros((3, 3)), [[0, 1, 2]])
    assert NearestMeshes(Shelf(flat, TETRAHEDRON, flat, CUBE)).find(DENSE).index == 3
    with pytest.raises(DataError, match="no mesh of .* has a surface"):
        NearestMeshes(Shelf(flat)).find(CUBE)


# the light mesh


def test_the_best_seed_is_kept_in_the_place_of_the_shape(pipe, made):
    written = pipe.generate(mesh=DENSE, seed=0, num_meshes=3, candidates=1)
    best = min(written, key=faults)
    plain = retopologize(pipe, DENSE, candidates=3, seed=0, nearest=None, fit=False)
    assert plain.written is None and plain.generated.seed == best.seed
    assert np.array_equal(plain.mesh.vertices, best.mesh.vertices) and plain.result.note == f"seed {best.seed}"
    alone = retopologize(pipe, DENSE, candidates=1, seed=made.generated.seed, nearest=None)
    assert np.array_equal(alone.mesh.vertices, made.mesh.vertices)


def test_the_result_is_fitted_and_no_worse_than_what_was_written(pipe, made):
    assert made.written.mesh is made.generated.mesh and np.array_equal(made.written.mesh.faces, made.mesh.faces)
    assert made.report.chamfer < made.written.report.chamfer
    again = fitted_to(Target.of(DENSE), made.written.mesh)
    assert np.array_equal(again.vertices, made.mesh.vertices)


def test_the_best_after_the_fit_is_kept_among_the_best_before(pipe):
    target = Target.of(DENSE)
    written = sorted(pipe.generate(mesh=DENSE, seed=0, num_meshes=3, candidates=1), key=faults)
    fitted = [fitted_to(target, item.mesh) for item in written]
    distances = [target.compare(in_place(target, mesh)).chamfer for mesh in fitted]
    after = [(faults(item)[:2], distance) for item, distance in zip(written, distances, strict=True)]
    for count in (1, 3):
        item, mesh = best_fitted(written, target, count=count)
        place = after.index(min(after[:count]))
        assert item is written[place] and np.array_equal(mesh.vertices, fitted[place].vertices)


def test_all_are_measured_against_the_same_points_of_the_shape(made):
    target = Target.of(DENSE)
    for item in made.likenesses:
        normalized = Mesh(target.frame.normalize(item.mesh.vertices), item.mesh.faces)
        assert item.report == compare_surfaces(normalized, target.shape, 10_000)
    assert made.report is made.result.report and made.mesh is made.result.mesh


def test_known_shapes_are_found_where_the_shape_is(made):
    assert made.nearest.note == "1" and np.allclose(made.nearest.mesh.bounds, DENSE.bounds)
    assert made.nearest.report.chamfer == pytest.approx(made.itself.report.chamfer, rel=0.05)
    assert made.decimated.note == "" and made.decimated.mesh.num_faces <= made.mesh.num_faces < 12
    assert np.abs(made.decimated.mesh.vertices - PLACE).max() < 10
    assert made.itself.open_edges == 0 and made.missing == {}


def test_a_budget_is_a_wish_where_the_model_takes_it_and_a_limit_always(pipe, monkeypatch):
    heard = []

    def generate(self, **options):
        heard.append(options)
        return written

    written = pipe.generate(mesh=DENSE, seed=0, num_meshes=2)
    monkeypatch.setattr(type(pipe), "generate", generate)
    retopologize(pipe, DENSE, 10, nearest=None, fit=False)
    only_points = conditioned_pipeline(condition_on_points=True, num_point_latents=4)
    retopologize(only_points, DENSE, 10, nearest=None, fit=False)
    retopologize(pipe, DENSE, 10, nearest=None, fit=False, max_faces=7, min_faces=2, temperature=0.5)
    retopologize(pipe, DENSE, 10, nearest=None, fit=False, max_faces=7)
    soft, hard, own, short = heard
    assert soft["faces"] == 10 and soft["max_faces"] == 12 and soft["min_faces"] == 8
    assert "faces" not in hard and "min_faces" not in hard and hard["max_faces"] == 10
    assert own["max_faces"] == 7 and own["min_faces"] == 2 and own["temperature"] == 0.5
    assert short["min_faces"] == 7


def test_decimation_goes_to_the_budget_and_says_where_it_cannot(pipe, made):
    target = Target.of(DENSE)
    eight = compared(target, made.generated, 8, nearest=None)
    assert eight.decimated.mesh.num_faces <= 8 and eight.nearest is None and eight.faces == 8
    assert compared(target, made.generated, 50, nearest=None).decimated.note == "has as few"
    small = compared(target, made.generated, 3, nearest=None)
    assert small.decimated is None and "cannot be decimated to 3 faces" in small.missing["decimated"]
    assert "decimated: none, a mesh cannot be decimated to 3 faces" in small.table()
    without = compared(target, made.generated, 8, decimated=False, nearest=None)
    assert without.decimated is None and without.missing == {}


def test_a_collapse_that_gets_stuck_is_noted(made, monkeypatch):
    monkeypatch.setattr("meshgpt.retopology.decimate", lambda mesh, budget: mesh)
    stuck = compared(Target.of(DENSE), made.generated, 8, nearest=None).decimated
    assert stuck.note == "goes no further" and stuck.mesh.num_faces == 12


def test_without_the_package_the_table_says_what_to_install(made, monkeypatch):
    def absent():
        raise MissingExtraError("fast-simplification", "mesh", "decimation")

    monkeypatch.setattr(decimation, "_fast_simplification", absent)
    found = compared(Target.of(DENSE), made.generated, 8, nearest=None)
    assert found.decimated is None and "pip install 'meshgpt[mesh]'" in found.table()


def test_a_cloud_is_followed_too(pipe):
    made = retopologize(pipe, CLOUD, candidates=2, seed=0, nearest=Shelf(TETRAHEDRON, CUBE))
    assert made.itself is None and made.decimated is None and "a cloud has no faces" in made.missing["decimated"]
    assert made.nearest.note == "1" and made.report.normal_consistency is not None
    assert np.allclose(made.shape.points, CLOUD.points)
    bare = retopologize(pipe, CLOUD.points, candidates=1, seed=0, nearest=None)
    assert bare.report.normal_consistency is None and bare.table().split("\n")[1].split()[-4:-2] == ["-", "-"]


def test_table_figures_and_picture_show_all_of_them(made):
    lines = made.table().split("\n")
    assert lines[0].split() == ["faces", "Chamfer", "Hausdorff", "normals", "signed", "F-score", "open", "edges"]
    assert [line.split()[0] for line in lines[1:]] == ["input", "written", "result", "decimated", "nearest"]
    assert f"{made.written.report.chamfer:.4f}" in lines[2] and f"(seed {made.generated.seed})" in lines[2]
    assert f"{made.report.chamfer:.4f}" in lines[3] and "(fitted)" in lines[3]
    figures = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert figures["result"]["chamfer"] == made.report.chamfer and figures["nearest"]["note"] == "1"
    assert figures["result"]["faces"] == made.mesh.num_faces and figures["faces_asked"] is None
    picture = made.picture(48)
    assert figures["written"]["chamfer"] == made.written.report.chamfer
    assert picture.shape[1] == 5 * 48 and picture.dtype == np.uint8 and picture.std() > 1


def test_a_cloud_of_next_to_no_points_is_refused(pipe):
    with pytest.raises(ConditionError, match="a cloud of 3 points says too little .* give at least 20"):
        retopologize(pipe, PointCloud(CLOUD.points[:3]))


def test_a_picture_of_a_cloud_shows_its_points(pipe, monkeypatch):
    made = retopologize(pipe, CLOUD, candidates=1, seed=0, nearest=None)
    titled = made.picture(48)
    monkeypatch.setattr("meshgpt.retopology.find_spec", lambda name: None)
    bare = made.picture(48)
    assert bare.shape == (48, 144, 3) and titled.shape[0] > 48
    assert bare[:, :48].std() > 1


def test_a_search_takes_the_place_of_candidates(pipe):
    config = SteeringConfig(particles=4, chunk=2)
    found = retopologize(pipe, DENSE, seed=3, search=config, fit=False, nearest=None)
    best = min(steer(pipe, DENSE, seed=3, config=config), key=faults)
    assert found.generated.seed == 3 and np.array_equal(found.mesh.vertices, best.mesh.vertices)
    many = retopologize(pipe, DENSE, 5, seed=3, search=4, nearest=None, decimated=False)
    with pytest.raises(ConfigError, match="particles must be at least 1, got 0"):
        retopologize(pipe, DENSE, search=0)
    assert many.mesh.num_faces <= 6 and many.written is not None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"faces": 0}, "faces must be a number of at least 1, got 0"),
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"shape": np.zeros((0, 3))}, "empty cloud"),
        ({"category": "chiar"}, "did you mean 'chair'"),
    ],
)
def test_what_cannot_be_done_is_refused(pipe, options, says):
    shape = options.pop("shape", CUBE)
    with pytest.raises(GenerationError, match=says):
        retopologize(pipe, shape, **options)


def test_a_model_that_takes_no_points_is_refused_with_its_kinds():
    with pytest.raises(ConditionError, match="this one is trained without conditions: train one with `meshgpt train"):
        retopologize(conditioned_pipeline(condition_on_text=False), CUBE)
    with pytest.raises(ConditionError, match="this one is trained with category, num_faces"):
        retopologize(conditioned_pipeline(categories=("chair",), condition_on_faces=True), CUBE)


def test_a_model_that_writes_nothing_is_an_error(pipe, monkeypatch):
    empty = pipe.generate(mesh=CUBE, seed=0, max_faces=1, min_faces=0)[0]
    nothing = Mesh([[0, 0, 0]], np.zeros((0, 3), dtype=np.int64))
    monkeypatch.setattr(type(pipe), "generate", lambda self, **_: [empty.__class__(nothing, 0, empty.codes, "end")])
    with pytest.raises(GenerationError, match="none of the 4 candidates has a face"):
        retopologize(pipe, CUBE, candidates=4)
