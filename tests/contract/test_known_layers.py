"""The default layer of well-known architectures is the one that the literature and the peers use.

Most are the end of the features before pooling, as pytorch-grad-cam's README and the Grad-CAM paper have it.
Deviations: a Vision Transformer with a class token is explained at the norm before its last attention, since patches
act on the score only there; SqueezeNet before its class scores, which are no features.
"""

import pytest
import timm
import torch
import torchvision

from camscope.models.layer_choice import default_layer

TORCHVISION = {
    "alexnet": "features.11",
    "vgg11": "features.19",
    "vgg16": "features.29",
    "vgg16_bn": "features.42",
    "vgg19": "features.35",
    "resnet18": "layer4",
    "resnet50": "layer4",
    "resnext50_32x4d": "layer4",
    "wide_resnet50_2": "layer4",
    "densenet121": "relu()",
    "densenet161": "relu()",
    "squeezenet1_0": "features",
    "squeezenet1_1": "features",
    "googlenet": "inception5b",
    "inception_v3": "Mixed_7c",
    "mobilenet_v2": "features",
    "mobilenet_v3_small": "features",
    "mobilenet_v3_large": "features",
    "mnasnet0_5": "layers",
    "mnasnet1_0": "layers",
    "shufflenet_v2_x0_5": "conv5",
    "efficientnet_b0": "features",
    "efficientnet_v2_s": "features",
    "regnet_y_400mf": "trunk_output",
    "regnet_x_400mf": "trunk_output",
    "convnext_tiny": "features",
    "swin_t": "norm",
    "swin_v2_t": "norm",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
    "vit_b_32": "encoder.layers.encoder_layer_11.ln_1",
    "maxvit_t": "blocks.3",
}
TIMM = {
    "resnet50": "layer4",
    "resnet101": "layer4",
    "seresnet50": "layer4",
    "resnest26d": "layer4",
    "convnext_atto": "stages",
    "convnextv2_atto": "stages",
    "efficientnet_b0": "bn2",
    "mobilenetv2_100": "bn2",
    "mobilenetv3_small_100": "blocks",
    "mobilenetv4_conv_small": "blocks",
    "densenet121": "features",
    "vgg16": "features.29",
    "xception": "act4",
    "inception_v4": "features",
    "inception_resnet_v2": "conv2d_7b",
    "vit_tiny_patch16_224": "blocks.11.norm1",
    "deit_tiny_distilled_patch16_224": "blocks.11.norm1",
    "repvgg_a0": "stages",
    "darknet53": "stages",
    "ghostnet_100": "blocks",
    "regnety_002": "s4",
    "poolformer_s12": "stages",
    "mobilevit_xs": "final_conv",
    "edgenext_xx_small": "stages",
    "mixer_s16_224": "norm",
    "pvt_v2_b0": "stages",
    "swin_tiny_patch4_window7_224": "norm",
}
WHOLE = {"swin_t": 224, "swin_v2_t": 256, "maxvit_t": 224, "inception_v3": 299, "inception_v4": 299}
NAMES = [*((torchvision, name) for name in TORCHVISION), *((timm, name) for name in TIMM)]


@pytest.mark.slow
@pytest.mark.parametrize(("source", "name"), NAMES, ids=lambda value: getattr(value, "__name__", value))
def test_the_layer_of_a_known_architecture(source, name):
    torch.manual_seed(0)
    more = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    net = torchvision.models.get_model(name, weights=None, **more) if source is torchvision else timm.create_model(name)
    size = WHOLE.get(name, 224 if any(part in name for part in ("vit", "224")) else 128)
    expected = (TORCHVISION if source is torchvision else TIMM)[name]
    assert default_layer(net.eval(), torch.zeros(1, 3, size, size)) == expected
