"""Small copies of public data sets: their folders, file names and columns, with random images and a few rows."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 48
CHEXPERT = tuple(
    name
    for line in (
        "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation",
        "Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices",
    )
    for name in line.split(",")
)
VINDR = tuple(
    name
    for line in (
        "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema",
        "Emphysema,Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift",
        "Nodule/Mass,Pleural effusion,Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture",
        "Other lesion,COPD,Lung tumor,Pneumonia,Tuberculosis,Other diseases,No finding",
    )
    for name in line.split(",")
)


@dataclass
class Expected:
    """What `init` must recognise.

    Attributes:
        layout: name of the layout.
        images: number of images.
        patients: number of patients; 0 where none is known.
        labels: label -> numbers of cases that have it, do not have it, and of which it is unknown.
        classes: names of the model's classes.
        masks: label or mask -> number of images with it.
        table: what is given to `init`, relative to the folder; "" for the folder itself.
        splits: split -> number of images; {} where none is known.
    """

    layout: str
    images: int
    patients: int
    labels: dict[str, tuple[int, int, int]]
    classes: Sequence[str]
    masks: dict[str, int] = field(default_factory=dict)
    table: str = ""
    splits: dict[str, int] = field(default_factory=dict)


def picture(path: Path, *, size: tuple[int, int] = (SIZE, SIZE), value: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(path.as_posix().encode())
    pixels = np.random.default_rng(seed).integers(0, 255, size) if value is None else np.full(size, value)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def table(path: Path, header: Sequence[str] | str, rows: Sequence[Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with opener(path, "wt", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        if isinstance(header, str):
            file.write(header + "\n")
        else:
            writer.writerow(header)
        writer.writerows(rows)


def dicom(path: Path, **elements: str | int) -> None:
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Rows = data.Columns = SIZE
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    pixels = np.random.default_rng(zlib.crc32(path.name.encode())).integers(0, 255, (SIZE, SIZE)).astype(np.uint8)
    data.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(data, name, value)
    pydicom.dcmwrite(path, data)


def nih(root: Path) -> Expected:
    findings = ["Cardiomegaly", "Cardiomegaly|Effusion", "No Finding", "Effusion", "No Finding", "Infiltration"]
    rows = []
    for n in range(12):
        name = f"{n // 2 + 1:08d}_{n % 2:03d}.png"
        picture(root / f"images_{n % 3 + 1:03d}/images" / name)
        rows.append([name, findings[n % 6], n % 2, n // 2 + 1, 57, "MF"[n // 2 % 2], "PA", 2682, 2749, 0.143, 0.143])
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    table(root / "Data_Entry_2017.csv", header, rows)
    boxes = [[rows[0][0], "Cardiomegaly", 256, 512, 256.0, 128, "", "", ""]]
    boxes += [[rows[5][0], "Infiltrate", 0, 0, 512, 512, "", "", ""]]
    (root / "train_val_list.txt").write_text("\n".join(row[0] for row in rows[:8]))
    (root / "test_list.txt").write_text("\n".join(row[0] for row in rows[8:]))
    table(root / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,", boxes)
    labels = {"Cardiomegaly": (4, 8, 0), "Effusion": (4, 8, 0), "Infiltration": (2, 10, 0)}
    masks = {"Cardiomegaly": 1, "Infiltration": 1}
    return Expected("NIH ChestX-ray14", 12, 6, labels, [*labels, "Hernia"], masks, splits={"train": 8, "test": 4})


def chexpert(root: Path) -> Expected:
    rows = []
    for n in range(8):
        path = f"train/patient{n // 2 + 1:05d}/study{n % 2 + 1}/view1_{['frontal', 'lateral'][n % 2]}.jpg"
        picture(root / path)
        cells = dict.fromkeys(CHEXPERT, "") | {"Edema": ["1.0", "0.0", "-1.0", ""][n % 4], "Fracture": "1.0"}
        view = ["Lateral", ""] if n % 2 else ["Frontal", "AP"]
        rows.append([f"CheXpert-v1.0-small/{path}", "Female", 68, *view, *cells.values()])
    table(root / "train.csv", ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT], rows)
    return Expected("CheXpert", 8, 4, {"Edema": (2, 4, 2)}, ["Edema", "Mass"], splits={"train": 8})


def mimic(root: Path) -> Expected:
    labels, metadata, split = [], [], []
    for n in range(8):
        subject, study, image = 10000032 + n // 4, 50414267 + n // 2, f"02aa804e-{n}"
        picture(root / f"files/p{str(subject)[:2]}/p{subject}/s{study}/{image}.jpg")
        metadata.append([image, subject, study, "CHEST", ["PA", "LATERAL"][n % 2], 3056, 2544, 21800506, 213014.531])
        split.append([image, study, subject, "validate" if n < 4 else "test"])
        if n % 2 == 0:
            labels.append([subject, study, *(["1.0", "", "0.0", "-1.0"][n // 2] for _ in CHEXPERT)])
    name = "mimic-cxr-2.0.0-"
    header = (
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime"
    )
    table(root / f"{name}metadata.csv.gz", header.split(","), metadata)
    order = sorted(CHEXPERT)
    for labeller in ("chexpert", "negbio"):
        table(root / f"{name}{labeller}.csv.gz", ["subject_id", "study_id", *order], labels)
    table(root / f"{name}split.csv.gz", ["dicom_id", "study_id", "subject_id", "split"], split)
    return Expected("MIMIC-CXR-JPG", 8, 2, {"Edema": (2, 4, 2)}, ["Edema", "Mass"], splits={"val": 4, "test": 4})


def padchest(root: Path) -> Expected:
    columns = tuple(
        name
        for line in (
            ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM",
            "Projection,MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,ReportID,Report,MethodLabel",
            "Labels,Localizations,LabelsLocalizationsBySentence,labelCUIS,LocalizationsCUIS",
        )
        for name in line.split(",")
    )
    found = ["['normal']", "['cardiomegaly', 'pleural effusion']", "['pleural effusion']", "['kyphosis']"]
    rows = []
    for n in range(8):
        name, folder = f"20536686640136348236148679891455886468_k6ga{n}.png", n % 2
        picture(root / str(folder) / name)
        cells = {
            "": n,
            "ImageID": name,
            "ImageDir": folder,
            "PatientID": 8398 + n // 2,
            "Projection": ["PA", "L"][n % 2],
        }
        cells |= {"StudyID": n, "PatientSex_DICOM": "F", "MethodLabel": "Physician", "Labels": found[n % 4]}
        rows.append([cells.get(column, "") for column in columns])
    table(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", columns, rows)
    labels = {"pleural effusion": (4, 4, 0), "cardiomegaly": (2, 6, 0)}
    return Expected("PadChest", 8, 4, labels, ["Pleural Effusion", "cardiomegaly"])


def vindr(root: Path) -> Expected:
    rows, boxes = [], []
    for n in range(6):
        dicom(root / f"train/{n:032x}.dicom")
        for reader in range(3):
            says = {"Cardiomegaly": int(reader < n % 4), "No finding": int(reader >= n % 4)}
            rows.append([f"{n:032x}", f"R{reader + 8}", *(says.get(name, 0) for name in VINDR)])
            box = ["Cardiomegaly", 4, 6, 20, 30] if says["Cardiomegaly"] else ["No finding", "", "", "", ""]
            boxes.append([f"{n:032x}", f"R{reader + 8}", *box])
    table(root / "annotations/image_labels_train.csv", ["image_id", "rad_id", *VINDR], rows)
    header = tuple(name for line in ("image_id,rad_id,class_name,x_min,y_min,x_max,y_max",) for name in line.split(","))
    table(root / "annotations/annotations_train.csv", header, boxes)
    return Expected("VinDr-CXR", 6, 0, {"Cardiomegaly": (2, 4, 0)}, ["Cardiomegaly", "ILD"], {"Cardiomegaly": 4})


def vindr_test(root: Path) -> Expected:
    rows, boxes = [], []
    for n in range(6):
        dicom(root / f"test/{n:032x}.dicom")
        rows.append([f"{n:032x}", *(int(n % 2) if name == "ILD" else 0 for name in VINDR)])
        boxes.append([f"{n:032x}", *(["ILD", 4, 6, 20, 30] if n % 2 else ["No finding", "", "", "", ""])])
    table(root / "annotations/image_labels_test.csv", ["image_id", *VINDR], rows)
    header = ["image_id", "class_name", "x_min", "y_min", "x_max", "y_max"]
    table(root / "annotations/annotations_test.csv", header, boxes)
    return Expected("VinDr-CXR (test)", 6, 0, {"ILD": (3, 3, 0)}, ["Cardiomegaly", "ILD"], {"ILD": 3})


def vinbigdata(root: Path) -> Expected:
    rows = []
    for n in range(6):
        dicom(root / f"train/{n:032x}.dicom")
        for reader in range(3):
            box = (
                ["Cardiomegaly", 3, f"R{reader}", 4, 6, 20, 30] if reader < n % 4 else ["No finding", 14, f"R{reader}"]
            )
            rows.append([f"{n:032x}", *box, *[""] * (7 - len(box))])
            if reader == 0 and n % 4:
                rows.append([f"{n:032x}", "ILD", 5, "R0", 30, 30, 40, 40])
    header = ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]
    table(root / "train.csv", header, rows)
    # Cardiomegaly by 0, 1, 2, 3, 0, 1 of three readers.
    return Expected("VinBigData", 6, 0, {"Cardiomegaly": (2, 4, 0)}, ["Cardiomegaly"], {"Cardiomegaly": 4})


def rsna(root: Path) -> Expected:
    rows, classes = [], []
    for n in range(6):
        name = f"0004cfab-14fd-4e49-80ba-63a80b6bddd{n}"
        dicom(root / f"stage_2_train_images/{name}.dcm", PatientID=name)
        for k in range(2 if n % 2 else 1):
            rows.append([name, *([128.0 + 400 * k, 256.0, 213.0, 379.0, 1] if n % 2 else ["", "", "", "", 0])])
            classes.append([name, "Lung Opacity" if n % 2 else ["Normal", "No Lung Opacity / Not Normal"][n // 2 % 2]])
    table(root / "stage_2_train_labels.csv", ["patientId", "x", "y", "width", "height", "Target"], rows)
    table(root / "stage_2_detailed_class_info.csv", ["patientId", "class"], classes)
    return Expected("RSNA Pneumonia", 6, 6, {"Lung Opacity": (3, 3, 0)}, ["Lung Opacity"], {"Lung Opacity": 3})


def siim(root: Path) -> Expected:
    rows = []
    for n in range(6):
        name = f"1.2.276.0.7230010.3.1.4.8323329.690{n}.1517875201.850819"
        dicom(root / f"dicom-images-train/{name}.1/{name}.2/{name}.dcm", PatientID=f"p{n // 2}")
        runs = [" 2048 4 1020 4", "524288 100 924 100"] if n == 1 else ["2048 4 1020 4"] if n % 2 else [" -1"]
        rows += [[name, cell] for cell in runs]
    table(root / "train-rle.csv", "ImageId, EncodedPixels", rows)
    return Expected("SIIM-ACR Pneumothorax", 6, 0, {"Pneumothorax": (3, 3, 0)}, ["Pneumothorax"], {"Pneumothorax": 3})


def radiography(root: Path) -> Expected:
    root = root / "COVID-19_Radiography_Dataset"
    for name in ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"):
        for n in range(1, 3):
            picture(root / name / "images" / f"{name}-{n}.png", size=(60, 60))
            picture(root / name / "masks" / f"{name}-{n}.png", size=(50, 50), value=255)
        (root / f"{name}.metadata.xlsx").write_bytes(b"PK not read")
    labels = {"COVID": (2, 6, 0), "Viral Pneumonia": (2, 6, 0)}
    classes = ["COVID", "Viral Pneumonia"]
    return Expected("COVID-19 Radiography", 8, 0, labels, classes, {"lung": 8}, "COVID-19_Radiography_Dataset")


def chexlocalize(root: Path) -> Expected:
    rows, masks = [], {}
    for n in range(6):
        name = f"patient{64541 + n // 2}/study1/view{n % 2 + 1}_frontal.jpg"
        picture(root / "CheXpert/val" / name, size=(12, 20))
        cells = dict.fromkeys(CHEXPERT, "0.0") | {"Edema": f"{n % 2}.0"}
        rows.append([f"CheXpert-v1.0/valid/{name}", "Male", 73, "Frontal", "AP", *cells.values()])
        if n % 2:
            empty = {"size": [12, 20], "counts": "`7"}
            full = {"size": [12, 20], "counts": "V1750000LL04400000000000000^1JhN"}
            tasks = [task for task in CHEXPERT if task not in ("No Finding", "Fracture", "Pneumonia", "Pleural Other")]
            masks[name.removesuffix(".jpg").replace("/", "_")] = dict.fromkeys(tasks, empty) | {"Edema": full}
    table(root / "CheXpert/val_labels.csv", ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT], rows)
    (root / "CheXlocalize").mkdir()
    (root / "CheXlocalize/gt_segmentations_val.json").write_text(json.dumps(masks))
    return Expected("CheXlocalize", 6, 3, {"Edema": (3, 3, 0)}, ["Edema"], {"Edema": 3})


REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><meta type="rr"/><uId id="CXR{n}"/><IUXRId id="{n}"/><MeSH>{mesh}</MeSH>
<parentImage id="CXR{n}_IM-0001-1001"><figureId>F1</figureId></parentImage>
<parentImage id="CXR{n}_IM-0001-2001"><figureId>F2</figureId></parentImage></eCitation>
"""


