"""Models that are told what to make: conditions checked, encoded, and dropped for guidance."""

import dataclasses
import typing
from typing import Any

import torch
from torch import Tensor, nn

from meshgpt.errors import ConditionError
from meshgpt.text.encoder import CallableEncoder, TextEncoder, text_encoder
from meshgpt.transformer.asks import Asks
from meshgpt.transformer.conditioning import Conditioner, Context, dropped_at_random
from meshgpt.transformer.conditions import (
    KINDS,
    Conditions,
    category_conditions,
    face_conditions,
    point_conditions,
    rows_of,
    text_conditions,
)
from meshgpt.transformer.config import MeshTransformerConfig
from meshgpt.transformer.guidance import Guidance
from meshgpt.transformer.held import Held, as_in_evaluation
from meshgpt.transformer.model import FaceWriter

ARGUMENTS = {"text": "texts", "category": "categories", "num_faces": "num_faces", "points": "points"}
CONDITION_KEYWORDS = ("texts", "text_embeds", "text_mask", "categories", "num_faces", "points", "conditions")


class Conditioned(nn.Module):
    """What callers ask a model for, with the text encoder that reads their words."""

    config: Asks
    conditioner: Conditioner | None
    _encoder: Held | None = None

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @typing.no_type_check
    def conditions_of(
        self,
        batch_size=None,
        *,
        texts=None,
        text_embeds=None,
        text_mask=None,
        categories=None,
        num_faces=None,
        points=None,
        conditions=None,
    ) -> Conditions:
        """What is asked of `batch_size` meshes, or of as many as conditions are given, on the model's device.

        texts: one for all rows, or a list with None where there is none. text_embeds: (b n dt) in their place, and
        text_mask (b n), True at tokens (not given: where not all is zero). categories: names or numbers, -1 or None for
        none. num_faces: how many faces to aim at. points: clouds (p 3), or (p 6) with unit normals, in the frame of the
        normalised mesh. conditions: all of these as one value. Raises `ConditionError` for what is malformed, of other
        numbers of rows, or of a kind that the model was not made for.
        """
        if conditions is not None:
            beside = {"texts": texts, "text_embeds": text_embeds, "text_mask": text_mask, "categories": categories}
            beside |= {"num_faces": num_faces, "points": points}
            twice = [name for name, value in beside.items() if value is not None]
            if twice:
                raise ConditionError(f"both conditions and {twice[0]} are given: leave one out")
            return self._checked_conditions(conditions, batch_size)
        parts: dict[str, Tensor] = {}
        if texts is not None:
            if text_embeds is not None:
                raise ConditionError("both texts and text_embeds are given: leave one out")
            self._takes("text", "texts")
            text_embeds, text_mask = self.embed_texts(texts)
        given = {
            "text": (text_embeds, lambda: text_conditions(text_embeds, text_mask, self.config.text_width)),
            "category": (categories, lambda: category_conditions(categories, self.config.categories, batch_size)),
            "num_faces": (num_faces, lambda: face_conditions(num_faces, batch_size)),
            "points": (points, lambda: point_conditions(points)),
        }
        for kind, (value, make) in given.items():
            if value is not None:
                self._takes(kind, "text_embeds" if kind == "text" else ARGUMENTS[kind])
                parts |= make()
        counts = {name: len(part) for name, part in parts.items() if not name.endswith("_mask")}
        rows = rows_of(batch_size, counts)
        parts = {name: part.expand(rows, *part.shape[1:]).to(self.device) for name, part in parts.items()}
        return Conditions(rows, **parts)

    @typing.no_type_check
    def embed_texts(self, texts) -> tuple[Tensor, Tensor]:
        """(embeddings (b n dt), mask (b n)) of a text or a list, None in it for no text, by the text encoder."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        wrong = [item for item in texts if item is not None and not isinstance(item, str)]
        if wrong:
            raise ConditionError(f"texts must be strings, or None for no text, got {type(wrong[0]).__name__}")
        self._takes("text", "texts")
        if not texts:
            raise ConditionError("no text is given: texts is empty")
        found = self.text_encoder.embed([text or "" for text in texts])
        said = torch.tensor([bool(text) for text in texts])
        embeds, mask = found.embeddings.to(self.device), (found.mask & said[:, None]).to(self.device)
        if embeds.shape[-1] != self.config.text_width:
            raise ConditionError(
                f"the text encoder gives {embeds.shape[-1]} numbers a token, the model takes {self.config.text_width} "
                "(dim_text): use the encoder that it was made for"
            )
        return embeds, mask

    @property
    def text_encoder(self) -> TextEncoder:
        """The encoder of `texts`, loaded when first asked for. Raises what `meshgpt.text.encoder.text_encoder` does."""
        if self._encoder is None:
            self._encoder = Held(text_encoder(self.config.text_condition_model_types[0]))
        return self._encoder.value

    @typing.no_type_check
    def use_text_encoder(self, encoder) -> None:
        """Reads texts by this encoder, or by a function of a list of texts that gives (embeddings, mask)."""
        if not self.config.takes("text"):
            raise ConditionError("a text encoder for a model that takes no text: make it with condition_on_text = True")
        self._encoder = Held(encoder if hasattr(encoder, "embed") else CallableEncoder(encoder, self.config.text_width))

    def context_of(
        self, conditions: Conditions | None, batch_size: int, cond_drop_prob: float | None = None
    ) -> Context | None:
        """What the stacks read; None for a model that takes no condition."""
        if self.conditioner is None:
            if conditions is not None and conditions.kinds:
                raise ConditionError(f"this model is unconditional and takes no {conditions.kinds[0]}")
            return None
        conditions = self._checked_conditions(conditions or Conditions(batch_size), batch_size)
        if self.training or cond_drop_prob is not None:
            conditions = dropped_at_random(conditions, self.config, cond_drop_prob)
        return self.conditioner(conditions)

    @typing.no_type_check
    def _checked_conditions(self, conditions, batch_size: int | None) -> Conditions:
        if not isinstance(conditions, Conditions):
            raise ConditionError(f"conditions must be a Conditions, got {type(conditions).__name__}")
        if batch_size is not None and len(conditions) != batch_size:
            if len(conditions) != 1:
                raise ConditionError(f"conditions of {len(conditions)} meshes for a batch of {batch_size}")
            conditions = conditions.select(torch.zeros(batch_size, dtype=torch.long))
        for kind in conditions.kinds:
            self._takes(kind, ARGUMENTS[kind])
        return conditions.to(self.device)

    def _takes(self, kind: str, name: str) -> None:
        if self.config.takes(kind):
            return
        if not self.config.is_conditioned:
            raise ConditionError(f"this model is unconditional and takes no `{name}`: leave it out")
        known = ", ".join(ARGUMENTS[kind] for kind in self.config.kinds)
        raise ConditionError(f"this model takes no `{name}`, it was made for {known}: leave it out")

    @torch.no_grad()
    @typing.no_type_check
    def guided_context(self, conditions: Conditions, negative_texts, guidance: Guidance) -> tuple[Context | None, bool]:
        """What is asked of each row, followed under guidance by what is not; and whether there is guidance."""
        if self.conditioner is None:
            if guidance.is_on or negative_texts is not None:
                raise ConditionError("this model is unconditional, there is nothing to guide: leave out cond_scale")
            return None, False
        if negative_texts is not None and not guidance.is_on:
            raise ConditionError("negative_texts without guidance: give a cond_scale above 1")
        with as_in_evaluation(self):
            if not guidance.is_on:
                return self.context_of(conditions, len(conditions)), False
            unasked = conditions.without(guidance.guided or KINDS)
            if negative_texts is not None:
                parts = self.conditions_of(len(conditions), texts=negative_texts)
                unasked = dataclasses.replace(unasked, text_embeds=parts.text_embeds, text_mask=parts.text_mask)
            both = Conditions.join([conditions, unasked])
            return self.context_of(both, len(both)), True


class ConditionedWriter(FaceWriter, Conditioned):
    """A `FaceWriter` that is told what to write."""

    config: MeshTransformerConfig

    @typing.no_type_check
    def conditions_for(self, codes, given: dict[str, Any]) -> Conditions | None:
        """`conditions_of` for learning from codes: a mesh has as many faces as it has, unless that is given.

        Raises `ConditionError` for a model in training that is given nothing to learn from.
        """
        found = self.conditions_of(len(codes), **given)
        if not self.config.is_conditioned:
            return None
        if self.training and not found.kinds and self.config.kinds != ("num_faces",):
            wanted = ", ".join(ARGUMENTS[kind] for kind in self.config.kinds)
            raise ConditionError(f"this model learns from conditions, and none is given: pass some of {wanted}")
        if self.config.takes("num_faces") and found.num_faces is None:
            found = dataclasses.replace(found, num_faces=self.faces_in(codes).clamp(min=1))
        return found
