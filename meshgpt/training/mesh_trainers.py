"""The trainers of the two models: which data, seen how, and which objective. The loop is `Trainer`'s."""

import warnings
from pathlib import Path
from typing import no_type_check

import numpy as np
from torch import Tensor

from meshgpt.config import resolve_config
from meshgpt.errors import TrainingError
from meshgpt.training.asked import AskedExamples, asked
from meshgpt.training.examples import MeshExamples, MeshView
from meshgpt.training.mesh_objectives import AutoencoderObjective, TransformerObjective
from meshgpt.training.settings import TrainerConfig
from meshgpt.training.tokens import TokenCache, TokenExamples, tokenized
from meshgpt.training.trainer import Trainer


class MeshAutoencoderTrainer(Trainer):
    """Trains a `MeshAutoencoder` on meshes: `MeshAutoencoderTrainer(model, dataset, num_train_steps = 1000, ...)()`.

    dataset: a `MeshDataset` or any torch data set of (vertices, faces[, text]), in the order of `data_kwargs`.
    augment: `augment(mesh, rng) -> Mesh`, applied to normalised meshes before the grid. Further keywords are the fields
    of `TrainerConfig`.
    """

    @no_type_check
    def __init__(
        self, model, dataset, config=None, *, val_dataset=None, augment=None, data_kwargs=None, weights=None, **keywords
    ):
        accelerator_kwargs = keywords.pop("accelerator_kwargs", None)
        config = resolve_config(TrainerConfig, config, keywords)
        view = MeshView(model.num_discrete_coors, model.corners, augment)
        plain = MeshView(model.num_discrete_coors, model.corners)
        super().__init__(
            model,
            MeshExamples(dataset, view, config.seed, data_kwargs),
            AutoencoderObjective(),
            config,
            val_examples=None if val_dataset is None else MeshExamples(val_dataset, plain, data_kwargs=data_kwargs),
            weights=weights,
            accelerator_kwargs=accelerator_kwargs,
        )

    @no_type_check
    def tokenize(self, vertices, faces, face_edges=None) -> Tensor:
        """Codes (b, nf * k, q) by the averaged model; see `MeshAutoencoder.tokenize`."""
        return self.ema_model.tokenize(vertices, faces, face_edges)


class MeshTransformerTrainer(Trainer):
    """Trains a `MeshTransformer` on the codes of meshes: `MeshTransformerTrainer(model, dataset, ...)()`.

    The model's tokenizer makes the codes once, of `num_variants` augmented forms of each mesh, and keeps them in
    `cache_folder` (the run's own if not given), where other runs find them. Meshes longer than the model's
    `max_seq_len` are left out, with a warning. The codes are made on the device that the tokenizer is on. The other
    arguments are those of `MeshAutoencoderTrainer`.

    What the model can be asked for is taken from the data: the text and the category of records and items, the number
    of faces and points of the surface of the mesh itself. `text_embeds` (n, d) of items, a vector for each token and
    zeros for padding (or a `text_mask` (n,) beside them), stand for their texts; then no encoder is needed.

    piece_faces: with a model that has a window, meshes of more faces are learned from in pieces of so many, another one
    each epoch (see `piece_start`), and none is too long; `max_seq_len` limits the piece. Conditions are of the whole
    mesh. Validation sees one piece of each.

    captions: a `CaptionWriter` that words the texts differently from epoch to epoch; if not given, the usual one for
    records of a `MeshDataset`, and other texts stay as they are. clouds: a `CloudAugmentation` that makes the points
    worse. Validation asks by plain captions, true numbers of faces and clean points.
    """

    @no_type_check
    def __init__(
        self,
        model,
        dataset,
        config=None,
        *,
        val_dataset=None,
        augment=None,
        num_variants=1,
        cache_folder=None,
        piece_faces=None,
        **keywords,
    ):
        names = ("accelerator_kwargs", "data_kwargs", "weights", "captions", "clouds")
        options = {name: keywords.pop(name, None) for name in names}
        config = resolve_config(TrainerConfig, config, keywords)
        if num_variants > 1 and augment is None:
            raise TrainingError(f"num_variants = {num_variants} needs augment: without it all variants are the same")
        for name, kind in (("captions", "text"), ("clouds", "points")):
            if options[name] is not None and not model.config.takes(kind):
                raise TrainingError(
                    f"{name} for a model that takes no {kind}: leave them out, or condition it on {kind}"
                )
        if piece_faces is not None:
            _check_pieces(model, piece_faces)
        cache = TokenCache(cache_folder or Path(config.checkpoint_folder) / "tokens")
        tokenizer, limit = model.tokenizer, model.config.max_seq_len

        def examples(dataset, augment, variants, exact=False) -> "TokenExamples | AskedExamples":
            view = MeshView(tokenizer.num_discrete_coors, tokenizer.corners, augment)
            meshes = MeshExamples(dataset, view, config.seed, options["data_kwargs"])
            tokens = tokenized(tokenizer, meshes, cache, variants, limit, piece_faces)
            if not model.config.is_conditioned:
                return tokens
            return asked(model, tokens, cache, config.seed, options["captions"], options["clouds"], exact)

        training, weights = examples(dataset, augment, num_variants), options["weights"]
        tokens = getattr(training, "tokens", training)
        self._codes_per_face = tokens.codes_per_face
        if model.draft is not None and not model.draft.is_ready:
            model.draft.learn_common(tokens.counts(model.vocab_size))
        super().__init__(
            model,
            training,
            TransformerObjective(),
            config,
            val_examples=None if val_dataset is None else examples(val_dataset, None, 1, exact=True),
            weights=None if weights is None else np.asarray(weights)[training.kept],
            accelerator_kwargs=options["accelerator_kwargs"],
        )

    def _size_limit(self, faces: int) -> int:
        return round(faces * self._codes_per_face)


@no_type_check
def _check_pieces(model, piece_faces: int) -> None:
    """Raises `TrainingError` for a model that cannot learn from pieces of so many faces."""
    reason = model.needs_whole_meshes
    if reason:
        raise TrainingError(f"piece_faces = {piece_faces}, but the model needs whole meshes: {reason}")
    most = model.config.max_seq_len // model.tokens_per_face
    if not 1 <= piece_faces <= most:
        what = f"piece_faces = {piece_faces} must lie in 1 .. {most}, the faces that max_seq_len has room for"
        raise TrainingError(f"{what}: use smaller pieces, or a model with a larger max_seq_len")
    if model.config.window > piece_faces:
        what = f"the model sees {model.config.window} faces back, and a piece has {piece_faces}"
        warnings.warn(f"{what}: what lies further back than a piece it does not learn to read", stacklevel=3)
