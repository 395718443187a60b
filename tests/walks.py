"""What `HalfEdgeTokenizer` and `StripTokenizer` must both do: faces of any kind there and back, and none made up."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meshgpt.errors import CodesError, MeshError, TokenError
from meshgpt.mesh.canonical import GridMesh, canonicalize, canonicalize_grid, is_canonical
from meshgpt.mesh.mesh import Mesh

CORNERS = np.array([(x, y, z) for x in range(3) for y in range(3) for z in range(3)])


def grid_of(vertices, faces, bins=128):
    return canonicalize_grid(np.asarray(vertices), np.asarray(faces), bins)


def again(tokenizer, ids, errors="raise"):
    vertices, faces = tokenizer.decode_grid(ids, errors)
    return canonicalize_grid(vertices, faces, tokenizer.num_discrete_coors)


def zigzag(count, flipped=()):
    """A strip of `count` faces, wound alike but for those in `flipped`."""
    vertices = [(10 + 5 * (i % 2), 10 + i, 10) for i in range(count + 2)]
    faces = [(i, i + 1, i + 2) if i % 2 == 0 else (i + 1, i, i + 2) for i in range(count)]
    return grid_of(vertices, [face[::-1] if i in flipped else face for i, face in enumerate(faces)])


def fan(count):
    """`count` faces around one edge, wound in turn one way and the other."""
    vertices = [(0, 0, 0), (0, 0, 9), *((i % 100, 5 + i // 100, 3) for i in range(count))]
    return grid_of(vertices, [(0, 1, 2 + i) if i % 2 else (1, 0, 2 + i) for i in range(count)])


def moebius(count=9):
    turn = np.arange(count) / count * 2 * np.pi
    around = np.stack((np.cos(turn), 0 * turn, np.sin(turn)), axis=1)
    across = np.cos(turn / 2)[:, None] * around + np.sin(turn / 2)[:, None] * np.array([0, 1, 0])
    vertices = np.concatenate((around + 0.3 * across, around - 0.3 * across))
    faces = []
    for i in range(count):
        a, b, c, d = i, i + count, (i + 1) % count, (i + 1) % count + count
        c, d = (d, c) if i == count - 1 else (c, d)
        faces += [(a, b, c), (b, d, c)]
    return canonicalize(Mesh(vertices, faces).normalized())


def soups():
    """Many faces on few vertices: non-manifold, wound either way, in one part or several."""
    faces = st.lists(st.tuples(*[st.integers(0, 26)] * 3), min_size=1, max_size=60)
    few = st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=60)
    return st.one_of(faces, few).map(lambda rows: grid_of(CORNERS, rows, 3))


class Walks:
    """Tests of a tokenizer of walks; a subclass has its `kind`, and the budget of tokens a face."""

    kind: type
    budget: float

    def make(self, bins=128):
        return self.kind(num_discrete_coors=bins)

    def test_every_mesh_of_the_sample_comes_back_as_it_was(self, tiny_meshes):
        tokenizer, tokens, faces = self.kind(), 0, 0
        for mesh in tiny_meshes:
            grid, ids = canonicalize(mesh.normalized()), tokenizer.encode(mesh)
            assert canonicalize(tokenizer.decode(ids)) == grid
            assert ids.min() >= 0 and ids.max() < tokenizer.vocab_size == 133
            tokens, faces = tokens + len(ids), faces + len(grid.faces)
        assert tokens / faces <= self.budget

    def test_any_soup_of_faces_comes_back_as_it_was(self):
        tokenizer = self.make(3)

        @settings(deadline=None, max_examples=100)
        @given(soups())
        def check(grid):
            assert again(tokenizer, tokenizer.encode_grid(grid)) == grid

        check()

    @pytest.mark.parametrize("grid", [zigzag(9), zigzag(9, {3, 4, 7}), fan(9), fan(200), moebius()])
    def test_winding_is_kept_where_it_is_inconsistent_or_the_surface_cannot_be_oriented(self, grid):
        assert again(self.make(), self.make().encode_grid(grid)) == grid

    def test_a_sheet_of_two_sides_keeps_both(self):
        one = zigzag(6)
        both = grid_of(one.vertices, np.concatenate((one.faces, one.faces[:, ::-1])))
        assert len(both.faces) == 12 and again(self.make(), self.make().encode_grid(both)) == both

    def test_any_beginning_of_a_sentence_gives_the_faces_so_far(self, tiny_meshes):
        grid = min(
            (canonicalize(mesh.normalized()) for mesh in tiny_meshes), key=lambda grid: abs(len(grid.faces) - 30)
        )
        ids = self.make().encode_grid(grid)
        _, faces = self.make().decode_grid(ids)
        counts = []
        for length in range(len(ids) + 1):
            _, so_far = self.make().decode_grid(ids[:length])
            counts.append(len(so_far))
            assert is_canonical(again(self.make(), ids[:length]).vertices, again(self.make(), ids[:length]).faces)
        assert counts[0] == 0 and counts[-1] == len(faces) and set(np.diff(counts)) == {0, 1}

    def test_a_batch_gives_faces_in_the_order_written_and_padding_after_them(self, tiny_meshes):
        tokenizer = self.make()
        rows = [tokenizer.encode(mesh) for mesh in tiny_meshes[:3]]
        codes = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
        coordinates, mask = tokenizer.decode_from_codes_to_faces(codes)
        assert mask.sum(dim=1).tolist() == [len(canonicalize(m.normalized()).faces) for m in tiny_meshes[:3]]
        assert coordinates[~mask].isnan().all() and coordinates[mask].isfinite().all()

    def corrupt(self, change):
        """A sentence of four faces, changed; what raising says, and how many faces repairing leaves."""
        ids = self.make().encode_grid(zigzag(4))
        ids = change(ids)
        with pytest.raises(TokenError) as caught:
            self.make().decode_grid(ids)
        _, faces = self.make().decode_grid(ids, errors="repair")
        return str(caught.value), caught.value.position, len(faces)

    def test_a_sentence_must_begin_with_a_start(self):
        message, position, faces = self.corrupt(lambda ids: ids[1:])
        assert "expected start (128)" in message and "no walk has begun yet; got coordinate" in message
        assert (position, faces) == (0, 0)
        message, position, faces = self.corrupt(lambda ids: np.append(130, ids))
        assert f"got {self.kind.marks[2]} (130)" in message and (position, faces) == (0, 0)

    def test_a_mark_within_a_vertex_is_named_with_its_place(self):
        message, position, faces = self.corrupt(lambda ids: np.insert(ids, 12, 129))
        assert "expected a coordinate (0 .. 127)" in message and self.kind.marks[1] in message
        assert (position, faces) == (12, 1)

    def test_a_vertex_that_comes_twice_in_a_face_is_named_with_its_place(self):
        message, position, faces = self.corrupt(lambda ids: np.concatenate((ids[:4], ids[1:4], ids[7:])))
        assert "is a corner of the face already" in message and (position, faces) == (6, 0)

    def test_a_face_that_comes_twice_is_named_with_its_place(self):
        message, position, faces = self.corrupt(lambda ids: np.concatenate((ids, ids[:12])))
        assert "a face that has been written already" in message and faces == 4
        assert position == len(self.make().encode_grid(zigzag(4))) + 9

    def test_ids_out_of_range_and_padding_are_refused(self):
        with pytest.raises(CodesError, match="code 133 is out of range"):
            self.make().decode([133])
        with pytest.raises(CodesError, match="without padding"):
            self.make().decode([128, -1])

    # the grammar

    def test_what_is_encoded_is_legal_token_by_token(self, tiny_meshes):
        tokenizer = self.make()
        grids = [canonicalize(mesh.normalized()) for mesh in tiny_meshes[:3]]
        rows = [tokenizer.encode_grid(grid) for grid in [*grids, zigzag(9, {3, 4, 7}), fan(5), moebius()]]
        assert self.all_legal(tokenizer, rows)

    def test_what_is_encoded_of_soups_is_legal_on_a_grid_that_is_nearly_full(self):
        tokenizer, rng = self.make(2), np.random.default_rng(0)
        faces = [rng.integers(0, 8, (count, 3)) for count in (30, 200)]
        corners = CORNERS[(CORNERS < 2).all(axis=1)]
        assert self.all_legal(tokenizer, [tokenizer.encode_grid(grid_of(corners, rows, 2)) for rows in faces])

    def all_legal(self, tokenizer, rows):
        longest, grammar = max(map(len, rows)), tokenizer.grammar
        padded = torch.full((len(rows), longest + 1), tokenizer.vocab_size)
        for row, ids in zip(padded, rows, strict=True):
            row[: len(ids)] = torch.from_numpy(ids)
        state = grammar.start(len(rows), longest)
        for place, codes in enumerate(padded.T):
            room = torch.tensor([max(len(ids) - place, 0) for ids in rows])
            legal = grammar.legal(state, room)
            if not legal.gather(1, codes[:, None]).all():
                return False
            state = grammar.advance(state, codes)
        return bool(state.ended.all())

    def written(self, tokenizer, batch, capacity, never_end=False):
        """Sentences of legal tokens, all equally likely."""
        grammar, generator = tokenizer.grammar, torch.Generator().manual_seed(0)
        state, codes = grammar.start(batch, capacity), []
        for place in range(capacity + 1):
            legal = grammar.legal(state, torch.full((batch,), capacity - place))
            assert legal.any(dim=1).all()
            if never_end:
                legal[:, -1] &= legal.sum(dim=1) == 1
            code = torch.multinomial(legal.float(), 1, generator=generator)[:, 0]
            codes.append(code)
            state = grammar.advance(state, code)
            if state.ended.all():
                break
        assert state.ended.all()
        rows = torch.stack(codes, dim=1).numpy()
        return [row[row < tokenizer.vocab_size] for row in rows], state

    def test_a_thousand_sentences_of_legal_tokens_are_valid_meshes_that_end(self):
        tokenizer = self.make(16)
        rows, state = self.written(tokenizer, 1000, 50)
        for ids, count in zip(rows, state.count.tolist(), strict=True):
            _, faces = tokenizer.decode_grid(ids)  # raises for a degenerate or a duplicate face
            assert len(faces) == len(again(tokenizer, ids).faces) == count > 0
            tail = tokenizer.decode_grid(ids[:-1])[1]
            assert len(tail) == count - 1  # the last face ends with the last token: nothing dangles

    def test_a_grid_of_eight_vertices_is_filled_to_its_last_face(self):
        tokenizer = self.make(2)
        rows, state = self.written(tokenizer, 1, 112 * 10, never_end=True)
        assert state.count.max() == 8 * 7 * 6 / 3
        for ids, count in zip(rows, state.count.tolist(), strict=True):
            assert len(again(tokenizer, ids).faces) == count

    def test_rows_of_a_state_can_be_taken_out(self):
        tokenizer = self.make(16)
        grammar, (rows, _) = tokenizer.grammar, self.written(tokenizer, 4, 30)
        length = min(map(len, rows))
        state, alone = grammar.start(4, 30), grammar.start(4, 30).select(torch.tensor([2]))
        for place in range(length):
            codes = torch.tensor([int(ids[place]) for ids in rows])
            state, alone = grammar.advance(state, codes), grammar.advance(alone, codes[2:3])
        assert torch.equal(grammar.legal(state)[2:3], grammar.legal(alone))
        assert torch.equal(grammar.legal(state.select(torch.tensor([2]))), grammar.legal(alone))

    def test_a_mesh_on_another_grid_is_refused(self):
        with pytest.raises(MeshError, match="a mesh on 128 bins an axis, the tokenizer has 64"):
            self.make(64).encode_grid(zigzag(3))

    def test_it_is_saved_and_loaded(self, tmp_path):
        self.make(64).save_pretrained(tmp_path)
        assert self.kind.from_pretrained(tmp_path).num_discrete_coors == 64


def empty():
    return GridMesh(np.zeros((0, 3), dtype=np.int64), np.zeros((0, 3), dtype=np.int64))
