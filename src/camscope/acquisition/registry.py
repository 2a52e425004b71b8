"""Register the acquisition properties by name."""

from __future__ import annotations

from functools import partial

from camscope.acquisition.detail import (
    compare_sharpness,
    measure_jpeg,
    measure_noise,
    measure_resolution,
    measure_sharpness,
    transfer_jpeg,
    transfer_noise,
    transfer_resolution,
    transfer_sharpness,
)
from camscope.acquisition.outline import (
    compare_frame,
    compare_marks,
    measure_aspect,
    measure_frame,
    measure_marks,
    transfer_aspect,
    transfer_frame,
    transfer_marks,
)
from camscope.acquisition.property import AcquisitionProperty
from camscope.acquisition.tones import (
    compare_inversion,
    compare_style,
    measure_brightness,
    measure_contrast,
    measure_inversion,
    measure_style,
    transfer_brightness,
    transfer_contrast,
    transfer_inversion,
    transfer_style,
)

_Of = AcquisitionProperty
_OfTissue = partial(AcquisitionProperty, varies_with_disease=True)
_OfFile = partial(AcquisitionProperty, full_size=True)

PROPERTIES = {
    item.name: item
    for item in (
        _OfTissue("brightness", "the brightness", measure_brightness, transfer_brightness),
        _OfTissue("contrast", "the contrast", measure_contrast, transfer_contrast),
        _Of("inversion", "inverted grey values", measure_inversion, transfer_inversion, compare_inversion),
        _OfTissue("sharpness", "the sharpness", measure_sharpness, transfer_sharpness, compare_sharpness),
        _OfTissue("noise", "the noise", measure_noise, transfer_noise),
        _OfFile("jpeg", "the JPEG compression", measure_jpeg, transfer_jpeg),
        _OfFile("resolution", "the resolution", measure_resolution, transfer_resolution),
        _Of("aspect", "the aspect ratio", measure_aspect, transfer_aspect),
        _Of("frame", "the width of the frame", measure_frame, transfer_frame, compare_frame),
        _OfTissue("marks", "bright marks near the edges", measure_marks, transfer_marks, compare_marks),
        _OfTissue("style", "the low-frequency style", measure_style, transfer_style, compare_style),
    )
}
