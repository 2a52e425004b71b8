"""CLIP and SigLIP from small configurations: images scored by their similarity to texts."""

import numpy as np
import pytest
import torch
import transformers as hf

from camscope import explain, targets
from camscope.errors import ModelError
from camscope.images import Picture
from camscope.models.loading import load

TEXTS = ["a cat", "a dog", "grass"]
VISION = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 64, "patch_size": 8}
TEXT = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 64,
    "max_position_embeddings": 24,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def save(folder, kind):
    """A model with its processor and a tokenizer of single letters; returns the model."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    hf.CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[]).save_pretrained(folder)
    text = {**TEXT, "vocab_size": len(tokens)}
    if kind == "clip":
        net = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24))
        processor = hf.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    else:
        net = hf.SiglipModel(hf.SiglipConfig(text_config={**text, "projection_size": 48}, vision_config=VISION))
        processor = hf.SiglipImageProcessor(size={"height": 64, "width": 64})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        net.logit_scale.fill_(2.5)
    net.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return net


@pytest.fixture
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (80, 110, 3)) / 255
    return Picture(pixels.astype(np.float32))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_scores_are_the_models_own(kind, picture, tmp_path):
    theirs = save(tmp_path, kind)
    model = load(f"hf:{tmp_path}", labels=TEXTS)
    assert (model.labels, model.outcome) == (tuple(TEXTS), {"clip": "one", "siglip": "any"}[kind])
    x = model.preprocess(picture)[0][None]
    tokens = hf.AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding="max_length", max_length=24, return_tensors="pt")
    with torch.no_grad():
        wanted = theirs(pixel_values=x, **tokens).logits_per_image
        torch.testing.assert_close(model.net(x), wanted, rtol=1e-5, atol=1e-5)
    assert wanted.std() > 0.01
    assert not any("text_model" in name for name, _ in model.net.named_parameters())
    e = explain(model, picture, target="a dog")
    assert e.score == pytest.approx(float(wanted[0, 1]), rel=1e-4)
    assert (e.label, e.grid.shape) == ("a dog", (8, 8))
    assert e.grid.any()
    again = load(model.save(tmp_path / "bundle"))
    assert (again.digest, again.labels, again.outcome) == (model.digest, model.labels, model.outcome)
    assert explain(load(f"hf:{tmp_path}", labels=TEXTS, input_size=96), picture).grid.shape == (12, 12)


def test_without_texts_it_gives_embeddings(picture, tmp_path):
    theirs = save(tmp_path, "clip")
    model = load(f"hf:{tmp_path}")
    x = model.preprocess(picture)[0][None]
    with torch.no_grad():
        wanted = theirs.get_image_features(pixel_values=x).pooler_output
        torch.testing.assert_close(model.net(x), wanted)
    assert (model.outcome, model.recipe.classes) == ("value", 0)
    other = torch.randn(24, generator=torch.Generator().manual_seed(0))
    e = explain(model, picture, target=targets.similarity(other))
    assert e.score == pytest.approx(float(torch.cosine_similarity(wanted[0], other, dim=0)), rel=1e-4)
    assert e.grid.any()
    assert e.probability is None


def test_a_weights_file_of_the_whole_model(picture, tmp_path):
    theirs = save(tmp_path, "siglip")
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    one, same = (load(f"hf:{tmp_path}", labels=TEXTS, weights=w) for w in (tmp_path / "w.pth", "default"))
    assert one.digest == same.digest


def test_texts_need_a_tokenizer(tmp_path):
    save(tmp_path, "clip")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=r"needs its tokenizer for labels=\['a cat'\]"):
        load(f"hf:{tmp_path}", labels=["a cat"])
