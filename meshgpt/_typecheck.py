"""Shape checking for the whole package: jaxtyping and beartype behind an import hook, where TYPECHECK asks for it."""

from collections.abc import Callable
from typing import Any, Self, get_args

from meshgpt import _env


def switch_on(package: str) -> bool:
    """Checks shapes and types in every module of `package` imported from now on, if TYPECHECK says so."""
    if not _env.flag("TYPECHECK"):
        return False
    from jaxtyping import install_import_hook

    install_import_hook(package, f"{__name__}.checked")
    return True


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` checked by beartype; a whole number passes for a float, as type checkers have it.

    The hook decorates methods one by one, where `Self` has no meaning: left unchecked. jaxtyping hands over an empty
    copy of the user's function, so changing its annotations changes nothing else.
    """
    from beartype import BeartypeConf, beartype

    hints = getattr(function, "__annotations__", {})
    hints.update({name: Any for name, hint in hints.items() if _mentions_self(hint)})
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)


def _mentions_self(hint: Any) -> bool:
    return hint is Self or any(_mentions_self(part) for part in get_args(hint))
