"""Meshes among the words of a language model: captions and meshes in one sequence of ids, and back.

python examples/09_mesh_tokens_in_a_language_model.py [--tokenizer patch] [--context 60]

The language model's tokenizer is a small one, trained here on the captions of the bundled sample; any of `tokenizers`
or `transformers` takes its place. Needs the package tokenizers: pip install 'meshgpt[text]'
"""

import argparse

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import meshgpt

KINDS = {
    "patch": meshgpt.PatchTokenizer,
    "strip": meshgpt.StripTokenizer,
    "half-edge": meshgpt.HalfEdgeTokenizer,
    "coordinates": meshgpt.CoordinateTokenizer,
    "learned": lambda: meshgpt.MeshAutoencoder.from_pretrained("lowpoly"),
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--tokenizer", choices=KINDS, default="patch")
parser.add_argument("--context", type=int, default=60, help="the most tokens that a chunk may have")
arguments = parser.parse_args()

data = meshgpt.MeshDataset("tiny")
captions = [f"a low-poly mesh of {caption} :" for caption in data.column("caption")]
words = Tokenizer(models.BPE(unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
words.train_from_iterator(captions, trainers.BpeTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False))

# the mesh tokens join the words; a model's embeddings would be resized to the new number of them
before = words.get_vocab_size()
vocabulary = meshgpt.MeshVocabulary(KINDS[arguments.tokenizer]()).added_to(words)
print(f"{before} words and {len(vocabulary)} mesh tokens: {', '.join(vocabulary.tokens[:4])}, ...")

# two captions and two meshes as one text, one list of ids, and apart again
meshes = [data.mesh(index) for index in (0, 1)]
ids = [vocabulary.tokenizer.encode(mesh) for mesh in meshes]
text = " ".join(f"{caption} {vocabulary.to_text(mesh)}" for caption, mesh in zip(captions, ids, strict=False))
sequence = words.encode(text).ids
print(f"{text[:100]}...\n{len(sequence)} ids, the first ones {sequence[:12]}")
for part in vocabulary.split_model_ids(sequence):
    shown = words.decode(part) if isinstance(part, list) else vocabulary.tokenizer.decode(part.ids)
    print(f"  {shown}")

# a mesh that is too long for the context, in pieces
chunks = vocabulary.chunks(ids[0], arguments.context)
joined = vocabulary.from_model_ids([token for chunk in chunks for token in chunk])
print(
    f"{len(ids[0])} ids in chunks of {[len(chunk) for chunk in chunks]}, whole again: {bool((joined == ids[0]).all())}"
)

# what a language model writes, face by face
stream = vocabulary.stream()
grown = [len(stream.push(token)) for token in sequence]
print(f"{sum(grown)} faces came one by one or a few at a time, with {sum(map(bool, grown))} of {len(sequence)} ids")
