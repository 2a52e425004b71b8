"""Peak memory, each case in a process of its own: a plain forward, Grad-CAM, and Score-CAM beside its peer.

    python benchmarks/speed/memory.py forward

prints the megabytes of that case alone.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

BATCH, SIDE = 32, 224


def main(case: str) -> None:
    """Do the work of one case, and print the peak of the process and what it was before the work, in MB."""
    import camscope as cs
    from camscope.heatmap import upsample

    model = cs.load("torchvision:resnet50", weights="none")
    x = torch.randn(1 if "Score-CAM" in case else BATCH, 3, SIDE, SIDE)
    if case == "forward":
        net = model.net.to(memory_format=torch.contiguous_format)
        before = peak()
        with torch.inference_mode():
            net(x)
        print(peak(), before)
        return
    if case == "Score-CAM, pytorch-grad-cam":
        from pytorch_grad_cam import ScoreCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        net = model.net.to(memory_format=torch.contiguous_format)
        before = peak()
        ScoreCAM(net, [net.layer4])(input_tensor=x, targets=[ClassifierOutputTarget(3)])
        print(peak(), before)
        return
    before = peak()
    if case == "Score-CAM":
        upsample(cs.cam(model.net, x, method="scorecam", targets=3).relu(), (SIDE, SIDE))
    elif case.startswith("Grad-CAM"):
        precision = case.partition(", ")[2]
        upsample(cs.cam(model.net, x, targets=3, precision=precision).relu(), (SIDE, SIDE))
    print(peak(), before)


def peak() -> int:
    """Peak MB of this process since it began its program; what `resource` says is at least that of its parent."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def measured() -> dict[str, dict[str, int]]:
    """Every case; the median of three processes, where one takes seconds."""
    found = {}
    for case in ("forward", "Grad-CAM, float32", "Grad-CAM, bfloat16", "Score-CAM", "Score-CAM, pytorch-grad-cam"):
        runs = []
        for _ in range(1 if "Score-CAM" in case else 3):
            done = subprocess.run([sys.executable, __file__, case], capture_output=True, text=True, check=True)
            runs.append(tuple(map(int, done.stdout.split()[-2:])))
        total, before = sorted(runs)[len(runs) // 2]
        found[case] = {"peak": total, "before": before}
    return found


if __name__ == "__main__":
    main(sys.argv[1])
