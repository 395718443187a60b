"""What is asked of a pipeline: checked mesh by mesh, heard by the model, and answered where the shape stands."""

import warnings

import numpy as np
import pytest
import torch
from conditioned_toys import CUBE, TETRAHEDRON, conditioned_pipeline
from conditioned_toys import knows_letters as knows_letters

from meshgpt.errors import ConditionError, ConfigError, GenerationError, GenerationInterrupted, MeshError, MeshFileError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.clouds import PointCloud, write_points
from meshgpt.mesh.files import write_mesh
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.shape_files import read_shape
from meshgpt.mesh.surface import compare_surfaces
from meshgpt.pipeline import CANDIDATE_STRIDE, GeneratedMesh, MeshPipeline, MeshPipelineConfig, faults
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.transformer.conditions import KINDS
from meshgpt.transformer.transformer import MeshTransformer
from meshgpt.wishes import KEYWORDS, Target, Wishes, refusal

CLOUD = PointCloud.from_mesh(CUBE, 300, 0)
PLACE = np.array([5.0, -2.0, 30.0])
WANTED = {"text": "a chair", "category": "chair", "faces": 12, "points": CLOUD}


@pytest.fixture(scope="module")
def pipe():
    return conditioned_pipeline()


@pytest.fixture(scope="module")
def plain():
    """A pipeline whose model takes no condition."""
    return conditioned_pipeline(condition_on_text=False)


def placed(mesh, size=7.0):
    return Mesh(mesh.vertices * size + PLACE, mesh.faces)


def codes_of(written):
    return [item.codes.tolist() for item in written]


# what is asked, mesh by mesh


def test_what_is_given_once_is_for_all_and_a_list_has_an_entry_each():
    wishes = Wishes.of(None, KINDS, text=["a", None, "c"], category="chair", faces=(10, None, 30), mesh=CUBE)
    assert wishes.count == 3 and wishes.texts == ["a", None, "c"] and wishes.categories == ["chair"] * 3
    assert wishes.faces == [10, None, 30]
    assert wishes.targets[0] is wishes.targets[2] and wishes.are_any
    assert Wishes.of(4, KINDS).count == 4 and not Wishes.of(None, ()).are_any and Wishes.of(None, ()).count == 1


def test_some_meshes_may_follow_no_shape(pipe):
    written = pipe.generate(points=[CLOUD, None], seed=[3, 3])
    assert written[0].fit is not None and written[1].fit is None
    assert codes_of(written)[1:] == codes_of(pipe.generate(seed=3))


def test_conditions_are_those_that_the_transformer_would_be_given(pipe):
    wishes = Wishes.of(2, KINDS, text=["a", "b"], category="table", faces=40, points=CLOUD)
    found = wishes.conditions(pipe.transformer.conditions_of, 100)
    points = [Target.of(CLOUD).seen(100)] * 2
    wanted = pipe.transformer.conditions_of(2, texts=["a", "b"], categories="table", num_faces=40, points=points)
    for name in ("text_embeds", "text_mask", "categories", "num_faces", "points", "point_mask"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"text": ["a", "b", "c"], "num_meshes": 2}, "3 for text, 2 for num_meshes"),
        ({"text": ["a", "b", "c"], "category": ["chair", "table"]}, "3 for text, 2 for category"),
        ({"text": []}, "text is an empty list"),
        ({"points": []}, "points is an empty list"),
        ({"text": [3]}, "texts must be strings"),
        ({"category": "chiar"}, "unknown category 'chiar': did you mean 'chair'"),
        ({"category": "zebra"}, "unknown category 'zebra': known are chair, table, teapot"),
        ({"category": 7}, "category 7 is none of the 3"),
        ({"faces": 0}, "faces must be a number of at least 1, got 0"),
        ({"faces": [5, -1]}, "at least 1, got -1"),
        ({"faces": "many"}, "at least 1, got 'many'"),
        ({"faces": True}, "at least 1, got True"),
        ({"points": CLOUD, "mesh": CUBE}, "both points and mesh"),
        ({"points": np.zeros((0, 3))}, "empty cloud"),
        ({"points": np.zeros((4, 5))}, r"got \(4, 5\)"),
        ({"points": np.zeros((2, 4, 3))}, r"got \(2, 4, 3\)"),
        ({"mesh": Mesh([[0, 0, 0]], [])}, "no faces"),
        ({"negative_text": "a table"}, "negative_text without text"),
        ({"text": "a", "negative_text": "b"}, "negative_texts without guidance: give a cond_scale"),
        ({"text": ["a", "b"], "negative_text": ["c"], "cond_scale": 2.0}, "1 for negative_text, but 2 meshes"),
        ({"cond_scale": 2.0}, "cond_scale without anything asked for"),
        ({"cond_scale_end": 2.0}, "cond_scale without anything asked for"),
        ({"text": "a", "cond_scale": -1.0}, "cond_scale must not be negative"),
        ({"points": CLOUD, "num_points": 0}, "num_points must be at least 1"),
    ],
)
def test_wishes_that_cannot_be_served_are_refused(pipe, asked, says):
    with pytest.raises(GenerationError, match=says):
        pipe.generate(**asked)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_that_are_not_finite_are_named(pipe, bad):
    points = CLOUD.points.copy()
    points[7, 1] = bad
    with pytest.raises(MeshError, match="row 7 of points"):
        pipe.generate(points=points)


