"""Point clouds: checked, normalised, read as they were written and as other programs meant them, and made worse."""

import io

import numpy as np
import pytest
import torch

from meshgpt.errors import ConfigError, MeshError, MeshFileError, MeshLimitError
from meshgpt.mesh import clouds
from meshgpt.mesh.clouds import CloudAugmentation, PointCloud, read_points, write_points
from meshgpt.mesh.files import ReadLimits, write_mesh
from meshgpt.mesh.mesh import Mesh

STILL = CloudAugmentation(points=(10_000, 10_000), noise=(0.0, 0.0), missing=0.0, drop_normals=0.0)


def ball(count=500, seed=0, radius=0.9):
    """Points on a sphere, with its normals."""
    directions = np.random.default_rng(seed).standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return PointCloud(directions * radius, directions)


def normals_of(cloud):
    assert cloud.normals is not None
    return cloud.normals


def rng(seed=0):
    return np.random.default_rng(seed)


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


# -- what a cloud is


def test_a_cloud_takes_arrays_tensors_and_lists():
    for points in ([[0, 1, 2]], np.array([[0, 1, 2]]), torch.tensor([[0.0, 1, 2]], requires_grad=True)):
        cloud = PointCloud(points)
        assert cloud.points.dtype == np.float64 and cloud.points.tolist() == [[0, 1, 2]]
        assert cloud.normals is None and len(cloud) == 1
    assert repr(ball(7)) == "PointCloud(7 points, with normals)"


def test_normals_are_brought_to_unit_length_and_zero_means_unknown():
    cloud = PointCloud(np.zeros((4, 3)), [[0, 0, 5], [1e-200, 0, 0], [0, 0, 0], [1e200, 0, 0]])
    assert normals_of(cloud).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("points", "normals", "said"),
    [
        ([], None, "at least one point"),
        (np.zeros((0, 3)), None, "at least one point"),
        ([[1, 2]], None, r"points must be numbers of shape \(n, 3\), got shape \(1, 2\)"),
        (np.zeros((2, 6)), None, r"got shape \(2, 6\)"),
        ([["a", "b", "c"]], None, "points must be numbers"),
        ([[0, 0, 0], [0, np.nan, 0], [np.inf, 0, 0]], None, r"row 1 of points is \[0.0, nan, 0.0\].*2 of 3 are not"),
        ([[0, 0, 0]], [[0, 0, np.inf]], "row 0 of normals"),
        ([[0, 0, 0]], [[0, 0, 1], [0, 0, 1]], "1 points, but 2 normals"),
        ([[0, 0, 0]], [[0, 1]], "normals must be numbers"),
    ],
)
def test_what_is_no_cloud_is_refused(points, normals, said):
    with pytest.raises(MeshError, match=said):
        PointCloud(points, normals)


def test_a_model_gets_positions_and_normals_or_zeros():
    cloud = ball(5)
    assert cloud.tensor().dtype == torch.float32 and cloud.tensor().shape == (5, 6)
    assert np.allclose(cloud.tensor().numpy(), cloud.columns)
    assert (PointCloud(cloud.points).tensor()[:, 3:] == 0).all()


def test_a_cloud_is_normalised_as_a_mesh_is_and_the_result_can_be_put_back(tiny_meshes):
    mesh = Mesh(tiny_meshes[5].vertices * 30 + [7, -2, 100], tiny_meshes[5].faces).cleaned()
    normalised, frame = PointCloud(mesh.vertices).normalized()
    assert np.array_equal(normalised.points, mesh.normalized().vertices)
    assert np.allclose(frame.restore(normalised.points), mesh.vertices)
    assert np.allclose(frame.restore_mesh(mesh.normalized()).vertices, mesh.vertices)
    there, _ = ball().normalized()
    assert np.array_equal(normals_of(there), normals_of(ball()))
    assert there.bounds[1].max() == pytest.approx(0.95) and np.allclose(there.bounds.sum(axis=0), 0)
    assert PointCloud([[3, 4, 5]]).normalized()[0].points.tolist() == [[0, 0, 0]]