def open_i(root: Path) -> Expected:
    (root / "ecgen-radiology").mkdir(parents=True)
    found = "<major>Cardiomegaly/mild</major><automatic>Cardiomegaly</automatic><automatic>scolioses</automatic>"
    for n in range(1, 5):
        mesh = found if n % 2 else "<major>normal</major>"
        (root / f"ecgen-radiology/{n}.xml").write_text(REPORT.format(n=n, mesh=mesh))
        for view in (1001, 2001):
            picture(root / f"NLMCXR_png/CXR{n}_IM-0001-{view}.png")
    return Expected("Open-I", 8, 4, {"Cardiomegaly": (4, 4, 0)}, ["Cardiomegaly"])


def brax(root: Path) -> Expected:
    header = [
        "DicomPath",
        "PngPath",
        "PatientID",
        "PatientSex",
        "PatientAge",
        "StudyDate",
        "No Finding",
        "Enlarged Cardiomediastinum",
        "Cardiomegaly",
        "Lung Lesion",
        "Lung Opacity",
        "Edema",
        "Consolidation",
        "Pneumonia",
        "Atelectasis",
        "Pneumothorax",
        "Pleural Effusion",
        "Pleural Other",
        "Fracture",
        "Support Devices",
        "AccessionNumber",
        "ViewPosition",
        "Rows",
        "Columns",
        "Manufacturer",
    ]
    rows = []
    for n in range(6):
        path = f"id_{n // 2}/Study_{n}.1/Series_1.2/image-{n}"
        picture(root / f"images/{path}.png")
        cells = {
            "DicomPath": f"Anonymized_DICOMs/{path}.dcm",
            "PngPath": f"images/{path}.png",
            "PatientID": f"id_{n // 2}",
        }
        cells |= {"PatientSex": "M", "ViewPosition": "PA", "Manufacturer": "a", "Edema": ["1.0", "", "-1.0"][n % 3]}
        rows.append([cells.get(name, "") for name in header])
    table(root / "master_spreadsheet_update.csv", header, rows)
    return Expected("BRAX", 6, 3, {"Edema": (2, 2, 2)}, ["Edema"])


