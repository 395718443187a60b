"""The loop of `PatchTokenizer` over faces, and the surface that it and the loop over tokens (`_patch_read`) grow.

Positions are (y, z, x) bins. Compiled where numba is installed, so written with arrays and loops.
"""

from typing import NamedTuple, no_type_check

import numpy as np

from meshgpt.mesh.grammar import BLOCK_TOLD
from meshgpt.tokenizers._compiled import compiled

STATES = 4  # of a face: 1 where another follows at its right side, plus 2 where one follows at its left side
OPEN_ENDS = 8  # that can be named in one token
ENDS_TOLD = BLOCK_TOLD - 3  # of them, whose places are told of what surrounds a token
PLACES_TOLD = BLOCK_TOLD + 1
NEAREST_TOLD = 3  # vertices beside the guess
PLACES_LIKE = 3 + NEAREST_TOLD  # told behind these, where a tokenizer tells what is likely by symmetry or nearness
FACTS_TOLD = 4  # rows of three numbers behind the places
LOOK_BACK = 4096  # vertices that are searched for what lies near
FACES_COMPARED = 4  # on an edge
FAR_OFF = 1 << 30  # a distance that none has
HASH_FACTOR = 2654435761  # Knuth's; times a position it stays below 2^63


class Layout(NamedTuple):
    """Where each kind of token begins; open ends begin at 0. A vertex or open end takes `STATES` tokens."""

    bins: int  # of an axis
    reach: int  # a near place differs from the guess by at most this on each axis
    blocks: int  # into which an axis is cut
    width: int  # of a block
    flip: int
    near: int
    block: int
    offset: int
    end: int  # one past the last token


class Surface(NamedTuple):
    """Faces written so far, with their edges in the order in which they appeared; lists run from new to old."""

    count: np.ndarray  # (4,): vertices, edges, faces, edges with one face
    faces: np.ndarray  # (f, 3)
    next_face: np.ndarray  # (f, 3): the face written before at the side that begins at each corner
    edges: np.ndarray  # (e, 2)
    edge_faces: np.ndarray  # (e,): how many each edge has
    first_face: np.ndarray  # (e,)
    first_edge: np.ndarray  # (v,)
    next_edge: np.ndarray  # (e, 2)


@no_type_check
def empty_surface(vertices, faces):
    """A surface with room for so many vertices and faces."""
    index = np.int64
    return Surface(
        count=np.zeros(4, index),
        faces=np.empty((faces, 3), index),
        next_face=np.empty((faces, 3), index),
        edges=np.empty((3 * faces, 2), index),
        edge_faces=np.zeros(3 * faces, index),
        first_face=np.full(3 * faces, -1, index),
        first_edge=np.full(vertices, -1, index),
        next_edge=np.empty((3 * faces, 2), index),
    )


class Reading(NamedTuple):
    """A sentence being read: the surface so far, and where the sentence stands on it."""

    vertices: np.ndarray  # (v, 3)
    surface: Surface
    spots: np.ndarray  # hash table of vertices by position
    stack: np.ndarray  # (s, 3), gates to come: a, b and the vertex opposite
    pending: np.ndarray  # (e,), how many of them stand on each edge
    at: np.ndarray  # (7,), see below
    guess: np.ndarray  # (3,)
    corner: np.ndarray  # (3,), the first vertex of the last patch
    position: np.ndarray  # (3,), of the last vertex said by its place
    ends: np.ndarray  # (OPEN_ENDS,), room for open ends


# Where `Reading.at` has both ends of the gate (-1 until known), a block that waits for its offset (-1 for none), the
# state said last, whether the gate is a side of a face, whether it has been flipped, and the number of gates to come.
GATE_FROM, GATE_TO, BLOCK, FOLLOW, GATED, FLIPPED, DEPTH = range(7)


@no_type_check
def empty_reading(layout, tokens):
    """Nothing read yet, and room for so many tokens."""
    middle = layout.bins // 2
    corner = np.array([0, middle, middle])
    return Reading(
        vertices=np.empty((tokens, 3), np.int64),
        surface=empty_surface(tokens, tokens),
        spots=np.full(2 * tokens + 1, -1, np.int64),
        stack=np.empty((2 * tokens + 2, 3), np.int64),
        pending=np.zeros(3 * tokens, np.int64),
        at=np.array([-1, -1, -1, 0, 0, 0, 0]),
        guess=corner.copy(),
        corner=corner,
        position=np.empty(3, np.int64),
        ends=np.empty(OPEN_ENDS, np.int64),
    )


