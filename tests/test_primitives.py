"""Shapes that are formulas: signs, distances, surfaces, and that they lie as normalised meshes do."""

import numpy as np
import pytest

from meshgpt.data.primitives import PrimitiveDataset
from meshgpt.errors import DataError, DataIndexError, MeshError
from meshgpt.mesh.inside import contains, surface_distances
from meshgpt.mesh.isosurface import ExtractionConfig, extract
from meshgpt.mesh.primitives import MAKERS, make_primitive
from meshgpt.mesh.sampling import sample_volume


@pytest.mark.parametrize("category", MAKERS)
def test_the_formula_agrees_with_the_mesh_of_its_surface(category):
    shape = make_primitive(category, 3)
    found = extract(shape.torch_field, ExtractionConfig(resolution=64, coarse=64))
    assert not found.touches_border and np.abs(found.mesh.bounds).max() == pytest.approx(0.95, abs=0.02)
    points = sample_volume(500, 0)
    values, distances = shape(points), surface_distances(found.mesh, points)
    sure = distances > 0.04
    assert np.array_equal((values > 0)[sure], contains(found.mesh, points)[sure])
    outside = (distances > 0.15) & (values < 0)
    factor = (0.4, 2.0) if category in ("ellipsoid", "mug") else (0.8, 1.25)  # to first order; of a hole, a bound
    assert (-values[outside] > factor[0] * distances[outside]).all()
    assert (-values[outside] < factor[1] * distances[outside]).all()


@pytest.mark.parametrize("category", MAKERS)
def test_points_lie_on_the_surface_and_normals_look_outwards(category):
    shape = make_primitive(category, 5)
    points, normals = shape.sample_surface(300, np.random.default_rng(0))
    assert len(points) == 300 and np.abs(shape(points)).max() < 1e-3
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)
    assert (shape(points - 0.01 * normals) > shape(points + 0.01 * normals)).mean() > 0.97


def test_shapes_depend_on_seed_and_number_alone():
    few, many = PrimitiveDataset(5, ("box", "mug"), surface=20, volume=30, near=10), PrimitiveDataset(8, ("box", "mug"))
    assert few.column("category").tolist() == ["box", "mug", "box", "mug", "box"]
    assert few.column("caption").tolist() == many.column("caption").tolist()[:5]
    assert np.array_equal(few.primitive(3)(few[3].volume[:, :3]), many.primitive(3)(few[3].volume[:, :3]))
    again = PrimitiveDataset(5, ("box", "mug"), surface=20, volume=30, near=10)
    assert np.array_equal(again[3].surface, few[3].surface) and again.fingerprint == few.fingerprint
    other = PrimitiveDataset(5, ("box", "mug"), seed=1, surface=20, volume=30, near=10)
    assert not np.array_equal(other[3].surface, few[3].surface) and other.fingerprint != few.fingerprint
    sample = few[3]
    assert [part.shape for part in (sample.surface, sample.volume, sample.near)] == [(20, 7), (30, 4), (10, 4)]
    assert sample.record == {"name": "mug 3", "category": "mug", "caption": sample.record["caption"]}
    assert "mug" in sample.record["caption"] and few[3] is sample


def test_unknown_kinds_are_refused():
    with pytest.raises(MeshError, match="no primitive 'cow'; there are: ellipsoid"):
        make_primitive("cow", 0)
    with pytest.raises(DataError, match="'cow'"):
        PrimitiveDataset(3, ("cow",))
    with pytest.raises(DataIndexError, match="index 3 is beyond the 3"):
        PrimitiveDataset(3)[3]
