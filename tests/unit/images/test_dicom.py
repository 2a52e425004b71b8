"""DICOM in, what a screen shows out; every transform against its formula, every bad file one sentence."""

import io
import re
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from camscope.errors import MissingExtraError, PictureError
from camscope.images import decode, find_pictures, peek, read

pydicom = pytest.importorskip("pydicom")
from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.pixels import apply_windowing  # noqa: E402

RANDOM = np.random.default_rng(0)
DEEP = RANDOM.integers(0, 4096, (12, 16), np.uint16)
SIGNED = RANDOM.integers(-1024, 3000, (12, 16), np.int16)
GREY = RANDOM.integers(0, 256, (12, 16), np.uint8)
RGB = RANDOM.integers(0, 256, (12, 16, 3), np.uint8)


def dataset(array, *, bits=None, frames=None, **elements):
    """A file in memory: (H, W) or (H, W, 3), or with a first axis of ``frames``."""
    shape = array.shape[1:] if frames else array.shape
    colour = len(shape) == 3
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = uid.SecondaryCaptureImageStorage
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = "1.2.3"
    d.PatientName, d.PatientID = "Somebody^Else", "patient 7"
    d.Rows, d.Columns = shape[:2]
    d.SamplesPerPixel = 3 if colour else 1
    d.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        d.PlanarConfiguration = 0
    d.BitsAllocated = 8 * array.dtype.itemsize
    d.BitsStored = bits or d.BitsAllocated
    d.HighBit = d.BitsStored - 1
    d.PixelRepresentation = int(array.dtype.kind == "i")
    if frames:
        d.NumberOfFrames = frames
    for element, value in elements.items():
        setattr(d, element, value)
    d.PixelData = array.tobytes()
    return d


def content(d):
    file = io.BytesIO()
    d.save_as(file, enforce_file_format=True)
    return file.getvalue()


def shown(d, source="a.dcm"):
    return decode(content(d), source)


def expected_spread(values):
    return (values - values.min()) / (values.max() - values.min())


def assert_grey(picture, expected, *, bits):
    assert (picture.pixels.dtype, picture.bits) == (np.float32, bits)
    np.testing.assert_allclose(picture.pixels[..., 0], expected, atol=1e-6)


# What a frame looks like


def test_eight_bits_are_bytes():
    picture = shown(dataset(GREY))
    assert picture.bits == 8
    np.testing.assert_array_equal(picture.pixels[..., 0], GREY / np.float32(255))
    identity = shown(dataset(GREY, RescaleSlope=1, RescaleIntercept=0))
    np.testing.assert_array_equal(identity.pixels, picture.pixels)


def test_eight_bits_with_the_window_of_all_values_are_bytes_too():
    assert_grey(shown(dataset(GREY, WindowCenter=128, WindowWidth=256)), GREY / 255, bits=8)
    assert_grey(
        shown(dataset(GREY, WindowCenter=100, WindowWidth=50)), np.clip((GREY - 99.5) / 49 + 0.5, 0, 1), bits=32
    )


def test_the_masks_of_one_bit_are_black_and_white():
    for mask in (GREY % 2, np.ones_like(GREY), np.zeros_like(GREY)):
        assert_grey(shown(dataset(mask, bits=1)), mask, bits=8)


def test_deep_frames_without_a_window_lie_between_their_extremes():
    assert_grey(shown(dataset(DEEP, bits=12)), expected_spread(DEEP), bits=12)
    assert_grey(shown(dataset(np.full((3, 4), 9, np.uint16))), 0, bits=16)


def test_padding_does_not_count_among_the_extremes():
    padded = SIGNED.copy()
    padded[:3], padded[3, 0] = -2000, -1990
    inside = padded[padded > -1990]
    low, high = inside.min(), inside.max()
    d = dataset(padded, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)
    assert_grey(shown(d), np.clip((padded - low) / (high - low), 0, 1), bits=16)