@pytest.mark.parametrize("name", KEYWORDS)
def test_a_model_without_conditions_says_so(plain, name):
    with pytest.raises(ConditionError, match=f"trained without conditions and takes no `{name}`"):
        plain.generate(**{name: {**WANTED, "mesh": CUBE}[name]})


def test_a_model_of_other_conditions_names_them():
    other = conditioned_pipeline(categories=("chair",), condition_on_faces=True)
    with pytest.raises(ConditionError, match="takes no `text`, it was trained with category, faces: leave it out"):
        other.generate("a chair")
    assert "points, mesh" in refusal("text", ("points",))


# shapes to follow


def test_a_shape_may_come_in_many_forms(tmp_path):
    write_mesh(CUBE, tmp_path / "mesh.glb")
    write_mesh(CUBE, tmp_path / "mesh.ply")
    for name in ("cloud.ply", "cloud.xyz", "cloud.npy"):
        write_points(CLOUD, tmp_path / name)
    for shape in (CUBE, tmp_path / "mesh.glb", str(tmp_path / "mesh.ply")):
        assert isinstance(Target.of(shape).shape, Mesh) and Target.of(shape).shape.num_faces == 12
    both = np.concatenate((CLOUD.points, CLOUD.normals), axis=1)
    forms = (CLOUD, both, torch.tensor(both), *(tmp_path / f"cloud.{kind}" for kind in ("ply", "xyz", "npy")))
    for shape in forms:
        target = Target.of(shape)
        assert np.allclose(target.shape.points, CLOUD.normalized()[0].points)
        assert np.allclose(target.shape.normals, CLOUD.normals)
    assert Target.of(CLOUD.points.tolist()).shape.normals is None and Target.of(target) is target


def test_what_a_model_sees_is_small_normalised_and_always_the_same():
    for shape in (placed(CUBE), PointCloud(CLOUD.points * 9 + PLACE, CLOUD.normals)):
        target = Target.of(shape)
        seen = target.seen(64)
        assert seen.shape == (64, 6) and torch.equal(seen, target.seen(64)) and seen[:, :3].abs().max() <= 0.951
        assert torch.allclose(seen[:, 3:].norm(dim=1), torch.ones(64))
    assert Target.of(CLOUD).seen(1000).shape == (300, 6)
    assert Target.of(CLOUD.points).seen(10)[:, 3:].eq(0).all()


def test_a_shape_knows_where_it_was():
    assert np.allclose(Target.of(placed(CUBE)).placed.vertices, placed(CUBE).vertices)
    cloud = Target.of(PointCloud(CLOUD.points * 9 + PLACE)).placed
    assert np.allclose(cloud.points, CLOUD.points * 9 + PLACE) and cloud.normals is None


def test_a_mesh_is_compared_with_the_shape_in_normalised_coordinates():
    target = Target.of(placed(CUBE))
    assert target.compare(CUBE.normalized()) == compare_surfaces(CUBE.normalized(), target.shape, 4096)
    assert target.compare(Mesh(np.zeros((3, 3)), [[0, 1, 2]])) is None


