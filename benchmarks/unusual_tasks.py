"""Tasks to choose an optimizer by, with parameters that are no weights of layers, or that have far to go.

Nothing is read from elsewhere. Some of the modules give the loss themselves.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from general_tasks import Examples, Task, mlp
from meta_opt_optimizees.digits_mlp import read_digits

Parts = tuple[Examples, Examples | None]


def _itself(output: Tensor, targets: Tensor) -> Tensor:
    return output


@cache
def _photo() -> Tensor:
    """A smooth picture in three colours, [1, 3, 32, 32]."""
    coarse = torch.randn(1, 3, 9, 9, generator=Generator().manual_seed(11))
    return functional.interpolate(coarse, size=32, mode="bicubic")


@cache
def small_digits() -> Parts:
    """Handwritten digits, [n, 196]."""
    images, labels = read_digits()
    inputs = functional.interpolate(images.view(-1, 1, 8, 8), size=14, mode="bilinear").flatten(1)
    return ((inputs - inputs.mean()) / inputs.std(), labels), None


@cache
def places() -> Parts:
    """Pixels of the picture: their places, [n, 2], and colours."""
    along = torch.linspace(-1, 1, 32)
    grid = torch.stack(torch.meshgrid(along, along, indexing="ij"), dim=-1).view(-1, 2)
    return (grid, _photo()[0].permute(1, 2, 0).reshape(-1, 3)), None


@cache
def distances() -> Parts:
    """Pairs of 200 points in a plane, and how far they are from each other, with noise."""
    generator = Generator().manual_seed(8)
    points = 3.0 * torch.randn(200, 2, generator=generator)
    pairs = torch.randint(200, (8000, 2), generator=generator)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    lengths = (points[pairs[:, 0]] - points[pairs[:, 1]]).norm(dim=1)
    return (pairs, lengths + 0.1 * torch.randn(len(lengths), generator=generator)), None


@cache
def ratings() -> Parts:
    """What 300 users think of 200 items, from a mean of 3.5."""
    generator = Generator().manual_seed(10)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    pairs = torch.stack([torch.randint(count, (20000,), generator=generator) for count in (300, 200)], dim=1)
    users, items, of_users, of_items = drawn(300, 6), drawn(200, 6), 0.5 * drawn(300), 0.5 * drawn(200)
    taste = 0.4 * (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(1)
    return (pairs, 3.5 + taste + of_users[pairs[:, 0]] + of_items[pairs[:, 1]] + 0.3 * drawn(20000)), None


@cache
def bags() -> Parts:
    """Twenty words of 2,000, drawn by one of four topics, and the topic."""
    generator = Generator().manual_seed(9)
    topics = torch.rand(4, 2000, generator=generator).pow(12)  # few words of each are frequent
    topics = topics / topics.sum(1, keepdim=True)
    labels = torch.randint(4, (5000,), generator=generator)
    often = (topics + topics.mean(0)) / 2
    return (torch.multinomial(often[labels], 20, replacement=True, generator=generator), labels), None


@cache
def pairs_of_vectors() -> Parts:
    """Two vectors of ten numbers each, and a bilinear form of them."""
    generator = Generator().manual_seed(13)
    x = torch.randn(4000, 20, generator=generator)
    form = torch.randn(10, 10, generator=generator)
    return (x, torch.einsum("ni,ij,nj->n", x[:, :10], form, x[:, 10:]).unsqueeze(1) / 5), None


@cache
def slope() -> Parts:
    """Points about a line through the origin of slope 20."""
    generator = Generator().manual_seed(10)
    x = torch.randn(4000, 1, generator=generator)
    return (x, 20.0 * x + torch.randn(4000, 1, generator=generator)), None


@cache
def raw_targets() -> Parts:
    """Sums of sines of eight numbers, from 40 to 100."""
    generator = Generator().manual_seed(12)
    x = torch.randn(4000, 8, generator=generator)
    y = (0.6 * x @ torch.randn(8, 12, generator=generator)).sin() @ torch.randn(12, 1, generator=generator)
    return (x, 70.0 + 15.0 * (y - y.mean()) / y.std() + torch.randn(4000, 1, generator=generator)), None


@cache
def inside() -> Parts:
    """Places in -1 ≤ x ≤ 1, 0 ≤ t ≤ 1."""
    places = torch.rand(6000, 2, generator=Generator().manual_seed(7)) * torch.tensor([2.0, 1.0])
    places = places - torch.tensor([1.0, 0.0])
    return (places, places), None


class Experts(nn.Module):
    """Eight small networks, whose weights lie side by side, mixed by a ninth."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(196, 8)
        self.first, self.second = nn.Parameter(torch.randn(8, 196, 32) / 14), nn.Parameter(torch.randn(8, 32, 10) / 6)
        self.first_bias, self.second_bias = nn.Parameter(torch.zeros(8, 32)), nn.Parameter(torch.zeros(8, 10))

    def forward(self, x: Tensor) -> Tensor:
        """[n, 196] to [n, 10]."""
        hidden = (torch.einsum("ni,eio->neo", x, self.first) + self.first_bias).relu()
        outputs = torch.einsum("nei,eio->neo", hidden, self.second) + self.second_bias
        return (outputs * self.gate(x).softmax(1).unsqueeze(2)).sum(1)