def test_monochrome1_is_inverted():
    assert_grey(shown(dataset(DEEP, PhotometricInterpretation="MONOCHROME1")), 1 - expected_spread(DEEP), bits=16)
    picture = shown(dataset(GREY, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(picture.pixels[..., 0], (255 - GREY) / np.float32(255))


def test_signed_pixels_with_a_rescale_and_a_window():
    hounsfield = SIGNED * 0.5 - 100.0
    d = dataset(SIGNED, RescaleSlope="0.5", RescaleIntercept="-100", WindowCenter=[40, 500], WindowWidth=[400, 2000])
    assert_grey(shown(d), np.clip((hounsfield - 39.5) / 399 + 0.5, 0, 1), bits=16)
    assert_grey(shown(dataset(SIGNED, RescaleSlope="-2", RescaleIntercept="7")), expected_spread(-SIGNED), bits=16)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(2000, 1000), (1, 1), (3000.5, 77.25)])
def test_each_kind_of_window_agrees_with_pydicom(function, centre, width):
    d = dataset(DEEP, bits=12, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
    with np.errstate(over="ignore"):
        reference = apply_windowing(DEEP, d) / 4095
    assert_grey(shown(d), reference, bits=12)


@pytest.mark.parametrize(("function", "width"), [("LINEAR", 0), ("SIGMOID", 0), ("CUBIC", 5)])
def test_a_window_that_makes_no_sense(function, width):
    with pytest.raises(PictureError, match=rf"a\.dcm' has a window .*{function} of width {width}"):
        shown(dataset(DEEP, WindowCenter=3, WindowWidth=width, VOILUTFunction=function))


def table(first, values, bits, **elements):
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(values), first, bits])
    item.add_new("LUTData", "US", [int(value) for value in values])
    for element, value in elements.items():
        setattr(item, element, value)
    return [item]


def test_a_voi_table_comes_before_the_window():
    curve = (np.linspace(0, 1, 4000) ** 2 * 1023).astype(int)
    d = dataset(DEEP, bits=12, VOILUTSequence=table(50, curve, 10), WindowCenter=1, WindowWidth=2)
    assert_grey(shown(d), curve[np.clip(DEEP.astype(int) - 50, 0, 3999)] / 1023, bits=12)


def test_a_modality_table_comes_before_the_voi_table():
    doubled, curve = np.arange(256) * 2, np.arange(512)[::-1] * 128
    d = dataset(GREY, ModalityLUTSequence=table(0, doubled, 16, ModalityLUTType="US"))
    d.VOILUTSequence = table(0, curve, 16)
    assert_grey(shown(d), curve[2 * GREY.astype(int)] / 65535, bits=32)


def test_the_header_of_enhanced_files_is_found_by_frame():
    frames = np.stack([DEEP, DEEP])
    shared, own = Dataset(), [Dataset(), Dataset()]
    measures, rescale = Dataset(), Dataset()
    measures.PixelSpacing = [0.5, 0.25]
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 2, 1, "US"
    shared.PixelMeasuresSequence, shared.PixelValueTransformationSequence = [measures], [rescale]
    for group, centre in zip(own, (1000, 5000), strict=True):
        window = Dataset()
        window.WindowCenter, window.WindowWidth = centre, 801
        group.FrameVOILUTSequence = [window]
    d = dataset(frames, frames=2, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=own)
    for index, centre in enumerate((1000, 5000)):
        picture = shown(d, f"a.dcm#{index}")
        assert picture.spacing == (0.5, 0.25)
        assert_grey(picture, np.clip((2.0 * DEEP + 1 - centre + 0.5) / 800 + 0.5, 0, 1), bits=16)


def test_float_pixels():
    values = RANDOM.normal(size=(5, 7)).astype(np.float32)
    d = dataset(values)
    del d.PixelData, d.BitsStored, d.HighBit, d.PixelRepresentation
    d.FloatPixelData = values.tobytes()
    assert_grey(shown(d), expected_spread(values), bits=32)
    values[2, 2] = np.nan
    d.FloatPixelData = values.tobytes()
    with pytest.raises(PictureError, match="values that are not finite"):
        shown(d)


# Colour


def test_rgb_is_bytes_however_it_is_laid_out():
    planes = dataset(RGB, PlanarConfiguration=1)
    planes.PixelData = np.moveaxis(RGB, 2, 0).tobytes()
    for d in (dataset(RGB), planes):
        assert shown(d).bits == 8
        np.testing.assert_array_equal(shown(d).pixels, RGB / np.float32(255))
    deep = shown(dataset(RGB.astype(np.uint16) * 257))
    assert deep.bits == 16
    np.testing.assert_allclose(deep.pixels, RGB / 255, atol=1e-6)


