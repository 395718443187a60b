"""The learned tokenizer: round trips, two ways to one answer, gradients, invariances, bad input."""

import numpy as np
import pytest
import torch
import trimesh

from meshgpt.data.batch import MeshBatch
from meshgpt.errors import CodesError, ConfigError, MeshError
from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.topology import derive_face_edges_from_faces
from meshgpt.tokenizers.autoencoder import MeshAutoencoder, smoothed_bins, without_unused_vertices
from meshgpt.tokenizers.encoder import FaceEmbedding
from meshgpt.transformer.transformer import MeshTransformer

TINY = {
    "dim_codebook": 24,
    "encoder_dims_through_depth": (16, 24),
    "decoder_dims_through_depth": (16, 16),
    "dim_coor_embed": 8,
    "dim_normal_embed": 8,
    "attn_heads": 2,
    "attn_dim_head": 8,
    "local_attn_window_size": 8,
}
VARIANTS = {
    "plain": {},
    "attention": {"attn_encoder_depth": 1, "attn_decoder_depth": 1},
    "local only": {"attn_encoder_depth": 1, "use_linear_attn": False},
    "no sequence": {"decoder_dims_through_depth": ()},
    "vertex graph": {"vertex_conv_depth": 2},
    "noise": {"vertex_noise": 0.02},
    "random codes": {"code_init": "random", "entropy_loss_weight": 0.01},
    "vector codes": {"use_residual_lfq": False, "codebook_size": 64},
    "checkpointed": {"checkpoint_quantizer": True},
    "one short level": {"num_quantizers": 1},
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def autoencoder(request) -> MeshAutoencoder:
    torch.manual_seed(0)
    return MeshAutoencoder(**{**TINY, **request.param})


@pytest.fixture(scope="module")
def grids(tiny_meshes) -> list[Mesh]:
    return [canonicalize(mesh.normalized()).mesh() for mesh in tiny_meshes[:6]]


def padded(meshes: list[Mesh]) -> dict[str, torch.Tensor]:
    pad = torch.nn.utils.rnn.pad_sequence
    vertices = pad([torch.tensor(m.vertices, dtype=torch.float32) for m in meshes], batch_first=True)
    faces = pad([torch.tensor(m.faces) for m in meshes], batch_first=True, padding_value=-1)
    return {"vertices": vertices, "faces": faces}


def test_the_lines_of_the_design_run():
    autoencoder = MeshAutoencoder(num_discrete_coors=128)
    vertices = torch.randn((2, 121, 3))
    faces = torch.randint(0, 121, (2, 64, 3))
    loss = autoencoder(vertices=vertices, faces=faces)
    loss.backward()
    assert autoencoder.tokenize(vertices=vertices, faces=faces).shape == (2, 192, 2)


def test_real_meshes_come_back_exactly(tiny_meshes):
    autoencoder = MeshAutoencoder(**TINY)
    for mesh in tiny_meshes:
        ids = autoencoder.encode(mesh)
        assert ids.ndim == 1 and len(ids) % autoencoder.tokens_per_face == 0
        assert canonicalize(autoencoder.decode(ids)) == canonicalize(mesh.normalized())


def test_another_range_of_coordinates_changes_padded_tensors_and_no_code(grids):
    usual, half = MeshAutoencoder(**TINY), MeshAutoencoder(**TINY, coor_continuous_range=(0.0, 0.5))
    half.load_state_dict(usual.state_dict())
    batch = padded(grids)
    moved = {"vertices": (batch["vertices"] + 1) / 4, "faces": batch["faces"]}
    codes = usual.tokenize(**batch)
    assert torch.equal(half.tokenize(**moved), codes)
    assert torch.allclose(half(**moved), usual(**batch), atol=1e-5)
    assert torch.equal(half.encode(grids[0]), usual.encode(grids[0]))
    assert canonicalize(half.decode(half.encode(grids[0]))) == canonicalize(grids[0])
    expected = (usual.decode_from_codes_to_faces(codes)[0] + 1) / 4
    decoded, mask = half.decode_from_codes_to_faces(codes)
    assert torch.allclose(decoded[mask], expected[mask], atol=1e-6)
    transformer = MeshTransformer(half, dim=16, attn_depth=1, fine_attn_depth=1, max_seq_len=3000)
    assert torch.equal(transformer.codes_of(**moved), codes.flatten(1))


def test_quads_come_back_as_quads():
    vertices = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
    faces = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, -1]]
    mesh = Mesh(vertices, faces)
    for options in ({}, {"attn_encoder_depth": 1, "attn_decoder_depth": 1}):
        autoencoder = MeshAutoencoder(**TINY, quads=True, **options)
        again = autoencoder.decode(autoencoder.encode(mesh))
        assert canonicalize(again) == canonicalize(mesh.normalized())
        loss = autoencoder(**padded([mesh]))
        loss.backward()
        assert loss.isfinite()
    triangles = MeshAutoencoder(**TINY)
    assert triangles.decode(triangles.encode(mesh)).num_faces == 9
    quads = MeshAutoencoder(**TINY, quads=True)
    assert (quads.decode(quads.encode(mesh.triangulated())).faces[:, 3] == -1).all()