def test_files_are_read_as_what_they_are(tmp_path):
    write_points(CLOUD, tmp_path / "cloud.ply")
    write_mesh(CUBE, tmp_path / "mesh.ply")
    assert isinstance(read_shape(tmp_path / "cloud.ply"), PointCloud)
    assert isinstance(read_shape(tmp_path / "mesh.ply"), Mesh)
    turned = read_shape(tmp_path / "cloud.ply", up="z").points
    assert np.allclose(turned[:, 1], CLOUD.points[:, 2])
    write_mesh(TETRAHEDRON, tmp_path / "mesh.ply")
    assert np.allclose(read_shape(tmp_path / "mesh.ply", up="-x").bounds[:, 1], [-0.9, 0])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent.ply", None, "cannot be opened"),
        ("absent.glb", None, "cannot be opened"),
        ("absent.xyz", None, "cannot be opened"),
        ("bad.glb", b"glTF nonsense", "bad.glb"),
        ("empty.xyz", b"", "empty.xyz"),
        ("nan.xyz", b"0 0 0\n0 nan 0\n", "point 1 is .*finite"),
        ("notes.docx", b"hello", "notes.docx"),
        (
            "faces.ply",
            b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
            b"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n",
            "faces.ply",
        ),
    ],
)
def test_a_file_that_holds_no_shape_is_named(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MeshFileError, match=says):
        Target.of(tmp_path / name)


# the pipeline


@pytest.mark.parametrize("name", WANTED)
def test_each_wish_is_what_the_transformer_is_asked_for(pipe, name):
    """Two ways to one answer; and not the answer to nothing."""
    written = pipe.generate(**{name: WANTED[name]}, seed=[3, 4], num_meshes=2)
    given = Target.of(CLOUD).seen(1024) if name == "points" else WANTED[name]
    argument = {"text": "texts", "category": "categories", "faces": "num_faces"}.get(name, name)
    limits = {"max_faces": 8, "min_faces": 3, "follow_grammar": True}
    result = pipe.transformer.generate_result(None, 2, seed=(3, 4), **{argument: given}, **limits)
    assert codes_of(written) == [row[row >= 0].tolist() for row in result.codes]
    assert codes_of(written) != codes_of(pipe.generate(seed=[3, 4], num_meshes=2))


@pytest.mark.parametrize("guided", [{}, {"cond_scale": 2.0, "negative_text": ["x", "y", None]}])
def test_wishes_stay_with_their_mesh_whatever_else_is_in_the_batch(pipe, guided):
    asked = {"text": ["a", "bb", "ccc"], "category": ["chair", None, "table"], "faces": [4, 6, None]}
    together = pipe.generate(**asked, points=CLOUD, seed=5, **guided)
    in_batches = pipe.generate(**asked, points=CLOUD, seed=5, batch_size=2, **guided)
    assert codes_of(together) == codes_of(in_batches)
    alone = {name: value[1] if isinstance(value, list) else value for name, value in {**asked, **guided}.items()}
    assert codes_of(pipe.generate(**alone, points=CLOUD, seed=6)) == codes_of(together)[1:2]


def test_a_negative_text_and_a_scale_change_what_is_written(pipe):
    asked = {"text": "a", "seed": 0, "num_meshes": 3}
    ways = [{}, {"cond_scale": 4.0}, {"cond_scale": 4.0, "negative_text": "zzz"}, {"cond_scale": 1.0}]
    found = [codes_of(pipe.generate(**asked, **way)) for way in ways]
    assert found[0] == found[3] and found[0] != found[1] != found[2]


def test_a_scale_of_the_pipeline_holds_where_something_is_asked_for():
    scaled = conditioned_pipeline(MeshPipelineConfig(max_faces=8, min_faces=3, cond_scale=4.0))
    unscaled = conditioned_pipeline()
    asked = {"text": "a", "seed": 0, "num_meshes": 3}
    assert codes_of(scaled.generate(**asked)) == codes_of(unscaled.generate(**asked, cond_scale=4.0))
    assert codes_of(scaled.generate(seed=0)) == codes_of(unscaled.generate(seed=0))


@pytest.mark.parametrize("shape", [CUBE, CLOUD], ids=["mesh", "cloud"])
def test_the_answer_stands_where_the_shape_does(pipe, shape):
    """The same shape elsewhere and larger gives the same mesh there."""
    is_mesh = isinstance(shape, Mesh)
    name = "mesh" if is_mesh else "points"
    elsewhere = placed(shape) if is_mesh else PointCloud(shape.points * 7.0 + PLACE, shape.normals)
    [here], [there] = (pipe.generate(**{name: each}, seed=2) for each in (shape, elsewhere))
    assert torch.equal(here.codes, there.codes)
    assert np.allclose(there.mesh.vertices, here.mesh.vertices * 7 + PLACE)
    assert here.fit is not None and here.fit.chamfer == pytest.approx(there.fit.chamfer, rel=1e-3)
    frame = Target.of(shape).frame
    assert np.allclose(frame.normalize(here.mesh.vertices), pipe.decoded(here.codes).vertices)


