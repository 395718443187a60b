"""The face graph against brute force, components, winding, and the report."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgpt.errors import MeshError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.mesh import Mesh, join
from meshgpt.mesh.topology import (
    MAX_GROUP_REACH,
    check_faces,
    components,
    derive_face_edges_from_faces,
    face_graph,
    loose_share,
    orient,
    topology_report,
)

TETRAHEDRON = Mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def sides(face: list[int]) -> set[frozenset[int]]:
    corners = [v for v in face if v >= 0]
    return {frozenset((a, b)) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)}


def brute_force_graph(faces: list[list[int]], shared: str, self_loops: bool) -> set[tuple[int, int]]:
    touching = (lambda a, b: sides(a) & sides(b)) if shared == "edge" else (lambda a, b: (set(a) & set(b)) - {-1})
    pairs = {(i, j) for i, a in enumerate(faces) for j, b in enumerate(faces) if i != j and touching(a, b)}
    return pairs | ({(i, i) for i in range(len(faces))} if self_loops else set())


@settings(deadline=None, max_examples=80)
@given(
    st.integers(0, 10_000),
    st.integers(0, 14),
    st.sampled_from([3, 4]),
    st.sampled_from(["edge", "vertex"]),
    st.booleans(),
)
def test_the_face_graph_is_that_of_brute_force(seed, nf, k, shared, self_loops):
    rng = np.random.default_rng(seed)
    faces = np.stack([rng.permutation(8)[:k] for _ in range(nf)]) if nf else np.zeros((0, k), dtype=np.int64)
    if k == 4:
        faces[rng.random(nf) < 0.3, 3] = -1
    pairs = face_graph(torch.from_numpy(faces), shared, self_loops)
    assert set(map(tuple, pairs.T.tolist())) == brute_force_graph(faces.tolist(), shared, self_loops)
    assert pairs.shape[1] == len(set(map(tuple, pairs.T.tolist())))


def test_a_fan_of_many_faces_gives_a_linear_number_of_edges():
    count = 4000
    fan = torch.stack((torch.zeros(count), torch.arange(1, count + 1), torch.arange(2, count + 2)), dim=1).long()
    pairs = face_graph(fan, "vertex")
    assert pairs.shape[1] <= 2 * count * (MAX_GROUP_REACH + 1)
    assert len(np.unique(components(Mesh(np.zeros((count + 2, 3)), fan)))) == 1


def test_padded_edges_refer_to_padded_places_and_are_padded():
    faces = torch.tensor([[[0, 1, 2], [-1, -1, -1], [1, 3, 2]], [[0, 1, 2], [-1, -1, -1], [-1, -1, -1]]])
    edges = derive_face_edges_from_faces(faces)
    assert edges.shape == (2, 4, 2)
    assert set(map(tuple, edges[0].tolist())) == {(0, 0), (0, 2), (2, 0), (2, 2)}
    assert edges[1].tolist() == [[0, 0], [-1, -1], [-1, -1], [-1, -1]]
    alone = derive_face_edges_from_faces(faces[0], include_self=False)
    assert alone.tolist() == [[0, 2], [2, 0]]


def test_sharing_one_vertex_is_a_wider_neighbourhood():
    faces = torch.tensor([[0, 1, 2], [2, 3, 4]])
    assert derive_face_edges_from_faces(faces, include_self=False).shape == (0, 2)
    wide = derive_face_edges_from_faces(faces, neighbor_if_share_one_vertex=True, include_self=False)
    assert wide.tolist() == [[0, 1], [1, 0]]


def test_components_are_counted_in_order_of_appearance():
    mesh = join([TETRAHEDRON, Mesh(TETRAHEDRON.vertices + 5, TETRAHEDRON.faces)])
    assert components(mesh).tolist() == [0] * 4 + [1] * 4


def test_the_loose_share_is_the_surface_apart_from_the_largest_group():
    def beside(*shifts):
        moved = [Mesh(TETRAHEDRON.vertices + np.array([shift, 0, 0]), TETRAHEDRON.faces) for shift in shifts]
        return loose_share(join([TETRAHEDRON, *moved]))

    width = float(np.ptp(TETRAHEDRON.vertices[:, 0]))
    assert loose_share(TETRAHEDRON) == beside(0.5 * width) == beside(1.01 * width, 2.02 * width) == 0
    assert beside(3 * width) == pytest.approx(1 / 2)
    assert beside(width, 2 * width, 9 * width) == pytest.approx(1 / 4)
    assert loose_share(Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int))) == 0
    square = Mesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2, 3]])
    assert loose_share(join([square, Mesh(square.vertices + 4, square.faces)])) == pytest.approx(1 / 2)


def test_turned_faces_are_found_and_turned_back():
    rng = np.random.default_rng(0)
    for _ in range(10):
        flip = rng.random(4) < 0.5
        mixed = Mesh(TETRAHEDRON.vertices, np.where(flip[:, None], TETRAHEDRON.faces[:, ::-1], TETRAHEDRON.faces))
        fixed = orient(mixed)
        assert topology_report(fixed).consistently_wound
        assert np.allclose(fixed.face_normals, TETRAHEDRON.face_normals)


def test_an_inside_out_solid_is_turned_outside_out_and_an_open_sheet_is_left():
    assert np.allclose(orient(TETRAHEDRON.flipped()).face_normals, TETRAHEDRON.face_normals)
    sheet = Mesh(TETRAHEDRON.vertices, TETRAHEDRON.faces[:2]).flipped()
    assert np.array_equal(orient(sheet).faces, sheet.faces)


def test_orienting_real_meshes_leaves_no_inconsistent_edge_and_changes_no_consistent_mesh(tiny_meshes):
    for mesh in tiny_meshes:
        grid = canonicalize(mesh.normalized()).mesh()
        fixed = orient(grid)
        before, after = topology_report(grid), topology_report(fixed)
        assert after.inconsistent_edges <= before.inconsistent_edges
        assert np.array_equal(np.sort(fixed.faces, axis=1), np.sort(grid.faces, axis=1))


def moebius_strip(count: int = 5) -> Mesh:
    strip = np.arange(2 * count).reshape(count, 2)
    following = np.concatenate((strip[1:], strip[:1, ::-1]))
    faces = np.concatenate((np.c_[strip[:, 0], strip[:, 1], following[:, 0]], np.c_[strip[:, 1], following[:, [1, 0]]]))
    return Mesh(np.random.default_rng(0).normal(size=(2 * count, 3)), faces)


def test_a_moebius_strip_is_left_as_it_is():
    strip = moebius_strip()
    assert topology_report(strip).inconsistent_edges > 0
    assert np.array_equal(orient(strip).faces, strip.faces)


def test_the_report_counts_what_is_there():
    report = topology_report(TETRAHEDRON)
    assert report.watertight and report.consistently_wound
    assert (report.edges, report.components, report.boundary_edges) == (6, 1, 0)
    third = [[0, 1, 2], [1, 2, 0], [0, 0, 1], [0, 1, 3], [1, 0, 3]]
    messy = topology_report(Mesh(TETRAHEDRON.vertices, third))
    assert messy.degenerate_faces == 1 and messy.duplicate_faces == 1
    assert messy.nonmanifold_edges == 1 and not messy.watertight
    assert topology_report(Mesh([], [])).components == 0


def test_an_index_beyond_the_vertices_is_named():
    with pytest.raises(MeshError, match="face 1 refers to vertex 9, but the mesh has 4 vertices"):
        check_faces(torch.tensor([[0, 1, 2], [0, 1, 9]]), 4)
