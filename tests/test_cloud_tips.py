"""The head over patches with a cloud at hand: what is looked up, what it adds, and that all ways of asking agree."""

import warnings

import numpy as np
import pytest
import torch
from conditioned_toys import CUBE, TETRAHEDRON

from meshgpt.data.dataset import MeshDataset
from meshgpt.errors import CodesError, ConfigError
from meshgpt.mesh.canonical import dequantize
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.mesh import Mesh
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.tokenizers.half_edge import HalfEdgeTokenizer
from meshgpt.tokenizers.patch import PatchTokenizer
from meshgpt.transformer.cloud_reader import Cloud
from meshgpt.transformer.cloud_sketch import GRID, Sketch
from meshgpt.transformer.cloud_tips import COVERED, NEVER, CloudTips, CloudTrace
from meshgpt.transformer.readers import CachedReader, UncachedReader
from meshgpt.transformer.sentences import Sentences
from meshgpt.transformer.transformer import MeshTransformer

TOKENIZER = PatchTokenizer()
SMALL = {
    "dim": (16, 24), "attn_depth": 1, "attn_heads": 2, "attn_dim_head": 8, "fine_attn_depth": 1, "fine_attn_heads": 2,
    "fine_attn_dim_head": 8, "max_seq_len": 200, "condition_on_points": True, "condition_on_faces": True,
    "num_point_latents": 4, "point_encoder_depth": 1, "cloud_vertices": 40,
}  # fmt: skip
STEPS = {"one code a step": {}, "two codes a step": {"codes_per_step": 2}}
every_step = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())


@pytest.fixture(scope="module")
def meshes():
    small = [record.mesh.normalized() for record in MeshDataset("tiny") if record.mesh.num_faces <= 60]
    return [TOKENIZER.decode(TOKENIZER.encode(mesh)) for mesh in small[:3]]


