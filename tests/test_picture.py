"""Pictures of meshes: the z-buffer, what a picture shows, sheets, turntables and the files they are kept in."""

import io
import math
import sys

import numpy as np
import pytest

from meshgpt.errors import ConfigError, DataError, MissingExtraError
from meshgpt.mesh.camera import FILLED, Camera
from meshgpt.mesh.mesh import Mesh, join
from meshgpt.mesh.picture import Style, contact_sheet, render, save_gif, save_png, split_faces, turntable
from meshgpt.mesh.raster import coverage, edge_distance, rasterize

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
QUADS = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
FRONT_VIEW = {"azimuth": 0.0, "elevation": 0.0, "field_of_view": 0.0}
FLAT = {**FRONT_VIEW, "wireframe": False, "shadow": 0.0}
PLAIN = Style(background=("#000000", "#000000"), wireframe=False, shadow=0.0)


def cube(quads: bool = False) -> Mesh:
    mesh = Mesh(CORNERS, QUADS)
    return mesh if quads else mesh.triangulated()


def square(z: float = 0.0, half: float = 1.0) -> Mesh:
    """A square in the plane of `z` that looks towards +z."""
    vertices = [[-half, -half, z], [half, -half, z], [half, half, z], [-half, half, z]]
    return Mesh(vertices, [[0, 1, 2], [0, 2, 3]])


def is_front(picture: np.ndarray) -> np.ndarray:
    """Pixels that are more blue than red, as the front colour is."""
    return picture[..., 2].astype(int) > picture[..., 0].astype(int) + 25


def is_back(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0].astype(int) > picture[..., 2].astype(int) + 40


def darkness(picture: np.ndarray) -> np.ndarray:
    return 255 - picture.astype(int).mean(axis=2)


# The z-buffer


def test_a_triangle_covers_the_pixel_centres_inside_it():
    points = np.array([[[0.0, 0.0], [3.9, 0.0], [0.0, 3.9]]])
    expected = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    assert (coverage(points, 4, 4) == expected).all()
    assert (coverage(points[:, ::-1], 4, 4) == expected).all()  # whichever way it is wound


def test_the_z_buffer_agrees_with_testing_every_pixel_against_every_triangle(monkeypatch):
    rng = np.random.default_rng(0)
    points, nearness = rng.uniform(-10, 50, (60, 3, 2)), rng.uniform(0, 1, (60, 3))
    y, x = np.mgrid[0:40, 0:44] + 0.5
    expected, best = np.full((40, 44), -1), np.full((40, 44), -1.0)
    for index, ((a, b, c), depth) in enumerate(zip(points, nearness, strict=True)):
        area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
        weight_b = ((x - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (y - a[1])) / area
        weight_c = ((b[0] - a[0]) * (y - a[1]) - (x - a[0]) * (b[1] - a[1])) / area
        weights = np.stack((1 - weight_b - weight_c, weight_b, weight_c))
        value = np.tensordot(depth, weights, 1)
        nearer = (weights >= 0).all(axis=0) & (value > best)
        expected[nearer], best[nearer] = index, value[nearer]
    assert (rasterize(points, nearness, 40, 44) == expected).all()
    monkeypatch.setattr("meshgpt.mesh.raster.PIXELS_AT_ONCE", 50)  # in many small parts: the same
    assert (rasterize(points, nearness, 40, 44) == expected).all()


def test_triangles_that_share_edges_leave_no_crack_and_no_pixel_is_covered_twice():
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.linspace(-2, 34, 9), np.linspace(-2, 34, 9)), axis=-1)
    grid[1:-1, 1:-1] += rng.uniform(-1.5, 1.5, (7, 7, 2))
    a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]
    points = np.concatenate([np.stack(t, axis=-2).reshape(-1, 3, 2) for t in ((a, b, c), (a, c, d))])
    covered = sum(coverage(points[i : i + 1], 32, 32).astype(int) for i in range(len(points)))
    assert (covered == 1).all()


def test_triangles_without_area_or_outside_the_picture_cover_nothing():
    points = np.array([[[1, 1], [5, 5], [9, 9]], [[3, 3], [3, 3], [3, 3]], [[-9, -9], [-1, -9], [-1, -1]]], dtype=float)
    assert (rasterize(points, np.ones((3, 3)), 8, 8) == -1).all()
    assert (rasterize(points[:0], np.ones((0, 3)), 8, 8) == -1).all()


