import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from camscope.errors import SettingError
from camscope.images import read
from camscope.models.preprocess import Preprocess
from camscope.training.dataset import read_dataset
from camscope.training.pictures import Pictures, Preparation, read_all

PREPROCESS = Preprocess(input_size=(32, 32), fit="squash", mean=(0.5,), std=(0.25,))


def shown(data, *, memory=2**30, varied=False, hide=(), reasons=None, split="train"):
    preparation = Preparation(PREPROCESS, data.masks, hide, reasons)
    examples = tuple(dataclasses.replace(e, split=split) for e in data.cases)
    data, shelf = read_all(dataclasses.replace(data, cases=examples), preparation, memory=memory)
    return data, Pictures(data, split, preparation=preparation, shelf=shelf, varied=varied)


def test_what_is_judged_is_what_explain_sees(class_folders):
    data, pictures = shown(read_dataset(class_folders(2)), split="val")
    for example, (x, truth, reason, _) in zip(data.cases, pictures, strict=True):
        torch.testing.assert_close(x, PREPROCESS(read(example.source))[0], rtol=0, atol=0)
        assert truth.tolist() == [float(example.truth[label]) for label in data.labels]
        assert not reason.any()


def test_variation_follows_from_seed_epoch_and_picture_alone(class_folders):
    _, pictures = shown(read_dataset(class_folders(2)), varied=True)
    _, unkept = shown(read_dataset(class_folders(2)), varied=True, memory=0)
    first = [x for x, _, _, _ in pictures]
    torch.manual_seed(5)
    again = [x for x, _, _, _ in unkept]
    assert not unkept.shelf.inputs
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    pictures.epoch = 1
    assert not any(torch.equal(a, x) for a, (x, _, _, _) in zip(first, pictures, strict=True))
    before = torch.get_rng_state()
    _ = pictures[0]
    assert torch.equal(before, torch.get_rng_state())


def test_a_bad_file_keeps_its_row_and_says_why(class_folders):
    folder = class_folders(2)
    (folder / "cat/0.png").write_bytes(b"no image")
    (folder / "dog/1.png").unlink()
    (folder / "dog/1.png").symlink_to(folder / "nowhere")
    data, pictures = shown(read_dataset(folder))
    assert len(data.cases) == 4
    assert len(data.problems) == 2
    assert "cat/0.png" in data.cases[0].problem
    assert len(pictures) == 2
    assert all(len(e.sha256) == 64 for e in data.usable)


def test_nothing_of_a_hidden_region_is_left(table):
    """A border of an image's own number is never seen in it again, under any fill-in."""
    path = table([{"label": "ab"[n % 2]} for n in range(6)])
    for n in range(6):
        pixels = np.full((32, 32), 128, np.uint8)
        pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:] = (10 * n,) * 4
        Image.fromarray(pixels).save(path.parent / f"{n}.png")
    _, pictures = shown(read_dataset(path), hide=("border:0.12",), varied=True)
    pictures.vary = lambda x, mask: (x, mask)
    rings = []
    for epoch in range(30):
        pictures.epoch = epoch
        for n, (x, _, _, _) in enumerate(pictures):
            ring = (x[0, 0] * 0.25 + 0.5) * 255
            assert torch.allclose(x[0, 8:-8, 8:-8], torch.tensor((128 / 255 - 0.5) / 0.25), atol=1e-4)
            rings.append((n, round(float(ring[16]))))
    assert not any(ring == 10 * n for n, ring in rings)
    others = {ring for _, ring in rings} - {128}
    assert others == {10 * n for n in range(6)}


def test_where_a_picture_has_no_such_region_another_picture_lends_its_place(table):
    path = table([{"label": "ab"[n % 2], "box": "8,8,16,16" if n % 2 else ""} for n in range(4)])
    data, pictures = shown(read_dataset(path), hide=("cue:box",), varied=True)
    pictures.vary = lambda x, mask: (x, mask)
    plain = shown(read_dataset(path))[1]
    changed = {"own": 0, "lent": 0}
    for n, ((x, _, _, _), (was, _, _, _)) in enumerate(zip(pictures, plain, strict=True)):
        different = (x != was).any(0)
        assert different[8:16, 8:14].any()
        assert not different[20:].any()
        changed["own" if data.cases[n].masks else "lent"] += 1
    assert changed == {"own": 2, "lent": 2}


def test_the_mask_of_the_reasons_is_moved_with_its_picture(tmp_path, table):
    path = table([{"label": "a", "mask": "m.png"}, {"label": "b", "mask": "m.png"}])
    mask = np.zeros((32, 32), np.uint8)
    mask[6:14, 18:28] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    for n in range(2):
        Image.fromarray(mask).save(tmp_path / f"{n}.png")
    _, pictures = shown(read_dataset(path), reasons="mask", varied=True)
    for epoch in range(8):
        pictures.epoch = epoch
        x, _, moved, _ = pictures[0]
        bright = x[0] * 0.25 + 0.5 > 0.65
        assert (bright & moved).sum() / (bright | moved).sum() > 0.75
        assert not torch.equal(moved, torch.from_numpy(mask > 0))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hide": ("boder:0.1",)}, "no region called 'boder'; nearest: 'border'"),
        ({"reasons": "lung"}, "no mask called 'lung'"),
    ],
)
def test_unknown_regions_and_masks_are_refused_at_once(class_folders, given, said):
    data = read_dataset(class_folders(1))
    with pytest.raises(SettingError, match=said):
        shown(data, **given)