def bids(root: Path) -> Expected:
    for n in range(1, 5):
        for session in ("01", "02"):
            place = root / f"sub-{n:02d}/ses-{session}/anat"
            picture(place / f"sub-{n:02d}_ses-{session}_T1w.png")
            (place / f"sub-{n:02d}_ses-{session}_T1w.json").write_text("{}")
    picture(root / "derivatives/maps/sub-01/sub-01_T1w.png")
    rows = [[f"sub-{n:02d}", 20 + n, "MF"[n % 2], ["patient", "control"][n % 2]] for n in range(1, 5)]
    table(root / "participants.tsv", ["participant_id", "age", "sex", "diagnosis"], rows)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    return Expected("BIDS", 8, 4, {"patient": (4, 4, 0)}, ["patient"])


def coco(root: Path) -> Expected:
    images, annotations = [], []
    for n in range(6):
        picture(root / f"val2017/{n:012d}.jpg", size=(12, 20))
        images.append({"id": n, "file_name": f"{n:012d}.jpg", "height": 12, "width": 20})
        if n % 2:
            annotations.append({"id": n, "image_id": n, "category_id": 18, "bbox": [2, 1, 5, 3], "iscrowd": 0})
            annotations[-1]["segmentation"] = [[2, 1, 7, 1, 7, 4, 2, 4]]
        if n == 3:
            rle = {"size": [12, 20], "counts": [0, 6, 234]}
            annotations.append({"id": 9, "image_id": 3, "category_id": 18, "segmentation": rle, "bbox": [0, 0, 1, 6]})
    categories = [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 1, "name": "person"}]
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir()
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content))
    return Expected("COCO annotations", 6, 0, {"dog": (3, 3, 0)}, ["dog"], {"dog": 3})


