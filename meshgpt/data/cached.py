"""Class decorators that keep what is slow to compute for each item of a data set: text embeddings, face graphs.

    @cache_face_edges_for_dataset(max_edges_len = 100)
    @cache_text_embeds_for_dataset(lambda texts: encode(texts), max_text_len = 32)
    class Chairs(Dataset): ...

Each thing is kept under the hash of what it comes from, the text or the faces, not under the number of the item: any
number of instances, data sets, processes and runs share one file, which only grows. Items become dicts by name.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, no_type_check

import numpy as np
import torch
from torch import Tensor

from meshgpt.data.arrays import ArrayFile, content_key
from meshgpt.data.pack import MeshRecord
from meshgpt.errors import DataError
from meshgpt.fingerprint import described_by_content
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.topology import derive_face_edges_from_faces

NAMES = ("vertices", "faces", "texts")  # of the entries of a tuple, where the data set has no data_kwargs
TEXT_KEYS = ("texts", "text", "caption")


@no_type_check
def cache_text_embeds_for_dataset(embed_texts_fn, max_text_len, cache_path="./text_embed_cache", identity=None):
    """Decorates a data set class: the text of each item is replaced by `text_embeds`, (n, d) float32.

    At most `max_text_len` tokens are given. embed_texts_fn: a list of texts to embeddings (b, n, d), where rows of
    zeros are padding, or (embeddings, mask). identity: names what it computes; if not given, that is told from its code
    and what it holds, or, for `model.embed_texts`, from the model's text encoder. An item without text is given to it
    as ''. Raises `DataError` for what is not (1, n, d).
    """
    if max_text_len < 1:
        raise DataError(f"max_text_len must be at least 1, got {max_text_len}")

    def with_embeds(item: dict[str, Any], file: ArrayFile) -> dict[str, Any]:
        text = next((item[key] for key in TEXT_KEYS if item.get(key) is not None), "")
        if not isinstance(text, str):
            raise DataError(f"the text of an item is one string, got {type(text).__name__}")
        [tokens] = file.fetch([content_key(text)], lambda _: [[_tokens(embed_texts_fn([text]), text)]])
        kept = {key: value for key, value in item.items() if key not in TEXT_KEYS}
        return {**kept, "text_embeds": torch.from_numpy(tokens[:max_text_len].copy())}

    def file_of() -> ArrayFile:
        return _file(cache_path, "text_embeds", identity or _identity(embed_texts_fn))

    return _decorator(with_embeds, file_of)


@no_type_check
def cache_face_edges_for_dataset(
    max_edges_len, cache_path="./face_edges_cache", assert_edge_len_lt_max=True, pad_id=-1
):
    """Decorates a data set class: each item gets `face_edges`, the (e, 2) int64 graph of its faces.

    See `derive_face_edges_from_faces`; faces of `pad_id` are padding. An item of more than `max_edges_len` edges raises
    `DataError`, or is cut to as many if `assert_edge_len_lt_max` is False.
    """

    def with_edges(item: dict[str, Any], file: ArrayFile) -> dict[str, Any]:
        faces = torch.as_tensor(item["faces"]).to("cpu", torch.int64)
        key = content_key(str((tuple(faces.shape), pad_id)), faces.contiguous().numpy().tobytes())
        [edges] = file.fetch([key], lambda _: [[derive_face_edges_from_faces(faces, pad_id).numpy().astype(np.int32)]])
        if len(edges) > max_edges_len and assert_edge_len_lt_max:
            raise DataError(
                f"a mesh has {len(edges)} pairs of neighbouring faces, more than max_edges_len {max_edges_len}"
            )
        return {**item, "face_edges": torch.from_numpy(edges[:max_edges_len].astype(np.int64))}

    return _decorator(with_edges, lambda: _file(cache_path, "face_edges", ""))


@no_type_check
def _decorator(change: Callable[[dict[str, Any], ArrayFile], dict[str, Any]], file_of: Callable[[], ArrayFile]):
    """Makes a subclass, whose items go through `change`. The class that is decorated stays what it was."""
    files: list[ArrayFile] = []  # found out when the first item is asked for: importing a module computes nothing

    def decorate(base: type) -> type:
        if not callable(getattr(base, "__getitem__", None)):
            raise DataError(f"a data set class has numbered items (__getitem__), which {base!r} lacks")

        class Cached(base):
            def __init__(self, *args, cache_memmap_file_mode=None, **kwargs):
                super().__init__(*args, **kwargs)  # the mode is what others name here; nothing depends on it

            def __getitem__(self, index):
                files.extend([file_of()] if not files else [])
                return change(_by_name(super().__getitem__(index), index, getattr(self, "data_kwargs", None)), files[0])

            def __iter__(self):
                return (self[index] for index in range(len(self)))

        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(Cached, name, getattr(base, name))
        return Cached

    return decorate


@no_type_check
def _by_name(item: Any, index: Any, names: Any) -> dict[str, Any]:
    """An item as a dict of what it holds."""
    if isinstance(item, Mapping):
        named = dict(item)
    elif isinstance(item, MeshRecord):
        named = {**_by_name(item.mesh, index, None), "texts": item.caption, "category": item.category}
    elif isinstance(item, Mesh):
        named = {"vertices": torch.from_numpy(item.vertices).float(), "faces": torch.from_numpy(item.faces)}
    elif isinstance(item, (tuple, list)):
        names = tuple(names or NAMES)
        if len(item) > len(names):
            raise DataError(f"item {index} of the data set has {len(item)} entries, data_kwargs names {names}")
        named = dict(zip(names, item, strict=False))
    else:
        named = {}
    if not {"vertices", "faces"} <= named.keys():
        what = f"with the names {sorted(named)}" if named else f"of type {type(item).__name__}"
        raise DataError(f"item {index} of the data set is {what}: expected vertices and faces, as a tuple or a dict")
    return named


@no_type_check
def _tokens(answer: Any, text: str) -> np.ndarray:
    """(n, d) float32: the tokens of one text, without padding."""
    embeds, mask = answer if isinstance(answer, (tuple, list)) and len(answer) == 2 else (answer, None)
    if mask is None and isinstance(getattr(answer, "mask", None), Tensor):  # what our encoders give
        embeds, mask = answer.embeddings, answer.mask
    embeds = torch.as_tensor(embeds).detach().to("cpu", torch.float32)
    if embeds.ndim != 3 or len(embeds) != 1:
        raise DataError(f"embed_texts_fn gave {tuple(embeds.shape)} for the one text {text!r}: expected (1, n, d)")
    real = (embeds != 0).any(dim=-1) if mask is None else torch.as_tensor(mask).detach().cpu().bool()
    return embeds[0][real[0]].numpy()


@no_type_check
def _file(folder: str | Path, kind: str, identity: str) -> ArrayFile:
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return ArrayFile(Path(folder) / f"{kind}-{digest}.arrays")


@no_type_check
def _identity(function: Callable[..., Any]) -> str:
    """Changes with what `function` computes, as far as that can be told."""
    encoder = getattr(getattr(function, "__self__", None), "text_encoder", None)
    return json.dumps(described_by_content(function if encoder is None else encoder))
