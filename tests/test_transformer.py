"""The transformer: likelihoods, what may depend on what, gradients, options, and what it leaves alone."""

import copy

import pytest
import torch
from torch import nn
from toy_tokenizers import PairTokenizer, RawTokenizer

from meshgpt.data.batch import MeshBatch
from meshgpt.errors import CodesError, ConfigError, GenerationError, MeshError
from meshgpt.tokenizers.autoencoder import MeshAutoencoder
from meshgpt.tokenizers.coordinates import CoordinateTokenizer
from meshgpt.transformer.config import LayerSpec, MeshTransformerConfig
from meshgpt.transformer.heads import CodeEmbedding, CodeHead, digit_bases
from meshgpt.transformer.recurrence import Recurrence, gated_scan
from meshgpt.transformer.stack import Decoder, Stack
from meshgpt.transformer.transformer import MeshTransformer

SMALL = {
    "dim": (32, 24),
    "attn_depth": 2,
    "attn_heads": 2,
    "attn_dim_head": 16,
    "fine_attn_heads": 2,
    "fine_attn_dim_head": 8,
    "max_seq_len": 240,
}
OPTIONS = {
    "plain": {},
    "one width": {"dim": 32},
    "one head": {"attn_heads": 1, "fine_attn_heads": 1},
    "one digit": {"code_digits": 1},
    "pointer": {"copy_dim": 8},
    "digit pointer": {"copy_digit_faces": 2},
    "both pointers": {"copy_dim": 8, "copy_digit_faces": 1},
    "context faces": {"fine_context_faces": 2},
    "recurrence": {"coarse_pre_gateloop_depth": 1, "coarse_post_gateloop_depth": 1, "fine_pre_gateloop_depth": 1},
    "layer list": {
        "coarse_layers": (
            LayerSpec("attention"),
            LayerSpec("recurrence", 2),
            LayerSpec("attention"),
            LayerSpec("feedforward"),
        )
    },
    "reversible": {"reversible": True},
    "distance bias": {"distance_bias": True},
    "face features": {"face_features": ("angles", "area", "normal", "corners")},
    "learned positions": {"abs_pos_emb": True, "rotary_pos_emb": False},
    "memory, values, streams": {"attn_num_mem_kv": 2, "add_value_residual": True, "num_residual_streams": 2},
    "many": {
        "reversible": True,
        "distance_bias": True,
        "attn_num_mem_kv": 1,
        "num_sos_tokens": 3,
        "fine_context_faces": 1,
        "face_features": ("area",),
    },
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def make(tokenizer=None, seed=0, **options):
    torch.manual_seed(seed)
    return MeshTransformer(tokenizer or PairTokenizer(), **{**SMALL, **options})


def make_codes(model, lengths, seed=0):
    """Random codes, one row a length, padded with -1."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.full((len(lengths), max(lengths)), -1)
    for row, length in zip(codes, lengths, strict=True):
        row[:length] = torch.randint(0, model.vocab_size, (length,), generator=generator)
    return codes


@pytest.fixture(scope="module")
def boxes(tiny_meshes):
    return MeshBatch.from_meshes([mesh.normalized() for mesh in tiny_meshes if mesh.num_faces <= 60][:4])


# likelihood


@every_option
def test_the_loss_is_the_mean_of_the_logits_at_the_codes(options):
    model = make(**options).eval()
    codes = make_codes(model, [60, 37, 24])
    logits, output = model.forward_on_codes(codes, return_loss=False), model.losses(codes)
    assert logits.shape == (3, 61, model.vocab_size + 1)
    nats = sum(
        -logits[row, place, code] for row, n in enumerate((60, 37, 24)) for place, code in enumerate(codes[row, :n])
    )
    nats = nats - logits[0, 60, -1] - logits[2, 24, -1]  # 37 codes end within a face: no end
    torch.testing.assert_close(output.loss, nats / (60 + 37 + 24 + 2), atol=1e-4, rtol=1e-4)
    assert (output.num_faces, output.num_tokens) == (10 + 6 + 4, 123)
    assert output.bits_per_face.item() == pytest.approx(nats.item() / 0.6931472 / 20, rel=1e-4)
    assert output.row_bits.sum().item() == pytest.approx(nats.item() / 0.6931472, rel=1e-4)


def test_probabilities_sum_to_one_and_the_end_is_possible_only_where_a_face_starts():
    for model in (make(), make(RawTokenizer())):
        codes = make_codes(model, [2 * model.tokens_per_face])
        logits = model.forward_on_codes(codes, return_loss=False)[0]
        torch.testing.assert_close(logits.exp().sum(-1), torch.ones(len(logits)))
        starts = torch.arange(len(logits)) % model.tokens_per_face == 0
        assert torch.equal(logits[:, -1] > -torch.inf, starts)


def test_no_codes_at_all_ask_for_the_first_code():
    model = make()
    assert model.forward_on_codes(return_loss=False).shape == (1, 1, model.vocab_size + 1)
    assert model.forward_on_codes().isfinite()


def test_without_an_end_only_codes_are_predicted():
    model = make().eval()
    codes = make_codes(model, [12])
    logits = model.forward_on_codes(codes, return_loss=False)[0]
    torch.testing.assert_close(
        model.forward_on_codes(codes, append_eos=False), -logits[:12].gather(1, codes[0][:, None]).mean()
    )


def test_codes_of_quantizer_levels_are_flattened():
    model = make()
    codes = make_codes(model, [24, 12])
    assert torch.equal(model.losses(codes.view(2, 12, 2)).loss, model.losses(codes).loss)


def test_digits_cover_every_vocabulary():
    for vocab_size in (2, 256, 257, 1000, 8192, 16384, 50_000):
        high, low = digit_bases(vocab_size, 2)
        assert (high - 1) * low < vocab_size <= high * low
        assert (high > 1) == (vocab_size > 256)


def test_a_vocabulary_that_is_no_power_of_two_sums_to_one():
    torch.manual_seed(0)
    head, hidden = CodeHead(1000, 16, 2), torch.randn(3, 16)
    logits = head.logits(hidden, torch.tensor([True, False, True]))
    assert logits.shape == (3, 1001)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(3))
    codes = torch.tensor([999, 5, 1000])
    nats = head.nats(hidden, codes, torch.tensor([True, False, True]))
    torch.testing.assert_close(nats, -logits.gather(1, codes[:, None])[:, 0])


NEARBY = torch.tensor([[5, 21, -1, 299, 5]])  # 5 and 21 have the same low digit of 16; 5 comes twice


def pointing_head(vocab_size=300, candidates=5):
    torch.manual_seed(0)
    head = CodeHead(vocab_size, 8, 2, candidates)
    with torch.no_grad():
        for parameter in head.pointer.parameters():
            parameter.normal_()
    return head


@pytest.mark.parametrize("vocab_size", [300, 512])
def test_codes_that_point_at_low_digits_nearby_are_a_distribution(vocab_size):
    head, hidden = pointing_head(vocab_size), torch.randn(4, 8)
    nearby = torch.cat((NEARBY, NEARBY.flip(1), torch.full((1, 5), -1), torch.randint(0, 300, (1, 5))))
    may_end = torch.tensor([True, False, True, False])
    logits = head.logits(hidden, may_end, nearby)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(4))
    for code in (5, 21, 37, 299):
        nats = head.nats(hidden, torch.full((4,), code), may_end, nearby)
        torch.testing.assert_close(nats, -logits[:, code])
    torch.testing.assert_close(logits[2], head.logits(hidden, may_end)[2])  # nothing nearby: the softmax alone


def test_digits_nearby_are_pointed_at_and_more_so_behind_the_same_high_digit():
    head, hidden = pointing_head(candidates=1), torch.randn(1, 8)
    with torch.no_grad():
        head.pointer.to_scores.weight.zero_()
        head.pointer.to_scores.bias.copy_(torch.tensor([20.0, -20.0]))
    low = head.logits(hidden, torch.tensor([False]), torch.tensor([[37]]))[0, :288].view(18, 16).softmax(dim=1)
    assert low[37 // 16, 37 % 16] > 0.99 and low[3, 37 % 16] < 0.9


@pytest.mark.parametrize("candidates", [0, 5])
def test_sampling_by_digits_follows_the_joint_distribution(candidates):
    torch.manual_seed(0)
    head = pointing_head() if candidates else CodeHead(300, 8, 2)
    hidden = torch.randn(1, 8).expand(20_000, 8)
    may_end, nearby = torch.ones(20_000, dtype=torch.bool), NEARBY.expand(20_000, -1) if candidates else None
    drawn = head.sample(hidden, torch.rand(20_000, 2, dtype=torch.float64), may_end, nearby)
    expected = head.logits(hidden[:1], may_end[:1], NEARBY if candidates else None).exp()[0]
    found = torch.bincount(drawn, minlength=301) / 20_000
    assert (found - expected).abs().sum() / 2 < 0.09  # the expected distance of 20,000 exact draws is 0.05


def test_codes_with_equal_digits_share_parts_of_their_vectors():
    embed = CodeEmbedding(16384, 8, 2)
    a, b, c, d = embed(torch.tensor([0, 1, 128, 129]))
    torch.testing.assert_close(d - c, b - a)
    assert sum(p.numel() for p in embed.parameters()) == 256 * 8


# what may depend on what


@every_option
def test_a_later_code_never_changes_an_earlier_probability(options):
    model = make(**options).eval()
    codes = make_codes(model, [48])
    logits = model.forward_on_codes(codes, return_loss=False)
    for place in (0, 5, 20, 47):
        changed = codes.clone()
        changed[0, place] = (changed[0, place] + 432) % model.vocab_size
        other = model.forward_on_codes(changed, return_loss=False)
        torch.testing.assert_close(other[:, : place + 1], logits[:, : place + 1], atol=1e-5, rtol=1e-5)
        assert place == 47 or not torch.equal(other[:, place + 1], logits[:, place + 1])


@every_option
def test_padding_and_the_rest_of_the_batch_change_nothing(options):
    model = make(**options).eval()
    codes = make_codes(model, [60, 37, 12, 0])
    together = model.forward_on_codes(codes, return_loss=False)
    for row, length in enumerate((60, 37, 12, 0)):
        alone = model.forward_on_codes(codes[row : row + 1, :length], return_loss=False)
        torch.testing.assert_close(together[row : row + 1, : length + 1], alone, atol=1e-5, rtol=1e-5)


def test_a_later_face_has_no_gradient_into_an_earlier_one():
    model = make()
    sequence = torch.randn(1, 7, 32, requires_grad=True)
    (model.coarse(sequence)[0, 3] * torch.randn(32)).sum().backward()
    assert sequence.grad is not None
    assert sequence.grad[0, 4:].abs().sum() == 0 and (sequence.grad[0, :4].abs().sum(-1) > 0).all()


# gradients


@every_option
def test_every_parameter_gets_a_gradient(options):
    model = make(**options)
    with torch.no_grad():
        for parameter in model.parameters():  # some start at exactly 0 and shield others in the first step
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.losses(make_codes(model, [240, 36])).loss.backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    dead = [name for name in dead if "position_embed" not in name]
    assert not dead


def test_every_vector_of_the_small_tables_gets_a_gradient():
    model = make(RawTokenizer())
    model.losses(make_codes(model, [234] * 8)).loss.backward()
    assert (model.code_embed.low.weight.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize(
    "options", [{}, {"distance_bias": True}, {"attn_num_mem_kv": 2}, {"coarse_pre_gateloop_depth": 1}]
)
def test_reversible_gradients_equal_those_that_autograd_keeps_activations_for(options):
    model = make(reversible=True, **options)
    codes = make_codes(model, [60, 37])
    model.losses(codes).loss.backward()
    reconstructed = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.eval()  # in evaluation mode the same arithmetic runs under plain autograd
    model.losses(codes).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(reconstructed[name], parameter.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("options", [{}, {"distance_bias": True}], ids=["plain", "distance bias"])
def test_reversible_stacks_reconstruct_in_the_precision_in_which_they_computed(options, inside):
    """Under autocast, with the backward pass outside of it, as a trainer does, or inside."""
    model = make(reversible=True, attn_depth=6, **options)
    codes, gradients = make_codes(model, [60, 37]), []
    for training in (True, False):
        model.train(training).zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.losses(codes).loss
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, gradient in gradients[1].items():
        assert (gradients[0][name] - gradient).norm() < 1e-5 * gradient.norm(), name  # float32 differs by about 1e-2


@pytest.mark.parametrize(
    "options", [{}, {"add_value_residual": True, "num_residual_streams": 2}, {"coarse_pre_gateloop_depth": 1}]
)
def test_checkpointed_gradients_are_the_same(options):
    codes, gradients = None, []
    for checkpointing in (False, True):
        model = make(checkpointing=checkpointing, **options)
        codes = make_codes(model, [60, 37]) if codes is None else codes
        model.losses(codes).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("saving", ["reversible", "checkpointing"])
def test_less_is_kept_for_the_backward_pass(saving):
    def kept_bytes(**options):
        config = MeshTransformerConfig(dim=64, attn_depth=6, attn_heads=2, attn_dim_head=32, **options)
        stack, kept = Stack(config.coarse_stack), {}

        def note(tensor):
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            out = stack(torch.randn(2, 100, 64, requires_grad=True))
        assert out.requires_grad
        return sum(kept.values()) - sum(p.nbytes for p in stack.parameters() if p.data_ptr() in kept)

    assert kept_bytes(**{saving: True}) < kept_bytes() / 4


# the parts


@pytest.mark.parametrize(
    "options",
    [{}, {"rotary_pos_emb": False}, {"attn_num_mem_kv": 4, "add_value_residual": True, "num_residual_streams": 4}],
)
def test_our_arithmetic_is_that_of_the_x_transformers_decoder(options):
    torch.manual_seed(0)
    spec = MeshTransformerConfig(dim=32, attn_depth=3, attn_heads=2, attn_dim_head=16, **options).coarse_stack
    plain, ours = (
        Stack(spec).train(),
        Stack(MeshTransformerConfig(**{**vars(spec_config(options)), "checkpointing": True}).coarse_stack),
    )
    ours.load_state_dict(plain.state_dict())
    assert isinstance(plain.parts[0], Decoder)
    x = torch.randn(2, 11, 32)
    torch.testing.assert_close(ours(x), plain(x), atol=1e-5, rtol=1e-5)


def spec_config(options):
    return MeshTransformerConfig(dim=32, attn_depth=3, attn_heads=2, attn_dim_head=16, **options)


def test_the_scan_is_the_recurrence_it_stands_for():
    torch.manual_seed(0)
    gates, values = torch.rand(2, 13, 5), torch.randn(2, 13, 5)
    state, states = torch.zeros(2, 5), []
    for t in range(13):
        state = gates[:, t] * state + values[:, t]
        states.append(state)
    torch.testing.assert_close(gated_scan(gates, values), torch.stack(states, dim=1))


def test_a_recurrence_read_in_pieces_gives_the_same():
    torch.manual_seed(0)
    layer, x = Recurrence(8), torch.randn(2, 10, 8)
    whole, state, pieces = layer(x), None, []
    for piece in x.split((3, 1, 6), dim=1):
        out, states = layer.step(piece, state)
        pieces.append(out)
        state = states[:, -1]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)


def test_without_rotation_of_scores_order_would_not_matter_and_with_it_it_does():
    torch.manual_seed(0)
    stack = Stack(MeshTransformerConfig(dim=32, attn_depth=1, attn_heads=2, attn_dim_head=16).coarse_stack).eval()
    x = torch.randn(1, 6, 32)
    swapped = x[:, [1, 0, 2, 3, 4, 5]]
    assert not torch.allclose(stack(x)[:, -1], stack(swapped)[:, -1], atol=1e-5)


# precision and compute


def test_bfloat16_and_float64_models_run_and_train():
    for dtype, tolerance in ((torch.bfloat16, 0.05), (torch.float64, 1e-5)):
        model = make(num_sos_tokens=2, distance_bias=True, face_features=("corners",)).eval()
        codes = make_codes(model, [60, 37])
        expected = model.losses(codes).loss
        model = model.to(dtype)
        loss = model.losses(codes).loss
        assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
        loss.backward()
        model.generate_result(batch_size=2, max_faces=3, seed=0)
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_autocast_gives_a_float32_loss():
    model = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.losses(make_codes(model, [60, 37])).loss
    assert loss.dtype == torch.float32
    loss.backward()


def test_dropout_changes_training_and_not_evaluation():
    model = make(dropout=0.3)
    codes = make_codes(model, [60])
    assert model.losses(codes).loss != model.losses(codes).loss
    model.eval()
    assert model.losses(codes).loss == model.losses(codes).loss


def test_a_few_meshes_are_learned_by_heart(boxes):
    model = make(RawTokenizer(), max_seq_len=600, dim=(64, 48), fine_context_faces=1)
    codes = RawTokenizer().codes_from_batch(boxes)[:2, :108]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        loss = model.losses(codes).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss.item() < 0.3
    prompt = codes[:, :9]
    assert not torch.equal(prompt[0], prompt[1])
    again = model.generate_result(prompt=prompt, temperature=0.0, max_seq_len=108).codes
    assert (again == codes).float().mean() > 0.9


# what it leaves alone, and the tokenizers it takes


class TrainableTokenizer(nn.Module, PairTokenizer):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.inner = nn.Dropout(0.5)
        self.modes = []

    def codes_from_batch(self, batch):
        self.modes.append((self.training, self.inner.training, torch.is_grad_enabled()))
        return PairTokenizer.codes_from_batch(self, batch)


def test_the_tokenizer_is_used_in_evaluation_mode_and_left_as_it_was(boxes):
    tokenizer = TrainableTokenizer()
    tokenizer.inner.eval()
    model = make(tokenizer, max_seq_len=600)
    vertices, faces = padded(boxes)
    model(vertices=vertices, faces=faces).backward()
    assert tokenizer.modes == [(False, False, False)]
    assert tokenizer.training and not tokenizer.inner.training and tokenizer.scale.requires_grad
    assert tokenizer.scale.grad is None


def test_state_parameters_and_copies_hold_only_the_transformer():
    tokenizer = TrainableTokenizer()
    model = make(tokenizer)
    assert not any("scale" in name for name in [*model.state_dict(), *dict(model.named_parameters())])
    assert copy.deepcopy(model).tokenizer is tokenizer is model.tokenizer
    model.train(False)
    assert tokenizer.training


def padded(batch):
    """(vertices (b nv 3), faces (b nf 3)) with indices into each mesh."""
    meshes = batch.meshes()
    vertices = nn.utils.rnn.pad_sequence([torch.as_tensor(m.vertices).float() for m in meshes], batch_first=True)
    faces = nn.utils.rnn.pad_sequence([torch.as_tensor(m.faces) for m in meshes], batch_first=True, padding_value=-1)
    return vertices, faces


def test_meshes_and_their_codes_give_the_same_loss(boxes):
    model = make(max_seq_len=600).eval()
    vertices, faces = padded(boxes)
    assert model(vertices=vertices, faces=faces) == model(codes=PairTokenizer().codes_from_batch(boxes))


def test_the_lines_that_users_of_the_design_know_run_with_the_learned_tokenizer():
    autoencoder = MeshAutoencoder(num_discrete_coors=128)
    torch.manual_seed(0)
    vertices, faces = torch.randn((2, 121, 3)), torch.randint(0, 121, (2, 64, 3))
    transformer = MeshTransformer(autoencoder, dim=32, attn_depth=1, attn_heads=2, max_seq_len=768)
    loss = transformer(vertices=vertices, faces=faces)
    loss.backward()
    assert autoencoder.training and all(p.requires_grad for p in autoencoder.parameters())
    coordinates, face_mask = transformer.generate(max_faces=4)
    assert coordinates.shape == (1, 4, 3, 3) and face_mask.shape == (1, 4)


def test_a_saved_model_comes_back_without_its_tokenizer(tmp_path):
    model = make(dim=(32, 24), coarse_layers=(LayerSpec("recurrence"), LayerSpec("attention")))
    model.save_pretrained(tmp_path)
    again = MeshTransformer.from_pretrained(tmp_path, PairTokenizer())
    codes = make_codes(model, [30])
    assert again.config == model.config
    assert torch.equal(again.losses(codes).loss, model.eval().losses(codes).loss)


def test_defaults_are_a_model_whatever_the_tokens_of_a_face():
    with torch.device("meta"):
        model = MeshTransformer(PairTokenizer())
    assert model.config.max_seq_len == 8192


# errors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attn_heads": 0}, "attn_heads must be at least 1"),
        ({"dim": (8, 8, 8)}, "dim must be a width or a pair"),
        ({"attn_dim_head": 7}, "attn_dim_head must be even"),
        ({"attn_depth": 0}, "attn_depth must be at least 1"),
        ({"fine_attn_depth": 0}, "fine_attn_depth must be at least 1"),
        ({"fine_context_faces": -1}, "fine_context_faces must not be negative"),
        ({"copy_digit_faces": -1}, "copy_digit_faces must not be negative"),
        ({"code_digits": 3}, "code_digits must be 1 or 2"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"ff_mult": 0.0}, "ff_mult must be positive"),
        ({"face_features": ("colour",)}, "face_features must be some of angles"),
        ({"reversible": True, "dropout": 0.1}, "dropout must be 0 with reversible"),
        ({"reversible": True, "num_residual_streams": 2}, "num_residual_streams must be 1 with reversible"),
        ({"reversible": True, "add_value_residual": True}, "add_value_residual must be False with reversible"),
        ({"attn_dept": 3}, "did you mean 'attn_depth'"),
    ],
)
def test_impossible_configs_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        MeshTransformerConfig.from_dict(values)


def test_unknown_layers_are_refused():
    with pytest.raises(ConfigError, match="kind must be one of attention"):
        LayerSpec("convolution")
    with pytest.raises(ConfigError, match="count must be at least 1"):
        LayerSpec("attention", 0)


def test_what_is_no_tokenizer_of_faces_is_refused():
    with pytest.raises(ConfigError, match="must be a tokenizer such as MeshAutoencoder, got dict"):
        MeshTransformer({}, dim=32)
    with pytest.raises(ConfigError, match="max_seq_len = 5 is less than one face, which is 6 codes"):
        make(max_seq_len=5)


def test_codes_that_do_not_fit_are_refused_with_their_place():
    model = make()
    with pytest.raises(CodesError, match="code 2048 at row 1, position 2 is not in the tokenizer's vocabulary of 2048"):
        model.losses(torch.tensor([[1, 2, 3], [1, 2, 2048]]))
    with pytest.raises(CodesError, match="code -2 at row 0, position 0"):
        model.losses(torch.tensor([[-2, 2, 3]]))
    with pytest.raises(CodesError, match="row 0 has a code behind padding, at position 2"):
        model.losses(torch.tensor([[1, -1, 3]]))
    with pytest.raises(CodesError, match="252 codes are more than max_seq_len = 240"):
        model.losses(make_codes(model, [252]))
    with pytest.raises(CodesError, match=r"codes must be integers of shape .* torch.float32"):
        model.losses(torch.zeros(1, 6))
    with pytest.raises(CodesError, match="neither codes nor both vertices and faces"):
        model(vertices=torch.zeros(1, 3, 3))


def test_meshes_that_the_tokenizer_cannot_take_are_refused():
    tokenizer = CoordinateTokenizer()
    model = MeshTransformer(tokenizer, **SMALL)
    vertices, faces = torch.rand(1, 4, 3), torch.tensor([[[0, 1, 2], [0, 2, 3]]])
    assert model(vertices=vertices, faces=faces).isfinite()
    with pytest.raises(MeshError, match=r"faces must be integers \(1, nf, 3\) \[triangles\], got \(1, 1, 4\)"):
        model(vertices=vertices, faces=torch.tensor([[[0, 1, 2, 3]]]))
    with pytest.raises(MeshError, match="not finite"):
        model(vertices=vertices * torch.nan, faces=faces)


def test_texts_for_an_unconditional_model_are_refused():
    model = make()
    with pytest.raises(GenerationError, match="unconditional and takes no `text"):
        model(codes=make_codes(model, [6]), texts=["a chair"])
    with pytest.raises(GenerationError, match="unconditional and takes no `text"):
        model.generate(texts=["a chair"])
    with pytest.raises(GenerationError, match="unconditional and takes no `text"):
        model.forward_on_codes(make_codes(model, [6]), text_embeds=torch.zeros(1, 2, 3))
