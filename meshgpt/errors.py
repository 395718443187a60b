"""Every error that `meshgpt` raises on purpose.

MeshGPTError
├── MeshError (ValueError)              vertices and faces that are not a mesh
│   └── MeshFileError                   a file that cannot be read as a mesh
│       └── MeshLimitError              a file beyond the stated limits of what is read
├── ConfigError (ValueError)            an unknown field, a value that no model can have
├── CodesError (ValueError)             token ids that do not fit the tokenizer
│   └── TokenError                      a token that no mesh can have where it stands
├── DataError (ValueError)              a data set or a batch that cannot be used
│   └── DataIndexError (IndexError)     an index beyond the end of a data set
├── GenerationError (ValueError)        a request that generation cannot serve
│   └── ConditionError                  a text, category, cloud or budget that the model cannot take
├── CheckpointError (RuntimeError)      a saved model or run that is missing, damaged or of another kind
├── TrainingError (RuntimeError)        training that cannot start or go on
│   └── NonFiniteLossError              the loss became NaN or infinite
├── TextEncoderError (RuntimeError)     a text encoder that is out of reach, damaged, or gives what it should not
└── MissingExtraError (ImportError)     an optional package is needed: names the extra to install

KeyboardInterrupt
└── GenerationInterrupted               Ctrl-C while meshes were being written: carries what there is of them
"""

from collections.abc import Iterable
from typing import Any


class MeshGPTError(Exception):
    """Base of all errors raised on purpose by this package."""


class MeshError(MeshGPTError, ValueError):
    """Vertices and faces that are not a mesh: wrong shape, not finite, an index out of range."""


class MeshFileError(MeshError):
    """A file that cannot be read as a mesh; says which file and what is wrong with it."""


class MeshLimitError(MeshFileError):
    """A file that is larger, or asks for more, than the stated limits allow."""


class ConfigError(MeshGPTError, ValueError):
    """A configuration with an unknown field or an impossible value."""


class CodesError(MeshGPTError, ValueError):
    """Token ids that do not fit the tokenizer: out of range, or not whole faces where those are needed."""


class TokenError(CodesError):
    """A token that no mesh can have where it stands; `position` counts the tokens before it."""

    def __init__(self, message: str, position: int):
        super().__init__(f"token {position}: {message}")
        self.position = position


class DataError(MeshGPTError, ValueError):
    """A data set or a batch that cannot be used."""


class GenerationError(MeshGPTError, ValueError):
    """A request that generation cannot serve."""


class ConditionError(GenerationError):
    """A condition that a model cannot take: unknown, malformed, too many or too few, or of a kind it does not know."""


class CheckpointError(MeshGPTError, RuntimeError):
    """A saved model or run that is missing, damaged or of another kind."""


class TrainingError(MeshGPTError, RuntimeError):
    """Training that cannot start or cannot go on."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite; names the batch."""


class TextEncoderError(MeshGPTError, RuntimeError):
    """A text encoder that is out of reach, damaged, or gives what it should not; names the ways out."""


class MissingExtraError(MeshGPTError, ImportError):
    """An optional package is needed; the message names the extra to install, or gives the `command` that does it."""

    def __init__(self, package: str, extra: str, purpose: str, command: str | None = None):
        command = command or f"pip install 'meshgpt[{extra}]'"
        super().__init__(f"{purpose} needs the package '{package}': {command}")
        self.package, self.extra = package, extra


class DataIndexError(DataError, IndexError):
    """An index beyond the end of a data set; also an `IndexError`, as Python's sequence protocol expects."""


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C while meshes were being written; it ends a program as Ctrl-C does, and carries what there is of them.

    written: the `GeneratedMesh`es of a pipeline so far, "interrupted" in `stopped_by` where one was not finished.
    result: the `GenerationResult` of the rows that were being written last, None where there was none yet.
    """

    def __init__(self, written: Iterable[Any] = (), result: Any = None):
        super().__init__("interrupted")
        self.written, self.result = list(written), result

    @property
    def meshes(self) -> list[Any]:
        """The meshes of `written`."""
        return [item.mesh for item in self.written]