@compiled
@no_type_check
def find_edge(surface, a, b):
    """The edge between two vertices, -1 where there is none; searched in the shorter of their lists."""
    i, j = surface.first_edge[a], surface.first_edge[b]
    while i >= 0 and j >= 0:
        if surface.edges[i, 0] == b or surface.edges[i, 1] == b:
            return i
        if surface.edges[j, 0] == a or surface.edges[j, 1] == a:
            return j
        i = surface.next_edge[i, 0] if surface.edges[i, 0] == a else surface.next_edge[i, 1]
        j = surface.next_edge[j, 0] if surface.edges[j, 0] == b else surface.next_edge[j, 1]
    return -1


@compiled
@no_type_check
def add_face(surface, a, b, c):
    """Adds the face (a, b, c), and those of its edges that are new."""
    face = surface.count[2]
    surface.count[2] += 1
    surface.faces[face, 0], surface.faces[face, 1], surface.faces[face, 2] = a, b, c
    for k in range(3):
        u, v = surface.faces[face, k], surface.faces[face, (k + 1) % 3]
        edge = find_edge(surface, u, v)
        if edge < 0:
            edge = surface.count[1]
            surface.count[1] += 1
            surface.edges[edge, 0], surface.edges[edge, 1] = u, v
            surface.next_edge[edge, 0], surface.next_edge[edge, 1] = surface.first_edge[u], surface.first_edge[v]
            surface.first_edge[u] = edge
            surface.first_edge[v] = edge
        surface.edge_faces[edge] += 1
        surface.count[3] += 1 if surface.edge_faces[edge] == 1 else -1 if surface.edge_faces[edge] == 2 else 0
        surface.next_face[face, k] = surface.first_face[edge]
        surface.first_face[edge] = face


@compiled
@no_type_check
def has_face(surface, a, b, c):
    """Whether the face (a, b, c) is there, wound that way."""
    edge = find_edge(surface, a, b)
    face = surface.first_face[edge] if edge >= 0 else -1
    while face >= 0:
        k = 0  # where the side between a and b begins
        while surface.faces[face, (k + 2) % 3] == a or surface.faces[face, (k + 2) % 3] == b:
            k += 1
        if surface.faces[face, k] == a and surface.faces[face, (k + 2) % 3] == c:
            return True
        face = surface.next_face[face, k]
    return False


@compiled
@no_type_check
def open_ends(surface, a, b, ends):
    """Puts the vertices that an edge with one face joins to a or b into `ends`, the newest edge first; their number."""
    i, j, found = surface.first_edge[a], surface.first_edge[b], 0
    while (i >= 0 or j >= 0) and found < OPEN_ENDS:
        edge, near = (i, a) if i >= j else (j, b)
        side = 0 if surface.edges[edge, 0] == near else 1
        end = surface.edges[edge, 1 - side]
        new = surface.edge_faces[edge] == 1 and end != a and end != b
        for k in range(found):
            new = new and ends[k] != end
        if new:
            ends[found] = end
            found += 1
        following = surface.next_edge[edge, side]
        if near == a:
            i = following
        else:
            j = following
    return found


@compiled
@no_type_check
def guess_opposite(layout, vertices, a, b, opposite, guess):
    """Puts the fourth corner of the parallelogram beyond the edge (a, b), as far as the grid goes, into `guess`."""
    for axis in range(3):
        value = vertices[a, axis] + vertices[b, axis] - vertices[opposite, axis]
        guess[axis] = min(max(value, 0), layout.bins - 1)


@compiled
@no_type_check
def find_spot(layout, vertices, spots, position):
    """Where in the hash table `spots` the vertex at a position is, or would have to be put."""
    key = (position[0] * layout.bins + position[1]) * layout.bins + position[2]
    spot = (key * HASH_FACTOR >> 16) % len(spots)
    while spots[spot] >= 0:
        vertex = spots[spot]
        if (
            vertices[vertex, 0] == position[0]
            and vertices[vertex, 1] == position[1]
            and vertices[vertex, 2] == position[2]
        ):
            break
        spot = (spot + 1) % len(spots)
    return spot


