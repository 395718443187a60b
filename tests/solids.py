"""Bodies whose volume is known, whole and broken, for the tests of fields."""

import numpy as np

from meshgpt.mesh.mesh import Mesh, join
from meshgpt.mesh.topology import orient


def box(half):
    """A box around the origin, wound outwards, as triangles."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * np.asarray(half)
    sides = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    return Mesh(corners, sides).triangulated()


def ball(radius, cuts=3):
    """An icosahedron whose faces are cut into four `cuts` times, its corners on a sphere: 1280 faces for 3."""
    golden = (1 + 5**0.5) / 2
    base = np.array([[0, a, b * golden] for a in (-1, 1) for b in (-1, 1)])
    corners = np.concatenate((base, np.roll(base, 1, axis=1), np.roll(base, 2, axis=1)))
    near = np.linalg.norm(corners[:, None] - corners[None], axis=2) < 2.1
    faces = [(i, j, k) for i in range(12) for j in range(i) for k in range(j) if near[i, j] & near[j, k] & near[i, k]]
    triangles = corners[np.array(faces)]
    for _ in range(cuts):
        middles = (triangles + np.roll(triangles, -1, axis=1)) / 2
        parts = [np.stack((triangles[:, i], middles[:, i], middles[:, i - 1]), axis=1) for i in range(3)]
        triangles = np.concatenate([*parts, middles])
    points = triangles / np.linalg.norm(triangles, axis=2, keepdims=True) * radius
    soup = Mesh(points.reshape(-1, 3).round(12), np.arange(len(points) * 3).reshape(-1, 3))
    return orient(soup.cleaned())


def moved(mesh, *by):
    return Mesh(mesh.vertices + np.array(by), mesh.faces)


def missing(mesh, share, seed=0):
    """Without a random share of its faces."""
    kept = np.random.default_rng(seed).random(mesh.num_faces) >= share
    return Mesh(mesh.vertices, mesh.faces[kept])


def turned(mesh, share, seed=0):
    """A random share of its faces wound the other way round."""
    chosen = np.random.default_rng(seed).random(mesh.num_faces) < share
    return Mesh(mesh.vertices, np.where(chosen[:, None], mesh.faces[:, ::-1], mesh.faces))


def apart(mesh, by=1e-4, seed=0):
    """Each face with corners of its own, a little off those of its neighbours, so that no edge has two faces."""
    corners = mesh.vertices[mesh.faces]
    corners = corners + by * np.random.default_rng(seed).standard_normal(corners.shape)
    return Mesh(corners.reshape(-1, 3), np.arange(len(corners) * 3).reshape(-1, 3))


def overlapping(radius=0.6, offset=0.35):
    """Two balls that overlap, and the volume of both together."""
    bodies = join([moved(ball(radius), -offset, 0, 0), moved(ball(radius), offset, 0, 0)])
    height = radius - offset  # of the cap that each ball has beyond the middle plane
    lens = 2 * np.pi * height**2 * (3 * radius - height) / 3
    return bodies, 2 * 4 / 3 * np.pi * radius**3 - lens


def bowl(radius=0.8):
    """The lower half of a ball: a sheet without thickness."""
    whole = ball(radius)
    return Mesh(whole.vertices, whole.faces[whole.vertices[whole.faces][:, :, 1].max(axis=1) < 1e-9])


def volume(mesh):
    """Enclosed by a closed mesh, positive where it is wound outwards (the divergence theorem)."""
    corners = mesh.triangulated().vertices[mesh.triangulated().faces]
    return float(np.linalg.det(corners).sum() / 6)
