"""Detectors and segmentation networks of Hugging Face, segmentation_models_pytorch and Ultralytics, untrained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from nets import Case, picture
from torch import Tensor, nn

import camscope as cs
from camscope.models.sources import dense
from camscope.models.sources.hf_dense import Detector, Segmenter
from camscope.trace.boxes import NEVER

SMP = (
    *("unet/resnet18", "unet/efficientnet-b0", "unet/densenet121", "unet/mit_b0", "unetplusplus/resnet18"),
    *("manet/resnet18", "linknet/resnet18", "fpn/resnet18", "pspnet/resnet18", "deeplabv3/resnet18"),
    *("deeplabv3plus/resnet18", "pan/resnet18", "upernet/resnet18", "segformer/mit_b0", "unet/mobilenet_v2"),
)
ULTRALYTICS = ("yolov8n", "yolo11n", "yolo12n", "yolov10n", "rtdetr-l", "yolov8n-seg")
_SIDE = 256
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_VIT = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
_RESNET = {"embedding_size": 16, "hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 2, 1]}
_LAYERS = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
_QUERIES = {**_LAYERS, "d_model": 64, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "num_queries": 20}
_RT = {
    **_QUERIES,
    "encoder_layers": 1,
    "encoder_hidden_dim": 64,
    "encoder_in_channels": [48, 64, 96],
    "decoder_in_channels": [64] * 3,
}


def dense_models() -> Iterator[Case]:
    """All of them, package by package."""
    for name in (*(f"smp:{one}" for one in SMP), *(f"ultralytics:{one}" for one in ULTRALYTICS)):
        yield Case("dense", name, name, partial(_by_address, name))
    for family, make in {**_detectors(), **_segmenters()}.items():
        yield Case("dense", family, family, partial(_made, make))


def _by_address(address: str) -> tuple[nn.Module, Tensor]:
    """An untrained YOLO finds no box, since its scores are below the threshold: here every place is one."""
    dense._LEAST = NEVER
    net = cs.load(address, weights="none", input_size=_SIDE).net
    return net.eval(), picture(3, (_SIDE, _SIDE))


def _made(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    return make().eval(), picture(3, (_SIDE, _SIDE))


def _detectors() -> dict[str, Callable[[], nn.Module]]:
    import transformers as hf

    def found(net: Any, config: Any, **sizes: Any) -> Callable[[], nn.Module]:
        return lambda: Detector(net(config(num_labels=5, **{k: _built(v) for k, v in sizes.items()})), 5)

    resnet = partial(hf.ResNetConfig, **_RESNET)
    rt = partial(hf.RTDetrResNetConfig, **_RESNET, out_features=_STAGES[1:])
    return {
        "hf:yolos": found(
            hf.YolosForObjectDetection, hf.YolosConfig, image_size=[_SIDE, _SIDE], num_detection_tokens=20, **_VIT
        ),
        "hf:detr": found(
            hf.DetrForObjectDetection, hf.DetrConfig, backbone_config=partial(resnet, out_features=_STAGES), **_QUERIES
        ),
        "hf:conditional_detr": found(
            hf.ConditionalDetrForObjectDetection,
            hf.ConditionalDetrConfig,
            backbone_config=partial(resnet, out_features=_STAGES),
            **_QUERIES,
        ),
        "hf:deformable_detr": found(
            hf.DeformableDetrForObjectDetection,
            hf.DeformableDetrConfig,
            backbone_config=partial(resnet, out_features=_STAGES[1:]),
            **_QUERIES,
        ),
        "hf:rt_detr": found(hf.RTDetrForObjectDetection, hf.RTDetrConfig, backbone_config=rt, **_RT),
        "hf:rt_detr_v2": found(hf.RTDetrV2ForObjectDetection, hf.RTDetrV2Config, backbone_config=rt, **_RT),
        "hf:d_fine": found(hf.DFineForObjectDetection, hf.DFineConfig, backbone_config=_hgnet, **_RT),
    }


def _segmenters() -> dict[str, Callable[[], nn.Module]]:
    import transformers as hf

    def masks(net: Any, config: Any, **sizes: Any) -> Callable[[], nn.Module]:
        return lambda: Segmenter(net(config(num_labels=5, **{k: _built(v) for k, v in sizes.items()})))

    swin = partial(hf.SwinConfig, embed_dim=24, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], out_features=_STAGES)
    convnext = partial(hf.ConvNextConfig, hidden_sizes=[24, 48, 96, 192], depths=[1, 1, 2, 1], out_features=_STAGES)
    tokens = {"image_size": _SIDE, "patch_size": 16, **_VIT}
    masked = {"feature_size": 64, "hidden_dim": 64, "mask_feature_size": 64, "num_queries": 20}
    sizes = {"encoder_layers": 2, "decoder_layers": 3, "num_attention_heads": 4}
    return {
        "hf:segformer": masks(
            hf.SegformerForSemanticSegmentation,
            hf.SegformerConfig,
            hidden_sizes=[16, 32, 80, 128],
            decoder_hidden_size=64,
        ),
        "hf:upernet": masks(
            hf.UperNetForSemanticSegmentation,
            hf.UperNetConfig,
            backbone_config=convnext,
            hidden_size=32,
            auxiliary_in_channels=96,
            auxiliary_channels=16,
        ),
        "hf:beit": masks(hf.BeitForSemanticSegmentation, hf.BeitConfig, out_indices=[1, 2, 3, 4], **tokens),
        "hf:dpt": masks(
            hf.DPTForSemanticSegmentation,
            hf.DPTConfig,
            neck_hidden_sizes=[16, 32, 48, 64],
            fusion_hidden_size=32,
            backbone_out_indices=[0, 1, 2, 3],
            **tokens,
        ),
        "hf:mask2former": masks(
            hf.Mask2FormerForUniversalSegmentation, hf.Mask2FormerConfig, backbone_config=swin, **masked, **sizes
        ),
    }


def _built(value: Any) -> Any:
    """A part's own configuration, made anew for each network."""
    return value() if callable(value) else value


def _hgnet() -> Any:
    import transformers as hf

    return hf.HGNetV2Config(
        stem_channels=[3, 16, 16],
        hidden_sizes=[32, 48, 64, 96],
        depths=[1] * 4,
        stage_in_channels=[16, 32, 48, 64],
        stage_mid_channels=[16] * 4,
        stage_out_channels=[32, 48, 64, 96],
        stage_num_blocks=[1] * 4,
        stage_numb_of_layers=[2] * 4,
        out_features=_STAGES[1:],
    )
