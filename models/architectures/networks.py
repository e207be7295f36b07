"""Networks that no package ships in a small form, written out: one for each kind of graph that users bring."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Ronneberger et al. 2015, two levels: transposed convolutions and long skips. Sides divide by 4."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle, self.bottom = _block(3, 16), _block(16, 32), _block(32, 64)
        self.up_middle, self.up_top = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.back_middle, self.back_top = _block(64, 32), _block(32, 16)
        self.classes = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        middle = self.middle(functional.max_pool2d(top, 2))
        bottom = self.bottom(functional.max_pool2d(middle, 2))
        back = self.back_middle(torch.cat([self.up_middle(bottom), middle], 1))
        return self.classes(self.back_top(torch.cat([self.up_top(back), top], 1)))


class Detector(nn.Module):
    """After YOLOv8: split blocks, pooled pyramid, boxes as expectations over 16 bins. Sides divide by 8."""

    def __init__(self) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
            plain = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
            return nn.Sequential(plain, nn.BatchNorm2d(outputs), nn.SiLU())

        self.stem, self.down = conv(3, 16, 3, 2), conv(16, 32, 3, 2)
        self.narrow, self.inner, self.joined = conv(32, 16, 1), conv(16, 16), conv(32, 32, 1)
        self.deep, self.pool, self.pooled = conv(32, 64, 3, 2), nn.MaxPool2d(5, 1, 2), conv(256, 64, 1)
        self.up, self.neck = nn.Upsample(scale_factor=2), conv(96, 32)
        self.fine, self.coarse = nn.Conv2d(32, 70, 1), nn.Conv2d(64, 70, 1)
        self.register_buffer("bins", torch.arange(16.0).view(1, 16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.stem(x))
        narrow = self.narrow(x)
        fine = self.joined(torch.cat([narrow, narrow + self.inner(narrow)], 1))
        levels = [self.deep(fine)]
        for _ in range(3):
            levels.append(self.pool(levels[-1]))
        coarse = self.pooled(torch.cat(levels, 1))
        fine = self.neck(torch.cat([self.up(coarse), fine], 1))
        heads = torch.cat([self.fine(fine).flatten(2), self.coarse(coarse).flatten(2)], 2)
        boxes, scores = heads.split((64, 6), 1)
        bins = boxes.view(boxes.shape[0], 4, 16, -1).transpose(1, 2).softmax(1)
        return torch.cat([(bins * self.bins).sum(1), scores.sigmoid()], 1)


class Tagger(nn.Module):
    """A bidirectional LSTM of two layers over an embedding: a label for each word."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 64)
        self.lstm = nn.LSTM(64, 64, 2, batch_first=True, bidirectional=True)
        self.labels = nn.Linear(128, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.labels(self.lstm(self.embedding(x))[0])


class Gru(nn.Module):
    """A GRU whose last state is classified: sensor series."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.classes = nn.GRU(24, 96, batch_first=True), nn.Linear(96, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.gru(x)[1][-1])


class WaveNet(nn.Module):
    """van den Oord et al. 2016: dilated causal convolutions with gates, residuals and skips."""

    def __init__(self, layers: int = 6) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(1, 32, 1), nn.Conv1d(32, 16, 1)
        self.gates = nn.ModuleList(nn.Conv1d(32, 64, 2, dilation=2**layer) for layer in range(layers))
        self.residuals = nn.ModuleList(nn.Conv1d(32, 32, 1) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        skips = torch.zeros_like(x)
        for layer, (gate, residual) in enumerate(zip(self.gates, self.residuals, strict=True)):
            values, doors = gate(functional.pad(x, (2**layer, 0))).chunk(2, 1)
            made = torch.tanh(values) * torch.sigmoid(doors)
            skips, x = skips + made, x + residual(made)
        return self.last(functional.relu(skips))


class EegNet(nn.Module):
    """Lawhern et al. 2018: long kernels, a depthwise convolution over the electrodes, a separable one over time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, (1, 64), padding=(0, 32), bias=False), nn.BatchNorm2d(8),
            nn.Conv2d(8, 16, (22, 1), groups=8, bias=False), nn.BatchNorm2d(16), nn.ELU(), nn.AvgPool2d((1, 4)),
            nn.Conv2d(16, 16, (1, 16), groups=16, padding=(0, 8)), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ELU(),
            nn.AvgPool2d((1, 8)), nn.Flatten(), nn.Linear(128, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class PointNet(nn.Module):
    """Qi et al. 2017 without its spatial transformers: a maximum over the points of a cloud."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Sequential(
            nn.Conv1d(3, 64, 1), nn.BatchNorm1d(64), nn.ReLU(),
            nn.Conv1d(64, 128, 1), nn.BatchNorm1d(128), nn.ReLU(), nn.Conv1d(128, 256, 1),
        )  # fmt: skip
        self.classes = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.points(x).amax(2))


class ChannelAttention(nn.Module):
    """Woo et al. 2018 (CBAM): attention over channels and places, by means and maxima."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = _block(3, 32), nn.Linear(32, 10)
        self.channels = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 32))
        self.places = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weights = torch.sigmoid(self.channels(x.mean((2, 3))) + self.channels(x.amax((2, 3))))
        x = x * weights[:, :, None, None]
        places = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        x = x * torch.sigmoid(self.places(places))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class SuperResolution(nn.Module):
    """Shi et al. 2016 (ESPCN): three times the sides by a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh(),
            nn.Conv2d(32, 9, 3, padding=1), nn.PixelShuffle(3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Dlrm(nn.Module):
    """Naumov et al. 2019: embeddings of categories, their pairwise products with the dense features."""

    def __init__(self, numeric: int, tables: int, vocabulary: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(vocabulary, 16) for _ in range(tables))
        self.dense = nn.Sequential(nn.Linear(numeric, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU())
        pairs = (tables + 1) * tables // 2
        self.top = nn.Sequential(nn.Linear(16 + pairs, 64), nn.ReLU(), nn.Linear(64, 1), nn.Sigmoid())

    def forward(self, x: Tensor, categories: Tensor) -> Tensor:
        vectors = [self.dense(x), *(table(categories[:, index]) for index, table in enumerate(self.tables))]
        stacked = torch.stack(vectors, 1)
        products = torch.bmm(stacked, stacked.transpose(1, 2))
        rows, columns = torch.tril_indices(len(vectors), len(vectors), -1)
        return self.top(torch.cat([vectors[0], products[:, rows, columns]], 1))


class Video(nn.Module):
    """Three-dimensional convolutions over a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d(2),
            nn.Conv3d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Autoencoder(nn.Module):
    """Strided convolutions down to a code and transposed ones up again: two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.SiLU(), nn.Flatten(),
            nn.Linear(32 * 49, 20),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(20, 32 * 49), nn.SiLU(), nn.Unflatten(1, (32, 7, 7)), nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.SiLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        return self.decoder(code), code


class StyleTransfer(nn.Module):
    """Johnson et al. 2016, cut down: instance normalization, reflected padding, nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 9, padding=4, padding_mode="reflect")
        self.down, self.residual = nn.Conv2d(32, 64, 3, 2, 1), nn.Conv2d(64, 64, 3, padding=1)
        self.up, self.last = nn.Conv2d(64, 32, 3, padding=1), nn.Conv2d(32, 3, 9, padding=4)
        self.norms = nn.ModuleList(nn.InstanceNorm2d(channels, affine=True) for channels in (32, 64, 64, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norms[0](self.first(x)))
        x = functional.relu(self.norms[1](self.down(x)))
        x = x + functional.relu(self.norms[2](self.residual(x)))
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        return torch.sigmoid(self.last(functional.relu(self.norms[3](self.up(x)))))