def test_of_several_candidates_the_nearest_to_the_shape_is_kept(pipe):
    rounds = [pipe.generate(mesh=CUBE, seed=CANDIDATE_STRIDE * number, num_meshes=2) for number in range(3)]
    kept = pipe.generate(mesh=CUBE, seed=0, num_meshes=2, candidates=3)
    for index, item in enumerate(kept):
        best = min((candidates[index] for candidates in rounds), key=faults)
        assert torch.equal(item.codes, best.codes)


def test_candidates_are_ordered_by_how_they_ended_then_the_budget_then_the_shape():
    def item(stopped_by, mesh=CUBE, fit=None):
        return GeneratedMesh(mesh, 0, torch.zeros(0), stopped_by, fit)

    near, far = (Target.of(CUBE).compare(mesh) for mesh in (CUBE, TETRAHEDRON.normalized()))
    ordered = [
        *(item("end", CUBE, near), item("end", CUBE, far), item("end", TETRAHEDRON, near)),
        *(item("max_faces", CUBE, near), item("interrupted", CUBE, near)),
    ]
    keys = [faults(each, faces=12) for each in ordered]
    assert keys == sorted(keys) and len(set(keys)) == 5
    assert faults(item("end"), faces=11) == faults(item("end"), faces=14)  # both within a fifth
    assert faults(item("end"), 30) > faults(item("end"), 16)


def test_saving_and_loading_gives_the_same_answers(pipe, tmp_path, knows_letters):
    pipe.save_pretrained(tmp_path)
    again = MeshPipeline.from_pretrained(tmp_path)
    asked = {**WANTED, "seed": 3, "num_meshes": 2, "cond_scale": 2.0}
    assert codes_of(again.generate(**asked)) == codes_of(pipe.generate(**asked))


# completion


def test_a_completed_mesh_keeps_its_lower_faces_where_they_were(pipe):
    mesh = placed(CUBE)
    begun = pipe.begun(mesh, 0.5)
    assert begun.num_faces == 6 and np.allclose(begun.bounds[0], -0.95, atol=0.01)
    for item in pipe.complete(mesh, 0.5, seed=0, num_meshes=2, max_faces=10):
        kept = item.codes[: 6 * pipe.tokenizer.tokens_per_face]
        assert canonicalize(pipe.tokenizer.decode(kept)) == canonicalize(begun)
        corners = {tuple(row) for row in item.mesh.vertices.round(6).tolist()}
        assert {tuple(row) for row in Target.of(mesh).frame.restore(begun.vertices).round(6).tolist()} <= corners


def test_the_lowest_faces_are_the_ones_that_are_kept(pipe, tiny_meshes):
    for mesh in tiny_meshes[:6]:
        grid = canonicalize(mesh.normalized()).mesh()
        begun = pipe.begun(mesh, 0.3)
        assert begun.num_faces == round(0.3 * grid.num_faces)
        lowest = np.sort(grid.vertices[grid.faces][..., 1].min(axis=1))
        kept = np.sort(begun.vertices[begun.faces][..., 1].min(axis=1))
        assert np.allclose(kept, lowest[: len(kept)])


def test_all_may_be_kept_and_seeds_reproduce(pipe):
    [whole] = pipe.complete(CUBE, 1, seed=0, max_faces=12)
    assert canonicalize(whole.mesh.normalized()) == canonicalize(CUBE.normalized())
    one, two = (codes_of(pipe.complete(CUBE, 0.5, seed=4, num_meshes=2)) for _ in range(2))
    assert one == two and one != codes_of(pipe.complete(CUBE, 0.5, seed=40, num_meshes=2))


def test_a_completion_may_be_asked_for_something(pipe):
    asked = {"seed": 4, "num_meshes": 3}
    assert codes_of(pipe.complete(CUBE, 0.5, **asked)) != codes_of(pipe.complete(CUBE, 0.5, text="zzz", **asked))


def test_as_many_faces_are_asked_for_as_the_mesh_to_complete_has(pipe):
    quick = {"seed": 4, "num_meshes": 2}
    plain = codes_of(pipe.complete(CUBE, 0.5, **quick))
    assert plain == codes_of(pipe.complete(CUBE, 0.5, faces=12, **quick))
    assert plain != codes_of(pipe.complete(CUBE, 0.5, faces=40, **quick))


