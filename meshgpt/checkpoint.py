"""A model on disk: `config.json` and `model.safetensors`, in a folder or in a Hub repository.

`config.json` names the class, its config and the sha256 of the weights; nothing is ever pickled. Saving is atomic: at
every moment the folder holds one whole model, the old or the new one; so it is with models of several parts.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self, no_type_check

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meshgpt._adapter import adapted, adapter
from meshgpt._storage import DTYPES, restored, stored
from meshgpt.config import Config
from meshgpt.errors import CheckpointError

try:
    import fcntl
except ImportError:  # not on Windows, where two processes may make the same thing twice
    fcntl = None

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
BASE = "base"  # the subfolder with the model that an adapter changes, where that is not known by a name
SAVED_PARTS = ".saved-parts"  # holds the parts of a whole between the moment it is saved and that of their moves
FORMAT_VERSION = 1
BUNDLED_MODELS = Path(__file__).parent / "bundled" / "models"


class Pretrained:
    """Mixin for models that are saved and loaded: `save_pretrained`, `from_pretrained`, `push_to_hub`.

    A subclass names its `config_class` and the `part` of a pipeline it is ("tokenizer" or "transformer"), keeps its
    config in `.config` and is built by `cls(*args, config)`, where `args` are those of `from_pretrained`. A folder may
    hold one of this class under the name `beside`, where the `part` of the pipeline there is of another class.
    """

    config_class: ClassVar[type[Config]]
    part: ClassVar[str]
    beside: ClassVar[str | None] = None
    config: Any

    @no_type_check
    def save_pretrained(self, folder, dtype=None, *, adapter_of=None, rank=8) -> Path:
        """Writes config and weights to `folder`; with `dtype` bfloat16 or float16 in half the bytes, int8 a quarter,
        int6 a fifth, int5 a sixth.

        adapter_of: the model that this one was tuned from, a folder, a bundled or Hub name; then only the difference is
        written, of each matrix the part of this `rank`, as int8 unless `dtype` says otherwise: kilobytes, and nearly
        the same model. A bundled or Hub name is looked up again when it is loaded; what is in a folder is copied.
        """
        return save_model(self, self.config, folder, dtype=dtype, adapter_of=adapter_of, rank=rank)

    @classmethod
    @no_type_check
    def from_pretrained(cls, name_or_folder, *args, revision=None) -> Self:
        """The model in a folder, a model bundled with the package, or one from the Hub ("owner/name").

        `args` go to the constructor before the config. Weights stored in fewer bits come back as float32. Raises
        `CheckpointError` for a model that is missing, damaged or of another class.
        """
        folder = find_model(name_or_folder, cls.part, revision, cls.beside)
        model = cls(*args, load_config(folder, cls))
        if isinstance(model, nn.Module):
            load_weights(model, folder)
            model.eval()
        return model

    def push_to_hub(self, repository: str, private: bool = False, dtype: str | None = None) -> str:
        """Uploads the model to the Hub repository "owner/name", which is made if need be; gives its address."""
        return upload(self, repository, private, dtype)


@no_type_check
def upload(model, repository: str, private: bool = False, dtype: str | None = None) -> str:
    """Saves anything with `save_pretrained` to the Hub repository "owner/name"; gives its address."""
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, dtype=dtype)
        api = HfApi()
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Save {type(model).__name__}")
    return str(address)


@no_type_check
def save_model(model, config: Config, folder, dtype: str | None = None, adapter_of=None, rank: int = 8) -> Path:
    """Writes `config` and, where `model` is a module, its weights. Raises `CheckpointError` if it cannot be written.

    With `adapter_of`, what tells them from those of another model, see `Pretrained.save_pretrained`.

    The new weights are put beside the old ones, then config.json, which knows their hash, is replaced in one step, then
    the weights take their name; a loader that comes in between finds the new weights by their hash.
    """
    if dtype is not None and dtype not in DTYPES:
        raise CheckpointError(f"weights can be stored as {', '.join(DTYPES)}, not as {dtype!r}")
    folder = Path(folder)
    entry = {"format": "meshgpt", "version": FORMAT_VERSION, "class": type(model).__name__, "config": config.to_dict()}
    about, state = {}, model.state_dict() if isinstance(model, nn.Module) else {}
    if adapter_of is not None:
        base = find_model(adapter_of, model.part, beside=model.beside)
        state, dtype = adapter(_weights_in(base, model.part), state, rank), dtype or "int8"
        about = {"base": _kept_base(base, adapter_of, folder), "base_sha256": _weights_hash(base)}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f"{WEIGHTS_FILE}.new"
        _finish_interrupted(folder, fresh)
        if isinstance(model, nn.Module):
            write_tensors(fresh, stored(state, dtype))
            entry["weights"] = {"sha256": file_sha256(fresh), "dtype": dtype or "as trained", **about}
            sync_folder(folder)
        write_text(folder / f"{CONFIG_FILE}.new", json.dumps(entry, indent=2) + "\n")
        os.replace(folder / f"{CONFIG_FILE}.new", folder / CONFIG_FILE)
        sync_folder(folder)
        if isinstance(model, nn.Module):
            os.replace(fresh, folder / WEIGHTS_FILE)
            sync_folder(folder)
    return folder


def _kept_base(base: Path, name: str | Path, folder: Path) -> str:
    """By what name the base of an adapter in `folder` will be found: its own, or that of a copy in the folder."""
    if not Path(name).exists():
        return str(name)
    if base.resolve() != (folder / BASE).resolve():
        with writing(folder):
            shutil.copytree(base, folder / BASE, dirs_exist_ok=True)
    return BASE


def _finish_interrupted(folder: Path, fresh: Path) -> None:
    """Gives the weights of a save that was killed at its last step their name, before they are written over."""
    if not fresh.is_file() or not (folder / CONFIG_FILE).is_file():
        return
    with contextlib.suppress(CheckpointError):
        if (_read_entry(folder).get("weights") or {}).get("sha256") == file_sha256(fresh):
            os.replace(fresh, folder / WEIGHTS_FILE)


@contextlib.contextmanager
@no_type_check
def save_parts(folder) -> Iterator[Path]:
    """A fresh folder to save the parts of a whole to; when the block ends well, all take their places in `folder`.

    At every moment `find_model` finds either all old parts or all new ones: the new are complete under another name,
    which one rename turns into `SAVED_PARTS`, where they are looked for first; then each moves to its own place, at
    once or, after a kill, at the next save. Other files in `folder` stay as they are.
    """
    folder = Path(folder)
    fresh, saved = folder / ".writing-parts", folder / SAVED_PARTS
    with writing(folder):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            yield fresh
            _settle(saved)
            os.rename(fresh, saved)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        sync_folder(folder)
        with contextlib.suppress(OSError):  # the new parts are found where they are
            _settle(saved)


def _settle(saved: Path) -> None:
    """Moves the parts in `saved` to their places beside it, and removes what was there."""
    for part in sorted(saved.iterdir()) if saved.is_dir() else ():
        place = saved.parent / part.name
        aside = place.with_name(f".removing-{part.name}")
        shutil.rmtree(aside, ignore_errors=True)
        if place.exists():
            os.rename(place, aside)
        os.rename(part, place)
        shutil.rmtree(aside, ignore_errors=True)
    if saved.is_dir():
        saved.rmdir()
        sync_folder(saved.parent)


@no_type_check
def load_config(folder, cls) -> Config:
    """The config in `folder`, for a model of class `cls`. Raises `CheckpointError` for one of another class."""
    entry = _read_entry(Path(folder))
    if entry["class"] != cls.__name__:
        raise CheckpointError(f"{folder} holds a {entry['class']}, not a {cls.__name__}")
    return cls.config_class.from_dict(entry["config"])


@no_type_check
def saved_class(folder) -> str:
    """The name of the class whose model is in `folder`. Raises `CheckpointError` where there is none."""
    return _read_entry(Path(folder))["class"]


@no_type_check
def load_weights(model: nn.Module, folder) -> None:
    """Fills `model` with the weights in `folder`, after checking their hash; an adapter is added to its base.

    Raises `CheckpointError` for damaged weights, for missing, unexpected or mis-shaped tensors, naming them, and for an
    adapter whose base is not there or has changed.
    """
    fill_module(model, _weights_in(Path(folder), getattr(model, "part", "")), str(Path(folder) / WEIGHTS_FILE))


def _weights_in(folder: Path, part: str) -> dict[str, Tensor]:
    about = _read_entry(folder).get("weights") or {}
    expected = about.get("sha256")
    candidates = [folder / WEIGHTS_FILE, folder / f"{WEIGHTS_FILE}.new"]
    present = [path for path in candidates if path.is_file()]
    if not present:
        raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}")
    whole = [path for path in present if file_sha256(path) == expected]
    if not whole:
        raise CheckpointError(
            f"{present[0]} is damaged: its sha256 is {file_sha256(present[0])}, {CONFIG_FILE} says {expected}"
        )
    tensors = restored(read_tensors(whole[0]))
    if "base" not in about:
        return tensors
    base = folder / BASE if about["base"] == BASE else find_model(about["base"], part)
    if _weights_hash(base) != about["base_sha256"]:
        raise CheckpointError(
            f"{folder} holds what tells a model from '{about['base']}' as that was when it was saved, but its weights "
            f"have changed since: they should have the sha256 {about['base_sha256']}"
        )
    return adapted(_weights_in(base, part), tensors, str(whole[0]))


def _weights_hash(folder: Path) -> str:
    return (_read_entry(folder).get("weights") or {}).get("sha256", "")


def fill_module(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copies `tensors` into the parameters and buffers of `model`; all must be there, and none besides."""
    state = model.state_dict()
    problems = [f"missing {name} {tuple(state[name].shape)}" for name in state if name not in tensors]
    problems += [f"unexpected {name} {tuple(tensors[name].shape)}" for name in tensors if name not in state]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, the model has {tuple(state[name].shape)}"
        for name in state
        if name in tensors and tensors[name].shape != state[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + ("" if len(problems) <= 5 else f"; and {len(problems) - 5} more")
        raise CheckpointError(f"{where} does not fit {type(model).__name__}: {shown}")
    model.load_state_dict(tensors)


@no_type_check
def find_model(name_or_folder, part: str, revision: str | None = None, beside: str | None = None) -> Path:
    """The folder that holds a model: itself, or its subfolder `part`; a bundled model; or one from the Hub.

    A subfolder `beside`, where that is named, comes before `part`. Raises `CheckpointError` that lists what was tried.
    """
    names = (part,) if beside is None else (beside, part)
    folder = _model_in(Path(name_or_folder), names)
    if folder is not None:
        return folder
    name = str(name_or_folder)
    folder = _model_in(BUNDLED_MODELS / name, names) if name.isidentifier() or "/" not in name else None
    if folder is not None:
        return folder
    bundled = ", ".join(bundled_models()) or "none"
    if Path(name_or_folder).exists():
        raise CheckpointError(f"{name} holds no {part}: there is no {CONFIG_FILE} in it or in its subfolder '{part}'")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        what = f"there is no folder and no bundled model '{name}' (bundled: {bundled})"
        raise CheckpointError(f"{what}; give a folder, a bundled name, or a Hub repository as 'owner/name'")
    return _download(name, names, revision, bundled)


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.name for path in BUNDLED_MODELS.glob("*") if path.is_dir())


