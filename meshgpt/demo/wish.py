"""What a person asks for on the page, checked with words for that person."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, no_type_check

from meshgpt.errors import ConditionError

MOST_CANDIDATES = 32
MOST_SEED = 2**31 - 1
MOST_LETTERS = 300
MOST_GUIDANCE = 10.0
FEWEST_POINTS = 100


@dataclass(frozen=True)
class Wish:
    """One request, already checked: a text or a category, or the file of a shape to follow."""

    text: str | None = None
    category: str | None = None
    shape: Path | None = None
    up: str = "y"
    faces: int | None = None
    seed: int | None = None
    guidance: float | None = None
    candidates: int = 4

    @classmethod
    @no_type_check
    def checked(cls, fields) -> "Wish":
        """Of what the fields of the page hold, {name: value}, where any may be empty; `follow` asks for a shape.

        Raises `ConditionError` for the person to read.
        """
        text, shape = (fields.get("text") or "").strip() or None, fields.get("shape") or None
        category = fields.get("category") or None
        if fields.get("follow") and shape is None:
            raise ConditionError("There is no shape yet. Drop a mesh or a point cloud into the field first.")
        if text is not None and len(text) > MOST_LETTERS:
            raise ConditionError(f"The text has {len(text)} letters. Say it in at most {MOST_LETTERS}.")
        if text is None and category is None and shape is None:
            raise ConditionError("There is nothing to write yet. Type what you would like, or choose a category.")
        budget = _whole("face budget", fields.get("faces"), 1, None, "Leave it empty to let the model decide.")
        seed = _whole("seed", fields.get("seed"), 0, MOST_SEED, "Leave it empty for a new one each time.")
        candidates = _whole("number of candidates", fields.get("candidates"), 1, MOST_CANDIDATES) or 4
        guidance, shape = _scale(fields.get("guidance")), None if shape is None else Path(shape)
        return cls(text, category, shape, fields.get("up") or "y", budget, seed, guidance, candidates)

    @property
    def name(self) -> str:
        """A few words for what is asked."""
        if self.shape is not None:
            return self.shape.stem
        return self.text or self.category or "mesh"


@no_type_check
def _whole(name: str, value: Any, least: int, most: int | None, advice: str = "") -> int | None:
    """A whole number, or None for an empty field."""
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if number == int(number if abs(number) < 2**53 else 0) and least <= number and (most is None or number <= most):
        return int(number)
    bounds = f"of at least {least}" if most is None else f"from {least} to {most:,}"
    shown = f"{number:g}" if number == number else repr(value)
    raise ConditionError(f"The {name} must be a whole number {bounds}, not {shown}. {advice}".strip())


@no_type_check
def _scale(value: Any) -> float | None:
    if value is None or value == "":
        return None
    if isinstance(value, (int, float)) and 0 <= value <= MOST_GUIDANCE:
        return float(value)
    raise ConditionError(f"Guidance must be a number from 0 to {MOST_GUIDANCE:g}, not {value!r}.")