VOC = """<annotation><folder>VOC2012</folder><filename>{name}.jpg</filename>
<size><width>20</width><height>12</height><depth>3</depth></size>{objects}</annotation>"""
DOG = "<object><name>dog</name><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>7</xmax><ymax>4</ymax></bndbox></object>"


def voc(root: Path) -> Expected:
    (root / "VOC2012/Annotations").mkdir(parents=True)
    for n in range(6):
        picture(root / f"VOC2012/JPEGImages/2007_{n:06d}.jpg", size=(12, 20))
        text = VOC.format(name=f"2007_{n:06d}", objects=DOG if n % 2 else DOG.replace("dog", "cat"))
        (root / f"VOC2012/Annotations/2007_{n:06d}.xml").write_text(text)
    labels = {"dog": (3, 3, 0), "cat": (3, 3, 0)}
    return Expected("Pascal VOC annotations", 6, 0, labels, ["cat", "dog"], {"dog": 3, "cat": 3})


def dicom_folder(root: Path) -> Expected:
    for n in range(6):
        elements = {"PatientID": f"MRN{n // 2}", "StudyInstanceUID": f"1.2.{n}", "ViewPosition": ["PA", "LL"][n % 2]}
        dicom(root / f"export/{n}/IM{n}.dcm", **elements, StudyDate="20200101", ImageLaterality="L")
    return Expected("DICOM files", 6, 3, {"Effusion": (0, 0, 6)}, ["Effusion"])


