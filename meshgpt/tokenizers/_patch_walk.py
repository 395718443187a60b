"""The two loops of `PatchTokenizer`, over faces and over tokens, and the surface that both of them grow.

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
LOOK_BACK = 4096  # vertices that are searched for what lies near
FACES_COMPARED = 4  # on an edge
FAR_OFF = 1 << 30  # a distance that none has
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


class Reading(NamedTuple):
    """A sentence being read: the surface so far, and where the sentence stands on it."""

    vertices: np.ndarray  # (v, 3)
    surface: Surface
    spots: np.ndarray  # hash table of vertices by position
    stack: np.ndarray  # (s, 3), gates to come: a, b and the vertex opposite
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
def tell(layout, reading, places):
    """Puts what surrounds the next token into `places`, as far as known.

    The ends of the gate, the guess, the newest open ends, and the corner of a block that waits for its offset.
    """
    vertices, guess, ends = reading.vertices, reading.guess, reading.ends
    a, b, block = reading.at[GATE_FROM], reading.at[GATE_TO], reading.at[BLOCK]
    places[2] = guess
    if block >= 0:
        middle = layout.blocks // 2 * layout.width + layout.width // 2
        for axis in range(2, -1, -1):
            places[BLOCK_TOLD, axis] = (guess[axis] + block % layout.blocks * layout.width - middle) % layout.bins
            block //= layout.blocks
    if a >= 0:
        places[0] = vertices[a]
    if b >= 0:
        places[1] = vertices[b]
        found = open_ends(reading.surface, a, b, ends)
        for k in range(min(found, ENDS_TOLD)):
            places[3 + k] = vertices[ends[k]]
    else:
        found = 0
    if len(places) > PLACES_TOLD and reading.surface.count[0] > 0:
        tell_likely(layout, reading, found, places)


@compiled
@no_type_check
def tell_likely(layout, reading, found, places):
    """Puts places where meshes like to have a vertex behind the others: by symmetry, and vertices beside the guess.

    First the images in the planes x = 0 and z = 0, and half a turn about y: of the tip on the image of the gate, or
    else of the vertex whose image is nearest to the guess; never an end of the gate. Then the nearest vertices that are
    neither ends of the gate, nor tips on it, nor the `found` open ends. The last `LOOK_BACK` vertices are compared.
    """
    vertices, a, b, count = reading.vertices, reading.at[GATE_FROM], reading.at[GATE_TO], reading.surface.count[0]
    first = max(count - LOOK_BACK, 0)
    tips = np.full(FACES_COMPARED, -1, np.int64)
    if b >= 0:
        gate_tips(reading.surface, a, b, tips)
    image, ends = np.empty(3, np.int64), np.full(2, -1, np.int64)
    for turn in range(3):
        for k in range(2):
            ends[k] = -1
            if reading.at[k] >= 0:
                reflect(layout, turn, vertices[reading.at[k]], image)
                ends[k] = reading.spots[find_spot(layout, vertices, reading.spots, image)]
        tip = -1
        if ends[0] >= 0 and ends[1] >= 0:
            tip = mirrored_tip(layout, reading, turn, ends, tips)
        if tip < 0:
            reflect(layout, turn, reading.guess, image)
            distance = np.abs(vertices[first:count] - image).sum(axis=1)
            for k in range(2):
                if ends[k] >= first:
                    distance[ends[k] - first] = FAR_OFF
            tip = first + distance.argmin()
            if distance[tip - first] == FAR_OFF:
                tip = -1
        if tip >= 0:
            reflect(layout, turn, vertices[tip], places[PLACES_TOLD + turn])
    distance = np.abs(vertices[first:count] - reading.guess).sum(axis=1)
    for k in range(2):
        if reading.at[k] >= first:
            distance[reading.at[k] - first] = FAR_OFF
    for k in range(FACES_COMPARED):
        if tips[k] >= first:
            distance[tips[k] - first] = FAR_OFF
    for k in range(found):
        if reading.ends[k] >= first:
            distance[reading.ends[k] - first] = FAR_OFF
    for k in range(NEAREST_TOLD):
        nearest = distance.argmin()
        if distance[nearest] == FAR_OFF:
            break
        distance[nearest] = FAR_OFF
        places[PLACES_TOLD + 3 + k] = vertices[first + nearest]


@compiled
@no_type_check
def reflect(layout, turn, position, image):
    """Puts the image of a position into `image`: x turned round (0), z (1), or both (2)."""
    image[0] = position[0]
    image[1] = position[1] if turn == 0 else layout.bins - 1 - position[1]
    image[2] = position[2] if turn == 1 else layout.bins - 1 - position[2]


@compiled
@no_type_check
def gate_tips(surface, a, b, tips):
    """Puts the third vertices of the newest faces on an edge, wound either way, into `tips`; their number."""
    edge, found = find_edge(surface, a, b), 0
    face = surface.first_face[edge] if edge >= 0 else -1
    while face >= 0 and found < len(tips):
        k = 0
        while surface.faces[face, (k + 2) % 3] == a or surface.faces[face, (k + 2) % 3] == b:
            k += 1
        tips[found] = surface.faces[face, (k + 2) % 3]
        found += 1
        face = surface.next_face[face, k]
    return found


@compiled
@no_type_check
def mirrored_tip(layout, reading, turn, ends, tips):
    """The tip on the image of the gate, between `ends`, whose image is no tip on the gate yet; the newest, or -1."""
    vertices, image = reading.vertices, np.empty(3, np.int64)
    others = np.empty(FACES_COMPARED, np.int64)
    for k in range(gate_tips(reading.surface, ends[0], ends[1], others)):
        reflect(layout, turn, vertices[others[k]], image)
        vertex, there = reading.spots[find_spot(layout, vertices, reading.spots, image)], False
        for tip in tips:
            there = there or (tip >= 0 and tip == vertex)
        if not there:
            return others[k]
    return -1


@compiled
@no_type_check
def step(layout, reading, code):
    """Reads one more token; what is wrong with it, and then nothing has been read."""
    vertices, surface, at = reading.vertices, reading.surface, reading.at
    a, b, block, vertex, spot = at[GATE_FROM], at[GATE_TO], at[BLOCK], -1, 0
    fault = out_of_place(layout, code, block >= 0, b >= 0, at[GATED] == 1, at[FLIPPED] == 1)
    if fault != SOUND:
        return fault
    if code == layout.flip:
        at[GATE_FROM], at[GATE_TO], at[FLIPPED] = b, a, 1
        return SOUND
    follow = at[FOLLOW]
    if block < 0:
        follow = code % STATES if code < layout.flip else (code - layout.near) % STATES
    if layout.block <= code < layout.offset:
        at[BLOCK], at[FOLLOW] = (code - layout.block) // STATES, follow
        return SOUND
    if code < layout.flip:
        if code // STATES >= open_ends(surface, a, b, reading.ends):
            return NO_OPEN_END
        vertex = reading.ends[code // STATES]
    else:
        if not read_place(layout, reading.guess, block, code, reading.position):
            return OUTSIDE
        spot = find_spot(layout, vertices, reading.spots, reading.position)
        vertex = reading.spots[spot]
    fault = clash(surface, a, b, vertex)
    if fault != SOUND:
        return fault
    if vertex < 0:
        vertex = add_vertex(vertices, surface, reading.spots, spot, reading.position)
    at[BLOCK], at[FOLLOW] = -1, follow
    if b < 0:  # the first two vertices of a patch
        if a < 0:
            reading.corner[:] = vertices[vertex]
        at[GATE_FROM if a < 0 else GATE_TO] = vertex
        reading.guess[:] = vertices[vertex]
        return SOUND
    add_face(surface, a, b, vertex)
    take_up_gate(layout, reading, push_gates(reading.stack, at[DEPTH], a, b, vertex, follow))
    return SOUND


@compiled
@no_type_check
def take_up_gate(layout, reading, depth):
    """Goes on at the newest of so many gates; where there is none, at a new patch."""
    at, stack = reading.at, reading.stack
    at[GATE_FROM], at[GATE_TO], at[GATED], at[FLIPPED], at[DEPTH] = -1, -1, 0, 0, 0
    reading.guess[:] = reading.corner
    if depth > 0:
        depth -= 1
        a, b = stack[depth, 0], stack[depth, 1]
        at[GATE_FROM], at[GATE_TO], at[GATED], at[DEPTH] = a, b, 1, depth
        guess_opposite(layout, reading.vertices, a, b, stack[depth, 2], reading.guess)


@compiled
@no_type_check
def read(layout, ids, reading, places, faces):
    """Grows a surface by what the ids say: (what is wrong, the number of tokens before it).

    places: (n + 1, PLACES_TOLD, 3), filled with what surrounds each token and the one to come; see `tell`. faces:
    (n + 1,), with how many there are before it. Neither has anything behind a fault.
    """
    for n in range(len(ids)):
        tell(layout, reading, places[n])
        faces[n] = reading.surface.count[2]
        fault = step(layout, reading, ids[n])
        if fault != SOUND:
            return fault, n
    tell(layout, reading, places[len(ids)])
    faces[len(ids)] = reading.surface.count[2]
    return SOUND, len(ids)


@compiled
@no_type_check
def hint(layout, starts, places, hints):
    """Puts into `hints` (n, 4, 2 c) what `PatchTokenizer.hints` says of places (n, PLACES_TOLD or more, 3).

    starts (3, 3): where the digits of near places, blocks and offsets begin, on each axis.
    """
    known, middle = places.shape[1] - 1, layout.blocks // 2 * layout.width + layout.width // 2
    hints[:] = -1
    for n in range(len(places)):
        told = places[n]
        begun = told[0].min() >= 0 and told[1].min() >= 0
        for axis in range(3):
            guess, corner = told[2, axis], told[BLOCK_TOLD, axis]
            for k in range(known):
                place = told[k if k < BLOCK_TOLD else k + 1, axis]
                if k == 2:
                    place = told[0, axis] + told[1, axis] - guess if begun else -1
                if place < 0 or place >= layout.bins:
                    continue
                if corner >= 0:
                    within = (place - corner) % layout.bins
                    hints[n, axis, known + k] = within + starts[2, axis] if within < layout.width else -1
                    continue
                hints[n, axis, known + k] = (place - guess + middle) % layout.bins // layout.width + starts[1, axis]
                if abs(place - guess) <= layout.reach:
                    hints[n, axis, k] = place - guess + layout.reach + starts[0, axis]
