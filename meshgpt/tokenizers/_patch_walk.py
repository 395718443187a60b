"""The two loops of `PatchTokenizer`, over faces and over tokens, and the surface that both of them grow.

Positions are (y, z, x) bins. Compiled where numba is installed, so written with arrays and loops.
"""

from typing import NamedTuple, no_type_check

import numpy as np

from meshgpt.tokenizers._compiled import compiled

STATES = 4  # of a face: 1 where another follows at its right side, plus 2 where one follows at its left side
OPEN_ENDS = 8  # that can be named in one token
ENDS_TOLD = 4  # of them, whose places are told of what surrounds a token
PLACES_TOLD = 4 + ENDS_TOLD
HASH_FACTOR = 2654435761  # Knuth's; times a position it stays below 2^63

# What is wrong with a token, as `read` reports it.
SOUND, NO_OFFSET, NO_BLOCK, STATE_BEFORE_FACE, NO_GATE, FLIPPED_TWICE, NO_OPEN_END, OUTSIDE, DEGENERATE, DUPLICATE = (
    range(10)
)


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

    count: np.ndarray  # (3,): vertices, edges, faces
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
        count=np.zeros(3, index),
        faces=np.empty((faces, 3), index),
        next_face=np.empty((faces, 3), index),
        edges=np.empty((3 * faces, 2), index),
        edge_faces=np.zeros(3 * faces, index),
        first_face=np.full(3 * faces, -1, index),
        first_edge=np.full(vertices, -1, index),
        next_edge=np.empty((3 * faces, 2), index),
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


@compiled
@no_type_check
def read_place(layout, guess, block, code, position):
    """Puts the position that a token says, behind a block where that is not -1, into `position`; whether it exists."""
    size = layout.width if block >= 0 else 2 * layout.reach + 1
    code = code - layout.offset if block >= 0 else (code - layout.near) // STATES
    middle = layout.blocks // 2 * layout.width + layout.width // 2
    for axis in range(2, -1, -1):
        if block >= 0:
            turned = block % layout.blocks * layout.width + code % size
            if turned >= layout.bins:
                return False
            position[axis] = (guess[axis] + turned - middle) % layout.bins
            block //= layout.blocks
        else:
            position[axis] = guess[axis] + code % size - layout.reach
            if position[axis] < 0 or position[axis] >= layout.bins:
                return False
        code //= size
    return True


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
def out_of_place(layout, code, waiting, begun, gated, flipped):
    """What is wrong with a token of this kind here. waiting: for an offset. begun: both ends of the gate are known."""
    if waiting:
        return SOUND if code >= layout.offset else NO_OFFSET
    if code >= layout.offset:
        return NO_BLOCK
    if code == layout.flip:
        return NO_GATE if not gated else FLIPPED_TWICE if flipped else SOUND
    if begun:
        return SOUND
    if code < layout.flip:
        return NO_OPEN_END
    return STATE_BEFORE_FACE if (code - layout.near) % STATES > 0 else SOUND


@compiled
@no_type_check
def clash(surface, a, b, vertex):
    """What is wrong with a vertex there already (-1: it is new) behind a and b, which are -1 where not known yet."""
    if vertex < 0:
        return SOUND
    if vertex == a or vertex == b:
        return DEGENERATE
    return DUPLICATE if b >= 0 and has_face(surface, a, b, vertex) else SOUND


@compiled
@no_type_check
def add_vertex(vertices, surface, spots, spot, position):
    """Puts a new vertex into the table of positions, and into its spot of the hash table; its number."""
    vertex = surface.count[0]
    surface.count[0] += 1
    vertices[vertex] = position
    spots[spot] = vertex
    return vertex


@compiled
@no_type_check
def push_gates(stack, depth, a, b, tip, follow):
    """Puts the sides of a face at which others follow on the stack, the right one on top; the new depth."""
    if follow >= 2:
        stack[depth, 0], stack[depth, 1], stack[depth, 2] = a, tip, b
        depth += 1
    if follow % 2 == 1:
        stack[depth, 0], stack[depth, 1], stack[depth, 2] = tip, b, a
        depth += 1
    return depth


