"""What an evaluation found, on disk."""

import json
from pathlib import Path
from typing import Any, no_type_check

from meshgpt.errors import DataError

RESULT_FILE, FORMAT, VERSION = "result.json", "meshgpt-evaluation", 1


@no_type_check
def save_result(figures: dict[str, Any], folder: str | Path) -> Path:
    """Writes `result.json` into a folder, which is made."""
    path = Path(folder) / RESULT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT, "version": VERSION, **figures}, indent=1) + "\n", encoding="utf-8")
    return path


@no_type_check
def load_result(path: str | Path) -> dict[str, Any]:
    """The figures in a file or in `result.json` of a folder. Raises `DataError` for anything else."""
    path = Path(path) / RESULT_FILE if Path(path).is_dir() else Path(path)
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        advice = "make one with 'meshgpt evaluate', or give the data set to evaluate a model on"
        raise DataError(f"{path}: is no result of an evaluation ({error}): {advice}") from error
    if not isinstance(figures, dict) or figures.get("format") != FORMAT:
        raise DataError(f"{path}: is no result of an evaluation: make one with 'meshgpt evaluate'")
    return figures
