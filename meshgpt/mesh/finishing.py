"""What a modeller does last: take away what hangs in the air, close small holes, make one half the image of the other.

None of it is needed for a valid mesh, and any of it may be wrong for a given one; `MeshPipeline` makes all of these of
what it wrote, and keeps the one that most looks made by hand.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from meshgpt.errors import MeshError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.mesh import Mesh, drop_unused_vertices
from meshgpt.mesh.polygons import triangulate_polygon
from meshgpt.mesh.topology import GAP, components, groups_of_parts, orient

LONGEST_HOLE = 12  # edges around a hole that is filled
NEAR_MIDDLE = 1 / 64  # of the longest side: vertices so near to the plane of symmetry are moved onto it
WRITTEN, TIDY = "written", "tidy"
HALVES = {"left": (0, -1), "right": (0, 1), "back": (2, -1), "front": (2, 1)}  # the axis, and which side of it is kept


def without_floaters(mesh: Mesh) -> Mesh:
    """The triangles of a mesh without parts that hang in the air: apart from the largest group, and off the ground.

    Groups are those of `loose_share`; the ground is the lowest point of the mesh.
    """
    mesh = mesh.triangulated()
    if not mesh.num_faces:
        return mesh
    group, areas = groups_of_parts(mesh)
    ground = mesh.bounds[0, 1] + GAP * float(np.ptp(mesh.bounds, axis=0).max())
    lowest = np.full(len(areas), np.inf)
    np.minimum.at(lowest, group, mesh.vertices[mesh.faces][..., 1].min(axis=1))
    kept = (lowest <= ground) | (np.arange(len(areas)) == areas.argmax())
    return Mesh(*drop_unused_vertices(mesh.vertices, mesh.faces[kept[group]]))


def filled(mesh: Mesh, longest: int = LONGEST_HOLE) -> Mesh:
    """The triangles of a mesh, and others over its holes of at most `longest` edges, wound as what is around them.

    A hole is a closed chain of edges with one face each that meets itself nowhere. The rim of a sheet is none: the
    part around a hole has more faces than the hole has edges. Nothing is filled where an edge would get a third face.
    """
    mesh = mesh.triangulated()
    label, edges = components(mesh), _edges_of(mesh.faces)
    sizes, added = np.bincount(label, minlength=1), []
    for loop, face in _holes(mesh.faces, edges, longest):
        if sizes[label[face]] <= len(loop):
            continue
        patch = loop[triangulate_polygon(mesh.vertices[loop])]
        sides = {side for corners in patch.tolist() for side in _sides(corners)}
        rim = set(_sides(loop.tolist()))
        if len(patch) == len(loop) - 2 and not any(side in edges for side in sides - rim):
            added.append(patch)
            for side in sides:
                edges[side].append(-1)
    return Mesh(mesh.vertices, np.concatenate((mesh.faces, *added))) if added else mesh


def symmetrized(mesh: Mesh, half: str) -> Mesh:
    """One half of the triangles of a mesh, "left", "right", "back" or "front", and its image across the middle.

    The halves meet in shared vertices. Raises `MeshError` for a half that does not exist or has no face.
    """
    from trimesh.intersections import slice_faces_plane

    if half not in HALVES:
        raise MeshError(f"half must be one of {', '.join(HALVES)}, got {half!r}")
    (axis, side), mesh = HALVES[half], mesh.triangulated()
    low, high = mesh.bounds
    vertices, middle = mesh.vertices.copy(), (low[axis] + high[axis]) / 2
    near = NEAR_MIDDLE * float((high - low).max())
    vertices[np.abs(vertices[:, axis] - middle) < near, axis] = middle
    across, place = np.zeros(3), np.zeros(3)
    across[axis], place[axis] = side, middle
    vertices, faces, *_ = slice_faces_plane(vertices, mesh.faces, across, place)
    on_plane = np.abs(vertices[:, axis] - middle) < 1e-9
    faces = faces[~on_plane[faces].all(axis=1)] if len(faces) else faces
    if not len(faces):
        raise MeshError(f"the {half} half of {mesh!r} has no face: keep another one")
    image = vertices.copy()
    image[:, axis] = 2 * middle - image[:, axis]
    both = np.concatenate((vertices, image)), np.concatenate((faces, faces[:, ::-1] + len(vertices)))
    joined, index = np.unique(both[0].round(9), axis=0, return_inverse=True)
    return Mesh(*drop_unused_vertices(joined, index.reshape(-1)[both[1]]))


def finished_forms(mesh: Mesh, num_discrete_coors: int = 128) -> dict[str, Mesh]:
    """By name: the mesh as "written"; "tidy", without floaters and small holes; and each half of that with its image.

    All but the first are normalised, on the grid and wound consistently; what has no face, or is as it was, is left
    out.
    """
    forms = {WRITTEN: mesh}
    if not mesh.num_faces:
        return forms
    tidy = filled(without_floaters(mesh))
    if tidy.num_faces != mesh.num_faces:
        forms[TIDY] = _on_grid(tidy, num_discrete_coors)
    for half in HALVES:
        try:
            forms[half] = _on_grid(symmetrized(tidy, half), num_discrete_coors)
        except MeshError:
            continue
    return {name: form for name, form in forms.items() if name == WRITTEN or form.num_faces}


def _on_grid(mesh: Mesh, num_discrete_coors: int) -> Mesh:
    return orient(canonicalize(mesh.normalized(), num_discrete_coors).mesh())


def _undirected(start: int, end: int) -> tuple[int, int]:
    return (start, end) if start < end else (end, start)


def _sides(corners: list[int]) -> list[tuple[int, int]]:
    """The edges around a polygon."""
    return [_undirected(start, end) for start, end in zip(corners, [*corners[1:], corners[0]], strict=True)]


def _edges_of(faces: np.ndarray) -> defaultdict[tuple[int, int], list[int]]:
    """The faces (nf, 3) at each edge."""
    found: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (a, b, c) in enumerate(faces.tolist()):
        for side in ((a, b), (b, c), (c, a)):
            found[_undirected(*side)].append(index)
    return found


def _holes(
    faces: np.ndarray, edges: dict[tuple[int, int], list[int]], longest: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Chains of vertices around holes, wound as what would fill them, and a face beside each."""
    following: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for index, (a, b, c) in enumerate(faces.tolist()):
        for start, end in ((a, b), (b, c), (c, a)):
            if len(edges[_undirected(start, end)]) == 1:
                following[end].append((start, index))
    left = {vertex for vertex, ways in following.items() if len(ways) == 1}
    while left:
        vertex = start = min(left)
        chain = []
        while vertex in left:
            left.remove(vertex)
            chain.append(vertex)
            vertex = following[vertex][0][0]
        if vertex == start and 3 <= len(chain) <= longest:
            yield np.array(chain), following[start][0][1]
