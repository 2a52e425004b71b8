"""The callback in a training that is not ours."""

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import camscope as cs
from camscope.training.callbacks import LogMaps


class Own(L.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def training_step(self, batch, _):
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_maps_of_fixed_pictures_after_each_epoch_in_files_and_tensorboard(tmp_path):
    model = cs.load("timm:resnet10t", weights="none", labels=["cat", "dog"], input_size=64)
    pixels = np.random.default_rng(0).random((40, 50, 3)).astype(np.float32)
    pictures = [(cs.Picture(pixels), "dog"), (cs.Picture(pixels), None)]
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=TensorBoardLogger(tmp_path, name="", version=""),
        callbacks=[LogMaps(model, pictures, folder=tmp_path / "maps")],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(4, 3, 64, 64)), batch_size=2)
    trainer.fit(Own(model.net), loader)
    files = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert files == ["epoch_001.png", "epoch_002.png"]
    one, two = (np.asarray(Image.open(tmp_path / "maps" / name)) for name in files)
    assert (one != two).any()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    assert [event.step for event in events.Images("maps")] == [0, 1]
