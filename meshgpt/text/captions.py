"""What a mesh is called while a model learns its words: captions in many forms, from what its record says.

Captions of game assets are short names ("small round table", "crate"); people ask in sentences. So each training view
of a mesh gets another wording: a template, a synonym of its kind, fewer adjectives, only its kind, or nothing at all.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np

from meshgpt.config import Config

TEMPLATES = (
    *("{a} {}", "{a} low poly {}", "{} low poly", "{a} low-poly {}", "{a} lowpoly {}"),
    *("{a} simple {}", "{a} stylized {}", "a 3d model of {a} {}", "a low poly model of {a} {}", "{} 3d model"),
    *("{a} {} made of triangles", "{a} {} for a game", "game asset: {}", "{a} mesh of {a} {}", "make {a} {}"),
)
NO_WORD = ("", "other")  # categories that say nothing
NO_THEME = ("", "prop", "misc", "posed background characters", "prototype level")
SYNONYMS: dict[str, tuple[str, ...]] = {
    "aircraft": ("airplane", "plane", "aeroplane"),
    "animal": ("creature", "beast"),
    "appliance": ("household appliance", "home appliance"),
    "arch": ("archway", "bridge"),
    "armor": ("armour", "piece of armor"),
    "axe": ("ax", "hatchet"),
    "bag": ("sack", "pouch"),
    "barrel": ("cask", "keg", "drum"),
    "bathroom": ("bathroom fixture", "bathroom item"),
    "bed": ("bedstead", "bed to sleep in"),
    "bin": ("trash can", "bucket", "waste bin"),
    "block": ("brick", "cube", "building block"),
    "boat": ("ship", "vessel"),
    "bone": ("skeleton part", "bones"),
    "book": ("volume", "tome"),
    "bottle": ("flask", "jar", "potion bottle"),
    "bow": ("bow and arrow", "archery weapon"),
    "bush": ("shrub", "hedge"),
    "cabinet": ("cupboard", "chest of drawers"),
    "cactus": ("succulent", "desert plant"),
    "camping": ("camping gear", "outdoor gear"),
    "car": ("vehicle", "automobile"),
    "chair": ("seat", "piece to sit on"),
    "chest": ("treasure chest", "trunk"),
    "clothing": ("garment", "piece of clothing"),
    "cloud": ("weather symbol", "puff"),
    "column": ("pillar", "post"),
    "cookware": ("pot", "pan", "cooking pot"),
    "crate": ("box", "case"),
    "cup": ("mug", "glass"),
    "cutlery": ("kitchen utensil", "utensil"),
    "dessert": ("sweet", "cake", "treat"),
    "dinosaur": ("prehistoric animal", "dino"),
    "door": ("gate", "doorway"),
    "electronics": ("electronic device", "gadget"),
    "explosive": ("bomb", "trap", "weapon"),
    "fence": ("railing", "barrier"),
    "fish": ("sea creature", "sea animal"),
    "floor": ("floor tile", "ground tile", "path"),
    "flower": ("blossom", "bloom"),
    "food": ("meal", "something to eat"),
    "frame": ("picture frame", "picture"),
    "fruit": ("piece of fruit",),
    "grave": ("gravestone", "tombstone", "tomb"),
    "gun": ("firearm", "weapon", "blaster"),
    "hammer": ("mallet", "mace"),
    "house": ("building", "home"),
    "instrument": ("musical instrument",),
    "key": ("lock and key",),
    "lamp": ("light", "lantern"),
    "machine": ("device", "apparatus"),
    "monster": ("creature", "enemy"),
    "mushroom": ("toadstool", "fungus"),
    "person": ("human", "character", "figure"),
    "pipe": ("tube", "duct"),
    "plant": ("greenery", "vegetation"),
    "plate": ("dish", "bowl"),
    "road": ("street", "road tile"),
    "robot": ("mech", "android"),
    "rock": ("stone", "boulder"),
    "roof": ("rooftop", "roof part"),
    "shelf": ("rack", "bookshelf"),
    "shield": ("buckler",),
    "sign": ("banner", "flag", "signpost"),
    "sofa": ("couch", "settee"),
    "spaceship": ("space ship", "spacecraft", "starship"),
    "staff": ("stick", "cane", "wand"),
    "stairs": ("steps", "staircase", "ladder"),
    "sword": ("blade", "dagger"),
    "symbol": ("icon", "sign"),
    "table": ("desk",),
    "tank": ("armoured vehicle",),
    "terrain": ("landscape", "piece of land", "hill"),
    "textile": ("carpet", "cushion", "piece of cloth"),
    "tool": ("implement", "hand tool"),
    "tower": ("turret",),
    "toy": ("plaything", "piece of sports gear"),
    "train": ("railway vehicle", "locomotive"),
    "treasure": ("jewel", "precious thing"),
    "tree": ("forest tree", "big plant"),
    "vase": ("flower pot", "planter"),
    "vegetable": ("veggie", "crop"),
    "wall": ("wall piece", "wall section"),
    "window": ("window frame", "pane"),
}
# Pairs of words of which one takes the place of the other: anywhere, and where the word is the kind of the mesh itself.
EQUAL_WORDS = (("small", "little"), ("large", "big"), ("fridge", "refrigerator"), ("tv", "television"))
EQUAL_KINDS = (
    *(("sofa", "couch"), ("rock", "stone"), ("box", "crate"), ("airplane", "plane"), ("column", "pillar")),
    *(("barrel", "cask"), ("bush", "shrub"), ("cup", "mug"), ("spaceship", "spacecraft"), ("lamp", "light")),
    *(("house", "building"), ("street", "road"), ("bag", "sack"), ("carpet", "rug"), ("trashcan", "bin")),
)


@dataclass(frozen=True)
class CaptionWriter(Config):
    """Another wording of what a record says, drawn by a `np.random.Generator`: `writer(record, rng)`.

    Each number is a share of captions: `plain` are left as they are; `category` name the kind of thing only, by its
    name or a synonym; `theme` end with what the set of meshes is about; `dropout` are None, beside what the model drops
    itself. `synonym` and `word_dropout` are the chances of a word to be replaced by an equal one, and of one before
    the thing's name to be left out. `templates`: {} is the caption, {a} its article or that of the next
    word, left out before a plural.
    """

    plain: float = 0.3
    category: float = 0.2
    theme: float = 0.1
    synonym: float = 0.3
    word_dropout: float = 0.1
    dropout: float = 0.0
    templates: tuple[str, ...] = TEMPLATES

    def validate(self) -> None:
        for name in ("plain", "category", "theme", "synonym", "word_dropout", "dropout"):
            self.require(0 <= getattr(self, name) <= 1, name, "lie in [0, 1]")
        self.require(len(self.templates) > 0, "templates", "hold at least one")
        self.require(all("{}" in template for template in self.templates), "templates", "have {} where the caption is")

    @no_type_check
    def __call__(self, record, rng: np.random.Generator) -> str | None:
        """A caption of `record`, or None for none; depends on what the record says and `rng` alone.

        record: anything with caption, category and theme (in `extra`, perhaps) as attributes or keys; each may be
        missing or ''. With none of them the caption is None.
        """
        caption, category, theme = (described(record)[name] for name in ("caption", "category", "theme"))
        drop, kind_only, untouched, with_theme = rng.random(4)
        names = () if category in NO_WORD else (category, *SYNONYMS.get(category, ()))
        if drop < self.dropout or not (caption or names):
            return None
        if names and (kind_only < self.category or not caption):
            caption = str(rng.choice(names))
        elif untouched < self.plain:
            return caption
        else:
            caption = self._reworded(caption, names, rng)
        if with_theme < self.theme and theme not in NO_THEME:
            caption = f"{caption}, {theme}"
        elif untouched >= self.plain:
            caption = filled(str(rng.choice(self.templates)), caption)
        return caption

    def _reworded(self, caption: str, names: tuple[str, ...], rng: np.random.Generator) -> str:
        """With equal words, and without some that stand before the thing, which may have a name of two words."""
        words = caption.split()
        replaced, dropped = rng.random(len(words)) < self.synonym, rng.random(len(words)) < self.word_dropout
        certain = 1 if words[-1] in names else 2
        return " ".join(
            _equal_word(word, names) if replaced[place] else word
            for place, word in enumerate(words)
            if place >= len(words) - certain or word in names or not dropped[place]
        )

    @no_type_check
    def caption(self, record, variant: int, seed: int = 0) -> str | None:
        """Wording number `variant` of `record`; the same in every run of that seed, whatever the order of records."""
        told = "|".join((*described(record).values(), str(variant), str(seed)))
        digest = hashlib.sha256(told.encode()).digest()
        return self(record, np.random.default_rng(int.from_bytes(digest[:16], "little")))

    @no_type_check
    def all_captions(self, records: Iterable[Any], count: int, seed: int = 0) -> list[str]:
        """Each text once that the first `count` wordings of `records` hold: what there is to embed before a run."""
        found = (self.caption(record, variant, seed) for record in records for variant in range(count))
        return list(dict.fromkeys(text for text in found if text is not None))


@no_type_check
def described(record) -> dict[str, str]:
    """Name, caption, category and theme of a record with attributes or keys of these names; '' for what it lacks."""
    if not isinstance(record, Mapping):
        fields = {name: getattr(record, name, None) for name in ("name", "caption", "text", "category", "theme")}
        record = {**(getattr(record, "extra", None) or {}), **{name: value for name, value in fields.items() if value}}
    caption = next((record[key] for key in ("caption", "texts", "text") if record.get(key)), "")
    told = {"name": record.get("name"), "caption": caption, "category": record.get("category")}
    return {name: str(value or "").strip() for name, value in {**told, "theme": record.get("theme")}.items()}


def _equal_word(word: str, names: tuple[str, ...]) -> str:
    pairs = EQUAL_WORDS + EQUAL_KINDS if word in names else EQUAL_WORDS
    return next((pair[1 - pair.index(word)] for pair in pairs if word in pair), word)


def filled(template: str, caption: str) -> str:
    """`template` with `caption` for {} and, for each {a}, the article that fits, which is none before a plural.

    >>> filled("a 3d model of {a} {}", "old oak"), filled("{a} simple {}", "scissors")
    ('a 3d model of an old oak', 'simple scissors')
    """
    words = template.replace("{}", caption).split()
    plural = _is_plural(caption)
    written = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word != "{a}":
            written.append(word)
        elif not plural:
            written.append("an" if following[:1] in "aeiou" else "a")
    return " ".join(written)


def _is_plural(caption: str) -> bool:
    last = caption.split()[-1]
    return last.endswith("s") and not last.endswith(("ss", "us", "is")) and len(last) > 3