def test_edge_distance_is_measured_to_the_drawn_edges_only():
    points = np.array([[[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]]])
    pixel = np.array([3 * 20 + 5])  # centre (5.5, 3.5)
    triangle = np.zeros(1, dtype=np.int64)
    assert edge_distance(points, np.array([[True, True, True]]), triangle, pixel, 20)[0] == pytest.approx(3.5)
    assert edge_distance(points, np.array([[False, True, True]]), triangle, pixel, 20)[0] == pytest.approx(5.5)
    assert edge_distance(points, np.array([[False, False, False]]), triangle, pixel, 20)[0] > 1e5


# What a picture shows


def test_a_cube_seen_from_the_front_covers_the_expected_pixels():
    picture = render(cube(), 200, **FLAT)
    rows, columns = np.nonzero(is_front(picture))
    side = 200 * FILLED
    assert len(rows) == pytest.approx(side * side, rel=0.03)
    assert (rows.min(), columns.min()) == pytest.approx((100 - side / 2, 100 - side / 2), abs=1)
    assert (rows.max(), columns.max()) == pytest.approx((99 + side / 2, 99 + side / 2), abs=1)


def test_a_picture_is_not_mirrored_and_azimuth_turns_the_camera_towards_x():
    marks = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)  # +x red, +y green, +z blue
    faces = np.array([[4, 6, 7, 5], [2, 3, 7, 6], [1, 5, 7, 3]])
    view = {"wireframe": False, "shadow": 0.0, "face_colors": marks}
    middle = render(Mesh(CORNERS, faces), 64, azimuth=math.pi / 4, elevation=0.5, **view).astype(int)
    assert middle[40, 20].argmax() == 2 and middle[40, 44].argmax() == 0 and middle[14, 32].argmax() == 1
    assert render(Mesh(CORNERS, faces), 64, azimuth=math.pi / 2, elevation=0.0, **view)[32, 32].argmax() == 0


def test_nearer_faces_hide_farther_ones_whatever_their_order():
    near, far = square(1.0, 0.5), square(-1.0, 1.0).flipped()
    for parts in ([near, far], [far, near]):
        picture = render(join(parts), 100, **FLAT)
        assert is_front(picture)[50, 50] and is_back(picture)[15, 15]
        assert is_front(picture).sum() == pytest.approx(is_back(picture).sum() / 3, rel=0.1)


def test_intersecting_faces_are_cut_where_they_meet():
    vertices = np.array([[-1, -1, -1], [1, -1, 1], [1, 1, 1], [-1, 1, -1]], dtype=float)  # nearer on the right
    slanted = Mesh(vertices, [[0, 1, 2], [0, 2, 3]]).flipped()
    picture = render(join([square(0.0), slanted]), 100, **FLAT)
    assert is_front(picture)[50, 20:48].all() and is_back(picture)[50, 52:80].all()


def test_a_flipped_face_shows_the_colour_of_back_faces():
    mesh = cube(quads=True)
    assert not is_back(render(mesh, 100)).any()
    faces = mesh.faces.copy()
    faces[5] = faces[5, ::-1]  # the one that looks towards +z
    assert is_back(render(Mesh(mesh.vertices, faces), 100, **FLAT)).sum() > 6000
    assert is_back(render(mesh.flipped(), 100)).sum() > 3000


def test_of_a_two_sided_sheet_the_side_that_looks_at_us_is_seen():
    sheet, rng = square(), np.random.default_rng(0)
    both = Mesh(sheet.vertices, np.concatenate((sheet.faces, np.roll(sheet.flipped().faces, 1, axis=1))))
    for azimuth, elevation in rng.uniform(-1.2, 1.2, (5, 2)):
        for mesh in (both, Mesh(both.vertices, both.faces[::-1])):
            assert not is_back(render(mesh, 64, azimuth=azimuth, elevation=elevation, wireframe=False)).any()


