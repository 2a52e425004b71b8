"""Peak memory of a study against the size of its cohort, each in a process of its own.

    python benchmarks/study/memory.py 500 20000

writes memory.md next to it. The images are tiny (48 x 48), so that what is measured is what grows with the rows.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
STUDY = """\
[cohort]
table = "cohort.csv"
patient = "patient_id"
group = "view"
[labels.A]
column = "a"
mask = "box"
model = "model"
[labels.B]
column = "b"
model = "model"
class = 0
[explain]
when = "present"
[audit]
disease = ["mask:label"]
shortcuts = ["border:0.10"]
"""


def cohort(folder: Path, rows: int) -> Path:
    sys.path.insert(0, str(HERE.parent / "phantom_models"))
    from train_phantom_models import new_model

    new_model("A").save(folder / "model")
    draw = np.random.default_rng(0)
    lines = ["path,patient_id,view,a,b,box"]
    for n in range(rows):
        path = Path("images", f"P{n // 3:05}", f"{n}.png")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (48, 48), np.uint8)).save(folder / path)
        view = "AP" if n % 2 else "PA"
        lines.append(f'{path},P{n // 3:05},{view},{int(n % 10 == 0)},{int(n % 7 == 0)},"4,4,20,24"')
    (folder / "cohort.csv").write_text("\n".join(lines))
    (folder / "study.toml").write_text(STUDY)
    return folder / "study.toml"


def measure(study: str) -> None:
    """In a process of its own: run it and print the peak, and what is used as it goes on, in MB."""
    import camscope as cs
    from camscope.study.study import Study

    peaks = []
    read = Study.read(study)
    for number, _ in enumerate(cs.run(read, Path(study).parent / "out", device="cpu")):
        if number in (64, len(read.cohort)):
            peaks.append(peak())
    print(f"{peaks[0]:.0f} {peaks[1]:.0f} {peak():.0f}")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(sizes: list[int]) -> None:
    lines = ["| rows | run | after the first shard | half-way | at the end |", "|---|---|---|---|---|"]
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            study = cohort(Path(folder), rows)
            for kind in ("new", "resumed"):
                command = [sys.executable, __file__, "--measure", str(study)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                lines.append(f"| {rows:,} | {kind} | " + " | ".join(done.stdout.split()) + " |")
                print(lines[-1], flush=True)
    text = "# Peak memory of a study (MB)\n\nBy `memory.py`: two labels of one small ConvNeXt, 48 x 48 pixels.\n\n"
    (HERE / "memory.md").write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    else:
        main([int(size) for size in sys.argv[1:]] or [500, 20_000])
