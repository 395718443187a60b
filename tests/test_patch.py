"""PatchTokenizer: any triangles there and back, sentences spelled out, and a grammar that allows what can be read."""

import importlib.util
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgpt.data.batch import MeshBatch
from meshgpt.errors import CodesError, ConfigError, MeshError, TokenError
from meshgpt.mesh.canonical import GridMesh, canonicalize, canonicalize_grid
from meshgpt.mesh.mesh import Mesh, join
from meshgpt.tokenizers import _compiled
from meshgpt.tokenizers import _patch_read as reader
from meshgpt.tokenizers import _patch_told as telling
from meshgpt.tokenizers import _patch_walk as walk
from meshgpt.tokenizers.patch import PatchTokenizer, layout_of
from meshgpt.tokenizers.patch_rows import PatchRows

RIGHT, LEFT, BOTH = 1, 2, 3
LAYOUT = PatchTokenizer().layout


def grid_of(vertices, faces, bins=128):
    return canonicalize_grid(np.asarray(vertices), np.asarray(faces), bins)


def again(tokenizer, ids, errors="raise"):
    return canonicalize_grid(*tokenizer.decode_grid(np.asarray(ids), errors), tokenizer.num_discrete_coors)


def near(y, z, x, follow=0):
    """The token of the place that differs from the guess by (y, z, x)."""
    size = 2 * LAYOUT.reach + 1
    number = ((y + LAYOUT.reach) * size + z + LAYOUT.reach) * size + x + LAYOUT.reach
    return LAYOUT.near + walk.STATES * number + follow


def far(y, z, x, follow=0):
    """The block and offset of the place that differs from the guess by (y, z, x)."""
    turned = (np.array([y, z, x]) + 4 * 16 + 8) % 128
    block, offset = (turned // 16).tolist(), (turned % 16).tolist()
    number = (block[0] * 8 + block[1]) * 8 + block[2]
    return [LAYOUT.block + walk.STATES * number + follow, LAYOUT.offset + (offset[0] * 16 + offset[1]) * 16 + offset[2]]


def open_end(place, follow=0):
    return walk.STATES * place + follow


# a square in the plane y = 64, wound upwards; positions below are (x, y, z)
SQUARE = [(64, 64, 64), (64, 64, 84), (84, 64, 84), (84, 64, 64)]
SENTENCE = [*far(64, 0, 0), *far(0, 0, 20), *far(0, 20, 0, LEFT), near(0, 0, 0)]


# what a sentence says


def test_a_square_is_two_vertices_a_face_at_whose_left_another_follows_and_the_guess():
    grid = canonicalize_grid(np.array(SQUARE), np.array([(0, 3, 2), (0, 2, 1)]))
    assert PatchTokenizer().encode_grid(grid).tolist() == SENTENCE
    assert again(PatchTokenizer(), SENTENCE) == grid


def test_a_face_wound_against_its_neighbour_stands_behind_a_flip():
    grid = canonicalize_grid(np.array(SQUARE), np.array([(0, 3, 2), (0, 1, 2)]))
    flipped = [*SENTENCE[:-1], LAYOUT.flip, SENTENCE[-1]]
    assert PatchTokenizer().encode_grid(grid).tolist() == flipped
    assert again(PatchTokenizer(), flipped) == grid


def test_a_tetrahedron_closes_with_open_ends():
    corners = [(60, 60, 60), (70, 60, 60), (60, 70, 60), (60, 60, 70)]
    grid = grid_of(corners, [(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)])
    ids = PatchTokenizer().encode_grid(grid)
    assert len(ids) <= 6 + 2 + 1 + 1 and (ids[-2:] < LAYOUT.flip).all()
    assert again(PatchTokenizer(), ids) == grid


def test_a_vertex_said_by_its_place_is_the_one_that_is_there():
    again_at_a = [*SENTENCE[:-2], SENTENCE[-2] - LEFT, *far(0, 0, 0), *far(0, 0, 20), *far(0, -20, -20)]
    vertices, faces = PatchTokenizer().decode_grid(np.array(again_at_a))
    assert len(faces) == 2 and len(vertices) == 4


@pytest.mark.parametrize("bins", [2, 3, 5, 64, 100, 128, 512])
def test_positions_have_one_block_and_offset_each_on_any_grid(bins):
    layout = layout_of(bins)
    assert (layout.blocks - 1) * layout.width < bins <= layout.blocks * layout.width
    assert layout.end == 33 + 4 * (2 * layout.reach + 1) ** 3 + 4 * layout.blocks**3 + layout.width**3
    assert PatchTokenizer(num_discrete_coors=bins).vocab_size == layout.end


def test_the_vocabulary_of_128_bins_stays_below_8192():
    assert PatchTokenizer().vocab_size == 7549


# there and back


def test_every_mesh_of_the_sample_comes_back_within_the_budget(tiny_meshes):
    tokenizer, ids, faces = PatchTokenizer(), [], 0
    for mesh in tiny_meshes:
        ids.append(tokenizer.encode(mesh))
        grid = canonicalize(mesh.normalized())
        assert canonicalize(tokenizer.decode(ids[-1])) == grid
        faces += len(grid.faces)
    used = torch.bincount(torch.cat(ids)).double() / len(torch.cat(ids))
    tokens_per_face = len(torch.cat(ids)) / faces
    assert tokens_per_face < 1.5 and -torch.special.xlogy(used, used).sum() / np.log(2) * tokens_per_face < 14


CORNERS = np.array([(x, y, z) for x in range(3) for y in range(3) for z in range(3)])


def soups():
    """Many faces on few vertices: non-manifold, wound either way, doubled with the other winding, in several parts."""
    few = st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=50)
    many = st.lists(st.tuples(*[st.integers(0, 26)] * 3), min_size=1, max_size=50)
    doubled = few.map(lambda rows: rows + [row[::-1] for row in rows])
    return st.one_of(few, many, doubled)


