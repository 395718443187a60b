"""What touches what: the face graph, components, winding, and a report on the surface."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from meshgpt.errors import MeshError
from meshgpt.mesh.mesh import Mesh, drop_degenerate_faces, first_occurrences, reverse_winding, rotate_smallest_first

# Faces around one edge or vertex are joined pair by pair up to this many neighbours along the group, so that a fan of
# F faces gives O(F) graph edges and not F^2. Artist meshes stay far below it.
MAX_GROUP_REACH = 64
GAP = 0.02  # of the longest side: parts that lie so near to each other are not loose


def face_graph(
    faces: Int[Tensor, "nf k"],
    shared: Literal["edge", "vertex"] = "edge",
    self_loops: bool = False,
) -> Int[Tensor, "2 e"]:
    """Pairs (both directions, sorted, distinct) of faces that share an edge, or at least one vertex.

    O(F log F) time and O(F) memory. Corners of -1 (padding, the missing corner of a triangle among quads) share
    nothing. Around an edge or vertex with more than 64 faces, each is joined to the 64 next ones of that group only.
    """
    num_faces = faces.shape[0]
    keys, owners = _edge_keys(faces) if shared == "edge" else _vertex_keys(faces)
    order = torch.argsort(keys, stable=True)
    keys, owners = keys[order], owners[order]
    pairs = [torch.arange(num_faces, device=faces.device).repeat(2, 1)] if self_loops else []
    for reach in range(1, MAX_GROUP_REACH + 1):
        same = keys[reach:] == keys[:-reach]
        if not bool(same.any()):
            break
        first, second = owners[:-reach][same], owners[reach:][same]
        pairs += [torch.stack((first, second)), torch.stack((second, first))]
    if not pairs:
        return faces.new_zeros((2, 0))
    joined = torch.cat(pairs, dim=1)
    if not self_loops:
        joined = joined[:, joined[0] != joined[1]]
    packed = torch.unique(joined[0] * num_faces + joined[1])
    return torch.stack((packed // max(num_faces, 1), packed % max(num_faces, 1)))


def _sides(faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Start and end vertex of every side of every face (a missing fourth corner is passed over), and the face."""
    start, end = faces, faces.roll(-1, dims=1)
    if faces.shape[1] == 4:  # in (a, b, c, -1) the side after c returns to a
        end = torch.where(end < 0, faces[:, :1], end)
    owner = torch.arange(len(faces), device=faces.device)[:, None].expand_as(faces)
    real = (start >= 0) & (end >= 0)
    return start[real], end[real], owner[real]


def _edge_keys(faces: Tensor) -> tuple[Tensor, Tensor]:
    start, end, owner = _sides(faces)
    size = int(faces.max()) + 1 if faces.numel() else 1
    return torch.minimum(start, end) * size + torch.maximum(start, end), owner


def _vertex_keys(faces: Tensor) -> tuple[Tensor, Tensor]:
    owner = torch.arange(len(faces), device=faces.device)[:, None].expand_as(faces)
    real = faces >= 0
    return faces[real], owner[real]


def derive_face_edges_from_faces(
    faces: Int[Tensor, "b nf k"] | Int[Tensor, "nf k"],
    pad_id: int = -1,
    neighbor_if_share_one_vertex: bool = False,
    include_self: bool = True,
) -> Int[Tensor, "b e 2"] | Int[Tensor, "e 2"]:
    """The face graph of each mesh of a padded batch, padded in turn: pairs of face indices, then rows of `pad_id`.

    One mesh (nf, k) gives (e, 2). Linear memory; face indices refer to the padded positions.
    """
    if faces.ndim == 2:
        return derive_face_edges_from_faces(faces[None], pad_id, neighbor_if_share_one_vertex, include_self)[0]
    shared = "vertex" if neighbor_if_share_one_vertex else "edge"
    graphs = []
    for mesh in faces:
        real = (mesh[:, :3] != pad_id).all(dim=-1).nonzero()[:, 0]
        kept = torch.where(mesh[real] == pad_id, -1, mesh[real])
        graphs.append(real[face_graph(kept, shared, include_self)].T)
    return torch.nn.utils.rnn.pad_sequence(graphs, batch_first=True, padding_value=pad_id)


def components(mesh: Mesh, shared: Literal["edge", "vertex"] = "vertex") -> np.ndarray:
    """(nf,): the number of the component each face belongs to, counted from 0 in order of first appearance."""
    pairs = face_graph(torch.from_numpy(mesh.faces), shared).numpy()
    return _connected(pairs, mesh.num_faces)


def groups_of_parts(mesh: Mesh) -> tuple[Int[np.ndarray, " nf"], Float[np.ndarray, " g"]]:
    """The group of each triangle of a mesh, and the area of each group.

    Components are in one group where their bounding boxes meet, or nearly: within `GAP` of the mesh's longest side.
    """
    label = components(mesh)
    count = int(label.max(initial=-1)) + 1
    corners, reach = mesh.vertices[mesh.faces], GAP * float(np.ptp(mesh.bounds, axis=0).max())
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, label, corners.min(axis=1))
    np.maximum.at(high, label, corners.max(axis=1))
    meet = ((low[:, None] - reach <= high) & (high[:, None] + reach >= low)).all(axis=-1)
    group = sparse.csgraph.connected_components(sparse.coo_matrix(meet), directed=False)[1]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    return group[label], np.bincount(group[label], weights=areas)


def loose_share(mesh: Mesh) -> float:
    """The share of the surface that hangs in the air, in [0, 1): apart from the largest group of components."""
    mesh = mesh.triangulated()
    if not mesh.num_faces:
        return 0.0
    shares = groups_of_parts(mesh)[1]
    return float(1 - shares.max() / max(shares.sum(), np.finfo(float).tiny))