def test_luminance_and_chrominance_become_rgb():
    red = np.zeros((4, 6, 3), np.uint8) + np.uint8([76, 85, 255])  # ITU-R BT.601 of pure red
    picture = shown(dataset(red, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_allclose(picture.pixels, np.broadcast_to([1, 0, 0], (4, 6, 3)), atol=0.01)


def test_a_palette_becomes_rgb():
    d = dataset(GREY, PhotometricInterpretation="PALETTE COLOR")
    palette = RANDOM.integers(0, 65536, (3, 256), np.uint16)
    for name, colours in zip(("Red", "Green", "Blue"), palette, strict=True):
        d.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        d.add_new(f"{name}PaletteColorLookupTableData", "OW", colours.tobytes())
    picture = shown(d)
    assert picture.bits == 16
    np.testing.assert_allclose(picture.pixels, np.moveaxis(palette[:, GREY], 0, 2) / 65535, atol=1e-6)


def test_colours_that_nobody_reads():
    with pytest.raises(PictureError, match="colours HSV; readable are"):
        shown(dataset(RGB, PhotometricInterpretation="HSV"))


# Compression and frames


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless, uid.DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("array", [DEEP, SIGNED, RGB], ids=["grey", "signed", "colour"])
def test_lossless_compression_changes_nothing(syntax, array):
    d = dataset(np.tile(array, (6, 6) + (1,) * (array.ndim - 2)))
    before = shown(d)
    if syntax == uid.JPEG2000Lossless:
        pytest.importorskip("openjpeg")
        d.PhotometricInterpretation = "YBR_RCT" if array.ndim == 3 else "MONOCHROME2"
    if syntax.is_encapsulated:
        d.compress(syntax)
    d.file_meta.TransferSyntaxUID = syntax
    after = shown(d)
    np.testing.assert_array_equal(after.pixels, before.pixels)
    assert after.bits == before.bits


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm"),  # JPEG lossless
        ("SC_ybr_full_422_uncompressed.dcm", "SC_rgb_rle.dcm"),
    ],
)
def test_the_samples_of_pydicom_agree_whatever_their_compression(name, plain):
    first, second = (read(pydicom.data.get_testdata_file(n, download=False)) for n in (name, plain))
    np.testing.assert_allclose(first.pixels, second.pixels, atol=0.03 if "ybr" in name else 0)
    assert first.bits == second.bits


def test_jpeg_is_what_pillow_decodes_but_for_the_last_bit():
    pytest.importorskip("libjpeg")
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "JPEG", quality=90)
    d = dataset(GREY)
    d.PixelData = pydicom.encaps.encapsulate([file.getvalue()])
    d["PixelData"].VR = "OB"
    d.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    picture = shown(d)
    assert picture.bits == 8
    np.testing.assert_allclose(picture.rgb[..., 0].astype(int), np.asarray(Image.open(file)).astype(int), atol=1)


def test_a_compression_without_a_decoder_is_named():
    d = dataset(GREY)
    d.compress(uid.RLELossless)
    d.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    with pytest.raises(PictureError, match=r"compressed as MPEG2 Main Profile.*nothing installed decodes"):
        shown(d)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_frame_is_chosen_by_its_index(tmp_path, compressed):
    frames = RANDOM.integers(0, 256, (3, 12, 16), np.uint8)
    d = dataset(frames, frames=3)
    if compressed:
        d.compress(uid.RLELossless)
    path = tmp_path / "a.dcm"
    path.write_bytes(content(d))
    for index in range(3):
        np.testing.assert_array_equal(read(f"{path}#{index}").rgb[..., 0], frames[index])
    assert read(f"{path}#2").source == f"{path}#2"
    np.testing.assert_array_equal(read(path).rgb[..., 0], frames[0])
    assert peek(f"{path}#2").size == (12, 16)
    for function in (read, peek):
        with pytest.raises(PictureError, match=r"a\.dcm' has no frame #3; it holds 3 frames, #0 to #2"):
            function(f"{path}#3")


def test_a_frame_can_be_named_among_the_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.dcm").write_bytes(content(dataset(GREY)))
    (tmp_path / "B.DICOM").touch()
    assert [place.name for _, place in find_pictures(["."])] == ["a.dcm", "B.DICOM"]
    assert [str(path) for path, _ in find_pictures(["a.dcm#1", "a.dcm#0"])] == ["a.dcm#1", "a.dcm#0"]


