"""The architectures by name: what makes each, and what it is fed. Sizes are small, for only the graphs matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from models.architectures import networks
from models.architectures.samples import Sample, features, masked_words, numbers, pictures, words

_WORDS, _LENGTH = 1000, 32
_SMALL = {
    "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256,
    "vocab_size": _WORDS,
}  # fmt: skip
_SIGHT = {name: value for name, value in _SMALL.items() if name != "vocab_size"} | {"image_size": 96, "patch_size": 16}


@dataclass(frozen=True)
class Architecture:
    """`open_axes` are those of the first input, behind the batch, that callers may choose."""

    make: Callable[[], nn.Module]
    sample: Sample
    open_axes: tuple[int, ...] = ()


class _Called(nn.Module):
    """A network of transformers with inputs by place and one output of those it has."""

    def __init__(self, network: nn.Module, inputs: tuple[str, ...], output: str | int) -> None:
        super().__init__()
        self.network, self._inputs, self._output = network, inputs, output

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        given = (x,) if mask is None else (x, mask)
        return self.network(**dict(zip(self._inputs, given, strict=True)))[self._output]


def _of_timm(name: str, side: int) -> Architecture:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False)

    return Architecture(make, pictures(side))


def _of_transformers(
    name: str, sample: Sample, inputs: tuple[str, ...], output: str | int = 0, /, **sizes: Any
) -> Architecture:
    """`name` is of the network's class; that of its configuration begins like it."""

    def make() -> nn.Module:
        import transformers

        network = getattr(transformers, name)
        config = network.config_class(**sizes)
        config._attn_implementation = "eager"
        return _Called(network(config), inputs, output)

    return Architecture(make, sample)


_TEXT = ("input_ids", "attention_mask")
_SENTENCES, _PICTURES = masked_words(_WORDS, _LENGTH), pictures(96)
_TIMM = {
    "resnet18": 96, "mobilenetv3_small_100": 96, "efficientnet_b0": 96, "ghostnet_100": 96, "regnety_002": 96,
    "convnext_atto": 96, "vit_tiny_patch16_224": 224, "levit_128s": 224, "mobilevit_xxs": 128, "densenet121": 96,
    "inception_v3": 139, "repvgg_a0": 96, "poolformer_s12": 96, "edgenext_xx_small": 96, "fastvit_t8": 96,
    "xcit_nano_12_p16_224": 224, "lcnet_050": 96, "mambaout_femto": 96, "starnet_s1": 96, "repvit_m0_9": 96,
    "mixnet_s": 96, "rexnet_100": 96, "dla34": 96, "resnest14d": 96,
}  # fmt: skip
_TRANSFORMERS = {
    "bert": _of_transformers("BertForSequenceClassification", _SENTENCES, _TEXT, **_SMALL),
    "distilbert": _of_transformers(
        "DistilBertModel", _SENTENCES, _TEXT, dim=128, n_layers=3, n_heads=4, hidden_dim=256, vocab_size=_WORDS
    ),
    "deberta": _of_transformers(
        "DebertaV2Model", _SENTENCES, _TEXT,
        relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=32, **_SMALL,
    ),
    "gpt2": _of_transformers(
        "GPT2Model", words(_WORDS, _LENGTH), ("input_ids",),
        n_embd=128, n_layer=3, n_head=4, vocab_size=_WORDS, use_cache=False,
    ),
    "llama": _of_transformers(
        "LlamaModel", words(_WORDS, _LENGTH), ("input_ids",), num_key_value_heads=2, use_cache=False, **_SMALL
    ),
    "t5": _of_transformers(
        "T5EncoderModel", _SENTENCES, _TEXT,
        d_model=128, d_kv=32, d_ff=256, num_layers=3, num_heads=4, vocab_size=_WORDS,
    ),
    "wav2vec2": _of_transformers(
        "Wav2Vec2Model", numbers((8000,)), ("input_values",),
        hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, conv_dim=(64,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    ),
    "clip": _of_transformers("CLIPVisionModelWithProjection", _PICTURES, ("pixel_values",), **_SIGHT),
    "dinov2": _of_transformers("Dinov2Model", _PICTURES, ("pixel_values",), **_SIGHT),
    "segformer": _of_transformers(
        "SegformerForSemanticSegmentation", _PICTURES, ("pixel_values",),
        hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], decoder_hidden_size=64, num_labels=5,
    ),
    "yolos": _of_transformers(
        "YolosForObjectDetection", _PICTURES, ("pixel_values",), "pred_boxes",
        **(_SIGHT | {"image_size": [96, 96], "num_detection_tokens": 20}),
    ),
    "patchtst": _of_transformers(
        "PatchTSTForPrediction", numbers((64, 3)), ("past_values",), "prediction_outputs",
        num_input_channels=3, context_length=64, patch_length=8, patch_stride=8, prediction_length=8, d_model=64,
        num_hidden_layers=2, num_attention_heads=4, ffn_dim=128,
    ),
    "mamba": _of_transformers(
        "MambaModel", words(_WORDS, 16), ("input_ids",),
        vocab_size=_WORDS, hidden_size=64, state_size=8, num_hidden_layers=2, use_cache=False,
    ),
}  # fmt: skip
_WRITTEN = {
    "unet": Architecture(networks.UNet, pictures(64), open_axes=(2, 3)),
    "detector": Architecture(networks.Detector, pictures(96), open_axes=(2, 3)),
    "style_transfer": Architecture(networks.StyleTransfer, pictures(64), open_axes=(2, 3)),
    "super_resolution": Architecture(networks.SuperResolution, pictures(32, 1), open_axes=(2, 3)),
    "tagger": Architecture(lambda: networks.Tagger(_WORDS), words(_WORDS, 20), open_axes=(1,)),
    "gru": Architecture(networks.Gru, numbers((30, 24))),
    "wavenet": Architecture(networks.WaveNet, numbers((1, 256)), open_axes=(2,)),
    "eegnet": Architecture(networks.EegNet, numbers((1, 22, 256))),
    "pointnet": Architecture(networks.PointNet, numbers((3, 128)), open_axes=(2,)),
    "cbam": Architecture(networks.ChannelAttention, pictures(32)),
    "dlrm": Architecture(lambda: networks.Dlrm(13, 6, 200), features(13, 6, 200)),
    "video": Architecture(networks.Video, numbers((3, 8, 24, 24))),
    "autoencoder": Architecture(networks.Autoencoder, pictures(28, 1)),
}
ARCHITECTURES: dict[str, Architecture] = {
    **_WRITTEN, **{name: _of_timm(name, side) for name, side in _TIMM.items()}, **_TRANSFORMERS,
}  # fmt: skip
