"""Checkpoint files: written atomically, checked when read, movable with their folder. Needs the extra ``train``."""

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
    """Write a checkpoint beside its path and rename it; Lightning's temporary file may be on another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            StoreError: the file cannot be written, as on a full disk.
        """
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))


def resumable(saved: ModelCheckpoint, *, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the checkpoint to resume from, and leave it in the file `LAST`; None if training has to start again.

    A damaged last checkpoint is replaced by the best one. If the best one is damaged, both are skipped, since its
    weights are the result.

    Args:
        saved: callback that writes the checkpoints; its paths are set to its folder, which may be a copy.
        say: called with each message about a skipped checkpoint.
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
    """Return the content of a checkpoint; None if there is none, or if it is damaged, which is reported."""
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as parts:
            if (part := parts.testzip()) is not None:
                raise ValueError(f"the checksum of {part} differs")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or not all(key in content for key in _NEEDED):
            raise ValueError("it is not a checkpoint of a training")
    except Exception as fault:  # a damaged file can raise any exception
        say(f"{path} is damaged and passed over ({reason(fault)})")
        return None
    return content
