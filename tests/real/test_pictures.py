"""Every image of the shared test data is read as Pillow's own conversion would read it."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from camscope.images import find_pictures, peek, read

DATA = Path(os.environ.get("CAMSCOPE_TEST_DATA", Path(__file__).parents[3] / "shared/data"))
FOLDERS = ["imagenet_val", "imagenet_photos", "cxr_nih", "cxr_masks", "cxr_covid3", "cifar10", "voc_segmentation"]

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no test data: set CAMSCOPE_TEST_DATA to their folder")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_picture_is_read(folder):
    found = find_pictures([DATA / folder])
    assert len({place for _, place in found}) == len(found)
    modes = set()
    for number, (path, place) in enumerate(found):
        with Image.open(path) as image:
            modes.add(image.mode)
            if number % 10:  # decoding a second time, to compare, takes its time
                assert image.width * image.height > 0
                continue
            upright = ImageOps.exif_transpose(image)
            picture = read(path)
            assert peek(path).size == picture.size
            assert place.name == path.name
            assert picture.pixels.shape[-1] == (1 if image.mode in ("1", "L", "LA") else 3), path
            np.testing.assert_array_equal(picture.rgb, np.asarray(upright.convert("RGB")), err_msg=str(path))
    assert modes <= {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK"}


def test_a_chest_radiograph_is_dark_where_the_lungs_are():
    pytest.importorskip("pydicom")
    path = DATA / "medical_formats/chest_xray_monochrome2.dcm"
    picture, seen = read(path), peek(path)
    assert picture.size == seen.size == (1024, 1024)
    assert picture.pixels.shape[-1] == 1
    assert picture.spacing == (0.168, 0.168)
    assert seen.facts["view"] == "PA"
    assert seen.facts["patient"] not in repr(vars(picture))
    grey = picture.pixels[..., 0]
    lungs, spine = (grey[300:500, columns].mean() for columns in (slice(250, 400), slice(500, 550)))
    assert lungs < 0.45 < 0.65 < spine


def test_the_same_pixels_called_monochrome1_are_the_negative():
    pytest.importorskip("pydicom")
    first, second = (read(DATA / f"medical_formats/chest_xray_monochrome{n}.dcm") for n in (1, 2))
    assert first.bits == second.bits == 8
    np.testing.assert_array_equal(first.rgb, 255 - second.rgb)
