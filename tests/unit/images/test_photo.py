"""Every format in, exact pixels out; every bad file in, one sentence out."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from camscope.errors import PictureError
from camscope.images import Picture, as_picture, peek, read

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (13, 17), np.uint8)
RGB = RANDOM.integers(0, 256, (13, 17, 3), np.uint8)
ALPHA = RANDOM.integers(0, 256, (13, 17, 1), np.uint8)
DEEP = RANDOM.integers(0, 65536, (13, 17), np.uint16)


def saved(path, array_or_image, **options):
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    image.save(path, **options)
    return path


def pillow(path):
    with Image.open(path) as image:
        image.load()
        return image


def assert_bytes(picture, expected):
    assert picture.pixels.dtype == np.float32
    assert picture.bits == 8
    expected = expected[..., None] if expected.ndim == 2 else expected
    np.testing.assert_array_equal(picture.pixels, expected.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
def test_lossless_formats_keep_every_value(tmp_path, suffix):
    options = {"lossless": True} if suffix == ".webp" else {}
    assert_bytes(read(saved(tmp_path / f"a{suffix}", RGB, **options)), RGB)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_grey_files_stay_one_channel(tmp_path, suffix):
    assert_bytes(read(saved(tmp_path / f"a{suffix}", GREY)), GREY)


def test_the_bytes_of_a_jpeg_are_pillows_own(tmp_path):
    colour = saved(tmp_path / "a.JPG", RGB, format="JPEG")
    grey = saved(tmp_path / "b.jpeg", GREY)
    assert_bytes(read(colour), np.asarray(pillow(colour)))
    assert_bytes(read(grey), np.asarray(pillow(grey)))


def test_cmyk_is_converted_to_rgb(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(RGB).convert("CMYK"))
    assert_bytes(read(path), np.asarray(pillow(path).convert("RGB")))
    assert_bytes(
        read(saved(tmp_path / "a.tif", Image.new("CMYK", (2, 1), (0, 255, 255, 0)))), np.uint8([[[255, 0, 0]] * 2])
    )


def test_alpha_is_dropped_not_blended(tmp_path):
    assert_bytes(read(saved(tmp_path / "a.png", np.concatenate([RGB, ALPHA], -1))), RGB)
    assert_bytes(read(saved(tmp_path / "b.png", np.concatenate([GREY[..., None], ALPHA], -1))), GREY)


def test_a_note_says_how_much_is_transparent(tmp_path):
    image = Image.new("RGBA", (8, 4), (200, 20, 20, 255))
    assert read(saved(tmp_path / "opaque.png", image)).notes == ()
    image.paste((0, 0, 0, 0), (0, 0, 2, 4))
    text = "25 % of the pixels are transparent: the colours that the file has there are used"
    assert read(saved(tmp_path / "clear.png", image)).notes == (text,)
    assert read(saved(tmp_path / "palette.png", Image.new("P", (4, 4)), transparency=0)).notes[0].startswith("100 %")


def test_palettes_become_rgb_with_and_without_transparency(tmp_path):
    image = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    assert_bytes(read(saved(tmp_path / "a.png", image)), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns about transparency in bytes
        assert_bytes(read(saved(tmp_path / "b.png", image, transparency=bytes(range(16)))), expected)
        assert_bytes(read(saved(tmp_path / "c.png", image, transparency=3)), expected)


def test_gif_is_a_palette_and_so_rgb(tmp_path):
    assert_bytes(read(saved(tmp_path / "a.gif", GREY)), GREY[..., None].repeat(3, -1))


def test_one_bit_files_are_black_and_white(tmp_path):
    assert_bytes(read(saved(tmp_path / "a.png", GREY > 127)), np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_kept(tmp_path, suffix):
    picture = read(saved(tmp_path / f"a{suffix}", DEEP))
    assert picture.bits == 16
    np.testing.assert_array_equal(picture.pixels[..., 0], DEEP.astype(np.float32) / np.float32(65535))


def test_sixteen_bits_where_zero_is_white_are_inverted(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    path = saved(tmp_path / "a.tif", DEEP, tiffinfo=tags)
    assert pillow(path).tag_v2[262] == 0
    np.testing.assert_array_equal(read(path).pixels[..., 0], (65535 - DEEP).astype(np.float32) / np.float32(65535))


def test_big_endian_sixteen_bits(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(grey_tiff(DEEP.shape, 16, DEEP.astype(">u2").tobytes(), order=">"))
    assert pillow(path).mode == "I;16B"
    np.testing.assert_array_equal(read(path).pixels[..., 0], DEEP.astype(np.float32) / np.float32(65535))


def test_white_of_a_twelve_bit_file_is_4095(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(grey_tiff((1, 2), 12, bytes.fromhex("fff800"), order="<"))  # two values in three bytes
    picture = read(path)
    assert picture.bits == 12
    np.testing.assert_array_equal(picture.pixels.ravel(), np.float32([4095, 2048]) / np.float32(4095))


def grey_tiff(size, bits, content, *, order):
    """A TIFF file by hand, for what Pillow reads but does not write."""
    height, width = size
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(content)))
    content += bytes(len(content) % 2)
    entries = [struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in tags]
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8 + len(content))
    return start + content + struct.pack(order + "H", len(tags)) + b"".join(entries) + bytes(4)


def test_float_tiff_between_zero_and_one(tmp_path):
    values = RANDOM.random((5, 7), np.float32)
    picture = read(saved(tmp_path / "a.tif", values))
    assert picture.bits == 32
    np.testing.assert_array_equal(picture.pixels[..., 0], values)


@pytest.mark.parametrize(("value", "says"), [(3.5, "from 0 to 3.5"), (-0.1, "from -0.1 to 0"), (np.nan, "NaN")])
def test_float_tiff_of_another_range_is_refused(tmp_path, value, says):
    values = np.zeros((5, 7), np.float32)
    values[2, 3] = value
    with pytest.raises(PictureError, match=rf"a\.tif' holds .*{says}.*\[0, 1\]"):
        read(saved(tmp_path / "a.tif", values))


def test_whole_numbers_of_32_bits_are_refused(tmp_path):
    with pytest.raises(PictureError, match="unknown range"):
        read(saved(tmp_path / "a.tif", np.zeros((5, 7), np.int32)))


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
def test_other_colour_spaces_are_converted_to_rgb(tmp_path, mode):
    if mode == "YCbCr":
        pytest.importorskip("PIL", "13", reason="Pillow reads back the YCbCr files that it writes")
    path = saved(tmp_path / "a.tif", Image.new(mode, (4, 3), (120, 90, 200)))
    assert_bytes(read(path), np.asarray(pillow(path).convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    image = Image.new("RGB", (48, 32), "black")
    image.paste("white", (0, 0, 16, 16))  # the stored top left corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read(saved(tmp_path / f"a{suffix}", image, exif=exif))
    assert picture.size == ((32, 48) if orientation <= 4 else (48, 32))
    corner = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    corners = picture.pixels[4 :: picture.size[0] - 9, 4 :: picture.size[1] - 9].mean(-1) > 0.5
    assert [tuple(place) for place in np.argwhere(corners)] == [corner]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_damaged_exif_data_do_not_cost_the_picture(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    damaged = exif.tobytes().replace(b"MM\0*", b"MM\0?").replace(b"II*\0", b"II?\0")
    assert damaged != exif.tobytes()
    assert read(saved(tmp_path / f"a{suffix}", RGB, exif=damaged)).size == (13, 17)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".tif"])
def test_of_several_frames_the_first_is_read(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    path = saved(tmp_path / f"a{suffix}", frames[0], save_all=True, append_images=frames[1:])
    picture = read(path)
    assert picture.pixels.shape == (6, 8, 3)
    np.testing.assert_allclose(picture.pixels[3, 4], [1, 0, 0], atol=0.02)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".tif"])
def test_a_frame_is_chosen_by_its_index(tmp_path, suffix):
    colours = np.eye(3)
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    path = saved(tmp_path / f"a{suffix}", frames[0], save_all=True, append_images=frames[1:])
    for index in range(3):
        np.testing.assert_allclose(read(f"{path}#{index}").pixels[3, 4], colours[index], atol=0.02)
    for function in (read, peek):
        with pytest.raises(PictureError, match=rf"a{suffix}' has no frame #3; it holds 3 frames, #0 to #2"):
            function(f"{path}#3")


def test_a_picture_of_one_frame_has_no_other(tmp_path):
    path = saved(tmp_path / "a.png", GREY)
    assert_bytes(read(f"{path}#0"), GREY)
    with pytest.raises(PictureError, match="it holds one frame, #0"):
        read(f"{path}#1")


def test_the_jpegs_of_stereo_cameras(tmp_path):
    path = saved(tmp_path / "a.jpg", RGB, format="MPO", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    assert_bytes(read(path), np.asarray(pillow(path).convert("RGB")))


def test_the_content_tells_the_format_not_the_name(tmp_path):
    assert_bytes(read(saved(tmp_path / "a.jpg", RGB, format="PNG")), RGB)
    assert_bytes(read(saved(tmp_path / "noname", RGB, format="PNG")), RGB)


def test_source_is_the_path(tmp_path):
    path = saved(tmp_path / "a.png", RGB)
    assert read(str(path)).source == str(path)


# What cannot be read


def assert_refused(path, says):
    with pytest.raises(PictureError, match=says) as caught:
        read(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    assert_refused(tmp_path / "a.png", "no file")
    assert_refused(saved(tmp_path / "b.png", RGB) / "c.png", "no file")
    assert_refused(tmp_path, "is a folder")


def test_hostile_names(tmp_path):
    assert_refused(tmp_path / ("x" * 300), "too long")
    with pytest.raises(PictureError, match="null"):
        read("a\0.png")
    with pytest.raises(PictureError) as caught:
        read(tmp_path / "two\nlines.png")
    assert "\n" not in str(caught.value)


def test_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    assert_refused(tmp_path / "a.png", "empty")


def test_text_in_a_png_coat(tmp_path):
    (tmp_path / "a.png").write_text("case,label\n1,Effusion\n")
    assert_refused(tmp_path / "a.png", "not an image")


def test_postscript_is_not_run(tmp_path):
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    assert_refused(tmp_path / "a.png", "not an image")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp", ".gif", ".webp"])
def test_truncated_files(tmp_path, suffix):
    path = saved(tmp_path / f"a{suffix}", RANDOM.integers(0, 256, (60, 80, 3), np.uint8))
    whole = path.read_bytes()
    for share in (0.9, 0.5, 0.1):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert_refused(path, "truncated|not an image|damaged")
    path.write_bytes(whole[:6])
    assert_refused(path, "not an image|damaged")


def test_a_damaged_png(tmp_path):
    path = saved(tmp_path / "a.png", RGB)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 30] ^= 0xFF
    path.write_bytes(content)
    assert_refused(path, "damaged")


def png_with_size(path, width, height):
    """A small PNG whose header says that it is large."""
    content = bytearray(saved(path, GREY).read_bytes())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    return path


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    assert_refused(png_with_size(tmp_path / "a.png", 60_000, 60_000), "178,956,970 pixels")


def test_a_picture_below_the_bomb_limit_is_read_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_refused(png_with_size(tmp_path / "a.png", 20_000, 5_000), "truncated: (?!.*bomb)")


# Images in memory


def test_a_picture_is_handed_through():
    picture = Picture(np.zeros((2, 3, 1), np.float32))
    assert as_picture(picture) is picture


def test_a_path_is_read(tmp_path):
    path = saved(tmp_path / "a.png", RGB)
    assert_bytes(as_picture(path), RGB)
    assert_bytes(as_picture(str(path)), RGB)


def test_pillow_images(tmp_path):
    assert_bytes(as_picture(Image.fromarray(RGB)), RGB)
    image = pillow(saved(tmp_path / "a.png", Image.fromarray(RGB).quantize(8), transparency=1))
    picture = as_picture(image)
    assert picture.source.endswith("a.png")
    assert image.mode == "P"
    assert image.info["transparency"] == 1  # the user's image is not touched


def test_a_truncated_pillow_image(tmp_path):
    path = saved(tmp_path / "a.png", RGB)
    path.write_bytes(path.read_bytes()[:200])
    with Image.open(path) as image, pytest.raises(PictureError, match=r"a\.png' cannot be decoded"):
        as_picture(image)


@pytest.mark.parametrize("array", [GREY, GREY[..., None], RGB], ids=lambda a: str(a.shape))
def test_arrays(array):
    as_3d = array[..., None] if array.ndim == 2 else array
    assert_bytes(as_picture(array), array)
    sixteen = as_picture(array.astype(np.uint16) * 257)
    assert sixteen.bits == 16
    np.testing.assert_array_equal(np.rint(sixteen.pixels * 255), as_3d)
    for dtype in (np.float16, np.float32, np.float64):
        values = (array / 255).astype(dtype)
        picture = as_picture(values)
        assert picture.pixels.dtype == np.float32
        np.testing.assert_array_equal(picture.pixels, values.reshape(as_3d.shape).astype(np.float32))


def test_arrays_are_copied():
    array = np.zeros((2, 2, 1), np.float32)
    picture = as_picture(array)
    array[:] = 1
    assert picture.pixels.max() == 0


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((40, 40, 40), np.uint8), "fewer channels than rows and columns"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"\(H, W, C\)$"),
        (np.full((4, 5), np.inf), "inf"),
        (np.zeros((4, 5), np.int8), "int8"),
        (np.zeros((4, 5), complex), "complex128"),
        (np.zeros((0, 5), np.uint8), "no pixels"),
        (np.zeros((4, 5), np.int64), "int64"),
        (np.zeros((4, 5), bool), "bool"),
        (np.full((4, 5), 200.0), r"from 200 to 200.*\[0, 1\]"),
        (np.full((4, 5), np.nan), "NaN"),
        (["not", "an", "array"], "of type list"),
    ],
    ids=str,
)
def test_what_is_no_picture(array, says):
    with pytest.raises(PictureError, match=says):
        as_picture(array)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.NII.GZ"])
def test_a_volume_is_refused_with_what_to_do(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(PictureError, match=r"is a volume, .* for one of images pass one slice as an array"):
        read(tmp_path / name)


def test_a_file_larger_than_the_limit_is_not_read(tmp_path):
    path = tmp_path / "sparse.tif"
    with path.open("wb") as file:
        file.truncate(3 << 30)
    for function in (read, peek):
        with pytest.raises(PictureError, match="3,221,225,472 bytes, more than the 2,147,483,648"):
            function(path)


def test_a_lack_of_memory_is_the_error_of_one_picture(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", RGB)

    def fails(*_, **__):
        raise MemoryError

    monkeypatch.setattr("camscope.images.photo.from_pillow", fails)
    with pytest.raises(PictureError, match=r"a\.png' needs more memory than there is"):
        read(path)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp"])
def test_a_file_of_several_frames_says_which_is_read(suffix, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    path = tmp_path / f"frames.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    (note,) = read(path).notes
    assert note == "the file holds 3 frames, of which the first is read; add #k to its name for frame k, counted from 0"
    assert read(f"{path}#1").notes == ()
    frames[0].save(path)
    assert read(path).notes == ()
