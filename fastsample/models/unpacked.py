"""The models that were unpacked from .gguf files: which there are, what they take, and how to be rid of them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from .gguf import cache_folder, need


@dataclass(frozen=True)
class UnpackedModel:
    """A folder of the cache. name: of the file, and the hash of its content; size: bytes on the disk."""

    name: str
    folder: Path
    size: int


def unpacked_models() -> list[UnpackedModel]:
    """All of them, the largest first; what a killed process left half unpacked included."""
    place = cache_folder()
    folders = [path for path in place.iterdir() if path.is_dir()] if place.is_dir() else []
    found = [UnpackedModel(path.name, path, _size(path)) for path in folders]
    return sorted(found, key=lambda model: (-model.size, model.name))


def remove(model: UnpackedModel) -> bool:
    """Delete it; the next load unpacks it again. False where another process is unpacking it now."""
    need("filelock")
    from filelock import FileLock, Timeout

    whole = model.folder.with_name(model.name.partition(".part-")[0])
    try:
        with FileLock(f"{whole}.lock", timeout=0):
            shutil.rmtree(model.folder)
    except Timeout:
        return False
    return True


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