@pytest.mark.parametrize("bins", [3, 5, 128])
def test_any_soup_of_faces_comes_back_and_every_beginning_is_a_mesh(bins):
    tokenizer = PatchTokenizer(num_discrete_coors=bins)

    @settings(deadline=None, max_examples=60, database=None)
    @given(soups(), st.integers(1, 60 if bins == 128 else 1))
    def check(rows, scale):
        grid = grid_of(CORNERS * scale, rows, bins)
        ids = tokenizer.encode_grid(grid)
        vertices, faces = tokenizer.decode_grid(ids)
        assert canonicalize_grid(vertices, faces, bins) == grid
        begun = 0
        for length in range(0, len(ids), 5):
            some_vertices, some_faces = tokenizer.decode_grid(ids[:length])
            assert np.array_equal(some_vertices[some_faces], vertices[faces][: len(some_faces)])
            assert begun <= len(some_faces)
            begun = len(some_faces)

    check()


def moebius():
    turn = np.arange(9) / 9 * 2 * np.pi
    around = np.stack((np.cos(turn), 0 * turn, np.sin(turn)), axis=1)
    across = np.cos(turn / 2)[:, None] * around + np.sin(turn / 2)[:, None] * np.array([0, 1, 0])
    vertices, faces = np.concatenate((around + 0.3 * across, around - 0.3 * across)), []
    for i in range(9):
        a, b, c, d = i, i + 9, (i + 1) % 9, (i + 1) % 9 + 9
        c, d = (d, c) if i == 8 else (c, d)
        faces += [(a, b, c), (b, d, c)]
    return Mesh(vertices, faces)


def sheet(flipped=()):
    faces = [f for i in (0, 1, 2, 4, 5, 6) for f in ((i, i + 1, i + 4), (i + 1, i + 5, i + 4))]
    faces = [face[::-1] if i in flipped else face for i, face in enumerate(faces)]
    return Mesh([(x, y, 0) for y in range(3) for x in range(4)], faces)


def two_sided():
    return Mesh(sheet().vertices, np.concatenate((sheet().faces, sheet().faces[:, ::-1])))