def _model_in(folder: Path, names: tuple[str, ...]) -> Path | None:
    places = (folder, *(place for name in names for place in (folder / SAVED_PARTS / name, folder / name)))
    return next((path for path in places if (path / CONFIG_FILE).is_file()), None)


@no_type_check
def _download(name: str, names: tuple[str, ...], revision: str | None, bundled: str) -> Path:
    from huggingface_hub import snapshot_download

    prefixes = ("", *(f"{part}/" for part in names))
    prefixes += tuple(f"{prefix}{BASE}/" for prefix in prefixes)
    wanted = [f"{prefix}{file}" for prefix in prefixes for file in (CONFIG_FILE, WEIGHTS_FILE)]
    try:
        folder = _model_in(
            Path(snapshot_download(name, revision=revision, allow_patterns=wanted, etag_timeout=2)), names
        )
    except Exception as error:  # the hub has many kinds of errors; all mean that the model is not here
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"'{name}' is no folder here and could not be fetched from the Hub ({type(error).__name__}: {reason}). "
            f"Without a network: give the folder of a model, or the name of a bundled one ({bundled})"
        ) from error
    if folder is None:
        raise CheckpointError(f"the Hub repository '{name}' holds no {names[-1]}: it has no {CONFIG_FILE}")
    return folder


