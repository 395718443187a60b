"""Which of several candidates looks most like what was asked for? A recognizer says, while meshes are made."""

import re
import warnings
from collections.abc import Sequence
from typing import Any, no_type_check

import torch
from torch import Tensor

from meshgpt.errors import MissingExtraError, TextEncoderError
from meshgpt.evaluation.evaluate import EVALUATORS
from meshgpt.evaluation.recognition import ShapeRecognizer
from meshgpt.mesh.mesh import Mesh
from meshgpt.text.captions import filled
from meshgpt.text.encoder import text_encoder

UNSEEN = -20.0  # for a mesh without a surface


class ShapeJudge:
    """Calls give log-probabilities of what meshes were asked to be, among the categories that the recognizer knows.

    A category it knows counts by its probability, and so does a text that names one; any other wish by how near it lies
    to the mesh among the names of all categories. Give it to `MeshPipeline.generate(judge=...)`. One recognizer must
    not choose meshes and say afterwards how good they are: measure with another, as `benchmarks/choosing.py` does.
    """

    @no_type_check
    def __init__(self, recognizer=None):
        """`recognizer`: a `ShapeRecognizer`, the bundled one if not given."""
        self.recognizer = recognizer or ShapeRecognizer.from_pretrained(EVALUATORS)
        self.names = list(self.recognizer.config.categories)
        self.read: dict[str, Tensor | None] = {}  # texts

    @no_type_check
    def __call__(self, meshes: Sequence[Mesh], texts: Sequence[Any], categories: Sequence[Any]) -> list[float]:
        """One number a mesh; 0 where nothing was asked for. texts, categories: one a mesh, None for none."""
        looks = self.recognizer.recognize(list(meshes))
        known, found = looks.logits.log_softmax(dim=-1), []
        for row, wishes in enumerate(zip(texts, categories, strict=True)):
            asked = [wish for wish in wishes if wish is not None]
            scores = [self._fits(wish, known[row], looks.embeddings[row]) for wish in asked]
            found.append(sum(scores) if bool(looks.seen[row]) or not asked else UNSEEN)
        return found

    def _fits(self, wish: Any, known: Tensor, embedding: Tensor) -> float:
        """log p of one wish; embeddings of a text, which say nothing to the recognizer, count for nothing."""
        if not isinstance(wish, str):
            return 0.0
        named = [name for name in self.names if re.search(rf"\b{re.escape(name)}s?\b", wish.lower())]
        if named:
            return float(known[self.names.index(max(named, key=len))])
        return self._nearness(embedding, wish)

    @torch.no_grad()
    def _nearness(self, embedding: Tensor, text: str) -> float:
        """log p of a text among the names of all categories, by an embedding of a mesh; 0 where none can be read."""
        if text not in self.read:
            self.read[text] = self._read(text)
        read = self.read[text]
        if read is None:
            return 0.0
        return float((read @ embedding * float(self.recognizer.log_scale.exp())).log_softmax(dim=0)[0])

    @torch.no_grad()
    def _read(self, text: str) -> Tensor | None:
        """A text and the names of all other categories as the recognizer reads them, once for all meshes."""
        others = [name for name in (filled("{a} {}", name) for name in self.names) if name != text]
        try:
            pooled = text_encoder(self.recognizer.config.text_encoder).embed([text, *others]).pooled
        except (TextEncoderError, MissingExtraError) as error:
            warnings.warn(f"candidates are not chosen by {text!r}: {error}", stacklevel=2)
            return None
        return self.recognizer.read_texts(pooled).cpu()