def around_an_edge(count=40):
    angle = np.arange(count) / count * 2 * np.pi
    rim = np.stack((np.cos(angle), np.sin(angle), 0 * angle), axis=1)
    faces = [(0, 1, 2 + i) if i % 3 else (1, 0, 2 + i) for i in range(count)]
    return Mesh(np.concatenate(([(0, 0, -1), (0, 0, 1)], rim)), faces)


def bow_tie():
    return Mesh([(0, 0, 0), (1, 0, 0), (1, 1, 0), (-1, 0, 0), (-1, -1, 0)], [(0, 1, 2), (0, 3, 4)])


def apart():
    return join([Mesh(sheet().vertices + 9 * i, sheet().faces) for i in range(5)])


ODD = [moebius(), sheet(), sheet(flipped=(1, 4, 5, 9)), two_sided(), around_an_edge(), bow_tie(), apart()]


@pytest.mark.parametrize("mesh", ODD, ids=["moebius", "open", "seams", "two sides", "edge", "vertex", "parts"])
def test_odd_surfaces_come_back_as_they_are(mesh):
    tokenizer, grid = PatchTokenizer(), canonicalize(mesh.normalized())
    assert canonicalize(tokenizer.decode(tokenizer.encode(mesh))) == grid


def test_the_number_of_flips_is_that_of_the_seams_that_are_crossed():
    grid = canonicalize(sheet(flipped=(6, 7, 8, 9, 10, 11)).normalized())
    assert (PatchTokenizer().encode_grid(grid) == LAYOUT.flip).sum() == 1
    assert not (PatchTokenizer().encode_grid(canonicalize(two_sided().normalized())) == LAYOUT.flip).any()


@pytest.mark.parametrize("bins", [5, 128])
def test_hints_of_the_loop_are_those_of_tensors(bins, tiny_meshes):
    tokenizer = PatchTokenizer(num_discrete_coors=bins)
    rows = [tokenizer.encode(mesh) for mesh in tiny_meshes[:4]]
    places = tokenizer.surroundings_of(torch.nn.utils.rnn.pad_sequence(rows, True, -1)).places
    hints = np.empty((*places.shape[:2], 4, tokenizer.num_hints), dtype=np.int64)
    for row, out in zip(places.numpy(), hints, strict=True):
        telling.hint(tokenizer.layout, tokenizer._starts_by_axis, row, out)
    assert torch.equal(torch.from_numpy(hints), tokenizer._hints(places))
    assert torch.equal(tokenizer.hints(places), tokenizer._hints(places))


def test_the_tip_on_the_image_of_the_gate_is_told(tiny_meshes):
    tokenizer, compared = PatchTokenizer(), 0
    for mesh in sorted(tiny_meshes, key=lambda mesh: mesh.num_faces)[:30]:
        ids = tokenizer.encode(mesh).numpy()
        places, _ = tokenizer.surroundings(ids)
        for n in range(len(ids)):
            vertices, faces = tokenizer.decode_grid(ids[:n])
            corners = [{tuple(place) for place in vertices[face][:, [1, 2, 0]]} for face in faces]  # as y, z, x
            gate = {tuple(place) for place in places[n, :2]}
            image = {(y, z, 127 - x) for y, z, x in gate}
            tips = {(y, z, 127 - x) for face in corners if image < face for y, z, x in face - image}
            tips -= {tip for face in corners if gate < face for tip in face - gate}
            if len(gate) == 2 and places[n, :2].min() >= 0 and len(tips) == 1:
                assert tuple(places[n, walk.PLACES_TOLD]) in tips
                compared += 1
    assert compared > 50


def test_vertices_near_the_guess_are_told_but_those_that_have_a_name():
    tokenizer = PatchTokenizer()
    ids = np.array([*far(10, 0, 0), *far(0, 0, 2), *far(0, 2, 0), *far(10, 1, 1), *far(0, 0, 2), *far(0, 2, 0)])
    places, _ = tokenizer.surroundings(ids[:10])
    told = places[
        -1, walk.PLACES_TOLD + 3 : tokenizer.num_places
    ]  # behind both ends of the second gate, at (20, 65, 65) and (20, 65, 67)
    assert told.tolist() == [[10, 64, 66], [10, 66, 66], [10, 64, 64]]  # nearest to the guess, (20, 65, 67)