def test_every_parameter_gets_a_gradient(autoencoder, grids):
    autoencoder.train()
    autoencoder(**padded(grids)).backward()
    dead = [n for n, p in autoencoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_tokens_do_not_depend_on_the_batch_and_packed_equals_padded(autoencoder, grids):
    codes = autoencoder.tokenize(**padded(grids))
    flat = autoencoder.codes_from_batch(MeshBatch.from_meshes(grids))
    for row, mesh in enumerate(grids):
        alone = autoencoder.tokenize(**padded([mesh]))[0]
        assert torch.equal(codes[row, : len(alone)], alone) and (codes[row, len(alone) :] == -1).all()
        assert torch.equal(flat[row][flat[row] >= 0], alone.flatten())


def test_decoding_does_not_depend_on_the_batch_and_equals_reconstruction(autoencoder, grids):
    autoencoder.eval()
    codes = autoencoder.tokenize(**padded(grids))
    coordinates, mask = autoencoder.decode_from_codes_to_faces(codes)
    assert torch.equal(mask, padded(grids)["faces"][..., 0] >= 0)
    assert coordinates[~mask].isnan().all() and coordinates[mask].isfinite().all()
    with torch.no_grad():
        reconstructed = autoencoder(**padded(grids), only_return_recon_faces=True)
    for row in range(len(grids)):
        alone, _ = autoencoder.decode_from_codes_to_faces(codes[row : row + 1, : 3 * grids[row].num_faces])
        assert torch.equal(alone[0], coordinates[row, : grids[row].num_faces])
        if autoencoder.config.num_quantizers > 1 and autoencoder.config.has_grid_code:
            # distinct vertices have distinct codes, so grouping by code finds the vertices themselves
            assert torch.equal(reconstructed[row, : grids[row].num_faces], alone[0])


def test_a_vertex_has_one_position_in_all_its_faces_whatever_was_learned(autoencoder, grids):
    for parameter in autoencoder.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    for mesh in grids:
        codes = autoencoder.codes_from_batch(MeshBatch.from_meshes([mesh]))[0]
        decoded = autoencoder.decode(codes)
        coordinates = autoencoder.decode_from_codes_to_faces(codes[None])[0][0]
        assert np.allclose(decoded.vertices[decoded.faces], coordinates.numpy())


def test_permuting_faces_permutes_codes_and_positions_stay(grids):
    autoencoder = MeshAutoencoder(**TINY)
    batch = padded(grids[:1])
    order = torch.randperm(batch["faces"].shape[1])
    codes = autoencoder.tokenize(**batch).view(1, -1, 6)
    permuted = autoencoder.tokenize(vertices=batch["vertices"], faces=batch["faces"][:, order]).view(1, -1, 6)
    assert torch.equal(permuted, codes[:, order])
    decoded, _ = autoencoder.decode_from_codes_to_faces(permuted.view(1, -1))
    expected, _ = autoencoder.decode_from_codes_to_faces(codes.view(1, -1))
    assert torch.equal(decoded, expected[:, order])


def test_tokenize_leaves_the_model_as_it_was(grids):
    autoencoder = MeshAutoencoder(**TINY).train()
    modes = [module.training for module in autoencoder.modules()]
    codes = autoencoder.tokenize(**padded(grids))
    autoencoder.decode_from_codes_to_faces(codes)
    assert modes == [module.training for module in autoencoder.modules()]
    assert all(parameter.requires_grad for parameter in autoencoder.parameters()) and not codes.requires_grad
    one = grids[0]
    assert torch.equal(
        autoencoder.tokenize(torch.tensor(one.vertices), torch.tensor(one.faces)), codes[0, : 3 * one.num_faces]
    )


def test_given_edges_and_derived_edges_give_the_same_codes(grids):
    autoencoder = MeshAutoencoder(**TINY)
    batch = padded(grids)
    edges = derive_face_edges_from_faces(batch["faces"], include_self=False)
    assert torch.equal(autoencoder.tokenize(**batch), autoencoder.tokenize(**batch, face_edges=edges))
    assert autoencoder(**batch, face_edges=edges).isfinite()


def test_what_forward_returns_on_request(grids):
    autoencoder = MeshAutoencoder(**TINY)
    batch = padded(grids)
    loss, (recon, commit) = autoencoder(**batch, return_loss_breakdown=True)
    assert loss.ndim == recon.ndim == 0 and commit.shape == (2,)
    faces, loss = autoencoder(**batch, return_recon_faces=True)
    assert faces.shape == (*batch["faces"].shape, 3) and loss.ndim == 0
    assert torch.equal(autoencoder(**batch, return_codes=True), autoencoder.tokenize(**batch))
    coordinates, bins, mask = autoencoder.decode_from_codes_to_faces(
        autoencoder.tokenize(**batch), return_discrete_codes=True
    )
    assert (bins[~mask] == -1).all() and torch.allclose(coordinates[mask], (bins[mask] + 0.5) / 64 - 1)


def test_single_faces_decode_alone_as_each_in_its_own_mesh(grids):
    autoencoder = MeshAutoencoder(**TINY)
    codes = autoencoder.codes_from_batch(MeshBatch.from_meshes(grids[:1])).view(-1, 6)
    alone = autoencoder.decode_faces_alone(codes)
    assert torch.equal(alone[3], autoencoder.decode_from_codes_to_faces(codes[3:4])[0][0, 0])
    assert autoencoder.decode_faces_alone(codes[:0]).shape == (0, 3, 3)


def test_areas_of_a_sphere_do_not_share_one_bin_and_features_ignore_translation():
    sphere = trimesh.creation.icosphere(subdivisions=3)
    corners = torch.tensor(np.array(sphere.triangles), dtype=torch.float32)
    embedding = FaceEmbedding(MeshAutoencoder(**TINY).config)
    bins = embedding.bins(corners)
    assert len(corners) == 1280 and len(bins["area"].unique()) >= 3
    moved = embedding.bins(corners + torch.tensor([0.3, -0.2, 0.1]))
    for name in bins:
        assert (bins[name] == moved[name]).float().mean() > 0.99  # rounding may move a value across a border


def test_smoothed_bins_are_distributions_and_sigma_zero_is_the_true_bin():
    assert torch.equal(smoothed_bins(8, 0.0), torch.eye(8))
    smoothed = smoothed_bins(8, 0.4)
    assert torch.allclose(smoothed.sum(dim=1), torch.ones(8)) and (smoothed.argmax(dim=1) == torch.arange(8)).all()
    loss = MeshAutoencoder(**TINY, bin_smooth_blur_sigma=0.0)(**padded([Mesh(np.eye(3), [[0, 1, 2]])]))
    assert loss.isfinite()


def test_one_face_no_face_and_an_empty_mesh_in_a_batch(autoencoder, grids):
    one_face = Mesh(np.eye(3) * 0.5, [[0, 1, 2]])
    assert autoencoder(**padded([one_face])).isfinite()
    nothing = {"vertices": torch.zeros(2, 3, 3), "faces": torch.full((2, 4, 3), -1)}
    loss = autoencoder(**nothing)
    loss.backward()
    assert loss.isfinite()
    codes = autoencoder.tokenize(**nothing)
    assert codes.shape[:2] == (2, 12) and (codes == -1).all()
    coordinates, mask = autoencoder.decode_from_codes_to_faces(codes)
    assert not mask.any() and coordinates.isnan().all()
    mixed = padded([grids[0], one_face])
    mixed["faces"][1] = -1
    assert autoencoder(**mixed).isfinite()
    assert autoencoder.decode([]).num_faces == 0


def test_bfloat16_and_float64_work(grids):
    batch = padded(grids[:2])
    for dtype in (torch.bfloat16, torch.float64):
        autoencoder = MeshAutoencoder(**TINY).to(dtype)
        autoencoder(**batch).backward()
        codes = autoencoder.tokenize(vertices=batch["vertices"], faces=batch["faces"])
        assert canonicalize(autoencoder.decode(codes[0][codes[0] >= 0])) == canonicalize(grids[0])
    autoencoder = MeshAutoencoder(**TINY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = autoencoder(**batch)
    loss.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(autoencoder.tokenize(**batch), autoencoder.tokenize(**batch))
    assert loss.isfinite()


def test_noise_is_seen_in_training_only(grids):
    autoencoder = MeshAutoencoder(**TINY, vertex_noise=0.05)
    batch = MeshBatch.from_meshes(grids)
    autoencoder.eval()
    assert autoencoder.losses(batch).triangle_accuracy == 1
    assert torch.equal(autoencoder.losses(batch).loss, autoencoder.losses(batch).loss)
    autoencoder.train()
    assert not torch.equal(autoencoder.losses(batch).loss, autoencoder.losses(batch).loss)


def test_unused_vertices_change_no_loss(grids):
    mesh = grids[0]
    longer = Mesh(np.concatenate((mesh.vertices, np.zeros((7, 3)))), mesh.faces)
    batch = without_unused_vertices(MeshBatch.from_meshes([longer, mesh]))
    assert len(batch.vertices) == 2 * mesh.num_vertices and batch.vertex_counts.tolist() == [mesh.num_vertices] * 2
    autoencoder = MeshAutoencoder(**TINY).eval()
    assert torch.allclose(autoencoder(**padded([longer])), autoencoder(**padded([mesh])))


def test_triangle_accuracy_counts_faces_with_every_coordinate_exact(grids):
    autoencoder = MeshAutoencoder(**TINY, num_quantizers=1)  # 14 bits cannot hold 21
    out = autoencoder.eval().losses(MeshBatch.from_meshes(grids))
    faces = autoencoder(**padded(grids), only_return_recon_faces=True)
    mask = faces.isfinite().all(dim=-1).all(dim=-1)
    true = padded(grids)
    corners = true["vertices"][torch.arange(len(grids))[:, None, None], true["faces"].clamp(min=0)]
    exact = ((faces - corners).abs() < 1e-4).flatten(2).all(dim=-1)[mask].float().mean()
    assert out.triangle_accuracy.item() == pytest.approx(exact.item(), abs=1e-6) and exact < 1
    assert out.excess_loss >= 0


def test_training_a_lossy_tokenizer_lowers_its_loss(grids):
    torch.manual_seed(0)
    autoencoder = MeshAutoencoder(**TINY, num_quantizers=1)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=3e-3)
    batch = MeshBatch.from_meshes(grids)
    before = autoencoder.losses(batch).recon_loss.item()
    for _ in range(30):
        optimizer.zero_grad()
        autoencoder.losses(batch).loss.backward()
        optimizer.step()
    assert autoencoder.losses(batch).recon_loss.item() < 0.9 * before


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_discrete_coors": 1}, "at least 2, got 1"),
        ({"codebook_size": 10_000}, "power of two"),
        ({"codebook_size": 1, "use_residual_lfq": False}, "at least 2"),
        ({"num_quantizers": 0}, "num_quantizers must be at least 1"),
        ({"encoder_dims_through_depth": ()}, "at least one width"),
        ({"init_decoder_conv_kernel": 4}, "odd"),
        ({"bin_smooth_blur_sigma": -1.0}, "0 or more"),
        ({"vertex_noise": -1.0}, "0 or more"),
        ({"dropout": 1.0}, r"\[0, 1\)"),
        ({"code_init": "other"}, "'grid' or 'random'"),
        ({"code_freedom": 0.0}, "positive"),
        ({"coor_continuous_range": (1.0, -1.0)}, "low < high"),
        ({"codebok_size": 2}, "did you mean 'codebook_size'"),
    ],
)
def test_configs_that_cannot_be_are_refused(fields, says):
    with pytest.raises(ConfigError, match=says):
        MeshAutoencoder(**fields)