def test_a_cloud_of_a_mesh_lies_on_it_with_its_normals(tiny_meshes):
    cloud = PointCloud.from_mesh(tiny_meshes[0], 100, 0)
    assert len(cloud) == 100 and cloud.normals is not None
    assert np.array_equal(cloud.points, PointCloud.from_mesh(tiny_meshes[0], 100, rng(0)).points)


def test_a_subsample_is_part_of_the_cloud_in_its_order():
    cloud = ball(100)
    part = cloud.subsampled(30, rng())
    rows = [int(np.flatnonzero((cloud.points == point).all(axis=1))[0]) for point in part.points]
    assert len(part) == 30 and rows == sorted(set(rows))
    assert np.array_equal(normals_of(part), normals_of(cloud)[rows])
    assert cloud.subsampled(100, rng()) is cloud and cloud.subsampled(1000, rng()) is cloud


# -- normals by guess


def test_estimated_normals_of_a_sphere_are_its_own():
    cloud = ball(2000)
    found = normals_of(PointCloud(cloud.points).estimated_normals())
    cosines = (found * normals_of(cloud)).sum(axis=1)
    assert cosines.min() > 0.9 and cosines.mean() > 0.99


def test_estimated_normals_do_not_depend_on_size_or_on_how_many_are_done_at_once(monkeypatch):
    cloud = PointCloud(ball(300).points)
    found = cloud.estimated_normals()
    assert np.allclose(normals_of(PointCloud(cloud.points * 1e-150).estimated_normals()), normals_of(found), atol=1e-6)
    monkeypatch.setattr(clouds, "ROWS", 64)
    assert np.allclose(normals_of(cloud.estimated_normals()), normals_of(found))


def test_estimated_normals_of_few_or_equal_points_are_finite_and_of_fewer_refused():
    assert np.allclose(abs(normals_of(PointCloud(np.eye(3)).estimated_normals())), 3**-0.5)
    assert (normals_of(PointCloud(np.ones((5, 3))).estimated_normals()) == 0).all()
    with pytest.raises(MeshError, match="3 points or more .* got 2 and 16"):
        PointCloud([[0, 0, 0], [1, 1, 1]]).estimated_normals()
    with pytest.raises(MeshError, match="got 500 and 2"):
        ball().estimated_normals(neighbours=2)


# -- files


@pytest.mark.parametrize("kind", ["ply", "xyz", "npy"])
@pytest.mark.parametrize("with_normals", [True, False])
def test_clouds_come_back_exactly_from_every_format(kind, with_normals, tmp_path):
    cloud = ball(50) if with_normals else PointCloud(ball(50).points)
    path = write_points(cloud, tmp_path / f"cloud.{kind}")
    read = read_points(path)
    assert np.array_equal(read.points, cloud.points)
    assert (read.normals is None) is not with_normals
    if cloud.normals is not None:
        assert np.array_equal(normals_of(read), normals_of(cloud))
    assert np.array_equal(read_points(path.read_bytes()).points, cloud.points)
    with path.open("rb") as file:
        assert np.array_equal(read_points(file).points, cloud.points)


def test_a_ply_with_faces_gives_its_vertices(tmp_path, tiny_meshes):
    path = write_mesh(tiny_meshes[0], tmp_path / "mesh.ply")
    cloud = read_points(path)
    assert np.array_equal(cloud.points, tiny_meshes[0].vertices) and cloud.normals is None


