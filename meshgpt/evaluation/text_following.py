"""Does a mesh look like the text that it was made for? A recognizer that learned from real meshes says."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import torch

from meshgpt.data.dataset import MeshDataset
from meshgpt.errors import DataError
from meshgpt.evaluation.ranking import Share, share_at
from meshgpt.evaluation.recognition import ShapeRecognizer
from meshgpt.mesh.mesh import Mesh
from meshgpt.text.captions import filled
from meshgpt.text.encoder import text_encoder

PLACES = (1, 5)  # a hit is among so many first


@dataclass(frozen=True)
class Prompt:
    """A text, and the category of what it asks for."""

    text: str
    category: str


@dataclass(frozen=True)
class TextFollowing:
    """Shares of meshes: of the first k categories of the recognizer, `category[k]` hold the one that was asked for; of
    the first k of all texts asked for, `retrieval[k]` (R@k) hold the mesh's own. A mesh without surface is a miss."""

    category: dict[int, Share]
    retrieval: dict[int, Share]
    without_surface: int

    def to_dict(self) -> dict[str, float | list[float] | int]:
        """In per cent, the first places with their 95 % intervals, for JSON."""
        told: dict[str, float | list[float] | int] = {}
        for name, shares in (("category top-", self.category), ("R@", self.retrieval)):
            for k, share in shares.items():
                told[f"{name}{k}"] = round(100 * share.value, 1)
                told[f"{name}{k} from-to"] = [round(100 * end, 1) for end in share.interval]
        return {**told, "without_surface": self.without_surface}


@no_type_check
def text_following(
    recognizer: ShapeRecognizer,
    meshes: Sequence[Mesh],
    asked: Sequence[int],
    prompts: Sequence[Prompt],
    texts: Sequence[str] | None = None,
    seed: int = 0,
) -> TextFollowing:
    """How well meshes follow what was asked for: mesh i is for `prompts[asked[i]]`.

    texts: among which a mesh's own is looked for; the distinct ones of all prompts if not given. seed: of the points on
    the meshes. Raises `DataError` where there is nothing to measure, and for a prompt whose text is none of `texts`.
    """
    texts = list(dict.fromkeys(prompt.text for prompt in prompts) if texts is None else texts)
    asked = [prompts[index] for index in asked]
    if not meshes or len(asked) != len(meshes):
        raise DataError(f"{len(meshes)} meshes for {len(asked)} prompts: one mesh at least, and a prompt for each")
    missing = next((prompt.text for prompt in asked if prompt.text not in texts), None)
    if missing is not None:
        raise DataError(f"'{missing}' was asked for and is none of the {len(texts)} texts to find it among")
    looks = recognizer.recognize(meshes, seed)
    with torch.no_grad():
        pooled = text_encoder(recognizer.config.text_encoder).embed(texts).pooled
        scores = looks.embeddings @ recognizer.read_texts(pooled).cpu().T
    own = torch.tensor([[text == prompt.text for text in texts] for prompt in asked]) & looks.seen[:, None]
    category = recognizer.relevant([prompt.category for prompt in asked]) & looks.seen[:, None]
    return TextFollowing(
        {k: share_at(looks.logits, category, k) for k in PLACES},
        {k: share_at(scores, own, k) for k in PLACES},
        int((~looks.seen).sum()),
    )


@no_type_check
def caption_prompts(dataset: MeshDataset, categories: Sequence[str]) -> list[Prompt]:
    """One a category, of those that `dataset` has: its commonest caption there, of equally common ones the first."""
    prompts = []
    for category in categories:
        captions = Counter(dataset.column("caption")[dataset.column("category") == category])
        if captions:
            prompts.append(Prompt(min(captions, key=lambda caption: (-captions[caption], caption)), category))
    return prompts


@no_type_check
def category_prompts(dataset: MeshDataset, categories: Sequence[str], count: int) -> list[Prompt]:
    """'a CATEGORY' for the `count` categories, of those given, of which `dataset` has most meshes."""
    counts = Counter(dataset.column("category"))
    largest = sorted((name for name in categories if counts[name]), key=lambda name: (-counts[name], name))
    return [Prompt(filled("{a} {}", name), name) for name in largest[:count]]


@no_type_check
def real_meshes(
    dataset: MeshDataset, prompts: Sequence[Prompt], by_caption: bool, most: int | None = None
) -> tuple[list[Mesh], list[int]]:
    """The meshes of `dataset` that are what a prompt asks for, by caption and category or by category alone, and which.

    Their figures are what a perfect generator would get. most: of a prompt, so that none weighs more than the others.
    """
    kinds = [(prompt.text if by_caption else "", prompt.category) for prompt in prompts]
    captions, names = dataset.column("caption"), dataset.column("category")
    found = zip(captions if by_caption else [""] * len(dataset), names, strict=True)
    matches = [(index, kinds.index(kind)) for index, kind in enumerate(found) if kind in kinds]
    taken: Counter[int] = Counter()
    kept = []
    for index, prompt in matches:
        taken[prompt] += 1
        if most is None or taken[prompt] <= most:
            kept.append((index, prompt))
    return [dataset.mesh(index) for index, _ in kept], [prompt for _, prompt in kept]