def test_sides_that_are_left_open_are_told_until_they_are_closed(tiny_meshes):
    tokenizer, seen = PatchTokenizer(), set()
    for mesh in sorted(tiny_meshes, key=lambda mesh: mesh.num_faces)[:30]:
        ids = tokenizer.encode(mesh).numpy()
        facts = tokenizer.surroundings(ids)[0][:, tokenizer.num_places :].reshape(len(ids) + 1, 12)
        for n in range(len(ids) + 1):
            faces = tokenizer.decode_grid(ids[:n])[1]
            sides = np.sort(
                np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).reshape(-1, 2), axis=1
            )
            once = int((np.unique(sides, axis=0, return_counts=True)[1] == 1).sum()) if len(sides) else 0
            to_come, promised = facts[n, 10:]
            seen |= set(facts[n, :8].tolist())
            assert promised >= 0 and (promised + to_come - once) in (0, -1)  # the gate itself waits no longer
        assert facts[-1, 10] == 0 and facts[-1, 11] == once  # at the end nobody comes round to what is open
    assert seen == {0, 1, 2}


def test_what_is_likely_can_be_left_out_and_changes_no_token(tiny_meshes):
    plain, telling = PatchTokenizer(tell_likely=False), PatchTokenizer()
    ids = telling.encode(tiny_meshes[0])
    assert torch.equal(plain.encode(tiny_meshes[0]), ids)
    less, more = (tokenizer.surroundings_of(ids[None]).places for tokenizer in (plain, telling))
    assert less.shape[2] == walk.PLACES_TOLD and torch.equal(more[:, :, : walk.PLACES_TOLD], less)
    assert plain.num_hints < telling.num_hints and (more[:, -1, walk.PLACES_TOLD :] >= 0).any()


def test_without_numba_the_ids_are_the_same(tiny_meshes, monkeypatch):
    monkeypatch.setattr(_compiled, "compiled", lambda function: function)
    compiled = [PatchTokenizer().encode(mesh) for mesh in tiny_meshes[:3]]
    for module in (walk, telling, reader):  # in the order in which one needs another
        location = importlib.util.spec_from_file_location("plain", module.__file__)
        plain = importlib.util.module_from_spec(location)
        location.loader.exec_module(plain)
        for name, part in inspect.getmembers(plain):
            if inspect.isclass(part) and part.__module__ == "plain":
                setattr(plain, name, getattr(module, name))  # one class of each name
            elif inspect.isfunction(part) and part.__module__ == "plain":
                monkeypatch.setattr(module, name, part)
    for mesh, ids in zip(tiny_meshes, compiled, strict=False):
        assert torch.equal(PatchTokenizer().encode(mesh), ids)
        assert canonicalize(PatchTokenizer().decode(ids)) == canonicalize(mesh.normalized())


# tokens that do not fit

WRONG = [
    (SENTENCE + [LAYOUT.offset], 7, "an offset stands without a block before it"),
    ([SENTENCE[0], LAYOUT.flip], 1, "an offset must follow a block"),
    (SENTENCE[:4] + [LAYOUT.flip], 4, "only a face at a side of another can be flipped"),
    (SENTENCE[:6] + [LAYOUT.flip, LAYOUT.flip], 7, "a face cannot be flipped twice"),
    ([near(0, 0, 0, RIGHT)], 0, "the first two vertices of a patch have no faces at their sides"),
    (SENTENCE[:6] + [open_end(2)], 6, "there are not so many open ends"),
    ([open_end(0)], 0, "there are not so many open ends"),
    ([near(-1, 0, 0)], 0, "the vertex lies outside the grid"),
    (SENTENCE[:2] + [near(0, 0, 0)], 2, "the face would have the same vertex twice"),
    (SENTENCE[:6] + far(0, -20, 0), 7, "the face would have the same vertex twice"),
    (SENTENCE[:6] + [LAYOUT.flip, open_end(0)], 7, "this face has been said already"),
]


