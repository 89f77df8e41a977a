"""The model folder: what lies in it, what this card can offer, and each model's identity.

A model is a diffusers folder (it has a model_index.json) or a single .safetensors file with its
configuration beside it. What can't be used is left out, with a warning that says why and what to
do; a broken file never stops the scan.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from foxden_agent.model_facts import FACTS_FILE, Facts, Unusable, read_facts, read_index
from foxden_agent.model_files import FileStamp
from foxden_agent.model_hashes import HashCache
from foxden_proto import limits
from foxden_proto.v1.pool_pb2 import Model

log = logging.getLogger(__name__)

DEMO_MODEL = Path(__file__).parent / "engine" / "demo_model"
_IDENTITY = frozenset({".safetensors", ".json", ".txt", ".model"})  # what decides the picture
_PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin"})


@dataclass(frozen=True)
class LocalModel:
    """A model that this machine can load: its description for the pool, and where it lies."""

    model: Model
    path: Path  # a diffusers folder or a .safetensors file
    files: tuple[FileStamp, ...] = ()  # what decides the picture, as it was when it was hashed


def scan(models_dir: Path, cache_file: Path) -> list[LocalModel]:
    """The usable models of the folder, by name, and always the built-in demo model.

    Reads every byte of a file that `cache_file` doesn't know yet (some seconds per GB), so call it
    on a thread. A folder that doesn't exist is empty.
    """
    hashes = HashCache(cache_file)
    found: dict[str, LocalModel] = {}
    candidates = [(DEMO_MODEL, DEMO_MODEL.parent)]
    if models_dir.is_dir():
        root = models_dir.resolve()
        candidates += [(path, root) for path in sorted(root.iterdir())]
    for path, root in candidates:
        try:
            local = _look_at(path, root, hashes)
        except Unusable as error:
            log.warning("model %s is left out: %s", path.name, error)
            continue
        except OSError as error:
            log.warning("model %s is left out: it can't be read: %s", path.name, error)
            continue
        if local is None:
            continue
        name = local.model.name
        if name in found:
            log.warning(
                "model %s is left out: %s has the name %r already; rename one of them",
                path.name,
                found[name].path.name,
                name,
            )
            continue
        found[name] = local
    hashes.save()
    return sorted(found.values(), key=lambda local: local.model.name)


def model_name(text: str) -> str:
    """The text as a model's name: letters, digits, '.', '_' and '-', 1 to 100 characters."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", ascii_text).strip("-.")
    return name[: limits.NAME_CHARACTERS[1]] or "model"


def _look_at(path: Path, root: Path, hashes: HashCache) -> LocalModel | None:
    """The model at `path`, or None where it is none and doesn't claim to be. Raises Unusable."""
    if path.name.startswith(".") or path.suffix == ".config":
        return None
    if path.suffix.lower() in _PICKLES:
        raise Unusable("pickle files can run code when they are read; only .safetensors is used")
    _require_inside(path, root)
    if path.is_dir() and (path / "model_index.json").is_file():
        files = list(_files(path, root))
        _require_safetensors(path, files)
        facts = read_facts(path / FACTS_FILE, read_index(path), path)
        identity = [f for f in files if f.suffix in _IDENTITY and f.name != FACTS_FILE]
        stamps = tuple(FileStamp.of(f) for f in identity)
        sha256 = hashes.of_folder(path, identity)
    elif path.suffix == ".safetensors" and path.is_file():
        config = path.with_suffix(".config")
        if not (config / "model_index.json").is_file():
            raise Unusable(
                f"a single file needs its configuration, a diffusers folder without weights, "
                f"beside it as {config.name}"
            )
        files = [path, *_files(config, root)]
        facts = read_facts(path.with_name(f"{path.stem}.{FACTS_FILE}"), read_index(config), config)
        stamps = tuple(FileStamp.of(f) for f in files)
        # The file's own hash, so that it is the one the field's sites and tools know.
        sha256 = hashes.of_file(path)
    else:
        return None
    size = sum(f.stat().st_size for f in files)
    return LocalModel(_model(path, facts, sha256, size), path, stamps)


def _model(path: Path, facts: Facts, sha256: str, size: int) -> Model:
    return Model(
        name=model_name(facts.name or (path.stem if path.is_file() else path.name)),
        sha256=sha256,
        kind="checkpoint",
        family=facts.family,
        licence=facts.licence,
        description=facts.description,
        size=size,
        default_width=facts.default_width,
        default_height=facts.default_height,
        default_steps=facts.default_steps,
        default_guidance_scale=facts.default_guidance_scale,
        default_sampler=facts.default_sampler,
        default_schedule=facts.default_schedule,
        multiple_of=facts.multiple_of,
        min_size=facts.min_size,
        max_size=facts.max_size,
        demo=path == DEMO_MODEL,
    )


def _files(folder: Path, root: Path) -> Iterator[Path]:
    """Every regular file below the folder, sorted; hidden ones and Python's caches left out."""
    for path in sorted(folder.rglob("*")):
        if any(part.startswith((".", "__")) for part in path.relative_to(folder).parts):
            continue
        _require_inside(path, root)
        if path.is_file():
            yield path


def _require_inside(path: Path, root: Path) -> None:
    # A link out of the folder could offer any file of the owner's disk to the pool.
    if not path.resolve().is_relative_to(root.resolve()):
        raise Unusable(f"{path.name} links to outside the model folder; put the file itself there")


def _require_safetensors(folder: Path, files: list[Path]) -> None:
    """Each part that has weights must have them as safetensors; the engine reads nothing else."""
    safe = {f.parent for f in files if f.suffix == ".safetensors"}
    for file in files:
        part = file.relative_to(folder).parts[0]
        if file.suffix in _PICKLES and file.parent not in safe and part != "safety_checker":
            raise Unusable(
                f"{part}/{file.name} is a pickle, which can run code when it is read; "
                "only .safetensors is used"
            )
    if not safe:
        raise Unusable("there is no .safetensors file in it")