@compiled
@no_type_check
def tell(layout, vertices, surface, gate, guess, block, ends, places):
    """Puts what surrounds a token into `places`, as far as known.

    The ends of the gate, the guess, the newest open ends, and the corner of a block that waits for its offset.
    """
    places[2] = guess
    if block >= 0:
        middle = layout.blocks // 2 * layout.width + layout.width // 2
        for axis in range(2, -1, -1):
            places[3 + ENDS_TOLD, axis] = (guess[axis] + block % layout.blocks * layout.width - middle) % layout.bins
            block //= layout.blocks
    a, b = gate
    if a >= 0:
        places[0] = vertices[a]
    if b >= 0:
        places[1] = vertices[b]
        for k in range(min(open_ends(surface, a, b, ends), ENDS_TOLD)):
            places[3 + k] = vertices[ends[k]]


@compiled
@no_type_check
def read(layout, ids, vertices, surface, places, faces):
    """Grows a surface by what the ids say: (what is wrong, the number of tokens before it).

    places: (n + 1, PLACES_TOLD, 3), filled with what surrounds each token and the one to come; see `tell`. faces:
    (n + 1,), with how many there are before it. Neither has anything behind a fault.
    """
    spots = np.full(2 * len(vertices) + 1, -1, np.int64)
    stack, depth = np.empty((2 * len(ids) + 2, 3), np.int64), 0  # gates: a, b and the vertex opposite
    guess, corner = np.empty(3, np.int64), np.full(3, layout.bins // 2, np.int64)
    position, ends = np.empty(3, np.int64), np.empty(OPEN_ENDS, np.int64)
    corner[0] = 0
    guess[:] = corner
    a, b, block, follow, spot, gated, flipped = -1, -1, -1, 0, 0, False, False
    for n in range(len(ids)):
        code, vertex = ids[n], -1
        tell(layout, vertices, surface, (a, b), guess, block, ends, places[n])
        faces[n] = surface.count[2]
        fault = out_of_place(layout, code, block >= 0, b >= 0, gated, flipped)
        if fault != SOUND:
            return fault, n
        if code == layout.flip:
            a, b, flipped = b, a, True
            continue
        if block < 0:
            follow = code % STATES if code < layout.flip else (code - layout.near) % STATES
        if layout.block <= code < layout.offset:
            block = (code - layout.block) // STATES
            continue
        if code < layout.flip:
            if code // STATES >= open_ends(surface, a, b, ends):
                return NO_OPEN_END, n
            vertex = ends[code // STATES]
        else:
            if not read_place(layout, guess, block, code, position):
                return OUTSIDE, n
            spot = find_spot(layout, vertices, spots, position)
            vertex = spots[spot]
            block = -1
        fault = clash(surface, a, b, vertex)
        if fault != SOUND:
            return fault, n
        if vertex < 0:
            vertex = add_vertex(vertices, surface, spots, spot, position)
        if b < 0:  # the first two vertices of a patch
            corner[:] = vertices[vertex] if a < 0 else corner
            a, b = (vertex, -1) if a < 0 else (a, vertex)
            guess[:] = vertices[vertex]
            continue
        add_face(surface, a, b, vertex)
        depth = push_gates(stack, depth, a, b, vertex, follow)
        a, b, gated, flipped = -1, -1, depth > 0, False
        guess[:] = corner
        if gated:
            depth -= 1
            a, b = stack[depth, 0], stack[depth, 1]
            guess_opposite(layout, vertices, a, b, stack[depth, 2], guess)
    tell(layout, vertices, surface, (a, b), guess, block, ends, places[len(ids)])
    faces[len(ids)] = surface.count[2]
    return SOUND, len(ids)
