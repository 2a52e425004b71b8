"""Models of images and texts: scores are similarities to texts, whose embeddings are cached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camscope.errors import ModelError


class Embedding(nn.Module):
    """A model of transformers without classes: (B, C, h, w) images -> (B, D) embeddings.

    Args:
        model: with ``get_image_features`` (CLIP, SigLIP), or with a ``pooler_output``.
        resized: the input has another size than the model's positions are for, which are then interpolated.
    """

    def __init__(self, model: nn.Module, *, resized: bool = False) -> None:
        super().__init__()
        self.model = model
        self.keywords = {"interpolate_pos_encoding": True} if resized else {}

    def forward(self, pictures: Tensor) -> Tensor:
        """Return embeddings (B, D), not normalised."""
        see: Any = getattr(self.model, "get_image_features", self.model)
        return _pooled(see(pixel_values=pictures, **self.keywords)).flatten(1)


class Similarities(Embedding):
    """Similarities to texts: images -> logits (B, T), s cos(image, text) + b, with the model's scale and bias.

    Reference:
        Radford et al. Learning Transferable Visual Models From Natural Language Supervision. ICML 2021.
        arXiv:2103.00020
        Zhai, Mustafa, Kolesnikov, Beyer. Sigmoid Loss for Language Image Pre-Training. ICCV 2023. arXiv:2303.15343

    Args:
        model: with ``get_image_features`` and ``logit_scale``; its ``text_model`` is taken out.
        texts: (T, D) embeddings.
        resized: see ``Embedding``.
    """

    texts: Tensor

    def __init__(self, model: nn.Module, texts: Tensor, *, resized: bool = False) -> None:
        super().__init__(model, resized=resized)
        self.register_buffer("texts", nn.functional.normalize(texts.detach(), dim=-1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (B, T)."""
        embeddings = nn.functional.normalize(super().forward(pictures), dim=-1)
        logits = embeddings @ self.texts.T * torch.as_tensor(self.model.logit_scale).exp()
        bias = getattr(self.model, "logit_bias", None)
        return logits if bias is None else logits + bias


def text_embeddings(model: Any, texts: Sequence[str], *, name: str, offline: bool) -> Tensor:
    """Return the embeddings (T, D) of texts, padded to the model's text length, as in training.

    Raises:
        ModelError: where the model has no tokenizer beside it.
    """
    from transformers import AutoTokenizer

    lacking = ModelError(
        f"hf:{name} needs its tokenizer for labels={list(texts)}, and there is none in {name}: save it beside the "
        "model, tokenizer.save_pretrained(FOLDER)"
    )
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, local_files_only=offline, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise lacking from error
    longest = model.config.text_config.max_position_embeddings
    settings = {"padding": "max_length", "max_length": longest, "truncation": True, "return_tensors": "pt"}
    tokens = tokenizer(list(texts), **settings)
    # Without its files a tokenizer is created without vocabulary: all texts are equal.
    told_apart = {tuple(row) for row in tokenizer([*texts, ""], **settings)["input_ids"].tolist()}
    if len(told_apart) <= len(set(texts)):
        raise lacking
    with torch.no_grad():
        return _pooled(model.get_text_features(**tokens))


def _pooled(output: Any) -> Tensor:
    """Return the one vector of each image or text in what a model returned."""
    fields = [output, getattr(output, "image_embeds", None), getattr(output, "pooler_output", None)]
    embedding = next((field for field in fields if isinstance(field, Tensor)), None)
    if embedding is None:
        raise ModelError(
            "the model returns no pooled embedding of an image; name a model with a classifier, or wrap it yourself"
        )
    return embedding