@compiled
@no_type_check
def write_place(layout, vertices, vertex, guess, ids, n):
    """Says where a vertex is: one token beside the guess, a block and an offset elsewhere. The new number of ids."""
    near, block, offset, inside = 0, 0, 0, True
    middle = layout.blocks // 2 * layout.width + layout.width // 2
    for axis in range(3):
        difference = vertices[vertex, axis] - guess[axis]
        inside = inside and abs(difference) <= layout.reach
        turned = (difference + middle) % layout.bins
        near = near * (2 * layout.reach + 1) + difference + layout.reach
        block = block * layout.blocks + turned // layout.width
        offset = offset * layout.width + turned % layout.width
    if inside:
        ids[n] = layout.near + near * STATES
        return n + 1
    ids[n] = layout.block + block * STATES
    ids[n + 1] = layout.offset + offset
    return n + 2


@compiled
@no_type_check
def write_tip(layout, vertices, surface, guess, face, ids, n):
    """Says the third vertex of a face (a, b, c) and adds the face to the surface. The new number of ids."""
    a, b, c = face
    ends = np.empty(OPEN_ENDS, np.int64)
    found, place = open_ends(surface, a, b, ends), -1
    for k in range(found):
        if ends[k] == c:
            place = k
    add_face(surface, a, b, c)
    if place < 0:
        return write_place(layout, vertices, c, guess, ids, n)
    ids[n] = place * STATES
    return n + 1


@compiled
@no_type_check
def next_half_edge(faces, links, visited, half_edge):
    """A side of a face not yet visited along the same edge, -1 if there is none: of one wound alike where there is."""
    start = faces[half_edge // 3, half_edge % 3]
    edges, begin, end, order = links
    edge, other = edges[half_edge], -1
    while begin[edge] < end[edge] and visited[order[begin[edge]] // 3]:
        begin[edge] += 1
    for i in range(begin[edge], end[edge]):
        candidate = order[i]
        if not visited[candidate // 3]:
            if faces[candidate // 3, candidate % 3] != start:
                return candidate
            if other < 0:
                other = candidate
    return other


@compiled
@no_type_check
def corners_from(faces, half_edge):
    """The corners of a face, turned so that they begin with a half-edge."""
    face, k = half_edge // 3, half_edge % 3
    return faces[face, k], faces[face, (k + 1) % 3], faces[face, (k + 2) % 3]


@compiled
@no_type_check
def write(layout, vertices, faces, links, surface):
    """The ids of a mesh: depth first over its faces, the right side before the left, from the lowest face not yet said.

    links: what `half_edge_links` gives; it is used up.
    """
    count = len(faces)
    ids, n = np.empty(7 * count, np.int64), 0
    visited = np.zeros(count, np.bool_)
    stack, depth = np.empty((2 * count + 2, 3), np.int64), 0  # half-edge, its state, the token that has the state
    guess, corner = np.empty(3, np.int64), np.full(3, layout.bins // 2, np.int64)
    corner[0] = 0
    for root in range(count):
        if visited[root]:
            continue
        visited[root] = True
        half_edge = 3 * root
        for k in range(3):  # a side where nothing follows; where there is none, what follows is reached in other ways
            if next_half_edge(faces, links, visited, 3 * root + k) < 0:
                half_edge = 3 * root + k
                break
        a, b, c = corners_from(faces, half_edge)
        n = write_place(layout, vertices, a, corner, ids, n)
        n = write_place(layout, vertices, b, vertices[a], ids, n)
        corner[:] = vertices[a]
        guess[:] = vertices[b]
        while True:
            corners = corners_from(faces, half_edge)
            for side in range(2):  # left, then right: the last is taken up first
                following = 3 * (half_edge // 3) + (half_edge + 2 - side) % 3
                stack[depth, 0], stack[depth, 1], stack[depth, 2] = following, 2 - side, n
                depth += 1
            n = write_tip(layout, vertices, surface, guess, corners, ids, n)
            gate, half_edge = -1, -1
            while depth > 0 and half_edge < 0:
                depth -= 1
                gate = stack[depth, 0]
                half_edge = next_half_edge(faces, links, visited, gate)
            if half_edge < 0:
                break
            visited[half_edge // 3] = True
            ids[stack[depth, 2]] += stack[depth, 1]
            u, v, opposite = corners_from(faces, gate)
            guess_opposite(layout, vertices, u, v, opposite, guess)
            if faces[half_edge // 3, half_edge % 3] == u:
                ids[n] = layout.flip
                n += 1
    return ids[:n]