@pytest.mark.parametrize(("ids", "position", "complaint"), WRONG)
def test_a_token_that_does_not_fit_is_named_and_repair_keeps_what_came_before(ids, position, complaint):
    tokenizer = PatchTokenizer()
    with pytest.raises(TokenError, match=f"token {position}: {complaint}, got {ids[position]}") as caught:
        tokenizer.decode(ids)
    assert caught.value.position == position
    kept, before = tokenizer.decode(ids, errors="repair"), tokenizer.decode(ids[:position])
    assert np.array_equal(kept.faces, before.faces) and np.array_equal(kept.vertices, before.vertices)


def test_any_ids_can_be_repaired_to_a_valid_mesh():
    tokenizer = PatchTokenizer(num_discrete_coors=4)

    @settings(deadline=None, max_examples=100, database=None)
    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=60))
    def check(ids):
        vertices, faces = tokenizer.decode_grid(np.array(ids, dtype=np.int64), "repair")
        grid = canonicalize_grid(vertices, faces, 4)
        assert len(grid.faces) == len(faces) and len(grid.vertices) == len(vertices)

    check()


def test_ids_of_another_kind_are_refused():
    tokenizer = PatchTokenizer()
    with pytest.raises(CodesError, match="code 7549 is out of range"):
        tokenizer.decode([7549])
    with pytest.raises(CodesError, match="without padding"):
        tokenizer.decode([-1])
    with pytest.raises(CodesError, match="flat list of integer ids"):
        tokenizer.decode([[1, 2]])
    with pytest.raises(CodesError, match="'raise' or 'repair', got 'ignore'"):
        tokenizer.decode([], errors="ignore")
    with pytest.raises(CodesError, match="shape"):
        tokenizer.decode_from_codes_to_faces(torch.tensor([1, 2]))
    with pytest.raises(CodesError, match="id 0 is padding, and ids come behind it"):
        tokenizer.decode_from_codes_to_faces(torch.tensor([[-1, 40]]))
    with pytest.raises(CodesError, match="PatchTokenizer cannot read a face without those before it"):
        tokenizer.decode_faces_alone(torch.tensor([[40]]))
    with pytest.raises(MeshError, match="no face of"):
        tokenizer.encode(Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int)))
    with pytest.raises(CodesError, match="id -3 is out of range: ids are 0 .. 7548"):
        tokenizer.decode_grid(np.array([40, -3]), "repair")
    with pytest.raises(MeshError, match="faces of 3 corners on 64 bins do not fit a tokenizer"):
        tokenizer.encode_grid(grid_of(CORNERS, [(0, 1, 2)], 64))
    with pytest.raises(ConfigError, match="2 .. 1024, got 1"):
        PatchTokenizer(num_discrete_coors=1)


# batches


def test_a_batch_gives_each_mesh_its_own_ids_and_its_faces_back(tiny_meshes):
    tokenizer = PatchTokenizer()
    grids = [canonicalize(mesh.normalized()) for mesh in tiny_meshes[:4]]
    codes = tokenizer.codes_from_batch(MeshBatch.from_meshes([grid.mesh() for grid in grids]))
    coordinates, mask = tokenizer.decode_from_codes_to_faces(codes)
    assert mask.sum(dim=1).tolist() == [len(grid.faces) for grid in grids]
    assert coordinates[~mask].isnan().all() and not coordinates[mask].isnan().any()
    for row, grid, faces, real in zip(codes, grids, coordinates, mask, strict=True):
        assert row[row >= 0].tolist() == tokenizer.encode_grid(grid).tolist()
        corners = Mesh(faces[real].reshape(-1, 3).double(), torch.arange(3 * int(real.sum())).reshape(-1, 3))
        assert canonicalize(corners) == grid
    masked, kept = tokenizer.decode_from_codes_to_faces(codes, face_mask=mask & (torch.arange(mask.shape[1]) < 5))
    assert kept.sum(dim=1).tolist() == [5] * 4 and masked[~kept].isnan().all()


