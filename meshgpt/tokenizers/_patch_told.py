"""What surrounds a token of a patch: places where the next vertex may well be, and the digits that would say them."""

from typing import no_type_check

import numpy as np

from meshgpt.mesh.grammar import BLOCK_TOLD
from meshgpt.tokenizers._compiled import compiled
from meshgpt.tokenizers._patch_walk import (
    BLOCK,
    DEPTH,
    ENDS_TOLD,
    FACES_COMPARED,
    FAR_OFF,
    GATE_FROM,
    GATE_TO,
    GATED,
    LOOK_BACK,
    NEAREST_TOLD,
    PLACES_LIKE,
    PLACES_TOLD,
    find_edge,
    find_spot,
    open_ends,
)


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
    if len(places) > PLACES_TOLD:
        if reading.surface.count[0] > 0:
            tell_likely(layout, reading, found, places)
        tell_promises(reading, found, places[PLACES_TOLD + PLACES_LIKE :])


@compiled
@no_type_check
def tell_promises(reading, found, facts):
    """Puts into `facts` (FACTS_TOLD, 3) which sides have still to be closed, and by whom.

    For each open end told, whether an edge with one face joins it to the first and to the second end of the gate: 0 no,
    1 yes, and no gate to come stands there, so that whoever left it open has promised that another face will come
    round to it (or that the mesh ends there), 2 yes, and one does. Then the faces on the gate, at most 3; how many of
    its ends are known; the number of gates to come; and the number of such promises everywhere.
    """
    surface, a, b = reading.surface, reading.at[GATE_FROM], reading.at[GATE_TO]
    facts[:] = 0
    for k in range(min(found, ENDS_TOLD)):
        for side in range(2):
            edge, number = find_edge(surface, reading.at[side], reading.ends[k]), 2 * k + side
            if edge >= 0 and surface.edge_faces[edge] == 1:
                facts[number // 3, number % 3] = 2 if reading.pending[edge] > 0 else 1
    gate = find_edge(surface, a, b) if b >= 0 else -1
    facts[2, 2] = min(surface.edge_faces[gate], 3) if gate >= 0 else 0
    facts[3, 0] = int(a >= 0) + int(b >= 0)
    facts[3, 1] = reading.at[DEPTH]
    facts[3, 2] = max(surface.count[3] - reading.at[DEPTH] - reading.at[GATED], 0)


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
def hint(layout, starts, places, hints):
    """Puts into `hints` (n, 4, 2 c) what `PatchTokenizer.hints` says of places (n, PLACES_TOLD or more, 3).

    starts (3, 3): where the digits of near places, blocks and offsets begin, on each axis.
    """
    known, middle = hints.shape[2] // 2, layout.blocks // 2 * layout.width + layout.width // 2
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
