"""`LatentDiffusion`: sets of latents from noise, as asked, by diffusion or flow matching."""

import copy
import dataclasses
import typing
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshgpt.checkpoint import Pretrained
from meshgpt.config import resolve_config
from meshgpt.errors import ConditionError, DataError, GenerationError, TrainingError
from meshgpt.nn.precision import dtype_of
from meshgpt.shapes.denoiser import denoiser
from meshgpt.shapes.denoiser_config import DenoiserConfig
from meshgpt.shapes.diffusion.process import Diffusion, DiffusionConfig, Network
from meshgpt.shapes.diffusion.sampler import Sampler, guided, sample
from meshgpt.shapes.diffusion.streams import NoiseStreams
from meshgpt.transformer.conditioned import ARGUMENTS, CONDITION_KEYWORDS, Conditioned
from meshgpt.transformer.conditioning import Conditioner, Context
from meshgpt.transformer.conditions import Conditions
from meshgpt.transformer.guidance import Guidance
from meshgpt.transformer.held import as_in_evaluation


@dataclasses.dataclass(frozen=True)
class LatentDiffusionConfig(DenoiserConfig):
    """A denoiser and the process that it serves."""

    diffusion: DiffusionConfig = DiffusionConfig()


@dataclasses.dataclass(frozen=True)
class LatentLosses:
    """loss: what is minimised. error: the process's own loss in it, which floors are of. balance: of experts."""

    loss: Float[Tensor, ""]
    error: Float[Tensor, ""]
    balance: Float[Tensor, ""]


