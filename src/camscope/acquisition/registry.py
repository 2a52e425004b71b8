"""The acquisition properties by name."""

from __future__ import annotations

from camscope.acquisition import detail, outline, tones
from camscope.acquisition.property import AcquisitionProperty

PROPERTIES = {
    item.name: item
    for item in (
        AcquisitionProperty("brightness", "the brightness", tones.measure_brightness, tones.transfer_brightness),
        AcquisitionProperty("contrast", "the contrast", tones.measure_contrast, tones.transfer_contrast),
        AcquisitionProperty(
            "inversion",
            "inverted grey values",
            tones.measure_inversion,
            tones.transfer_inversion,
            tones.compare_inversion,
        ),
        AcquisitionProperty(
            "sharpness",
            "the sharpness",
            detail.measure_sharpness,
            detail.transfer_sharpness,
            detail.compare_sharpness,
        ),
        AcquisitionProperty("noise", "the noise", detail.measure_noise, detail.transfer_noise),
        AcquisitionProperty("jpeg", "the JPEG compression", detail.measure_jpeg, detail.transfer_jpeg, full_size=True),
        AcquisitionProperty(
            "resolution", "the resolution", detail.measure_resolution, detail.transfer_resolution, full_size=True
        ),
        AcquisitionProperty("aspect", "the aspect ratio", outline.measure_aspect, outline.transfer_aspect),
        AcquisitionProperty("frame", "the frame", outline.measure_frame, outline.transfer_frame),
        AcquisitionProperty(
            "marks", "marks near the edges", outline.measure_marks, outline.transfer_marks, outline.compare_marks
        ),
        AcquisitionProperty(
            "style", "the low-frequency style", tones.measure_style, tones.transfer_style, tones.compare_style
        ),
    )
}
