"""The loop of `PatchTokenizer` over tokens: they are read one by one, and the surface grows by what they say."""

from typing import no_type_check

from meshgpt.tokenizers._compiled import compiled
from meshgpt.tokenizers._patch_told import tell
from meshgpt.tokenizers._patch_walk import (
    BLOCK,
    DEPTH,
    FLIPPED,
    FOLLOW,
    GATE_FROM,
    GATE_TO,
    GATED,
    STATES,
    add_face,
    find_edge,
    find_spot,
    guess_opposite,
    has_face,
    open_ends,
)

# What is wrong with a token, as `read` reports it.
SOUND, NO_OFFSET, NO_BLOCK, STATE_BEFORE_FACE, NO_GATE, FLIPPED_TWICE, NO_OPEN_END, OUTSIDE, DEGENERATE, DUPLICATE = (
    range(10)
)


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
    depth = push_gates(reading.stack, at[DEPTH], a, b, vertex, follow)
    for place in range(at[DEPTH], depth):
        reading.pending[find_edge(surface, reading.stack[place, 0], reading.stack[place, 1])] += 1
    take_up_gate(layout, reading, depth)
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
        reading.pending[find_edge(reading.surface, a, b)] -= 1
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