def archive(root: Path) -> Expected:
    """Make an export of an archive: files without suffix, a table of contents, a report and a segmentation."""
    for n in range(6):
        elements = {"PatientID": f"MRN{n // 2}", "StudyInstanceUID": f"1.2.{n}", "ViewPosition": ["PA", "LL"][n % 2]}
        dicom(root / f"DICOM/ST{n}/{['IM', '1.2.840.7.'][n % 2]}{n}", **elements, Modality="DX")
    (root / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(100))
    (root / "README").write_text("see DICOMDIR")
    dicom(root / "DICOM/ST0/SR0", PatientID="MRN0", StudyInstanceUID="1.2.0", Modality="SR", Rows=0, Columns=0)
    dicom(root / "DICOM/ST0/SEG0", PatientID="MRN0", StudyInstanceUID="1.2.0", Modality="SEG")
    return Expected("DICOM files", 6, 3, {"Effusion": (0, 0, 6)}, ["Effusion"])


def class_folders(root: Path) -> Expected:
    for name in ("benign", "malignant"):
        for n in range(4):
            picture(root / name / f"{n}.png")
    return Expected("class folders", 8, 0, {"malignant": (4, 4, 0)}, ["malignant"])


LAYOUTS: dict[str, Callable[[Path], Expected]] = {
    maker.__name__: maker
    for maker in (
        *(nih, chexpert, mimic, padchest, vindr, vindr_test, vinbigdata, rsna, siim, radiography, chexlocalize, open_i),
        *(brax, bids, coco, voc, dicom_folder, archive, class_folders),
    )
}