def test_completed_meshes_are_handed_over_and_saved_at_ctrl_c_where_they_stand(pipe):
    def on_mesh(index, item):
        handed.append(item)
        if index == 2:
            raise KeyboardInterrupt

    handed, mesh = [], placed(CUBE)
    with pytest.raises(GenerationInterrupted) as caught:
        pipe.complete(mesh, 0.5, seed=0, num_meshes=4, batch_size=2, on_mesh=on_mesh)
    written = pipe.complete(mesh, 0.5, seed=0, num_meshes=4, batch_size=2)
    assert len(handed) == 3 and len(caught.value.written) == 4
    for items in (handed, caught.value.written):
        for item, whole in zip(items, written, strict=False):
            assert np.array_equal(item.mesh.vertices, whole.mesh.vertices)


@pytest.mark.parametrize(
    ("mesh", "keep", "says"),
    [
        (CUBE, 0.0, r"keep must be a share of the faces in \(0, 1\], got 0.0"),
        (CUBE, 1.5, "got 1.5"),
        (CUBE, 0.01, "0.01 of the 12 faces of the mesh is none: keep more"),
        (Mesh([[0, 0, 0]], []), 0.5, "0.5 of the 0 faces"),
        ("chair.glb", 0.5, "must be a Mesh, got str"),
    ],
)
def test_completions_that_cannot_be_are_refused(pipe, mesh, keep, says):
    with pytest.raises(GenerationError, match=says):
        pipe.complete(mesh, keep)


def test_where_faces_share_codes_the_first_of_the_walk_are_kept():
    torch.manual_seed(0)
    model = MeshTransformer(PatchTokenizer(), dim=16, attn_depth=1, attn_heads=2, attn_dim_head=8, max_seq_len=60)
    pipe = MeshPipeline(model.tokenizer, model)
    whole = canonicalize(CUBE.normalized()).mesh()
    begun = pipe.begun(CUBE, 0.5)
    assert begun.num_faces == 6 and _corners(begun) < _corners(whole)
    for item in pipe.complete(CUBE, 0.5, seed=0, num_meshes=3):
        there = model.tokenizer.decode(item.codes)
        assert _corners(begun) <= _corners(there) and item.stopped_by == "end"


def _corners(mesh):
    """The faces of a mesh as sets of positions."""
    return {frozenset(map(tuple, face.round(6))) for face in mesh.vertices[mesh.faces]}


def test_quads_are_completed_too():
    torch.manual_seed(0)
    tokenizer = CoordinateTokenizer(quads=True)
    model = MeshTransformer(tokenizer, dim=16, attn_depth=1, attn_heads=2, attn_dim_head=8, max_seq_len=270)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [item] = MeshPipeline(tokenizer, model).complete(CUBE, 0.25, seed=0, max_faces=6)
    assert len(item.codes) >= 3 * tokenizer.tokens_per_face


# a number of faces where nobody says


def test_a_usual_number_of_faces_is_told_where_none_is_asked_for_by_the_seed(monkeypatch):
    usual = (10, 20, 30, 200)
    pipe = conditioned_pipeline()
    pipe = MeshPipeline(pipe.tokenizer, pipe.transformer, MeshPipelineConfig(usual_faces=usual, max_faces=8))
    told, write = [], pipe.transformer.generate_result

    def hear(*arguments, conditions, **options):
        told.append(None if conditions.num_faces is None else conditions.num_faces.tolist())
        return write(*arguments, conditions=conditions, **options)

    monkeypatch.setattr(pipe.transformer, "generate_result", hear)
    pipe.generate(seed=[5, 6], num_meshes=2, max_faces=30)
    pipe.generate(seed=6, max_faces=30)
    assert told[1] == told[0][1:] and all(10 <= count <= 24 for count in told[0])
    pipe.generate(seed=list(range(40)), num_meshes=40, batch_size=40, max_faces=300)
    assert 10 <= min(told[2]) < 15 and 100 < max(told[2]) <= 200 and 10 < np.median(told[2]) < 40
    pipe.generate(seed=5, max_faces=4)  # no usual number has room
    assert told[3] == [3]
    pipe.generate(seed=5, faces=7, max_faces=30)
    pipe.generate(seed=5, points=CLOUD)
    pipe.complete(TETRAHEDRON, 0.5, seed=5)
    assert told[4:] == [[7], None, [4]]  # a mesh that is completed is asked for with its own number


def test_usual_numbers_of_faces_are_positive():
    with pytest.raises(ConfigError, match="usual_faces"):
        MeshPipelineConfig(usual_faces=(0, 10))
