"""What a stack keeps between steps: a value that is passed in, one `write` a layer, one `advance` a pass."""

import dataclasses
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor


@dataclasses.dataclass
class StackCache:
    """Rotated keys and values of each attention layer, the state of each recurrence layer, the length of each row.

    `keys`, `values`: one tensor (b h capacity d) a layer, preallocated and doubled when full. `lengths` (b): how many
    positions of each row are written; of these the first `dropped` are held no more. `shared_length` is the number of
    positions held of every row, None where rows differ; `max_length` the largest.

    With a window a position sees no further back than that many positions, itself included; start tokens count as any
    other and scroll out of sight. When a store of twice the window is full, each row keeps its last `window` - 1
    positions, all that the next one can see.
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
    window: int = 0  # 0: all is seen
    dropped: Tensor | None = None  # (b); None: nothing is
    lean: dict[int, Any] = dataclasses.field(default_factory=dict)  # parts of the stack taken apart, see `lean.py`

    @property
    def batch_size(self) -> int:
        return self.lengths.shape[0]

    @property
    def held(self) -> Int[Tensor, " b"]:
        """How many positions of each row are in the stores."""
        return self.lengths if self.dropped is None else self.lengths - self.dropped

    @property
    def size(self) -> int:
        """Positions that the stores have room for; 0 before the first write."""
        store = self.keys[0] if self.keys else self.places
        return 0 if store is None else store.shape[2]

    @property
    def most(self) -> int | None:
        """Positions at which a store is no longer doubled but emptied; None where it is always doubled."""
        return 2 * self.window if self.window else None

    def start_pass(self, n: int) -> None:
        """Layers write and ask in their order, from the first one again; n positions each."""
        self.attention_index = self.recurrence_index = self.context_index = 0
        self._make_room(n)

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
        """Puts n positions of the next attention layer behind what is held of each row; all that `span(n)` names."""
        (begin, end), layer = self.span(keys.shape[2]), self.attention_index
        self.attention_index += 1
        if len(self.keys) == layer:
            self.keys.append(keys.new_zeros(*keys.shape[:2], max(self.capacity, end), keys.shape[3]))
            self.values.append(torch.zeros_like(self.keys[-1]))
        self.keys[layer] = self._put(self.keys[layer], keys)
        self.values[layer] = self._put(self.values[layer], values)
        return self.keys[layer][:, :, begin:end], self.values[layer][:, :, begin:end]

    def span(self, n: int) -> tuple[int, int]:
        """The first and (exclusive) the last place in the stores that n new positions of any row can see."""
        end = self.max_length + n
        return (max(0, self.max_length + 1 - self.window) if self.window and self.shared_length is not None else 0), end

    def slots(self, n: int) -> Int[Tensor, "b n"]:
        """The places in the stores of the next n positions of each row."""
        return self.held[:, None] + torch.arange(n, device=self.lengths.device)

    def state(self) -> Tensor | None:
        """(b d), the next recurrence layer's memory; None before its first step."""
        known = self.recurrence_index < len(self.states)
        return self.states[self.recurrence_index][:, -1] if known else None

    def put_states(self, states: Float[Tensor, "b n d"]) -> None:
        """What that layer's memory was after each of the n new positions; the last is kept, once the pass is over."""
        self.states[self.recurrence_index : self.recurrence_index + 1] = [states]
        self.recurrence_index += 1

    def write_places(self, places: Float[Tensor, "b n 3"]) -> tuple[Float[Tensor, "b m 3"], Int[Tensor, "b m"]]:
        """The same for the places that a distance bias is computed from, before the pass; and their positions."""
        new = rearrange(places, "b n c -> b 1 n c")
        self._make_room(new.shape[2])
        begin, end = self.span(new.shape[2])
        if self.places is None:
            self.places = new.new_zeros(new.shape[0], 1, max(self.capacity, end), 3)
        self.places = self._put(self.places, new)
        positions = (self.lengths - self.held)[:, None] + torch.arange(begin, end, device=places.device)
        return rearrange(self.places[:, :, begin:end], "b 1 m c -> b m c"), positions

    def positions(self, n: int) -> Int[Tensor, "b n"]:
        """Positions of the next n tokens of each row."""
        return self.lengths[:, None] + torch.arange(n, device=self.lengths.device)

    def advance(self, n: int) -> None:
        self.lengths = self.lengths + n
        self.max_length += n
        self.shared_length = None if self.shared_length is None else self.shared_length + n

    def keep(self, which: list[int]) -> None:
        """Of positions that were written behind the rows, which all hold as many, keeps some, in this order."""
        begin, end = self.max_length, self.max_length + len(which)
        if which != list(range(len(which))):
            at = torch.tensor(which, device=self.lengths.device) + begin
            for store in (*self.keys, *self.values):
                store[:, :, begin:end] = store[:, :, at]
        self.advance(len(which))

    def set_lengths(self, lengths: Int[Tensor, " b"]) -> None:
        """Forgets what was written behind `lengths`: right-padded rows are fed together, then cut to their own.

        No more than the last pass wrote can be forgotten.
        """
        rows, back = torch.arange(self.batch_size, device=lengths.device), lengths - 1 - self.lengths
        for index, states in enumerate(self.states):
            self.states[index] = states[rows, back][:, None]
        self.lengths = lengths
        self._measure()
        if self.most is not None and self.size > self.most:
            self._scroll()

    def select(self, rows: Int[Tensor, " r"]) -> "StackCache":
        """The cache of some of the rows."""
        keys, values, states = ([t[rows] for t in tensors] for tensors in (self.keys, self.values, self.states))
        places = None if self.places is None else self.places[rows]
        contexts = [(k[rows], v[rows]) for k, v in self.contexts]
        covered = None if self.covered is None else self.covered[rows]
        memory = {"capacity": self.capacity, "places": places, "contexts": contexts, "covered": covered}
        memory |= {
            "lean": self.lean,
            "window": self.window,
            "dropped": None if self.dropped is None else self.dropped[rows],
        }
        cache = StackCache(keys, values, states, self.lengths[rows], **memory)
        cache._measure()
        return cache

    def _measure(self) -> None:
        distinct = self.held.unique().tolist()
        self.max_length = max(distinct, default=0)
        self.shared_length = None if len(distinct) > 1 else self.max_length

    def _make_room(self, n: int) -> None:
        """Drops what no row sees any more, where there is no room for n positions and a store may not grow."""
        if self.most is not None and self.size >= self.most and self.max_length + n > self.size:
            self._scroll()

    def _scroll(self) -> None:
        """Keeps the last positions of each row, those that the next one sees, at the front of the stores."""
        assert self.most is not None
        drop, keep = (self.held - (self.window - 1)).clamp(min=0), self.window - 1
        self.keys, self.values = (
            [_kept(store, drop, keep, self.most) for store in stores] for stores in (self.keys, self.values)
        )
        self.places = None if self.places is None else _kept(self.places, drop, keep, self.most)
        self.dropped = drop if self.dropped is None else self.dropped + drop
        self._measure()

    def _put(self, store: Tensor, new: Tensor) -> Tensor:
        """`store` with `new` written behind what is held of each row, twice as large first where it is full."""
        n, longest = new.shape[2], self.max_length + new.shape[2]
        if longest > store.shape[2]:
            doubled = 2 * store.shape[2] if self.most is None else min(2 * store.shape[2], self.most)
            grown = store.new_zeros(*store.shape[:2], max(doubled, longest), store.shape[3])
            grown[:, :, : store.shape[2]] = store
            store = grown
        if self.shared_length is not None:
            store[:, :, self.shared_length : longest] = new
            return store
        rows = torch.arange(store.shape[0], device=store.device)[:, None]
        store[rows, :, self.slots(n)] = rearrange(new, "b h n d -> b n h d")
        return store


def empty_cache(batch_size: int, device: torch.device, capacity: int = 64, window: int = 0) -> StackCache:
    """A cache that holds nothing yet; memory for `capacity` positions, or two windows, is taken at the first write."""
    lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
    capacity = min(capacity, 2 * window) if window else capacity
    return StackCache([], [], [], lengths, capacity=capacity, window=window)


def _kept(store: Float[Tensor, "b h m d"], drop: Int[Tensor, " b"], keep: int, size: int) -> Float[Tensor, "b h s d"]:
    """`keep` positions of each row behind its first `drop`, in a store of `size`."""
    index = drop[:, None] + torch.arange(keep, device=store.device)
    rows = torch.arange(store.shape[0], device=store.device)[:, None]
    out = store.new_zeros(*store.shape[:2], size, store.shape[3])
    out[:, :, :keep] = rearrange(store[rows, :, index], "b n h d -> b h n d")
    return out