def test_no_meshes_and_no_faces_are_no_tokens():
    tokenizer = PatchTokenizer()
    assert tokenizer.codes_from_batch(empty_batch()).shape == (0, 0)
    assert tokenizer.encode_grid(GridMesh(np.zeros((0, 3), int), np.zeros((0, 3), int))).shape == (0,)
    assert tokenizer.decode([]).num_faces == 0
    assert tokenizer.decode_from_codes_to_faces(torch.full((2, 3), -1))[0].shape == (2, 0, 3, 3)


def empty_batch():
    nothing = torch.zeros(0, dtype=torch.long)
    return MeshBatch(torch.zeros(0, 3), nothing.view(0, 3), nothing, nothing, nothing.view(2, 0))


def test_a_row_that_contradicts_itself_gives_its_faces_up_to_there():
    codes = torch.tensor([SENTENCE, SENTENCE[:6] + [LAYOUT.offset]])
    assert PatchTokenizer().decode_from_codes_to_faces(codes)[1].sum(dim=1).tolist() == [2, 1]
    with pytest.raises(TokenError, match="token 6: an offset stands without"):
        PatchTokenizer().decode_from_codes_to_faces(codes, errors="raise")


def test_it_is_saved_and_loaded(tmp_path):
    PatchTokenizer(num_discrete_coors=64).save_pretrained(tmp_path)
    assert PatchTokenizer.from_pretrained(tmp_path).num_discrete_coors == 64


# the grammar


def sampled(tokenizer, batch, length, seed=0, room=True):
    """Ids drawn from what the grammar allows, kinds of tokens evenly: (codes (b, length), final state)."""
    grammar, layout = tokenizer.grammar, tokenizer.layout
    generator, state, written = torch.Generator().manual_seed(seed), grammar.start(batch, length), []
    kinds = torch.bucketize(torch.arange(layout.end + 1), torch.tensor(layout[4:]), right=True)
    weights = 1 / torch.bincount(kinds)[kinds].float()
    for step in range(length):
        legal = grammar.legal(state, torch.full((batch,), length - step) if room else None)
        assert legal.any(dim=1).all()
        code = torch.multinomial(legal * weights, 1, generator=generator)[:, 0]
        written.append(code)
        state = grammar.advance(state, code)
    return torch.stack(written, dim=1), state


def sentences(tokenizer, codes):
    return [row[: row.index(tokenizer.vocab_size)] if tokenizer.vocab_size in row else row for row in codes.tolist()]


@pytest.mark.parametrize("bins", [2, 3, 5])
def test_a_token_is_legal_exactly_where_it_can_be_read(bins):
    tokenizer = PatchTokenizer(num_discrete_coors=bins)
    codes, _ = sampled(tokenizer, 4, 14, seed=bins, room=False)
    state = tokenizer.grammar.start(4, 14)
    for length in range(14):
        legal = tokenizer.grammar.legal(state)
        assert torch.equal(legal, tokenizer.grammar.legal(state, torch.full((4,), 1000)))
        for row, allowed in zip(codes.tolist(), legal, strict=True):
            if tokenizer.vocab_size not in row[:length]:
                read = [readable(tokenizer, [*row[:length], code]) for code in range(tokenizer.vocab_size)]
                assert allowed[:-1].tolist() == read
        state = tokenizer.grammar.advance(state, codes[:, length])


def readable(tokenizer, ids):
    try:
        tokenizer.decode_grid(np.array(ids))
    except TokenError:
        return False
    return True


def test_every_token_of_a_mesh_is_legal_and_the_end_behind_the_last_only(tiny_meshes):
    tokenizer = PatchTokenizer()
    meshes = sorted(tiny_meshes, key=lambda mesh: mesh.num_faces)[:6] + ODD
    ids = [tokenizer.encode(mesh) for mesh in meshes]
    codes = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=tokenizer.vocab_size)
    grammar, lengths = tokenizer.grammar, torch.tensor([len(row) for row in ids])
    state = grammar.start(len(ids), codes.shape[1])
    for place in range(codes.shape[1] + 1):
        legal = grammar.legal(state)
        assert legal[place == lengths, -1].all() and (legal[place > lengths].sum(dim=1) == 1).all()
        if place < codes.shape[1]:
            assert legal[torch.arange(len(ids)), codes[:, place]].all()
            state = grammar.advance(state, codes[:, place])