def test_the_wireframe_hides_behind_surfaces():
    hidden = square(-1.0, 0.3)
    with_hidden = render(join([square(), hidden]), 128, **FRONT_VIEW)
    alone = render(join([square(), Mesh(hidden.vertices, hidden.faces[:0])]), 128, **FRONT_VIEW)
    assert (with_hidden == alone).all()
    in_front = render(join([square(), square(1.0, 0.3)]), 128, **FRONT_VIEW)
    assert (in_front != alone).any()


def test_the_wireframe_draws_quads_without_their_diagonal():
    flat, triangles = render(cube(quads=True), 128, **FLAT), render(cube(), 128, **FRONT_VIEW)
    quads = render(cube(quads=True), 128, **FRONT_VIEW)
    inner = slice(20, 108)
    assert (quads[inner, inner] == flat[inner, inner]).all()
    assert darkness(triangles)[inner, inner].max() > darkness(quads)[inner, inner].max() + 60
    outline = darkness(quads)[:, 64]
    assert outline.max() > outline[64] + 30  # the outer edges are there


def test_a_concave_quad_covers_its_own_area_and_no_more():
    dart = np.array([[0, 1, 0], [-1, -1, 0], [0, -0.4, 0], [1, -1, 0]], dtype=float)
    for turn in range(4):
        mesh = Mesh(np.roll(dart, turn, axis=0), [[0, 1, 2, 3]])
        picture = render(mesh, 256, **FLAT)
        assert is_front(picture).sum() == pytest.approx(1.4 / 4 * (256 * FILLED) ** 2, rel=0.03)
        assert not is_back(picture).any()


def test_split_faces_keeps_winding_and_marks_only_the_edges_of_faces():
    mesh = Mesh(CORNERS, np.concatenate((QUADS, [[0, 1, 3, -1]])))
    triangles, drawn, face = split_faces(mesh)
    assert sorted(face.tolist()) == sorted([0, 1, 2, 3, 4, 5] * 2 + [6])
    assert drawn.sum() == 4 * 6 + 3
    normals = Mesh(CORNERS, triangles).face_normals
    assert np.allclose(normals, mesh.face_normals[face])


def test_the_same_arguments_give_the_same_pixels():
    mesh = cube()
    before = mesh.vertices.copy()
    first, second = render(mesh, 96), render(mesh, 96)
    assert (first == second).all() and (mesh.vertices == before).all()


def test_scale_and_place_of_a_mesh_do_not_change_its_picture():
    mesh = cube(quads=True)
    picture = render(mesh, 96).astype(int)
    for scale, shift in ((2.0**20, 0.0), (2.0**-20, 0.0), (1.0, 64.0)):
        moved = render(Mesh(mesh.vertices * scale + shift, mesh.faces), 96).astype(int)
        assert np.abs(moved - picture).max() <= 1


def test_with_target_and_extent_a_larger_mesh_is_larger_in_the_picture():
    camera = Camera(target=(0, 0, 0), extent=4.0, azimuth=0.0, elevation=0.0, field_of_view=0.0)
    small, large = (is_front(render(square(half=h), 100, camera, PLAIN)).sum() for h in (1.0, 2.0))
    assert large == pytest.approx(4 * small, rel=0.1) and small == pytest.approx(25 * 25, rel=0.15)


@pytest.mark.parametrize("view", [{}, {"field_of_view": 0.0}, {"elevation": math.pi / 2}, {"field_of_view": 2.0}])
def test_a_fitted_mesh_lies_whole_in_the_picture(view):
    for stretch in ([1, 1, 1], [9, 1, 1], [1, 9, 1], [1, 1, 9]):
        mesh = Mesh(CORNERS * stretch, QUADS)
        camera = Camera(**view).fitted(mesh)
        seen = camera.project(mesh.vertices)
        assert np.abs(seen[:, :2]).max() <= FILLED + 1e-9
        assert np.abs(seen[:, :2]).max() >= 0.5 * FILLED


def test_what_comes_too_near_to_the_eye_is_not_drawn():
    camera = Camera(target=(0, 0, 0), extent=1.0, azimuth=0.0, elevation=0.0)
    picture = render(join([square(), square(100.0)]), 64, camera, PLAIN)
    assert (picture == render(square(), 64, camera, PLAIN)).all()