def test_tensors_that_are_no_batch_are_refused_with_what_was_expected():
    autoencoder = MeshAutoencoder(**TINY)
    vertices, faces = torch.zeros(1, 4, 3), torch.tensor([[[0, 1, 2]]])
    bad = [
        (vertices.numpy(), faces, "must be tensors"),
        (vertices[..., :2], faces, r"vertices must be floats \(b, nv, 3\)"),
        (vertices.long(), faces, "vertices must be floats"),
        (vertices, faces.float(), "faces must be integers"),
        (vertices, torch.zeros(1, 1, 4, dtype=torch.long), r"faces must be integers \(1, nf, 3\)"),
        (vertices.expand(2, 4, 3), faces, r"integers \(2, nf, 3\)"),
        (vertices, faces + 3, "face 0 refers to vertex 4, but the mesh has 4"),
        (vertices + torch.nan, faces, "not finite"),
    ]
    for v, f, says in bad:
        with pytest.raises(MeshError, match=says):
            autoencoder(vertices=v, faces=f)


def test_codes_that_do_not_fit_are_refused():
    autoencoder = MeshAutoencoder(**TINY)
    for codes, says in [
        (torch.full((1, 6), 16384), "code 16384 is out of range: codes are 0 .. 16383"),
        (torch.full((1, 6), -2), "code -2 is out of range"),
        (torch.zeros(1, 7, dtype=torch.long), "7 codes are not whole faces of 6: 1 are left over"),
        (torch.zeros(1, 4, 2, dtype=torch.long), r"are not \(b, nf \* 3, 2\)"),
    ]:
        with pytest.raises(CodesError, match=says):
            autoencoder.decode_from_codes_to_faces(codes)
    with pytest.raises(CodesError, match="flat list of integer ids"):
        autoencoder.decode(torch.zeros(2, 6))
    with pytest.raises(CodesError, match="without padding"):
        autoencoder.decode([0, 0, 0, 0, 0, -1])


def test_meshes_that_cannot_be_encoded_are_refused():
    autoencoder = MeshAutoencoder(**TINY)
    with pytest.raises(MeshError, match="takes a Mesh, got str"):
        autoencoder.encode("chair.glb")
    with pytest.raises(MeshError, match="no face .* is left"):
        autoencoder.encode(Mesh(np.eye(3), [[0, 0, 1]]))