# Header


def test_spacing_is_that_of_the_patient_before_that_of_the_detector():
    assert shown(dataset(GREY)).spacing is None
    assert shown(dataset(GREY, ImagerPixelSpacing=[0.2, 0.1])).spacing == (0.2, 0.1)
    assert shown(dataset(GREY, ImagerPixelSpacing=[0.2, 0.2], PixelSpacing=[0.14, 0.15])).spacing == (0.14, 0.15)
    assert shown(dataset(GREY, PixelSpacing=[0, 0])).spacing is None


def test_nothing_about_the_patient_goes_into_the_picture():
    assert not re.search("patient 7|Somebody", repr(vars(shown(dataset(GREY)))))


def test_a_peek_tells_size_patient_and_view_without_the_pixels(tmp_path):
    path = tmp_path / "a.dcm"
    whole = content(dataset(GREY, ViewPosition="PA "))
    for kept in (len(whole), len(whole) - GREY.size):
        path.write_bytes(whole[:kept])
        assert peek(path).size == (12, 16)
        assert dict(peek(path).facts) == {"patient": "patient 7", "view": "PA"}
    path.write_bytes(content(dataset(GREY, PatientID="")))
    assert dict(peek(path).facts) == {}


def test_the_content_tells_the_format_where_the_name_does_not(tmp_path):
    path = tmp_path / "IM0001"
    path.write_bytes(content(dataset(GREY)))
    np.testing.assert_array_equal(read(path).rgb[..., 0], GREY)
    np.testing.assert_array_equal(read(f"{path}#0").rgb[..., 0], GREY)
    assert peek(path).facts["patient"] == "patient 7"


# What cannot be read


def assert_refused(tmp_path, data, says, *, functions=(read, peek)):
    path = tmp_path / "a.dcm"
    path.write_bytes(data)
    for function in functions:
        with pytest.raises(PictureError, match=says) as caught:
            function(path)
        assert "a.dcm" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_is_not_dicom(tmp_path):
    assert_refused(tmp_path, b"case,label\n1,Effusion\n", "is not a DICOM file")
    assert_refused(tmp_path, bytes(400), "is not a DICOM file")
    assert_refused(tmp_path, b"", "is empty")


def test_a_report_without_a_picture(tmp_path):
    d = dataset(GREY)
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = uid.BasicTextSRStorage
    del d.PixelData
    assert_refused(tmp_path, content(d), "no pixels follow", functions=[read])
    del d.Rows, d.Columns
    assert_refused(tmp_path, content(d), r"without an image \(Basic Text SR")


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_truncated_files(tmp_path, syntax):
    d = dataset(RANDOM.integers(0, 65536, (60, 80), np.uint16))
    if syntax.is_encapsulated:
        d.compress(syntax)
    whole = content(d)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's own
        for share in (0.99, 0.5, 0.2):
            assert_refused(tmp_path, whole[: int(len(whole) * share)], "damaged or truncated", functions=[read])
        assert_refused(tmp_path, whole[:180], "damaged")


def test_a_decoder_that_panics_is_an_error_like_any_other(tmp_path):
    pytest.importorskip("rle")
    d = dataset(np.zeros((12, 16), np.uint16))
    d.compress(uid.RLELossless)
    d.Rows = 6
    assert_refused(tmp_path, content(d), "damaged or truncated", functions=[read])


def test_a_frame_that_is_too_large_to_be_true(tmp_path):
    d = dataset(GREY, Rows=60000, Columns=60000)
    assert_refused(tmp_path, content(d), "more than 178,956,970 pixels")


def test_a_missing_package_is_named(monkeypatch):
    data = content(dataset(GREY))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"reading scan\.dcm needs pydicom: pip install 'camscope\[dicom\]'"):
        decode(data, "scan.dcm")