def test_a_mesh_without_faces_or_without_area_gives_a_picture():
    blank = render(Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int)), 48)
    assert blank.shape == (48, 48, 3) and blank.std(axis=1).max() == 0
    assert (render(Mesh(CORNERS, np.zeros((0, 4), dtype=int)), 48) == blank).all()
    for mesh in (
        Mesh(np.ones((3, 3)), [[0, 1, 2]]),
        Mesh(CORNERS, [[0, 0, 0, -1]]),
        Mesh(np.eye(3) * 0.0, [[0, 1, 2]]),
    ):
        assert render(mesh, 48).shape == (48, 48, 3)
    line = Mesh([[0, 0, 0], [1, 1, 1], [2, 2, 2]], [[0, 1, 2]])
    assert (render(line, 48, shadow=0.0) == blank).all()


@pytest.mark.filterwarnings("error")
def test_any_finite_mesh_gives_a_picture_without_a_warning():
    rng = np.random.default_rng(3)
    for trial in range(60):
        vertices = rng.choice([0.0, 1.0, -1.0, 1e-3, 1e-9, 7.0], (9, 3)) * 10.0 ** rng.integers(-30, 30)
        faces = rng.integers(-1 if trial % 2 else 0, 9, (20, 3 + trial % 2))
        faces[:, :3] = np.abs(faces[:, :3])
        view = {"azimuth": rng.uniform(-9, 9), "elevation": rng.choice([-1.0, 0.0, 0.4, math.pi / 2])}
        picture = render(Mesh(vertices, faces), 24, field_of_view=float(rng.choice([0.0, 0.5, 2.0])), **view)
        assert picture.shape == (24, 24, 3)


def test_a_shadow_darkens_the_ground_only_when_seen_from_above():
    mesh = cube()
    with_shadow, without = render(mesh, 96, shadow=0.5), render(mesh, 96, shadow=0.0)
    assert (with_shadow <= without).all() and (with_shadow < without).any()
    assert (render(mesh, 96, shadow=0.5, elevation=-0.3) == render(mesh, 96, shadow=0.0, elevation=-0.3)).all()


def test_samples_smooth_the_outline():
    levels = [len(np.unique(render(cube(), 64, samples=n, wireframe=False, shadow=0.0)[..., 0])) for n in (1, 3)]
    assert levels[1] > levels[0]


def test_face_colors_replace_the_colour_of_front_sides():
    colours = np.zeros((6, 3), dtype=np.uint8)
    colours[5] = (0, 200, 0)
    middle = render(cube(quads=True), 64, face_colors=colours, **FLAT)[32, 32].astype(int)
    assert middle[1] > 100 and middle[0] == middle[2] == 0
    with pytest.raises(DataError, match=r"shape \(6, 3\), one colour a face; got \(5, 3\)"):
        render(cube(quads=True), 64, face_colors=colours[:5])


def test_a_rectangular_picture_has_height_first():
    assert render(cube(), (40, 70)).shape == (40, 70, 3)


def test_real_meshes_show_their_fronts(tiny_meshes):
    for mesh in tiny_meshes[:8]:
        picture = render(mesh, 64)
        blank = render(Mesh(mesh.vertices, mesh.faces[:0]), 64)
        assert (picture != blank).any(axis=2).mean() > 0.02


# Settings that no picture can have