def test_a_text_ply_with_normals_and_colours_is_read():
    header = "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
    header += "property uchar red\nproperty float nx\nproperty float ny\nproperty float nz\nend_header\n"
    cloud = read_points((header + "1 2 3 255 0 2 0\n4 5 6 0 0 0 1\n").encode())
    assert cloud.points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert normals_of(cloud).tolist() == [[0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    "text",
    [
        "1 2 3 0 0 1\n4 5 6 0 1 0\n",
        "1,2,3,0,0,1\r\n4,5,6,0,1,0",
        "\n# from a scanner\n1;2;3;0;0;1\n\n4; 5; 6; 0; 1; 0\n",
        "x,y,z,nx,ny,nz\n1,2,3,0,0,1\n4,5,6,0,1,0\n",
        '"nx","ny","nz","z","y","x"\n0,0,1,3,2,1\n0,1,0,6,5,4\n',
        "//X Y Z Normal_X Normal_Y Normal_Z\n1 2 3 0 0 1\n4 5 6 0 1 0 // the last\n",
        "# x y z intensity nx ny nz\r1 2 3 9 0 0 2\r4 5 6 9 0 2 0\r",
        "2\n1 2 3 0 0 1\n4 5 6 0 1 0\n",
        "1 2 3 255 0 17 0 0 1\n4 5 6 255 0 17 0 1 0\n",
        "\ufeff1e0\t2.0\t3\t0\t0\t.99\n4\t5\t6\t0\t1.01\t0\n",
    ],
)
def test_text_is_read_as_other_programs_write_it(text):
    cloud = read_points(text.encode())
    assert cloud.points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert normals_of(cloud).tolist() == [[0, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    "text",
    ["1 2 3\n4 5 6\n", "1 2 3 0.5\n4 5 6 0.5\n", "1 2 3 255 0 0\n4 5 6 0 0 255\n", "2\n1 2 3 -9 1 2 3\n4 5 6 -9 4 5 6"],
)
def test_colours_and_intensities_are_not_taken_for_normals(text):
    cloud = read_points(text.encode())
    assert cloud.points.tolist() == [[1, 2, 3], [4, 5, 6]] and cloud.normals is None


def test_arrays_of_numpy_are_read():
    cloud = ball(20)
    for data in (
        npy(cloud.columns),
        npy(np.asfortranarray(cloud.columns)),
        npy(cloud.columns.astype(">f8")),
        npz(points=cloud.points, normals=normals_of(cloud)),
        npz(vertices=cloud.points, normals=normals_of(cloud), faces=np.zeros((3, 3))),
        npz(anything=cloud.columns),
    ):
        read = read_points(data)
        assert np.array_equal(read.points, cloud.points) and np.allclose(normals_of(read), normals_of(cloud))
    assert read_points(npy(np.array([[1, 2, 3]], np.int16))).points.tolist() == [[1, 2, 3]]
    assert read_points(npy(np.ones((2, 3), np.float16))).normals is None


def test_another_axis_may_point_up():
    cloud = read_points(b"1 2 3 0 0 1\n", up="z")
    assert cloud.points.tolist() == [[1, 3, -2]]
    assert normals_of(cloud).tolist() == [[0, 1, 0]]
    with pytest.raises(MeshFileError, match="up is 'w'"):
        read_points(b"1 2 3\n", up="w")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "holds no points"),
        (b"x y z\n", "holds no points"),
        (b"1 2\n3 4\n", "has 2 numbers in a row"),
        (b"1 2 3\n4 5\n", "is not rows of numbers .*columns changed from 3 to 2"),
        (b"1 2 3\n4 five 6\n", "is not rows of numbers .*five"),
        (b"1,,3\n", "is not rows of numbers"),
        (b"once upon a time\n", "is not rows of numbers"),
        (b"3\n1 2 3\n4 5 6\n", "says 3 points, 2 rows follow"),
        (b"x y z nx\n1 2 3\n", "names 4 columns .* rows have 3"),
        (b"1 2 3\nnan 5 6\n", r"point 1 is \[nan, 5.0, 6.0\]: coordinates must be finite \(1 points are not\)"),
        (b"1 2 inf\n", "point 0 is"),
        (b"x y z nx ny nz\n1 2 3 nan 0 0\n", "row 0 of normals"),
        (b"1 2 3\xff\n", "is not rows of numbers"),
        (b"\x00\x01\x02\x03", "looks like none of ply, xyz"),
        (b"glTF\x02\x00\x00\x00", "is a mesh; read it with read_mesh"),
        (b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nend_header\n", "no vertices with the properties"),
        (b"ply\nformat ascii 1.0\nelement vertex 9999999\nproperty float x\nend_header\n1\n", "cannot hold that"),
        (npy(np.zeros((2, 2))), r"array of shape \(2, 2\)"),
        (npy(np.zeros((0, 3))), "holds no points"),
        (npy(np.array([[1j, 0, 0]])), "array of complex128"),
        (npy(np.array([["a", "b", "c"]])), "array of <U1"),
        (npy(np.array([[None, {}, 0]])), "array of object"),
        (npy(np.zeros((4, 3)))[:-1], "the file is cut off"),
        (b"\x93NUMPY\x07\x00", "no header of a numpy array"),
        (npz(a=np.zeros((2, 3)), b=np.zeros((2, 3))), "archive of .'a', 'b'., one of points"),
        (npz(points=np.zeros((2, 3)), normals=np.zeros((3, 3))), "2 points, but 3 normals"),
        (npz(points=np.zeros((2, 3)))[:-30], "damaged archive"),
    ],
)
def test_what_cannot_be_read_says_why(data, said):
    with pytest.raises(MeshFileError, match=said) as caught:
        read_points(data)
    assert str(caught.value).startswith(f"<{len(data)} bytes>: ") and len(str(caught.value)) < 400


