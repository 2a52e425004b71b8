"""Volumes with a bright mark at a known place, and DICOM series of them."""

from pathlib import Path

import numpy as np

from camscope.images import Volume

OBLIQUE = 0.15  # radians


def affine(*, orientation="RAS", spacing=(1.0, 1.0, 1.0), origin=(-20.0, 10.0, 5.0), tilt=0.0):
    """The affine of axes that lead in the directions of an orientation, turned by an angle about the first."""
    ends = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for column, (letter, edge) in enumerate(zip(orientation, spacing, strict=True)):
        axis, sign = ends[letter]
        matrix[axis, column] = sign * edge
    c, s = np.cos(tilt), np.sin(tilt)
    matrix[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ matrix[:3, :3]
    matrix[:3, 3] = origin
    return matrix


def marked(size=(30, 36, 24), *, voxel=(8, 25, 15), radius=6.0, **axes):
    """A volume of noise with a bright ball of a radius in millimetres, and the world coordinates of its centre."""
    matrix = affine(**axes)
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    world, centre = grid @ matrix[:3, :3].T + matrix[:3, 3], (matrix @ [*voxel, 1])[:3]
    ball = np.linalg.norm(world - centre, axis=-1) < radius
    values = np.random.default_rng(0).normal(-900, 20, size).round() + 1000 * ball
    return Volume(values.astype(np.float32), matrix, "marked"), centre


def save_nifti(volume, path):
    """Write a volume as a NIfTI file with its affine."""
    import nibabel

    nibabel.Nifti1Image(volume.values, volume.affine).to_filename(path)
    return path


def save_series(volume, folder, *, shuffled=True, **elements):
    """Write a volume as a DICOM series: columns, rows and slices are its axes; the names are in no order."""
    import pydicom
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1, 1, 1]) @ volume.affine
    edges = np.linalg.norm(lps[:3, :3], axis=0)
    names = np.random.default_rng(1).permutation(volume.size[2]) if shuffled else range(volume.size[2])
    series, study = uid.generate_uid(entropy_srcs=[str(folder)]), uid.generate_uid(entropy_srcs=["study"])
    for k, name in enumerate(names):
        d = Dataset()
        d.file_meta = FileMetaDataset()
        d.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = uid.CTImageStorage
        d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = uid.generate_uid(entropy_srcs=[str(folder), str(k)])
        d.StudyInstanceUID, d.SeriesInstanceUID, d.Modality, d.InstanceNumber = study, series, "CT", int(name)
        d.ImageOrientationPatient = [f"{x:.8f}" for x in (lps[:3, :2] / edges[:2]).T.ravel()]
        d.ImagePositionPatient = [f"{x:.6f}" for x in (lps @ [0, 0, k, 1])[:3]]
        d.PixelSpacing = [f"{edges[1]:.6f}", f"{edges[0]:.6f}"]
        d.Rows, d.Columns, d.SamplesPerPixel, d.PhotometricInterpretation = *volume.size[1::-1], 1, "MONOCHROME2"
        d.BitsAllocated = d.BitsStored = 16
        d.HighBit, d.PixelRepresentation, d.RescaleSlope, d.RescaleIntercept = 15, 0, 1, -1024
        for element, value in elements.items():
            setattr(d, element, value(k) if callable(value) else value)
        d.PixelData = (volume.values[:, :, k].T + 1024).astype(np.uint16).tobytes()
        pydicom.dcmwrite(folder / f"IM{name:04}.dcm", d, enforce_file_format=True)
    return folder
