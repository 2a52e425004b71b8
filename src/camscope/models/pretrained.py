"""Published weights: their local paths, whether they can be downloaded, and the error if not."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import torch

from camscope.errors import ModelError

_PATIENCE = 5.0  # seconds


def reachable(address: str) -> bool:
    """Return whether the server of an address answers; libraries that download would retry for most of a minute."""
    if urllib.request.getproxies():
        return True  # with a proxy, this machine cannot test the connection
    server = urlsplit(address)
    try:
        socket.create_connection((server.hostname or "", server.port or 443), timeout=_PATIENCE).close()
    except OSError:
        return False
    return True


def torch_cache() -> Path:
    """Return the folder where PyTorch keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def out_of_reach(spec: str, file: str, *, hub: str | None = None, folder: Path | None = None) -> ModelError:
    """Return the error that says which file to bring.

    Args:
        spec: the model, such as "timm:resnet18".
        file: name of the file that was published.
        hub: id under which the Hugging Face hub has it; None where it is a file of a cache.
        folder: that cache; None: PyTorch's own.
    """
    place = folder or torch_cache()
    bring = f"the file {file} of {hub} on the Hugging Face hub" if hub else f"the file {file}, put it in {place}"
    return ModelError(
        f"the published weights of {spec} are out of reach: bring {bring} {'and' if hub else 'or'} pass weights=FILE; "
        f"weights='none' makes random ones"
    )