def test_files_that_are_missing_or_meshes_are_named(tmp_path):
    with pytest.raises(MeshFileError, match="none.xyz: cannot be opened"):
        read_points(tmp_path / "none.xyz")
    (tmp_path / "a.obj").write_text("v 0 0 0\n")
    with pytest.raises(MeshFileError, match="a.obj: is a mesh; read it with read_mesh"):
        read_points(tmp_path / "a.obj")
    with pytest.raises(MeshFileError, match="is not a file"):
        read_points(tmp_path)
    with pytest.raises(MeshFileError, match="a path, bytes or an open file"):
        read_points(7)


@pytest.mark.parametrize(
    "data", [b"1 2 3\n" * 20, npy(np.ones((20, 3))), npz(points=np.ones((20, 3)))], ids=["text", "npy", "npz"]
)
def test_limits_hold_for_every_format(data):
    assert len(read_points(data, limits=ReadLimits(max_vertices=20))) == 20
    with pytest.raises(MeshLimitError, match="max_vertices"):
        read_points(data, limits=ReadLimits(max_vertices=19))
    with pytest.raises(MeshLimitError, match="max_bytes"):
        read_points(data, limits=ReadLimits(max_bytes=100))
    with pytest.raises(MeshLimitError, match="max_coordinate"):
        read_points(data, limits=ReadLimits(max_coordinate=0.5))


def test_an_archive_that_unpacks_to_much_is_not_unpacked():
    bomb = npz(points=np.zeros((1_000_000, 3)))
    assert len(bomb) < 100_000
    with pytest.raises(MeshLimitError, match="24000128 bytes where 1000000 are allowed; raise ReadLimits.max_bytes"):
        read_points(bomb, limits=ReadLimits(max_bytes=1_000_000))


def test_damaged_files_are_refused_or_clouds(tmp_path):
    random = rng()
    samples = [write_points(ball(30), tmp_path / f"a.{kind}").read_bytes() for kind in ("ply", "xyz", "npy")]
    samples += [npz(points=np.ones((9, 3)), normals=np.ones((9, 3))), b"x,y,z\n1,2,3\n"]
    for data in samples:
        for _ in range(60):
            damaged = bytearray(data[: random.integers(len(data)) + 1] if random.random() < 0.3 else data)
            for place in random.integers(len(damaged), size=random.integers(4)):
                damaged[place] = random.integers(256)
            try:
                cloud = read_points(bytes(damaged))
            except MeshFileError as error:
                assert len(str(error)) < 400
            else:
                assert len(cloud) and np.isfinite(cloud.columns).all()


def test_what_cannot_be_written_says_why(tmp_path):
    with pytest.raises(MeshFileError, match="none of ply, xyz, npy"):
        write_points(ball(3), tmp_path / "a.obj")
    with pytest.raises(MeshFileError, match="cannot be written"):
        write_points(ball(3), tmp_path / "nowhere" / "a.ply")
    assert not list(tmp_path.iterdir())


# -- augmentation