def model_of(**options):
    """A small model of some character, which heeds the cloud."""
    torch.manual_seed(0)
    model = MeshTransformer(TOKENIZER, **{**SMALL, **options}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_((0.3 if "cloud_tips" in name else 0.05) * torch.randn_like(parameter))
    return model


def cloud_of(mesh, count=300, seed=0):
    return PointCloud.from_mesh(mesh, count, np.random.default_rng(seed)).tensor().float()


def codes_of(meshes):
    rows = [TOKENIZER.encode(mesh) for mesh in meshes]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


def asked(model):
    """Codes of four rows and what is asked of them: clouds of two sizes, none, and one of very few bare points."""
    codes = codes_of([CUBE, TETRAHEDRON, TETRAHEDRON, CUBE])
    points = [cloud_of(CUBE), cloud_of(TETRAHEDRON, 90, 1), None, cloud_of(CUBE, 3)[:, :3]]
    return codes, model.conditions_of(points=points)


def sketch_of(mesh, count=600, places=40):
    points = cloud_of(mesh, count)[None]
    return Sketch.of(Cloud.sorted(points, torch.ones(points.shape[:2], dtype=torch.bool)), places, 128)


# what the tokenizer says of tips


def test_digits_of_a_vertex_are_those_of_the_code_that_says_it(meshes):
    checked = 0
    for mesh in meshes:
        codes = TOKENIZER.encode(mesh)
        around, faces = TOKENIZER.surroundings_of(codes[None]), TOKENIZER.faces_written(codes[None])[0]
        for index, code in enumerate(codes.tolist()):
            number = int(around.faces[0, index])
            whole = int(around.faces[0, index + 1]) > number
            if code < TOKENIZER.layout.near or not whole:
                continue
            gate = around.places[0, index, :2]
            face = faces[number]
            tip = face[[not any((corner == end).all() for end in gate) for corner in face]]
            near, far = TOKENIZER.spelt(tip, around.places[0, index])
            said = TOKENIZER.digits[code, :3]
            assert (near[0] == said).all() or (far[0] == said).all()
            checked += 1
    assert checked > 40


def test_a_vertex_outside_the_grid_cannot_be_spelt():
    places = torch.full((8, 3), -1)
    places[2] = torch.tensor([2, 64, 64])
    near, far = TOKENIZER.spelt(torch.tensor([[-1, 64, 64], [128, 64, 64]]), places)
    assert near[:, 0].tolist() == far[:, 0].tolist() == [-1, -1]


def test_faces_written_are_those_of_the_mesh_and_the_last_one_is_that_of_the_grammar(meshes):
    for mesh in meshes:
        codes = TOKENIZER.encode(mesh)
        faces = TOKENIZER.faces_written(codes[None])[0]
        decoded = TOKENIZER.decode_from_codes_to_faces(codes[None])[0][0]
        assert torch.equal(torch.from_numpy(dequantize(faces.numpy(), 128)), decoded[..., [1, 2, 0]].double())
        sentences = Sentences(TOKENIZER.grammar, codes[None, :0], len(codes))
        for code in codes:
            sentences.took(code[None])
            count = int(sentences.faces)
            assert sentences.around.last is not None
            if count:
                said, written = (sorted(x.tolist()) for x in (sentences.around.last[0], faces[count - 1]))
                assert said == written
    assert TOKENIZER.faces_written(torch.zeros((0, 4), dtype=torch.long)).shape == (0, 0, 3, 3)


@pytest.mark.parametrize("tokenizer", [CoordinateTokenizer(), HalfEdgeTokenizer()])
def test_other_tokenizers_say_no_tips(tokenizer):
    with pytest.raises(CodesError, match="do not say vertices beside a face"):
        tokenizer.faces_written(torch.zeros((1, 3), dtype=torch.long))
    with pytest.raises(CodesError, match="do not say vertices beside a face"):
        tokenizer.spelt(torch.zeros((1, 3), dtype=torch.long), torch.zeros((8, 3), dtype=torch.long))


@pytest.mark.parametrize("tokenizer", [CoordinateTokenizer(), HalfEdgeTokenizer()])
def test_models_of_others_cannot_be_told_of_tips(tokenizer):
    with pytest.raises(ConfigError, match="cloud_vertices = 40 tells where the next vertex of a patch may be"):
        MeshTransformer(tokenizer, **SMALL)


def test_no_places_can_be_asked_for_without_points_and_no_negative_number_of_them():
    with pytest.raises(ConfigError, match="cloud_vertices"):
        MeshTransformer(TOKENIZER, **{**SMALL, "condition_on_points": False})
    with pytest.raises(ConfigError, match="cloud_vertices"):
        MeshTransformer(TOKENIZER, **{**SMALL, "cloud_vertices": -1})


# what is found in a cloud


def test_corners_of_a_cube_are_found_in_a_cloud_of_it():
    sketch = sketch_of(CUBE)
    corners = torch.as_tensor(CUBE.vertices).float()
    apart = torch.cdist(corners, sketch.places[0][sketch.there[0]])
    assert (apart.amin(dim=1) < 1 / 64).sum() >= 7  # within the width of a bin; a corner may have no points nearby
    best = apart.argmin(dim=1)
    assert sketch.traits[0, best, 0].mean() > 2 * sketch.traits[0, :, 0].mean()  # they look like corners


def test_points_beside_edges_show_the_corners_of_small_parts():
    """A thin leg of little area has few points of an even cloud, and its corners are missed."""
    table = Mesh(np.concatenate((CUBE.vertices * [1, 0.1, 1], CUBE.vertices * 0.05 - [0, 0.4, 0])),
                 np.concatenate((CUBE.faces, CUBE.faces + 8)))  # fmt: skip
    leg, found = torch.as_tensor(table.vertices[8:, [1, 2, 0]]).float(), []
    for share in (0.0, 0.5):
        points = PointCloud.from_mesh(table, 600, 0, share).tensor()[None]
        sketch = Sketch.of(Cloud.sorted(points, torch.ones(points.shape[:2], dtype=torch.bool)), 200, 128)
        found.append(int((torch.cdist(leg, sketch.places[0][sketch.there[0]]).amin(dim=1) < 1 / 64).sum()))
    assert found[1] >= 7 > found[0]


def test_each_voxel_knows_the_point_nearest_to_it():
    sketch = sketch_of(CUBE, 300)
    centres = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
    centres = torch.stack(torch.meshgrid(centres, centres, centres, indexing="ij"), dim=-1).reshape(-1, 3)
    known = sketch.nearest[0] >= 0
    assert 0 < known.float().mean() < 0.7
    apart = torch.cdist(centres[known], sketch.points[0])
    told = apart.gather(1, sketch.nearest[0][known][:, None]).squeeze(1)
    near = apart.amin(dim=1) < 4 / GRID  # beyond, only a cube of voxels around each point is looked at
    torch.testing.assert_close(told[near], apart.amin(dim=1)[near], atol=2e-3, rtol=0)


def test_places_on_the_surface_are_told_from_those_in_the_air_and_open_ones_from_covered_ones():
    sketch = sketch_of(CUBE, 4000)
    middles = torch.as_tensor(CUBE.vertices[CUBE.faces].mean(axis=1)[:, [1, 2, 0]]).float()
    since = torch.where(sketch.points[..., 0] > 0.99 * sketch.points[..., 0].max(), 2, NEVER)  # the top, by face 2
    rows = torch.zeros(1, dtype=torch.long)
    on = sketch.look(middles[None], rows, since, torch.tensor([0]))
    off = sketch.look(0.7 * middles[None], rows, since, torch.tensor([0]))
    assert on.on.min() > 0.5 > off.on.max()
    assert (on.uncovered == 1).all()
    later = sketch.look(middles[None], rows, since, torch.tensor([3])).uncovered[0]
    assert torch.equal(later == 0, middles[:, 0] > 0.99 * middles[:, 0].max())


# what faces make of a cloud


def test_all_faces_at_once_cover_what_they_cover_one_by_one(meshes):
    sketch, codes = sketch_of(meshes[0], 500), codes_of(meshes[:1])
    faces = TOKENIZER.faces_written(codes)
    whole = CloudTrace.begin(sketch).cover(faces, torch.tensor([0]), 128)
    step = CloudTrace.begin(sketch)
    for number in range(faces.shape[1]):
        step = step.cover(faces[:, number : number + 1], torch.tensor([number]), 128)
    assert torch.equal(whole.since, step.since)
    assert torch.equal(whole.said, step.said)
    assert torch.equal(whole.places, step.places)
    assert (whole.since < NEVER).float().mean() > 0.9  # the mesh covers the cloud that was taken from it
    assert (whole.said < NEVER).any()


def test_a_face_covers_the_points_that_lie_on_it_and_look_its_way():
    sheet = Mesh([[-0.95, -0.95, 0], [0.95, -0.95, 0], [-0.95, 0.95, 0]], [[0, 1, 2]])
    sketch = sketch_of(sheet, 200)
    face = ((torch.as_tensor(sheet.vertices)[None, None][..., [1, 2, 0]] + 1) * 64).long()
    forth = CloudTrace.begin(sketch).cover(face, torch.tensor([7]), 128)
    assert (forth.since == 7).all()
    back = CloudTrace.begin(sketch).cover(face.flip(2), torch.tensor([7]), 128)
    assert (back.since == NEVER).all()
    raised = face.clone()
    raised[..., 1] += int(COVERED * 64) + 2
    assert (CloudTrace.begin(sketch).cover(raised, torch.tensor([7]), 128).since == NEVER).all()
    padded = CloudTrace.begin(sketch).cover(torch.full_like(face, -1), torch.tensor([7]), 128)
    assert (padded.since == NEVER).all()


# what it adds, asked in all ways


@every_step
def test_likelihood_and_next_logits_agree(step):
    model = model_of(**step)
    codes, conditions = asked(model)
    with torch.no_grad():
        context = model.context_of(conditions, len(codes))
        bits = model.likelihood(codes, append_eos=False, context=context).row_bits
        logits = model.next_logits(codes, context)[:, :-1]
        nats = -logits.gather(-1, codes.clamp(min=0)[..., None])[..., 0] * (codes >= 0)
    assert torch.allclose(nats.sum(dim=1) / np.log(2), bits, rtol=1e-4)
    total = logits.logsumexp(dim=-1)
    assert torch.allclose(total[codes >= 0], torch.zeros(()), atol=1e-4)


def test_points_change_what_is_likely_and_rows_without_them_stay_as_they_are():
    model = model_of()
    codes, conditions = asked(model)
    with torch.no_grad():
        told = model.likelihood(codes, context=model.context_of(conditions, 4)).row_bits
        untold = model.likelihood(codes, context=model.context_of(None, 4)).row_bits
        alone = model.likelihood(codes[:1], context=model.context_of(model.conditions_of(points=[cloud_of(CUBE)]), 1))
    assert torch.allclose(told[2], untold[2], rtol=1e-5)
    assert ((told - untold).abs() > 0.01)[:2].all()
    assert torch.allclose(alone.row_bits, told[:1], rtol=1e-4)


@every_step
def test_written_step_by_step_it_is_told_the_same(step, meshes):
    model = model_of(**step)
    codes = codes_of(meshes[:2])[:, :36]
    context = model.context_of(model.conditions_of(points=[cloud_of(mesh) for mesh in meshes[:2]]), 2)
    with torch.no_grad():
        expected = model.next_logits(codes, context)
        tokens = model.tokens_per_face
        readers = [kind(model, codes.new_full((2, 0, tokens), -1), context) for kind in (CachedReader, UncachedReader)]
        sentences = Sentences(TOKENIZER.grammar, codes[:, :0], 60)
        for begin in range(0, 36, tokens):
            for reader in readers:
                reader.start_face()
            for place in range(tokens):
                for reader in readers:
                    before = codes[:, begin + place - 1] if place else None
                    hidden = reader.read_code(before, sentences.around)
                    head = reader.head(hidden, place, codes[:, begin : begin + tokens])
                    found = head.logits(hidden, torch.ones(2, dtype=torch.bool))
                    possible = found > -1e9
                    assert torch.allclose(found[possible], expected[:, begin + place][possible], atol=2e-4)
                sentences.took(codes[:, begin + place])
            for reader in readers:
                reader.finish_face(codes[:, None, begin : begin + tokens], sentences.around)


def test_later_codes_never_change_what_was_told_before(meshes):
    model, codes = model_of(), codes_of(meshes[:1])
    context = model.context_of(model.conditions_of(points=[cloud_of(meshes[0])]), 1)
    with torch.no_grad():
        whole, part = (model.next_logits(x, context) for x in (codes, codes[:, :20]))
    assert torch.allclose(whole[:, :20], part[:, :20], atol=1e-4)


def test_what_is_sampled_is_what_is_likely():
    model = model_of()
    points = [cloud_of(CUBE)]
    context = model.context_of(model.conditions_of(points=points), 1)
    with torch.no_grad():
        codes = codes_of([CUBE])[:, :6]
        log_probs = model.next_logits(codes, context)[0, -1].double()
        many = 4000
        reader = CachedReader(model, codes[..., None], context)
        around = TOKENIZER.surroundings_of(codes)
        hidden = reader.read_code(None, around.select((slice(None), -1)))
        head = reader.head(hidden, 0, codes[:, :1])
        uniform = torch.rand(many, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        drawn = torch.cat([head.sample(hidden, each, torch.ones(1, dtype=torch.bool)) for each in uniform])
    shares = torch.bincount(drawn, minlength=len(log_probs)).double() / many
    likely = log_probs.exp() > 0.004
    assert likely.sum() >= 5
    error = (log_probs.exp() * (1 - log_probs.exp()) / many).sqrt()
    assert ((shares - log_probs.exp()).abs()[likely] < 4.5 * error[likely]).all()


def test_guidance_grammar_and_many_seeds():
    model = model_of()
    points = [cloud_of(CUBE), cloud_of(TETRAHEDRON, 90, 1)]
    for options in ({"cond_scale": 2.0}, {"temperature": 0.5}, {"top_k": 5}):
        keywords = {
            "points": points,
            "seed": 5,
            "max_faces": 12,
            "return_codes": True,
            "follow_grammar": True,
            **options,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it may run out of length
            both = model.generate(batch_size=2, **keywords)
            alone = model.generate(batch_size=1, **{**keywords, "points": points[:1]})
        length = int((alone >= 0).sum())
        assert torch.equal(both[0, :length], alone[0, :length])
        for row in both:
            TOKENIZER.decode(row[row >= 0])  # raises where it is no mesh


def test_every_parameter_gets_a_gradient(meshes):
    model = model_of().train()
    points = [cloud_of(mesh) for mesh in meshes]
    conditions = model.conditions_of(points=points, num_faces=[mesh.num_faces for mesh in meshes])
    model.losses(codes_of(meshes), conditions, cond_drop_prob=0.0).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in without if "cloud_tips" in name or "heed" in name] == []


def test_a_cloud_makes_a_model_that_has_seen_nothing_else_follow_it(meshes):
    """A few steps on one mesh: then another mesh is likelier with its own cloud than with that of the first."""
    torch.manual_seed(0)
    model = MeshTransformer(TOKENIZER, **{**SMALL, "cloud_vertices": 80})
    assert isinstance(model.cloud_tips, CloudTips)
    learned, other = codes_of([meshes[0]]), codes_of([meshes[1]])
    clouds = [cloud_of(mesh, 1500) for mesh in meshes[:2]]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(25):
        loss = model.losses(learned, model.conditions_of(points=[clouds[0]]), cond_drop_prob=0.0).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        own, foreign = (
            float(model.losses(other, model.conditions_of(points=[cloud])).bits_per_face) for cloud in clouds[::-1]
        )
    assert own < foreign - 0.5
