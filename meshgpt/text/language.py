"""Does an encoder know the language of a text? Told by its script, and by the share of words it has no token for."""

import unicodedata
import warnings
from collections.abc import Iterable

MOST_UNKNOWN = 0.3  # share of tokens that may be the unknown one
MOST_FOREIGN = 0.5  # share of letters that may be of a script other than Latin
SHOWN = 3


class UnknownLanguageWarning(UserWarning):
    """An encoder is given a text in a language it was not trained on: the mesh will have little to do with it."""


def share_not_latin(text: str) -> float:
    """The share of letters that are not of the Latin script; 0 where there are none."""
    letters = [letter for letter in text if letter.isalpha()]
    foreign = [letter for letter in letters if "LATIN" not in unicodedata.name(letter, "")]
    return len(foreign) / len(letters) if letters else 0.0


def is_foreign(text: str, unknown_share: float, latin_only: bool) -> bool:
    """Whether an encoder that has no token for `unknown_share` of a text should not be expected to understand it."""
    return unknown_share > MOST_UNKNOWN or (latin_only and share_not_latin(text) > MOST_FOREIGN)


def warn_of_foreign(texts: Iterable[str], encoder: str, knows: str) -> None:
    """One `UnknownLanguageWarning` that names the first of `texts`; silent where there are none."""
    texts = list(texts)
    if not texts:
        return
    shown = ", ".join(f"'{text if len(text) <= 60 else text[:60] + '...'}'" for text in texts[:SHOWN])
    shown += f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    warnings.warn(
        f"the text encoder '{encoder}' knows {knows}; do not expect it to understand {shown}: translate, or use an "
        "encoder of that language (any model of the hub by its name)",
        UnknownLanguageWarning,
        stacklevel=4,
    )
