"""The two loops of walks over faces (see `walks.py`): from faces to steps, and from tokens to faces.

Compiled where numba is installed, so written with arrays and loops. Side 3 f + k of face f lies opposite its corner k.
"""

from typing import no_type_check

import numpy as np

from meshgpt.tokenizers._compiled import compiled

LEFT, RIGHT = 0, 1
START = -1  # a step is START, or side + 2 * flipped
REACH = 64  # so many faces around one edge are looked at, which keeps the work linear for any mesh

# What is wrong with a token, as `read_faces` reports it.
FINE, NO_WALK, NO_MARK, NO_COORDINATE, REPEATED, DUPLICATE = range(6)


@compiled
@no_type_check
def walk_faces(faces, edge, order, begin, alternating):
    """The tips (nf,) as corners 3 f + k, and the steps (nf,) that lead to them, of all faces (nf, 3) in walks.

    A walk begins at the first face that is not written yet, and ends where no neighbour is left. A step keeps the
    winding if it can, then goes the way it should (left, or in strips left and right in turn), then the other way.
    """
    count, begin = len(faces), begin.copy()
    fresh = np.ones(count, dtype=np.bool_)
    corners, steps = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    corner, turn, first = -1, LEFT, 0
    for i in range(count):
        step = START
        if corner >= 0:
            corner, step = _next_corner(corner, turn, fresh, faces, edge, order, begin)
        if corner < 0:
            while not fresh[first]:
                first += 1
            fresh[first] = False
            if alternating:
                corner, turn = _start_of_strip(first, fresh, faces, edge, order, begin)
            else:
                corner = _start_at_border(first, fresh, edge, order, begin)
        elif alternating:
            turn = turn_after(step)
        fresh[corner // 3] = False
        corners[i], steps[i] = corner, step
    return corners, steps


@compiled
@no_type_check
def turn_after(step):
    """Where a strip goes next without a mark: over the side between its last two vertices."""
    return RIGHT if step == LEFT or step == RIGHT + 2 else LEFT


@compiled
@no_type_check
def _next_corner(corner, turn, fresh, faces, edge, order, begin):
    """The tip of the best neighbour of the face with tip `corner`, and the step to it; -1 where there is none."""
    base = corner - corner % 3
    best, found, step = 4, -1, START
    for side in (LEFT, RIGHT):
        across, flipped = _across(base + (corner + 1 + side) % 3, fresh, faces, edge, order, begin)
        rank = 2 * flipped + (side != turn)
        if across >= 0 and rank < best:
            best, found, step = rank, across, side + 2 * flipped
    return found, step


@compiled
@no_type_check
def _across(side, fresh, faces, edge, order, begin):
    """The side by which a fresh face touches this one, and 1 if it is wound the other way; -1 where there is none."""
    here, last = edge[side], faces[side // 3, (side + 2) % 3]
    after = begin[here]
    while after < len(order) and edge[order[after]] == here and not fresh[order[after] // 3]:
        after += 1
    begin[here] = after  # past faces that stay written
    found = -1
    for i in range(after, min(after + REACH, len(order))):
        other = order[i]
        if edge[other] != here:
            break
        if fresh[other // 3]:
            if faces[other // 3, (other + 1) % 3] == last:
                return other, 0
            if found < 0:
                found = other
    return found, 1


@compiled
@no_type_check
def _start_at_border(face, fresh, edge, order, begin):
    """The tip opposite the side with the fewest fresh faces beyond it: over that side the walk does not go."""
    best, corner = REACH + 1, 3 * face
    for side in range(3 * face, 3 * face + 3):
        beyond, i = 0, begin[edge[side]]
        while i < len(order) and edge[order[i]] == edge[side] and beyond < REACH:
            beyond += fresh[order[i] // 3]
            i += 1
        if beyond < best:
            best, corner = beyond, side
    return corner


@compiled
@no_type_check
def _start_of_strip(face, fresh, faces, edge, order, begin):
    """The tip and the turn with which the first two steps need no mark, or as few as can be."""
    best, corner, first = 9, 3 * face, LEFT
    for tip in range(3 * face, 3 * face + 3):
        for turn in (LEFT, RIGHT):
            side = 3 * face + (tip + 1 + turn) % 3
            across, flipped = _across(side, fresh, faces, edge, order, begin)
            if across >= 0:
                rank = 4 * flipped + _rank_of_second(across, turn + 2 * flipped, fresh, faces, edge, order, begin)
                if rank < best:
                    best, corner, first = rank, tip, turn
    return corner, first


@compiled
@no_type_check
def _rank_of_second(corner, step, fresh, faces, edge, order, begin):
    """0: the step after `step` goes on by itself; 1: with a flip; 2: not at all."""
    side = corner - corner % 3 + (corner + 1 + turn_after(step)) % 3
    across, flipped = _across_but(corner // 3, side, fresh, faces, edge, order, begin)
    return 2 if across < 0 else flipped


@compiled
@no_type_check
def _across_but(face, side, fresh, faces, edge, order, begin):
    """`_across`, as if `face` were written; `begin` must not move past it."""
    before = begin[edge[side]]
    fresh[face] = False
    across, flipped = _across(side, fresh, faces, edge, order, begin)
    fresh[face] = True
    begin[edge[side]] = before
    return across, flipped


@compiled
@no_type_check
def step_of(mark, turn):
    """(side, flipped) of a strip's step with `mark`, -1 for none."""
    said = 0 if mark < 0 else mark - 1
    return (turn + said) % 2, said // 2


@compiled
@no_type_check
def read_faces(ids, bins, alternating):
    """Faces (nf, 3) as keys of vertices, tip first; the last token of each; a fault and where it is.

    Reading ends before the first token at fault; a face that is not whole is left out.
    """
    faces, ends = np.empty((len(ids) // 3 + 1, 3), dtype=np.int64), np.empty(len(ids) // 3 + 1, dtype=np.int64)
    count, at, turn = 0, 0, LEFT
    said = np.empty(3, dtype=np.int64)
    while at < len(ids):
        mark = ids[at] - bins
        starts = mark == 0 or (alternating and mark == 1)
        if mark < 0 and not alternating:
            return faces[:count], ends[:count], NO_MARK if count else NO_WALK, at
        if count == 0 and not starts:
            return faces[:count], ends[:count], NO_WALK, at
        at += mark >= 0
        known = 0
        if not starts:
            side, flipped = step_of(mark, turn) if alternating else ((mark - 1) % 2, (mark - 1) // 2)
            said[0], said[1] = _gate(faces[count - 1], side, flipped)
            known, turn = 2, turn_after(side + 2 * flipped)
        elif alternating:
            turn = mark
        for vertex in range(known, 3):
            key = 0
            for _ in range(3):
                if at == len(ids):
                    return faces[:count], ends[:count], FINE, at
                if ids[at] >= bins:
                    return faces[:count], ends[:count], NO_COORDINATE, at
                key = key * bins + ids[at]
                at += 1
            said[vertex] = key
            for other in range(vertex):
                if said[other] == key:
                    return faces[:count], ends[:count], REPEATED, at - 1
        against = starts and alternating and mark == 1
        faces[count, 0] = said[2]
        faces[count, 1] = said[1] if against else said[0]
        faces[count, 2] = said[0] if against else said[1]
        ends[count] = at - 1
        count += 1
    return faces[:count], ends[:count], FINE, at


@compiled
@no_type_check
def _gate(face, side, flipped):
    """The two vertices that a step keeps, such that with the new tip before them they are wound as they should be."""
    first, second = (face[0], face[2]) if side == LEFT else (face[1], face[0])
    return (second, first) if flipped else (first, second)
