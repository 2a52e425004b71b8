"""A folder of hostile images: peak memory, and seconds of each.

    python benchmarks/attacks/folder.py

Each file is read in a process of its own; then `camscope explain` runs over the whole folder. Goal: below 3 GB for any
folder, and no file above 10 seconds. Writes folder.md next to it, with the memory of the command over time.
"""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid

HERE = Path(__file__).parent
SIDE = 13_000
STEP = 0.1
READ = """
import sys, time
from camscope.errors import CamscopeError
from camscope.images import read
start = time.perf_counter()
try:
    size = read(sys.argv[1]).size
    met = f"read, {size[0]} x {size[1]}"
except CamscopeError as error:
    met = "an error: " + str(error).split("'", 2)[-1].strip()
print(f"{time.perf_counter() - start:.2f}|{met}")
"""


def files() -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each hostile file."""
    Image.MAX_IMAGE_PIXELS = None
    grey, colour = Image.new("L", (SIDE, SIDE), 7), Image.new("RGB", (SIDE, SIDE), (7, 8, 9))
    whole = packed(colour, "PNG")
    for number in range(8):
        yield f"large_{number}.png", whole
    yield "large_cut.png", whole[: len(whole) // 2]
    yield "large_grey.png", packed(grey, "PNG")
    yield "large.jpg", packed(colour, "JPEG", quality=30)
    yield "large_cut.jpg", packed(colour, "JPEG", quality=30)[:-1000]
    yield "large.webp", packed(Image.new("RGB", (16_000, 10_000)), "WEBP", lossless=True, method=0)
    yield "large.tif", packed(grey, "TIFF", compression="tiff_deflate")
    yield "deep.png", packed(Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)), "PNG")
    yield "wide.png", packed(Image.new("L", (170_000_000, 1)), "PNG")
    yield "too_large.png", packed(Image.new("1", (40_000, 40_000)), "PNG")
    frames = [Image.new("L", (2000, 2000), value) for value in range(200)]
    yield "frames.gif", packed(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield "one_pixel.gif", packed(Image.new("L", (1, 1)), "GIF")
    yield "large.dcm", dicom(np.zeros((SIDE, SIDE), np.uint16), uid.DeflatedExplicitVRLittleEndian)
    yield "frames.dcm", dicom(np.zeros((300, 1000, 1000), np.uint16), uid.DeflatedExplicitVRLittleEndian)
    yield "bomb.dcm", dicom(np.zeros((30_000, 40_000), np.uint16), uid.DeflatedExplicitVRLittleEndian)
    yield "volume.nii.gz", gzip.compress(volume(1500), 1)
    yield "zlib.png", zlib.compress(bytes(10_000_000))
    yield "empty.png", b""
    yield "text.jpg", b"not an image" * 1000


def packed(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def dicom(values: np.ndarray, syntax: str) -> bytes:
    """Return the bytes of a DICOM file with these (frames, rows, columns) or (rows, columns)."""
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID, data.file_meta.MediaStorageSOPClassUID = syntax, uid.SecondaryCaptureImageStorage
    data.SOPClassUID, data.SOPInstanceUID = uid.SecondaryCaptureImageStorage, uid.generate_uid(entropy_srcs=["a"])
    data.PatientID, data.Modality, data.PhotometricInterpretation = "P1", "DX", "MONOCHROME2"
    data.Rows, data.Columns = values.shape[-2:]
    if values.ndim == 3:
        data.NumberOfFrames = len(values)
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = values.tobytes()
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def volume(side: int) -> bytes:
    """Return a NIfTI file of side x side x 300 zeros."""
    header = bytearray(352)
    header[:4] = (348).to_bytes(4, "little")
    header[40:48] = np.array([3, side, side, 300], "<i2").tobytes()
    header[70:74] = np.array([4, 16], "<i2").tobytes()
    header[108:112] = np.array([352], "<f4").tobytes()
    header[344:348] = b"n+1\0"
    return bytes(header) + bytes(2 * side * side * 300)


def watched(command: list[str]) -> tuple[str, float, list[int]]:
    """Run a command; return its output, its seconds, and MB of memory in steps of a tenth of a second."""
    start, curve = time.perf_counter(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None:
            curve.append(resident(process.pid))
            time.sleep(STEP)
        assert process.stdout is not None
        return process.stdout.read(), time.perf_counter() - start, [mb for mb in curve if mb]


def resident(pid: int) -> int:
    """Return the memory of a process and its children in MB."""
    total = 0
    for one in [str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]:
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return total >> 20


def main() -> None:
    """Read every file, then explain all."""
    lines = [
        "# A folder of hostile images\n",
        "`benchmarks/attacks/folder.py`. Goal: below 3 GB, and below 10 s per file.\n",
    ]
    lines += ["| file | MB | met with | seconds | peak MB |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        folder.mkdir()
        for name, content in files():
            (folder / name).write_bytes(content)
        with (folder / "sparse.png").open("wb") as file:
            file.truncate(3 << 30)
        (folder / "sparse.dcm").symlink_to(folder / "sparse.png")
        for path in sorted(folder.iterdir()):
            output, _, curve = watched([sys.executable, "-c", READ, str(path)])
            seconds, _, met = (output.strip().splitlines() or ["|the process died"])[-1].partition("|")
            lines.append(f"| {path.name} | {path.stat().st_size / 1e6:.1f} | {met} | {seconds} | {max(curve)} |")
            print(lines[-1], flush=True)
        command = [sys.executable, "-m", "camscope", "explain", str(folder), "--model", "timm:test_resnet"]
        command += ["--weights", "none", "--out", str(Path(place) / "out"), "--write", "overlay"]
        output, seconds, curve = watched(command)
        print(output)
    tenths = [max(curve[i : i + max(1, len(curve) // 20)]) for i in range(0, len(curve), max(1, len(curve) // 20))]
    lines.append(f"\n`camscope explain` of all: {seconds:.0f} s, peak {max(curve)} MB, of which PyTorch and the model ")
    lines[-1] += (
        f"{curve[0] if len(curve) < 20 else min(curve[20:])} MB. Largest in each twentieth of the time: {tenths}."
    )
    (HERE / "folder.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(lines[-1])


if __name__ == "__main__":
    main()