# Windows, old files, patients' names


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("window", "noted"),
    [
        ({}, False),
        ({"WindowCenter": 2048, "WindowWidth": 4096}, False),
        ({"WindowCenter": 2048, "WindowWidth": 1500}, False),
        ({"WindowCenter": 127, "WindowWidth": 255}, True),
        ({"WindowCenter": 10000, "WindowWidth": 500}, True),
        ({"WindowCenter": -3000, "WindowWidth": 500}, True),
        ({"WindowCenter": 2048, "WindowWidth": 1}, True),
    ],
)
def test_a_window_that_leaves_hardly_any_grey_levels_is_kept_and_noted(window, noted, interpretation):
    ramp = np.tile(np.linspace(0, 4095, 64).astype(np.uint16), (64, 1))
    picture = shown(dataset(ramp, bits=12, PhotometricInterpretation=interpretation, **window))
    assert len(picture.notes) == noted
    if noted:
        assert f"window (centre {window['WindowCenter']}, width {window['WindowWidth']}) shows" in picture.notes[0]
        assert "grey levels; the values of the file go from 0 to 4095" in picture.notes[0]


def test_a_picture_of_two_values_has_no_note_of_its_window():
    mask = (RANDOM.random((64, 64)) > 0.5).astype(np.uint16) * 4095
    assert shown(dataset(mask, bits=12, WindowCenter=2048, WindowWidth=1000)).notes == ()


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.RLELossless])
@pytest.mark.parametrize("name", ["a.dcm", "IM0001"])
def test_files_without_a_preamble_are_read(tmp_path, name, syntax):
    d = dataset(DEEP, bits=12)
    if syntax.is_encapsulated:
        d.compress(syntax)
    d.file_meta.TransferSyntaxUID = syntax
    (tmp_path / name).write_bytes(content(d)[132:])
    np.testing.assert_array_equal(read(tmp_path / name).pixels, shown(dataset(DEEP, bits=12)).pixels)
    assert peek(tmp_path / name).size == DEEP.shape


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_file_meta_are_read(tmp_path, implicit):
    d = dataset(DEEP, bits=12)
    del d.file_meta
    file = io.BytesIO()
    d.save_as(file, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    path = tmp_path / "a.dcm"
    path.write_bytes(file.getvalue())
    assert file.getvalue()[128:132] != b"DICM"
    np.testing.assert_array_equal(read(path).pixels, shown(dataset(DEEP, bits=12)).pixels)
    assert peek(path).facts["patient"] == "patient 7"


def test_what_only_begins_like_a_file_without_preamble_is_refused(tmp_path):
    assert_refused(tmp_path, b"\x08\0\x05\0" + bytes(400), "DICOM|damaged", functions=[read])
    d = dataset(DEEP)
    del d.PixelData
    assert_refused(tmp_path, content(d)[132:], "no pixels follow", functions=[read])


def test_a_deflated_file_is_read_and_a_bomb_is_not(tmp_path, monkeypatch):
    d = dataset(DEEP, bits=12)
    d.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    np.testing.assert_array_equal(shown(d).pixels, shown(dataset(DEEP, bits=12)).pixels)
    bomb = dataset(np.zeros((2000, 2000), np.uint16))
    bomb.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    assert len(content(bomb)) < 50_000
    monkeypatch.setattr("camscope.images.dicom_file.MAX_BYTES", 1_000_000)
    assert_refused(tmp_path, content(bomb), "unpacks to more than 1,000,000 bytes")


def test_a_size_that_a_functional_group_brings_is_checked_too(tmp_path):
    inner = Dataset()
    inner.Rows = inner.Columns = 60000
    group = Dataset()
    group.PixelMeasuresSequence = [inner]
    d = dataset(GREY, SharedFunctionalGroupsSequence=[group])
    assert_refused(tmp_path, content(d), "more than 178,956,970 pixels", functions=[read])


def test_no_name_of_a_patient_is_printed(tmp_path, capfd):
    whole = content(dataset(GREY, SpecificCharacterSet="ISO_IR 100", WindowCenter="1234567", WindowWidth="10"))
    shifted = [whole.replace(b"ISO_IR 100", b"Doe^Joe XY"), whole.replace(b"1234567", b"Doe^Joe")]
    path, said = tmp_path / "a.dcm", []
    for data in (*shifted, shifted[0][:-100], shifted[1][:-100]):
        assert b"Doe" in data
        path.write_bytes(data)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for function in (read, peek):
                try:
                    function(path)
                except PictureError as error:
                    said.append(str(error))
        said += [str(warning.message) for warning in caught]
    assert not re.search("Doe|Somebody", "".join([*said, *capfd.readouterr()]))