def _read_entry(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(entry, dict) or entry.get("format") != "meshgpt" or not {"class", "config"} <= set(entry):
        raise CheckpointError(f"{path} does not describe a model of this package")
    if entry["version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {entry['version']}, this package reads up to {FORMAT_VERSION}"
        )
    return entry


# files that are whole or not there


@contextlib.contextmanager
@no_type_check
def writing(where: Path) -> Iterator[None]:
    """Turns what can fail while files are written into a `CheckpointError` that says where and why."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"cannot write {where}: {reason}; what was saved there before is untouched") from error


@contextlib.contextmanager
@no_type_check
def locked(path: Path) -> Iterator[None]:
    """A block that one process at a time enters; the lock of a process that dies is free again. Makes the file."""
    with open(path, "ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file, on disk when this returns. Tensors that share memory are stored one by one."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        plain[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in seen else tensor
        seen.add(tensor.untyped_storage().data_ptr())
    path.write_bytes(b"")
    mode = path.stat().st_mode  # as the umask says; safetensors would keep the file from everybody else
    save_file(plain, path)
    os.chmod(path, mode)
    _sync(path)


@no_type_check
def read_tensors(path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises `CheckpointError` for one that is cut off or malformed."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error


def write_text(path: Path, text: str) -> None:
    """A text file, on disk when this returns."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes renames and new files in `folder` last; file systems that cannot do this for a folder are left alone."""
    with contextlib.suppress(OSError):
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
