"""The weights of one model as the start of another that takes other conditions.

Layers are matched by what they do, in order: the third attention layer of one coarse stack is that of the other,
however many cross-attention layers stand between. What is new begins by adding nothing, so that the new model gives the
same likelihoods as the old one, and learns from there what conditions mean.
"""

import re
import typing
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from meshgpt.errors import CheckpointError
from meshgpt.transformer.import_checkpoint import ImportReport
from meshgpt.transformer.recurrence import Recurrence
from meshgpt.transformer.stack import Stack
from meshgpt.transformer.surroundings import PLACE_FEATURES
from meshgpt.transformer.transformer import MeshTransformer

CATEGORIES = "conditioner.category.weight"
# what a new condition acts through: zero, these add nothing
OUTLETS = (
    r"(coarse|fine) cross_attention \d+\.1\.to_out\.weight|to_start\..+|film\..+|conditioner\.remaining\.weight"
    r"|cloud_reader\.(out\..+|bins\.weight)|head\.heed\..+|cloud_tips\.(to_end|score_side)\..+|head\.to_agreeing\..+"
)
TOLD = r"around\.read\.0\.weight"  # reads the places around a code, and then waves and facts
HINTS = r"head\.to_hints\.\d+\.(weight|bias)"  # near places, and then as many far ones


@torch.no_grad()
@typing.no_type_check
def initialise_from(model: MeshTransformer, other: MeshTransformer) -> ImportReport:
    """Copies into `model` all weights of `other` that have the same role and shape; tells what became of each.

    Cross-attention, start, FiLM, budget, points nearby and places told that `other` lacks add nothing at first: where
    nothing is asked that `other` does not take, and the stacks are otherwise alike, the likelihoods are the same. Not
    so in reversible stacks and those with several residual streams, where no layer leaves the others alone; a warning
    says so. Embeddings of categories go by name. Raises `CheckpointError` where no attention layer fits.
    """
    ours, theirs = _roles(model), _roles(other)
    state, tensors = model.state_dict(), other.state_dict()
    reasons = {name: _refusal(role, ours, tensors[name], state, model, other) for role, name in theirs.items()}
    left = {name: reason for name, reason in reasons.items() if reason is not None}
    mapped = {name: ours[role] for role, name in theirs.items() if name not in left}
    if not any(".to_q." in name for name in mapped):
        first = next((f": {name} {why}" for name, why in left.items() if ".to_q." in name), "")
        raise CheckpointError(
            f"no attention layer of the other model fits this one{first}; make both of the same sizes"
        )
    for name, own in mapped.items():
        if own == CATEGORIES:
            _copy_categories(model, other)
        elif state[own].shape == tensors[name].shape:
            state[own].copy_(tensors[name])
        else:
            _copy_told(state[own], tensors[name], model, other)
    filled = set(mapped.values())
    fresh = {role: name for role, name in ours.items() if name not in filled}
    for role, name in fresh.items():
        if re.fullmatch(OUTLETS, role):
            state[name].zero_()
    _warn_of_layers_between(model, fresh)
    return ImportReport(mapped, left, tuple(fresh.values()))


def _warn_of_layers_between(model: MeshTransformer, fresh: Iterable[str]) -> None:
    for name, stack in (("coarse", model.coarse), ("fine", model.fine)):
        mixes = stack.spec.reversible or stack.spec.num_residual_streams > 1
        if mixes and any(role.startswith(f"{name} cross_attention") for role in fresh):
            kind = "reversible" if stack.spec.reversible else "of several residual streams"
            what = f"the {name} stack is {kind}: new cross-attention in it changes what the layers after it read"
            warnings.warn(f"{what}, so the model does not begin where the other one stands", stacklevel=4)


def _roles(model: MeshTransformer) -> dict[str, str]:
    """{what a tensor does: its name}; for layers of the stacks that is their kind, and which of that kind they are."""
    prefixes = {**_layer_roles("coarse", model.coarse), **_layer_roles("fine", model.fine)}
    roles = {}
    for name in model.state_dict():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        roles[prefixes.get(prefix, "") + name[len(prefix) :]] = name
    return roles


def _layer_roles(name: str, stack: Stack) -> dict[str, str]:
    """{prefix of the names of a layer's tensors: its role}, longer prefixes first."""
    counts: dict[str, int] = {}
    roles: dict[str, str] = {}

    def add(prefix: str, kind: str) -> None:
        roles[prefix] = f"{name} {kind} {counts.setdefault(kind, 0)}."
        counts[kind] += 1

    kinds = iter(stack.spec.layers)
    for number, part in enumerate(stack.parts):
        prefix = f"{name}.parts.{number}."
        if isinstance(part, Recurrence):
            add(prefix, next(kinds))
            continue
        for layer in range(len(part.layers)):  # type: ignore[arg-type]
            add(f"{prefix}layers.{layer}.", next(kinds))
        add(prefix, "run")
    return roles


@typing.no_type_check
def _refusal(role: str, ours: dict[str, str], tensor: Tensor, state: dict[str, Tensor], model, other) -> str | None:
    """Why a tensor of the other model cannot be copied."""
    if role not in ours:
        return "is no part of this model"
    if role == CATEGORIES:
        return None if set(model.config.categories) & set(other.config.categories) else "has other categories"
    shape = tuple(state[ours[role]].shape)
    if tuple(tensor.shape) != shape and not _tells_more(role, tensor, state[ours[role]], model, other):
        return f"is {tuple(tensor.shape)}, {ours[role]} is {shape}"
    encoders = [m.config.text_condition_model_types for m in (model, other)]
    if role.startswith("conditioner.text.") and encoders[0] != encoders[1]:
        return f"reads the text encoder {encoders[1][0]!r}, not {encoders[0][0]!r}"
    return None


@typing.no_type_check
def _copy_categories(model: MeshTransformer, other: MeshTransformer) -> None:
    known = {name: number for number, name in enumerate(other.config.categories)}
    for number, name in enumerate(model.config.categories):
        if name in known:
            model.conditioner.category.weight[number] = other.conditioner.category.weight[known[name]]


def _tells_more(role: str, theirs: Tensor, ours: Tensor, model: MeshTransformer, other: MeshTransformer) -> bool:
    """Whether a tensor has another shape for no other reason than that this model is told of more places."""
    if other.form.num_places > model.form.num_places or other.form.num_facts > model.form.num_facts:
        return False
    if re.fullmatch(TOLD, role):
        return theirs.shape[0] == ours.shape[0]
    return re.fullmatch(HINTS, role) is not None and theirs.shape[1:] == ours.shape[1:]


def _copy_told(ours: Tensor, theirs: Tensor, model: MeshTransformer, other: MeshTransformer) -> None:
    """Weights of the places, or of the hints, that both models are told of; zero for those that are new."""
    ours.zero_()
    if len(ours) == len(theirs):  # what reads places: columns
        each = PLACE_FEATURES * other.form.num_places
        ours[:, :each] = theirs[:, :each]
        ours[:, PLACE_FEATURES * model.form.num_places :][:, : theirs.shape[1] - each] = theirs[:, each:]
        return
    near, count = len(ours) // 2, len(theirs) // 2
    ours[:count] = theirs[:count]
    ours[near : near + count] = theirs[count:]
