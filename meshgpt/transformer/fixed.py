"""Steps of a stack in shapes that stay, which a GPU records once as a CUDA graph and then repeats.

A step of few rows is hundreds of small operations, and on a GPU starting each costs more than computing it. Repeated as
a graph they start at once, but a graph knows only the addresses and shapes that it was recorded with. So stores have a
fixed size, positions are a tensor, attention goes over the whole store with a mask, and rows are padded to a power of
2: one recording for each number of rows, size of the store, and number of positions a pass. Without a GPU the same
steps run unrecorded; the tests compare those with the plain ones. None of this has run on a GPU yet: so a recording is
compared with the step that it is of before it is used.
"""

import dataclasses
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from meshgpt.transformer.cache import StackCache
from meshgpt.transformer.conditioning import Context
from meshgpt.transformer.config import StackSpec

SMALLEST = 256  # positions that the first store of the coarse stack has room for


class Recorded:
    """A function of tensors that stay where they are, recorded where asked, and repeated. It may run often.

    Falls back to the function itself, with a warning, where that cannot be recorded or a recording differs.
    """

    def __init__(self, function: Callable[[], Tensor], record: bool):
        self.function, self.record = function, record
        self.graph: torch.cuda.CUDAGraph | None = None
        self.output: Tensor | None = None

    def __call__(self) -> Tensor:
        """The output; the next call may write over it."""
        if self.record and self.graph is None:
            try:
                self._capture()
            except (
                RuntimeError,
                AssertionError,
            ) as error:  # what torch raises without a GPU, and for what none records
                self.graph, self.record = None, False
                warnings.warn(f"writing without CUDA graphs, for none can be recorded: {error}", stacklevel=2)
        if self.graph is None or self.output is None:
            return self.function()
        self.graph.replay()
        return self.output

    def _capture(self) -> None:
        """As the documentation of `torch.cuda.CUDAGraph` has it: some runs on a side stream first."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                right = self.function().clone()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.function()
        graph.replay()
        if not torch.allclose(output.float(), right.float(), rtol=1e-2, atol=1e-3):
            raise RuntimeError("a recorded step gave other numbers than the step itself")
        self.graph, self.output = graph, output


@dataclasses.dataclass
class FixedCache(StackCache):
    """A `StackCache` whose stores stay where they are; a layer's `write` gives the whole store.

    All tensors have a power of 2 of rows, of which the first `rows` count; the others are copies of the first.
    """

    rows: int = 0
    context_mask: Tensor | None = None  # (b 1 1 m)
    record: bool = False
    inputs: dict[int, Tensor] = dataclasses.field(default_factory=dict)  # of so many positions a pass
    steps: dict[int, Recorded] = dataclasses.field(default_factory=dict)

    def run(self, x: Float[Tensor, "b n d"], step: Callable[[Tensor], Tensor]) -> Float[Tensor, "b n d"]:
        """What `step`, the layers over this cache, makes of the next n positions of each row; advances the cache."""
        n = x.shape[1]
        if self.max_length + n > self.size:
            self._grow(self.max_length + n)
        if n not in self.steps:
            inputs = self.inputs[n] = x.new_zeros(self.batch_size, *x.shape[1:])
            self.steps[n] = Recorded(lambda: step(inputs), self.record)
        self.inputs[n][: self.rows] = x
        out = self.steps[n]()[: self.rows].clone()
        self.lengths += n
        self.max_length += n
        return out

    def start_layers(self) -> None:
        """Layers write and ask in their order, from the first one again."""
        self.attention_index = self.context_index = 0

    def mask(self, n: int) -> Tensor:
        """(b 1 n m): True for the positions that each of the next n sees, of all that there is room for."""
        return (torch.arange(self.size, device=self.lengths.device) <= self.slots(n)[..., None])[:, None]

    def write(
        self, keys: Float[Tensor, "b h n d"], values: Float[Tensor, "b h n d"]
    ) -> tuple[Float[Tensor, "b h m d"], Float[Tensor, "b h m d"]]:
        layer, rows = self.attention_index, torch.arange(self.batch_size, device=keys.device)[:, None]
        self.attention_index += 1
        for store, new in ((self.keys[layer], keys), (self.values[layer], values)):
            store[rows, :, self.slots(keys.shape[2])] = rearrange(new, "b h n d -> b n h d")
        return self.keys[layer], self.values[layer]

    def positions(self, n: int) -> Int[Tensor, "b n"]:
        return super().positions(n)[: self.rows]

    def restart(self) -> None:
        """Forgets all positions."""
        self.lengths.zero_()
        self.max_length = 0

    def select(self, rows: Int[Tensor, " r"]) -> "FixedCache":
        """Rows that leave make room at the end; only where that is half of all, everything moves."""
        size = rows_with_room(len(rows))
        index = F.pad(rows, (0, size - len(rows)), value=int(rows[0]) if len(rows) else 0)
        if size == self.batch_size:
            for tensor in self._tensors():
                tensor.copy_(tensor[index])
            self.rows = len(rows)
            return self
        keys, values = ([store[index] for store in stores] for stores in (self.keys, self.values))
        kept = FixedCache(keys, values, [], self.lengths[index], rows=len(rows), record=self.record)
        kept.context_mask = None if self.context_mask is None else self.context_mask[index]
        kept.contexts = [(keys[index], values[index]) for keys, values in self.contexts]
        kept.max_length, kept.lean = self.max_length, self.lean
        return kept

    def _tensors(self) -> list[Tensor]:
        mask = [] if self.context_mask is None else [self.context_mask]
        return [*self.keys, *self.values, *(part for pair in self.contexts for part in pair), *mask, self.lengths]

    def _grow(self, needed: int) -> None:
        """Room for at least so many positions, elsewhere: what was recorded is of no more use."""
        more = max(2 * self.size, needed) - self.size
        self.keys, self.values = ([F.pad(x, (0, 0, 0, more)) for x in stores] for stores in (self.keys, self.values))
        self.inputs, self.steps = {}, {}


def rows_with_room(rows: int) -> int:
    """The next power of 2."""
    return 1 << max(rows - 1, 0).bit_length()


def fixed_cache(spec: StackSpec, like: Tensor, capacity: int, record: bool) -> FixedCache:
    """One that holds nothing. like: (b ...), of the rows, the kind of number and the device."""
    rows, layers = rows_with_room(len(like)), spec.layers.count("attention")
    kind = torch.float32 if like.dtype == torch.bfloat16 else like.dtype  # as the lean layers attend
    size = (rows, spec.heads, capacity, spec.dim_head)
    keys, values = ([like.new_zeros(size, dtype=kind) for _ in range(layers)] for _ in range(2))
    lengths = torch.zeros(rows, dtype=torch.long, device=like.device)
    return FixedCache(keys, values, [], lengths, rows=len(like), record=record)


def fixed_copy(spec: StackSpec, cache: StackCache, like: Tensor, context: Context | None, record: bool) -> FixedCache:
    """The same positions of each row as `cache` holds, of what is asked in `context`."""
    fixed = fixed_cache(spec, like, max(SMALLEST, rows_with_room(cache.max_length + 1)), record)
    index = F.pad(torch.arange(len(like), device=like.device), (0, fixed.batch_size - len(like)))
    held, kind = cache.max_length, fixed.keys[0].dtype
    for stores, others in ((fixed.keys, cache.keys), (fixed.values, cache.values)):
        for store, other in zip(stores, others, strict=True):
            store[:, :, :held] = other[index, :, :held]
    fixed.lengths, fixed.max_length, fixed.lean = cache.lengths[index], held, cache.lean
    fixed.contexts = [(keys[index].to(kind), values[index].to(kind)) for keys, values in cache.contexts]
    if context is not None:
        mask = F.pad(context.mask, (spec.cross_num_mem_kv, 0), value=True)
        fixed.context_mask = mask[index][:, None, None]
    return fixed