class Deblurred(nn.Module):
    """The picture as a parameter, [1, 3, 32, 32], and the loss between it, blurred, and a blurred one with noise."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Parameter(torch.zeros(1, 3, 32, 32))
        bell = (-torch.arange(-3.0, 4.0).square() / 3.0).exp()
        kernel = torch.outer(bell, bell)
        self.kernel = (kernel / kernel.sum()).expand(3, 1, 7, 7)
        noise = torch.randn(1, 3, 32, 32, generator=Generator().manual_seed(3))
        self.seen = self.blurred(_photo()) + 0.02 * noise

    def blurred(self, picture: Tensor) -> Tensor:
        """[1, 3, 32, 32] to the same."""
        return functional.conv2d(picture, self.kernel, padding=3, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        """The loss, with a little total variation, whatever ``x``."""
        variation = self.picture.diff(dim=2).abs().mean() + self.picture.diff(dim=3).abs().mean()
        return functional.mse_loss(self.blurred(self.picture), self.seen) + 0.003 * variation


class SineNetwork(nn.Module):
    """Sines of 30 times what layers give, with the weights that Sitzmann et al. 2020 begin with (SIREN)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 64), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3)])
        with torch.no_grad():
            for number, layer in enumerate(self.layers):
                bound = math.sqrt(6 / 64) / 30 if number else 0.5
                layer.weight.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 2] to [n, 3]."""
        for layer in self.layers[:-1]:
            x = (30.0 * layer(x)).sin()
        return self.layers[-1](x)  # type: ignore[no-any-return]


class Places(nn.Module):
    """Points in a plane, [200, 2], and how far they are from each other."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Parameter(0.1 * torch.randn(200, 2))

    def forward(self, pairs: Tensor) -> Tensor:
        """[n, 2] to [n]."""
        return (self.points[pairs[:, 0]] - self.points[pairs[:, 1]]).square().sum(1).add(1e-8).sqrt()


class Factors(nn.Module):
    """Inner products of what is known of users and items, with a bias for each and one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Parameter(0.01 * torch.randn(300, 8)), nn.Parameter(0.01 * torch.randn(200, 8))
        self.of_users, self.of_items = nn.Parameter(torch.zeros(300)), nn.Parameter(torch.zeros(200))
        self.mean = nn.Parameter(torch.zeros(()))

    def forward(self, pairs: Tensor) -> Tensor:
        """[n, 2] to [n]."""
        user, item = pairs.T
        return (self.users[user] * self.items[item]).sum(1) + self.of_users[user] + self.of_items[item] + self.mean


class Bilinear(nn.Module):
    """What two layers give, multiplied with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 24), nn.Linear(10, 24)
        self.both, self.last = nn.Bilinear(24, 24, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 20] to [n, 1]."""
        return self.last(self.both(self.first(x[:, :10]).tanh(), self.second(x[:, 10:]).tanh()).relu())  # type: ignore[no-any-return]


class Slope(nn.Module):
    """One number."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1] to the same."""
        return self.slope * x


class Burgers(nn.Module):
    """A network of a place and a time, and by how much it is no solution of u_t + u u_x = 0.05 u_xx, with its edges."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(2, 32, 32, 32, 1, activation=nn.Tanh)

    def forward(self, places: Tensor) -> Tensor:
        """[n, 2], x and t, to the loss."""
        with torch.enable_grad():
            x, t = (each.clone().requires_grad_() for each in places.split(1, dim=1))
            u = self.net(torch.cat([x, t], 1))
            u_x, u_t = torch.autograd.grad(u.sum(), (x, t), create_graph=True)
            (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
        start = torch.linspace(-1, 1, 64).unsqueeze(1)
        begins = self.net(torch.cat([start, torch.zeros_like(start)], 1)) + (math.pi * start).sin()
        edge = torch.ones(32, 1)
        ends = self.net(torch.cat([torch.cat([edge, -edge]), torch.linspace(0, 1, 64).unsqueeze(1)], 1))
        equation = u_t + u * u_x - 0.05 * u_xx
        return equation.square().mean() + begins.square().mean() + ends.square().mean()


UNUSUAL_TASKS: dict[str, Task] = {
    "experts, stacked": Task("experts", small_digits, Experts),
    "picture, sines": Task("sine network", places, SineNetwork, functional.mse_loss, 256),
    "picture, deblurred": Task("picture", lambda: ((torch.zeros(4, 1), torch.zeros(4)), None), Deblurred, _itself, 1),
    "places from distances": Task("places", distances, Places, functional.mse_loss, 256),
    "ratings with biases": Task("embeddings", ratings, Factors, functional.mse_loss, 128),
    "bags of words": Task("embedding", bags, lambda: nn.Sequential(nn.EmbeddingBag(2000, 32), nn.Linear(32, 4))),
    "bilinear form": Task("bilinear", pairs_of_vectors, Bilinear, functional.mse_loss),
    "one number": Task("scalar", slope, Slope, functional.mse_loss),
    "targets of 70": Task("regression", raw_targets, lambda: mlp(8, 64, 64, 1), functional.mse_loss),
    "Burgers' equation": Task("physics", inside, Burgers, _itself, 128),
}