def _connected(pairs: np.ndarray, num_nodes: int) -> np.ndarray:
    graph = sparse.coo_matrix((np.ones(pairs.shape[1], dtype=bool), (pairs[0], pairs[1])), shape=(num_nodes, num_nodes))
    labels = sparse.csgraph.connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.reshape(-1)]


def _manifold_pairs(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (2, m) of faces on edges with exactly two faces, and whether both run along the edge the same way (m,)."""
    start, end, owner = (side.numpy() for side in _sides(torch.from_numpy(faces)))
    size = int(faces.max()) + 1 if faces.size else 1
    key, forward = np.minimum(start, end) * size + np.maximum(start, end), start < end
    order = np.argsort(key, kind="stable")
    _, first, count = np.unique(key[order], return_index=True, return_counts=True)
    one, two = order[first[count == 2]], order[first[count == 2] + 1]
    return np.stack((owner[one], owner[two])), forward[one] == forward[two]


def orient(mesh: Mesh) -> Mesh:
    """The mesh with its faces wound consistently wherever that is possible, and nothing else changed.

    Faces that meet at an edge of exactly two faces must run along it in opposite directions. A patch that can be wound
    consistently keeps the winding of the majority of its area, except that a closed patch is turned outside out.
    A patch that cannot (a Moebius strip) is left as it is.
    """
    pairs, same_way = _manifold_pairs(mesh.faces)
    count = mesh.num_faces
    # The double cover: node f is face f as it is, node f + count the same face turned round.
    other = pairs[1] + count * same_way
    opposite = pairs[1] + count * ~same_way
    links = np.concatenate((np.stack((pairs[0], other)), np.stack((pairs[0] + count, opposite))), axis=1)
    cover = _connected(links, 2 * count)
    kept, turned = cover[:count], cover[count:]
    patch = np.minimum(kept, turned)
    flip = (kept > turned) & (kept != turned)
    closed = _closed_patches(mesh.faces, patch)
    weight = np.where(closed[patch], _signed_volumes(mesh, patch), mesh.face_areas + 1e-12)
    votes = np.bincount(patch, weights=np.where(flip, -weight, weight), minlength=len(closed))
    flip ^= votes[patch] < 0
    flip &= kept != turned
    return Mesh(mesh.vertices, np.where(flip[:, None], reverse_winding(mesh.faces), mesh.faces))


def _closed_patches(faces: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """Whether all sides of a patch's faces lie on edges of two faces of that patch; indexed by patch number."""
    pairs, _ = _manifold_pairs(faces)
    inside = patch[pairs[0]] == patch[pairs[1]]
    size = int(patch.max()) + 1 if len(patch) else 0
    sides = np.bincount(patch, weights=(faces >= 0).sum(axis=1), minlength=size)
    return 2 * np.bincount(patch[pairs[0][inside]], minlength=size) == sides


def _signed_volumes(mesh: Mesh, patch: np.ndarray) -> np.ndarray:
    """(nf,): signed volume between each face and the middle of its patch."""
    centres = mesh.vertices[np.where(mesh.faces < 0, mesh.faces[:, 2:3], mesh.faces)].mean(axis=1)
    count = np.maximum(np.bincount(patch), 1)
    middle = np.stack([np.bincount(patch, weights=axis) / count for axis in centres.T], axis=1)
    return ((centres - middle[patch]) * mesh.face_vectors).sum(axis=1) / 3


@dataclass(frozen=True)
class TopologyReport:
    """Counts that say what kind of surface a mesh is."""

    vertices: int
    faces: int
    components: int  # parts that share no vertex
    edges: int
    boundary_edges: int  # edges of one face
    nonmanifold_edges: int  # edges of three or more faces
    inconsistent_edges: int  # edges of two faces that run along them the same way
    degenerate_faces: int  # a repeated vertex
    duplicate_faces: int  # equal after rotation to an earlier face

    @property
    def watertight(self) -> bool:
        return self.faces > 0 and self.boundary_edges == 0 and self.nonmanifold_edges == 0

    @property
    def consistently_wound(self) -> bool:
        return self.inconsistent_edges == 0


def topology_report(mesh: Mesh) -> TopologyReport:
    """Counts edges, components and faults of a mesh; vertices are one where their indices are one."""
    faces = drop_degenerate_faces(mesh.faces)
    start, end, _ = (side.numpy() for side in _sides(torch.from_numpy(faces)))
    size = mesh.num_vertices + 1
    counts = np.unique(np.minimum(start, end) * size + np.maximum(start, end), return_counts=True)[1]
    _, same_way = _manifold_pairs(faces)
    parts = components(Mesh(mesh.vertices, faces))
    return TopologyReport(
        vertices=mesh.num_vertices,
        faces=mesh.num_faces,
        components=int(parts.max()) + 1 if len(parts) else 0,
        edges=len(counts),
        boundary_edges=int((counts == 1).sum()),
        nonmanifold_edges=int((counts > 2).sum()),
        inconsistent_edges=int(same_way.sum()),
        degenerate_faces=mesh.num_faces - len(faces),
        duplicate_faces=len(faces) - len(first_occurrences(rotate_smallest_first(faces))),
    )


def check_faces(faces: Tensor, num_vertices: int) -> None:
    """Raises `MeshError` for a face index (nf, k) beyond the vertices; -1 is padding."""
    if faces.numel() and (int(faces.max()) >= num_vertices or int(faces.min()) < -1):
        bad = ((faces >= num_vertices) | (faces < -1)).nonzero()[0].tolist()
        where = faces[tuple(bad)].item()
        raise MeshError(f"face {bad[-2]} refers to vertex {where}, but the mesh has {num_vertices} vertices")