def test_impossible_settings_say_which_and_why():
    mesh = cube()
    for size in (0, -5, 9000, 3.5, (4, 5, 6), "big"):
        with pytest.raises(ConfigError, match="size must be pixels"):
            render(mesh, size)
    with pytest.raises(ConfigError, match="no setting 'azimut': did you mean 'azimuth'"):
        render(mesh, azimut=1.0)
    with pytest.raises(ConfigError, match="no setting 'xyzzy': known: azimuth"):
        render(mesh, xyzzy=1)
    with pytest.raises(ConfigError, match="elevation must lie between"):
        render(mesh, elevation=2.0)
    for wrong in (
        {"azimuth": math.inf},
        {"field_of_view": 3.0},
        {"target": (1.0, 2.0)},
        {"extent": 0.0},
        {"front": "blue"},
        {"background": ("#000000",)},
        {"line_width": 0.0},
        {"shadow": 2.0},
        {"samples": 0},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            render(mesh, **wrong)


# Many meshes


def test_a_contact_sheet_has_a_tile_for_each_mesh():
    meshes = [cube(), square(), cube(quads=True), cube(), square()]
    sheet = contact_sheet(meshes, size=32)
    assert sheet.shape == (64, 96, 3)  # nearly square: 2 rows of 3
    flat = Style().background[1:] * 2
    assert (sheet[:32, 32:64] == render(square(), 32, background=flat)).all()
    assert (sheet[32:, 64:] == sheet[-1, -1]).all()  # the last place is empty
    assert contact_sheet(meshes, columns=5, size=32).shape == (32, 160, 3)
    assert contact_sheet(meshes[:2], columns=9, size=32).shape == (32, 64, 3)


def test_titles_stand_below_their_meshes():
    sheet = contact_sheet([cube(), cube()], size=96, titles=["a box", "a title much too long for its small tile"])
    plain = contact_sheet([cube(), cube()], size=96)
    assert (sheet[:96] == plain).all() and sheet.shape[0] > 96
    strip = darkness(sheet[96:])
    assert strip[:, :96].max() > 100 and strip[:, 96:].max() > 100
    assert strip[:, [0, 1, 94, 95, 96, 97, 190, 191]].max() < 60  # nothing runs over the sides
    assert contact_sheet([cube()], size=48, titles=[""]).shape[0] > 48


def test_a_contact_sheet_without_meshes_or_with_too_few_titles_is_refused():
    with pytest.raises(DataError, match="at least one mesh"):
        contact_sheet([])
    with pytest.raises(DataError, match="2 meshes needs as many titles, got 1"):
        contact_sheet([cube(), cube()], titles=["one"])


def test_a_turntable_goes_once_around_at_one_distance():
    box = Mesh(CORNERS * [3, 1, 1], QUADS)
    images = turntable(box, frames=4, size=64, azimuth=0.0)
    assert len(images) == 4 and all(image.shape == (64, 64, 3) for image in images)
    widths = [is_front(image).any(axis=0).sum() for image in images]
    assert widths[0] == widths[2] > widths[1] == widths[3]
    with pytest.raises(ConfigError, match="from 1 to 1000 frames, got 0"):
        turntable(box, frames=0)


# Files


def test_a_png_holds_the_very_pixels(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    picture = render(cube(), (30, 50))
    path = save_png(picture, tmp_path / "new" / "cube.png")
    with image_module.open(path) as opened:
        assert opened.mode == "RGB" and (np.asarray(opened) == picture).all()


def test_png_needs_no_pillow_but_gif_and_titles_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert save_png(render(cube(), 16), tmp_path / "cube.png").stat().st_size > 60
    with pytest.raises(MissingExtraError, match=r"meshgpt\[pictures\]"):
        save_gif([render(cube(), 16)], tmp_path / "cube.gif")
    with pytest.raises(MissingExtraError, match=r"meshgpt\[pictures\]"):
        contact_sheet([cube()], size=16, titles=["cube"])


def test_a_gif_holds_every_frame_and_repeats(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    frames = turntable(cube(), frames=6, size=32, azimuth=0.1)
    data = save_gif(frames, tmp_path / "turn.gif", seconds=1.2).read_bytes()
    with image_module.open(io.BytesIO(data)) as opened:
        assert opened.n_frames == 6 and opened.info["loop"] == 0 and opened.info["duration"] == 200
        first = np.asarray(opened.convert("RGB")).astype(int)
    assert np.abs(first - frames[0]).mean() < 4
    assert data == save_gif(frames, tmp_path / "again.gif", seconds=1.2).read_bytes()


def test_what_is_not_a_picture_is_not_written(tmp_path):
    with pytest.raises(DataError, match=r"uint8 of shape \(h, w, 3\), got float64"):
        save_png(np.zeros((4, 4, 3)), tmp_path / "x.png")
    with pytest.raises(DataError, match="pictures of one size"):
        save_gif([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)], tmp_path / "x.gif")
    with pytest.raises(DataError, match="pictures of one size"):
        save_gif([], tmp_path / "x.gif")