@pytest.mark.parametrize(("bins", "rows", "length"), [(4, 1000, 24), (128, 40, 16)])
def test_what_is_drawn_from_the_grammar_is_a_valid_mesh_that_ends_in_time(bins, rows, length):
    tokenizer = PatchTokenizer(num_discrete_coors=bins)
    codes, state = sampled(tokenizer, rows, length)
    assert tokenizer.grammar.legal(state, torch.zeros(rows, dtype=torch.long))[:, -1].all()
    total = 0
    for ids in sentences(tokenizer, codes):
        vertices, faces = tokenizer.decode_grid(np.array(ids))
        grid = canonicalize_grid(vertices, faces, bins)
        assert len(grid.faces) == len(faces) > 0 and len(grid.vertices) == len(vertices)
        whole = tokenizer.encode_grid(grid)
        assert canonicalize_grid(*tokenizer.decode_grid(whole), bins) == grid
        total += len(faces)
    assert total > 2 * rows


@pytest.mark.parametrize("bins", [2, 3, 5, 128])
@pytest.mark.parametrize("room", [False, True])
def test_rows_read_one_by_one_are_those_of_the_tensors(bins, room):
    tokenizer, length = PatchTokenizer(num_discrete_coors=bins), 40
    grammar = tokenizer.grammar
    codes, _ = sampled(tokenizer, 6, length, seed=bins, room=room)
    tensors, rows = grammar.start(6, length), grammar.begin(codes[:, :0], length)
    assert isinstance(rows, PatchRows)
    for place in range(length):
        left = torch.full((6,), length - place) if room else None
        assert torch.equal(grammar.legal(tensors, left), grammar.legal(rows, left))
        one, two = grammar.surroundings(tensors), grammar.surroundings(rows)
        assert torch.equal(one.places, two.places) and torch.equal(one.faces, two.faces)
        assert torch.equal(one.last, two.last)
        tensors, rows = grammar.advance(tensors, codes[:, place]), grammar.advance(rows, codes[:, place])


def test_a_row_that_was_taken_out_goes_on_alone():
    tokenizer = PatchTokenizer()
    codes, _ = sampled(tokenizer, 3, 12)
    rows = tokenizer.grammar.begin(codes[:, :8], 12)
    alone = rows.select(torch.tensor([False, True, False]))
    before = tokenizer.grammar.legal(alone)
    rows.advance(codes[:, 8])
    assert torch.equal(tokenizer.grammar.legal(alone), before)
    assert torch.equal(tokenizer.grammar.legal(alone.advance(codes[1:2, 8])), tokenizer.grammar.legal(rows)[1:2])


def test_a_token_that_is_not_legal_changes_nothing():
    tokenizer = PatchTokenizer()
    row = tokenizer.grammar.begin(torch.tensor([SENTENCE[:6]]), 20).rows[0]
    before = row.legal(), row.places()
    for code in np.flatnonzero(~row.legal())[::97].tolist():
        assert code == tokenizer.vocab_size or not row.take(code)
        assert (row.legal() == before[0]).all() and (row.places() == before[1]).all()
    assert row.take(int(np.flatnonzero(before[0])[0]))


def test_rows_do_not_meet_and_can_be_taken_out():
    tokenizer = PatchTokenizer()
    codes, state = sampled(tokenizer, 5, 12)
    alone = tokenizer.grammar.start(1, 12)
    for code in codes[3]:
        alone = tokenizer.grammar.advance(alone, code[None])
    picked = state.select(torch.tensor([3]))
    assert torch.equal(tokenizer.grammar.legal(picked), tokenizer.grammar.legal(alone))
    assert torch.equal(tokenizer.grammar.legal(state)[3:4], tokenizer.grammar.legal(alone))