def test_an_augmentation_that_does_nothing_changes_nothing():
    cloud = ball()
    same = STILL(cloud, rng())
    assert np.array_equal(same.points, cloud.points) and np.array_equal(normals_of(same), normals_of(cloud))


def test_the_generator_decides_and_the_cloud_stays_as_it_was():
    cloud = ball()
    before, config = cloud.points.copy(), CloudAugmentation(turns=0, missing=0.5)
    one, again, other = (config(cloud, rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.columns, again.columns) and not np.array_equal(one.points[:9], other.points[:9])
    assert np.array_equal(cloud.points, before)


def test_noise_has_the_spread_asked_for_and_leaves_normals():
    cloud = ball(5000)
    noisy = STILL.replace(noise=(0.03, 0.03))(cloud, rng())
    assert (noisy.points - cloud.points).std() == pytest.approx(0.03, rel=0.03)
    assert np.array_equal(normals_of(noisy), normals_of(cloud))


def test_the_number_of_points_is_drawn_from_the_range():
    config, cloud = STILL.replace(points=(5, 8)), ball(100)
    assert {len(config(cloud, rng(seed))) for seed in range(40)} == {5, 6, 7, 8}
    assert len(config(ball(3), rng())) == 3


def test_what_is_missing_lies_together_and_is_no_more_than_asked():
    cloud, config = ball(400), STILL.replace(missing=1.0, missing_most=0.4)
    shares = []
    for seed in range(30):
        left = config(cloud, rng(seed))
        gone = (
            cloud.select(~(cloud.points[:, None] == left.points).all(axis=2).any(axis=1)) if len(left) < 400 else None
        )
        shares.append(1 - len(left) / 400)
        if (
            gone is not None
        ):  # on a sphere both a plane and a ball cut off a cap: its middle is nearer to it than all else
            middle = gone.points.mean(axis=0)
            height = cloud.points @ middle
            assert (gone.points @ middle).min() > np.quantile(height, 0.9 - shares[-1])
    assert max(shares) <= 0.4 and 0.1 < np.mean(shares) < 0.3
    assert len(STILL.replace(missing=1.0, missing_most=0.99)(ball(1), rng())) == 1


def test_turns_are_about_y_carry_the_normals_and_are_normalised_again():
    cloud, _ = PointCloud(ball().points * [1, 1, 0.3], normals_of(ball())).normalized()
    for turns in (4, 0):
        turned = STILL.replace(turns=turns)(cloud, rng(5))
        scale = np.ptp(turned.points[:, 1]) / np.ptp(cloud.points[:, 1])
        assert np.allclose(turned.points[:, 1], cloud.points[:, 1] * scale)
        assert np.allclose(
            np.linalg.norm(turned.points, axis=1), np.linalg.norm(cloud.points, axis=1) * scale, atol=0.02
        )
        cosines = (turned.points * normals_of(turned)).sum(axis=1) / scale
        assert np.allclose(cosines, (cloud.points * normals_of(cloud)).sum(axis=1), atol=0.02)
        assert np.ptp(turned.points, axis=0).max() == pytest.approx(1.9)
    quarters = {tuple(STILL.replace(turns=4)(cloud, rng(seed)).points[0].round(6)) for seed in range(30)}
    assert len(quarters) == 4


def test_normals_are_dropped_as_often_as_asked():
    config = STILL.replace(drop_normals=0.3)
    dropped = [config(ball(5), rng(seed)).normals is None for seed in range(400)]
    assert np.mean(dropped) == pytest.approx(0.3, abs=0.07)
    assert STILL.replace(drop_normals=1.0)(PointCloud([[0, 0, 0]]), rng()).normals is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"points": (0, 5)},
        {"points": (9, 5)},
        {"noise": (0.2, 0.1)},
        {"noise": (-0.1, 0.1)},
        {"missing": 1.5},
        {"missing_most": 1.0},
        {"turns": -1},
        {"drop_normals": 2.0},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"CloudAugmentation.{next(iter(wrong))} must"):
        CloudAugmentation(**wrong)
    assert CloudAugmentation.from_json(CloudAugmentation().to_json()) == CloudAugmentation()
