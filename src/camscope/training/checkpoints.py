"""Checkpoint files: written whole, checked when they are read, moved along with their folder. Needs extra ``train``."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from camscope.errors import reason
from camscope.files import write_atomically

LAST, BEST = "last.ckpt", "best.ckpt"

_NEEDED = ("epoch", "callbacks", "state_dict")


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it; Lightning's own may come from another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            StoreError: it cannot be written, as on a full disk.
        """
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))


def resumable(saved: ModelCheckpoint, *, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the checkpoint to go on from, which then is in the file `LAST`; None where training has to begin.

    Damaged checkpoints are passed over: the last one for the best one, and both where the best one is damaged, since
    its weights are the result.

    Args:
        saved: writes the checkpoints; paths in them are set to its folder, which may have been copied from elsewhere.
        say: called with what was passed over.
    """
    folder = Path(str(saved.dirpath))
    contents = {name: _read(folder / name, say=say) for name in (LAST, BEST)}
    if contents[BEST] is None:
        if contents[LAST] is not None:
            say(f"{folder / BEST} is missing or damaged: training starts again")
        return None
    content: dict[str, Any] = contents[LAST] or contents[BEST]
    state = content["callbacks"][saved.state_key]
    if contents[LAST] is None or state["dirpath"] != saved.dirpath:
        best = str(folder / BEST)
        state |= {"dirpath": saved.dirpath, "best_model_path": best, "kth_best_model_path": best}
        state |= {"last_model_path": str(folder / LAST), "best_k_models": {best: state["best_model_score"]}}
        write_atomically(folder / LAST, lambda file: torch.save(content, file))
    return content


def _read(path: Path, *, say: Callable[[str], None]) -> Any:
    """Return the content of a checkpoint; None where there is none, or where it is damaged, which is said."""
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as parts:
            if (part := parts.testzip()) is not None:
                raise ValueError(f"the checksum of {part} differs")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or not all(key in content for key in _NEEDED):
            raise ValueError("it is no checkpoint of a training")
    except Exception as fault:  # whatever a damaged file makes of its reader
        say(f"{path} is damaged and passed over ({reason(fault)})")
        return None
    return content
