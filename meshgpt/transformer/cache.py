"""What a stack keeps between steps: a value that is passed in, one `write` a layer, one `advance` a pass."""

import dataclasses

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor


@dataclasses.dataclass
class StackCache:
    """Rotated keys and values of each attention layer, the state of each recurrence layer, the length of each row.

    `keys`, `values`: one tensor (b h capacity d) a layer, preallocated and doubled when full. `lengths` (b): how many
    positions of each row are written. `shared_length` is the length that all rows have, None where they differ.
    """

    keys: list[Tensor]
    values: list[Tensor]
    states: list[Tensor]
    lengths: Tensor
    capacity: int = 64  # of the first memory taken
    shared_length: int | None = 0
    max_length: int = 0
    places: Tensor | None = None  # (b 1 capacity 3), what the distance bias needs of each position
    covered: Tensor | None = None  # (b p), the points of a cloud at which there is a face
    contexts: list[tuple[Tensor, Tensor]] = dataclasses.field(default_factory=list)  # (b h m d) of each cross-attention
    attention_index: int = 0
    recurrence_index: int = 0
    context_index: int = 0

    @property
    def batch_size(self) -> int:
        return self.lengths.shape[0]

    def start_pass(self) -> None:
        """Layers write and ask in their order, from the first one again."""
        self.attention_index = self.recurrence_index = self.context_index = 0

    def context(self) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the next cross-attention's context; None before they are first computed."""
        known = self.context_index < len(self.contexts)
        self.context_index += known
        return self.contexts[self.context_index - 1] if known else None

    def put_context(self, keys: Float[Tensor, "b h m d"], values: Float[Tensor, "b h m d"]) -> None:
        self.contexts.append((keys, values))
        self.context_index = len(self.contexts)

    def write(
        self, keys: Float[Tensor, "b h n d"], values: Float[Tensor, "b h n d"]
    ) -> tuple[Float[Tensor, "b h m d"], Float[Tensor, "b h m d"]]:
        """Puts n positions of the next attention layer behind each row's length; all so far, m = longest row + n."""
        end, layer = self.max_length + keys.shape[2], self.attention_index
        self.attention_index += 1
        if len(self.keys) == layer:
            self.keys.append(keys.new_zeros(*keys.shape[:2], max(self.capacity, end), keys.shape[3]))
            self.values.append(torch.zeros_like(self.keys[-1]))
        self.keys[layer] = _put(self.keys[layer], keys, self.lengths, self.shared_length)
        self.values[layer] = _put(self.values[layer], values, self.lengths, self.shared_length)
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def state(self) -> Tensor | None:
        """(b d), the next recurrence layer's memory; None before its first step."""
        known = self.recurrence_index < len(self.states)
        return self.states[self.recurrence_index][:, -1] if known else None

    def put_states(self, states: Float[Tensor, "b n d"]) -> None:
        """What that layer's memory was after each of the n new positions; the last is kept, once the pass is over."""
        self.states[self.recurrence_index : self.recurrence_index + 1] = [states]
        self.recurrence_index += 1

    def write_places(self, places: Float[Tensor, "b n 3"]) -> Float[Tensor, "b m 3"]:
        """The same for the places that a distance bias is computed from."""
        new = rearrange(places, "b n c -> b 1 n c")
        if self.places is None:
            capacity = max(self.capacity, self.max_length + new.shape[2])
            self.places = new.new_zeros(new.shape[0], 1, capacity, 3)
        self.places = _put(self.places, new, self.lengths, self.shared_length)
        return rearrange(self.places[:, :, : self.max_length + places.shape[1]], "b 1 m c -> b m c")

    def positions(self, n: int) -> Int[Tensor, "b n"]:
        """Positions of the next n tokens of each row."""
        return self.lengths[:, None] + torch.arange(n, device=self.lengths.device)

    def advance(self, n: int) -> None:
        self.lengths = self.lengths + n
        self.max_length += n
        self.shared_length = None if self.shared_length is None else self.shared_length + n

    def set_lengths(self, lengths: Int[Tensor, " b"]) -> None:
        """Forgets what was written behind `lengths`: right-padded rows are fed together, then cut to their own."""
        rows, fed = torch.arange(self.batch_size, device=lengths.device), self.max_length
        for index, states in enumerate(self.states):
            self.states[index] = states[rows, lengths - 1 - fed][:, None]
        self.lengths = lengths
        self._measure()

    def select(self, rows: Int[Tensor, " r"]) -> "StackCache":
        """The cache of some of the rows."""
        keys, values, states = ([t[rows] for t in tensors] for tensors in (self.keys, self.values, self.states))
        places = None if self.places is None else self.places[rows]
        contexts = [(k[rows], v[rows]) for k, v in self.contexts]
        covered = None if self.covered is None else self.covered[rows]
        memory = {"capacity": self.capacity, "places": places, "contexts": contexts, "covered": covered}
        cache = StackCache(keys, values, states, self.lengths[rows], **memory)
        cache._measure()
        return cache

    def _measure(self) -> None:
        distinct = self.lengths.unique().tolist()
        self.max_length = max(distinct, default=0)
        self.shared_length = None if len(distinct) > 1 else self.max_length


def empty_cache(batch_size: int, device: torch.device, capacity: int = 64) -> StackCache:
    """A cache that holds nothing yet; memory for `capacity` positions is taken at the first write."""
    lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
    return StackCache([], [], [], lengths, capacity=capacity)


def _put(store: Tensor, new: Tensor, lengths: Tensor, shared_length: int | None) -> Tensor:
    """`store` with `new` written behind the rows' lengths, twice as large first where it is full."""
    n = new.shape[2]
    longest = (int(lengths.max()) if shared_length is None else shared_length) + n
    if longest > store.shape[2]:
        grown = store.new_zeros(*store.shape[:2], max(2 * store.shape[2], longest), store.shape[3])
        grown[:, :, : store.shape[2]] = store
        store = grown
    if shared_length is not None:
        store[:, :, shared_length : shared_length + n] = new
        return store
    rows = torch.arange(store.shape[0], device=store.device)[:, None]
    positions = lengths[:, None] + torch.arange(n, device=store.device)
    store[rows, :, positions] = rearrange(new, "b h n d -> b n h d")
    return store