class LatentDiffusion(Conditioned, Pretrained):
    """A denoiser, a process, and how large latents are: `LatentDiffusion(num_latents = 64, dim_latent = 8, ...)`.

    `fit_latents(latents)` once, from all that are trained on; then `losses` or `forward` to train, and `generate`.
    """

    config_class = LatentDiffusionConfig
    part = "prior"
    latent_mean: Float[Tensor, " d"]
    latent_std: Float[Tensor, " d"]
    num_fitted: Int[Tensor, ""]  # sets of latents that those two are of
    _knows_latents = False

    @typing.no_type_check
    def __init__(self, config=None, **fields):
        super().__init__()
        self.config: LatentDiffusionConfig = resolve_config(LatentDiffusionConfig, config, fields)
        self.process = Diffusion(self.config.diffusion)
        self.denoiser = denoiser(self.config)
        self.conditioner = Conditioner(self.config) if self.config.is_conditioned else None
        self.register_buffer("latent_mean", torch.zeros(self.config.dim_latent))
        self.register_buffer("latent_std", torch.ones(self.config.dim_latent))
        self.register_buffer("num_fitted", torch.zeros((), dtype=torch.long))

    @property
    def device(self) -> torch.device:
        return self.latent_mean.device

    # latents as they are, and of mean 0 and deviation `sigma_data`

    @typing.no_type_check
    def fit_latents(self, latents) -> None:
        """Takes mean and deviation of each channel from these latents (n m d), which should be all there are.

        They are stored with the weights: a first batch would make the model depend on which that was.
        """
        latents = self._checked(latents)
        if latents.shape[0] * latents.shape[1] < 2:
            raise DataError(f"mean and deviation of latents need several, got {tuple(latents.shape)}")
        std, mean = torch.std_mean(latents.double(), dim=(0, 1))
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std.clamp(min=1e-6))
        self.num_fitted.fill_(len(latents))

    @typing.no_type_check
    def normalized(self, latents) -> Float[Tensor, "b m d"]:
        """Latents as the denoiser knows them. Raises `DataError` for those of another width or that are not finite."""
        return (self._checked(latents) - self.latent_mean) / self.latent_std * self.config.diffusion.sigma_data

    def restored(self, x: Float[Tensor, "b m d"]) -> Float[Tensor, "b m d"]:
        """Latents as the autoencoder knows them."""
        return x / self.config.diffusion.sigma_data * self.latent_std + self.latent_mean

    @typing.no_type_check
    def _checked(self, latents) -> Float[Tensor, "b m d"]:
        latents = torch.as_tensor(latents, device=self.device)
        if latents.ndim != 3 or latents.shape[-1] != self.config.dim_latent or not latents.is_floating_point():
            what = f"latents must be floats (b, m, {self.config.dim_latent})"
            raise DataError(f"{what}, got {tuple(latents.shape)} {latents.dtype}")
        bad = (~latents.isfinite()).flatten(1).any(dim=1).nonzero()
        if len(bad):
            raise DataError(f"the latents of row {int(bad[0])} are not finite")
        return latents.float()

    # learning

    @typing.no_type_check
    def forward(self, latents, **given) -> Float[Tensor, ""]:
        """The loss of latents (b m d), with what they are: `texts`, `categories`, `points`, ... of `conditions_of`."""
        return self.losses(latents, self.conditions_of(len(latents), **given)).loss

    @typing.no_type_check
    def losses(self, latents, conditions=None, generator=None) -> LatentLosses:
        """Means over the batch at times and noise of their own; in training, conditions are left out at times.

        Raises `TrainingError` where the size of latents is not known yet, `ConditionError` for other conditions than
        the model takes.
        """
        self._knows_latents = self._knows_latents or int(self.num_fitted) > 0  # asked of the device once
        if not self._knows_latents:
            raise TrainingError("the size of the latents is not known yet: call fit_latents with all of them first")
        if self.training and self.config.is_conditioned and (conditions is None or not conditions.kinds):
            wanted = ", ".join(ARGUMENTS[kind] for kind in self.config.kinds)
            raise ConditionError(f"this model learns from conditions, and none is given: pass some of {wanted}")
        data = self.normalized(latents)
        context = self.context_of(conditions, len(data))
        balances: list[Tensor] = []
        t, noise = self.process.draw(data, generator)
        error = self.process.losses(self._network(context, balances), data, t, noise).mean()
        balance = balances[0].float()
        return LatentLosses(error + self.config.balance_weight * balance, error, balance)

    def _network(self, context: Context | None, balances: list[Tensor] | None = None) -> Network:
        """The denoiser in its context, in the precision of its weights."""
        dtype = dtype_of(self.denoiser)

        def network(x: Tensor, clock: Tensor) -> Tensor:
            result = self.denoiser(x.to(dtype), clock, context)
            if balances is not None:
                balances.append(result.balance)
            return result.values.to(x.dtype)

        return network

    # generating

    @torch.no_grad()
    @typing.no_type_check
    def generate(
        self, num_samples=None, *, seed=None, cond_scale=1.0, negative_texts=None, rows_at_once=64, **keywords
    ) -> Float[Tensor, "b m d"]:
        """New latents (b m d) for what is asked: `texts`, `categories`, `points`, ... of `conditions_of`.

        num_samples: if not as many as conditions are given. seed: one for each sample, or one number s: sample i then
        has s + i, and what it gives does not depend on the others. cond_scale: guidance, 1 for none. num_latents: if
        not that of the config. The other keywords are fields of `Sampler`.
        """
        given = {name: keywords.pop(name) for name in CONDITION_KEYWORDS if name in keywords}
        num_latents = keywords.pop("num_latents", None) or self.config.num_latents
        sampler = _sampler(keywords)
        if rows_at_once < 1:
            raise GenerationError(f"rows_at_once must be at least 1, got {rows_at_once}")
        conditions = self.conditions_of(num_samples, **given)
        streams = NoiseStreams(seed, len(conditions))
        shape, found = (num_latents, self.config.dim_latent), [torch.zeros(0, num_latents, self.config.dim_latent)]
        with as_in_evaluation(self):
            for rows in _chunks(len(conditions), rows_at_once):
                part = copy.copy(streams)
                part.select(rows)
                asked = conditions.select(torch.tensor(rows, device=self.device))
                network = self._guided(asked, _of_rows(negative_texts, rows, len(conditions)), cond_scale)
                found.append(self.restored(sample(self.process, network, part, shape, sampler, self.device)))
        return _finite(torch.cat([part.to(self.device) for part in found]))

    @typing.no_type_check
    def _guided(self, conditions: Conditions, negative_texts, cond_scale: float) -> Network:
        """What the denoiser says when asked, or that and what it says unasked, brought together."""
        context, is_guided = self.guided_context(conditions, negative_texts, Guidance(cond_scale=float(cond_scale)))
        network = self._network(context)
        if not is_guided:
            return network

        def both(x: Tensor, clock: Tensor) -> tuple[Tensor, Tensor]:
            asked, unasked = network(torch.cat((x, x)), torch.cat((clock, clock))).chunk(2)
            return asked, unasked

        return guided(both, float(cond_scale))


@typing.no_type_check
def _sampler(fields) -> Sampler:
    """A sampler from keywords; `sampler` itself may be one of them."""
    return resolve_config(Sampler, fields.pop("sampler", None), fields)


@typing.no_type_check
def _of_rows(texts, rows: list[int], count: int):
    """The texts of some of `count` rows; one alone is for all. Raises `ConditionError` for another number of them."""
    if texts is None or isinstance(texts, str) or len(texts) == 1:
        return texts
    if len(texts) != count:
        raise ConditionError(f"{len(texts)} negative_texts for {count} samples: give one, or one for each sample")
    return [texts[row] for row in rows]


def _chunks(count: int, size: int) -> Iterator[list[int]]:
    return (list(range(start, min(start + size, count))) for start in range(0, count, size))


def _finite(latents: Float[Tensor, "b m d"]) -> Float[Tensor, "b m d"]:
    bad = (~latents.isfinite()).flatten(1).any(dim=1).nonzero()
    if len(bad):
        what = f"sample {int(bad[0])} of {len(latents)} is not finite"
        raise GenerationError(f"{what}: take more steps, a smaller cond_scale, or another method")
    return latents
