"""The config of `MeshAutoencoder`."""

from dataclasses import dataclass

from meshgpt.config import Config


@dataclass(frozen=True)
class MeshAutoencoderConfig(Config):
    """Everything that defines a `MeshAutoencoder`. Names follow meshgpt-pytorch where the idea is there too."""

    num_discrete_coors: int = 128
    coor_continuous_range: tuple[float, float] = (-1.0, 1.0)
    quads: bool = False
    # what the encoder sees of a face: numbers of bins, and widths of their embeddings
    dim_coor_embed: int = 32
    num_discrete_area: int = 128
    dim_area_embed: int = 16
    num_discrete_normals: int = 128
    dim_normal_embed: int = 32
    num_discrete_angle: int = 128
    dim_angle_embed: int = 16
    # encoder
    encoder_dims_through_depth: tuple[int, ...] = (64, 128, 256, 256, 384)
    vertex_conv_depth: int = 0  # graph convolutions over vertices before those over faces
    attn_encoder_depth: int = 0
    # quantizer
    dim_codebook: int = 192
    num_quantizers: int = 2
    codebook_size: int = 16384
    use_residual_lfq: bool = True  # False: residual vector quantisation
    # grid: codes begin as the bits of the position, and training adds to them
    code_init: str = "grid"
    # With grid codes: how far features move values from the anchor, in units of the smallest distance at which a sign
    # turns. Below 1 the bits of the position cannot be lost, and only the bits beside them are learned.
    code_freedom: float = 0.9
    commit_loss_weight: float = 1.0
    entropy_loss_weight: float = 0.0  # spreads codes, and makes them harder to predict; grid codes need none
    diversity_gamma: float = 1.0
    entropy_inv_temperature: float = 5.0
    checkpoint_quantizer: bool = False
    # decoder
    init_decoder_conv_kernel: int = 7
    decoder_dims_through_depth: tuple[int, ...] = (128, 128, 192, 192)
    attn_decoder_depth: int = 0
    graph_gate_init: float = 0.1  # weight, at the start, of what the faces add to a vertex in encoder and decoder
    # attention blocks of encoder and decoder
    attn_heads: int = 8
    attn_dim_head: int = 32
    local_attn_window_size: int = 64
    use_linear_attn: bool = True
    # training
    bin_smooth_blur_sigma: float = 0.4  # of the Gaussian around the true bin, in bins; 0: the true bin alone
    vertex_noise: float = 0.0  # largest standard deviation of noise on the vertices, which the decoder is told
    dropout: float = 0.0
    pad_id: int = -1

    @property
    def corners(self) -> int:
        return 4 if self.quads else 3

    @property
    def has_decoder_context(self) -> bool:
        return bool(self.decoder_dims_through_depth) or self.attn_decoder_depth > 0

    @property
    def has_grid_code(self) -> bool:
        return self.use_residual_lfq and self.code_init == "grid"

    @property
    def attention_shape(self) -> tuple[int, int, int, bool, float]:
        window, linear = self.local_attn_window_size, self.use_linear_attn
        return self.attn_heads, self.attn_dim_head, window, linear, self.dropout

    def validate(self) -> None:
        low, high = self.coor_continuous_range
        self.require(self.num_discrete_coors >= 2, "num_discrete_coors", "be at least 2")
        self.require(low < high, "coor_continuous_range", "be (low, high) with low < high")
        self.require(len(self.encoder_dims_through_depth) > 0, "encoder_dims_through_depth", "name at least one width")
        self.require(self.num_quantizers >= 1, "num_quantizers", "be at least 1")
        power = self.codebook_size >= 2 and self.codebook_size & (self.codebook_size - 1) == 0
        self.require(power or not self.use_residual_lfq, "codebook_size", "be a power of two for lookup-free codes")
        self.require(self.codebook_size >= 2, "codebook_size", "be at least 2")
        self.require(self.init_decoder_conv_kernel % 2 == 1, "init_decoder_conv_kernel", "be odd")
        self.require(self.bin_smooth_blur_sigma >= 0, "bin_smooth_blur_sigma", "be 0 or more")
        self.require(self.vertex_noise >= 0, "vertex_noise", "be 0 or more")
        self.require(0 <= self.dropout < 1, "dropout", "lie in [0, 1)")
        self.require(self.code_freedom > 0, "code_freedom", "be positive")
        self.require(self.code_init in ("grid", "random"), "code_init", "be 'grid' or 'random'")
