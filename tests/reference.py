"""Meta-training written straight from the paper, slowly: one graph through the whole unroll, ``nn.LSTMCell``.

Andrychowicz et al. 2016, equations 2 and 3 and appendix A. Nothing here is shared with the package but the weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from meta_opt.optimizees.layout import NUM_FEATURES, Layout, Segment
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM


class PaperNetwork(nn.Module):
    """One network of a :class:`CoordinatewiseLSTM` in PyTorch's own modules; coordinates are rows."""

    def __init__(self, optimizer: CoordinatewiseLSTM, key: str) -> None:
        """Where tensors have features, the cells read them beside their inputs."""
        super().__init__()
        network = optimizer.networks[key]
        self.options = optimizer
        self.cells = nn.ModuleList()
        size = optimizer.hidden_size
        more = [*network.feature_weights] or [network.weights[0].new_zeros(4 * size, 0) for _ in network.weights]
        for weight, bias, features in zip(network.weights, network.biases, more, strict=True):
            weight = torch.cat([features, weight], dim=1)
            cell = nn.LSTMCell(weight.shape[1] - size, size).to(weight.dtype)
            input_gate, forget, output, candidate = torch.arange(4 * size).split(size)
            order = torch.cat([input_gate, forget, candidate, output])  # PyTorch's order of the gates
            with torch.no_grad():
                cell.weight_ih.copy_(weight[order, :-size])
                cell.weight_hh.copy_(weight[order, -size:])
                cell.bias_ih.copy_(bias[order, 0])
                cell.bias_hh.zero_()
            cell.bias_hh.requires_grad_(False)
            self.cells.append(cell)
        self.out = nn.Linear(*reversed(network.output_weight.shape)).to(network.output_weight.dtype)
        with torch.no_grad():
            self.out.weight.copy_(network.output_weight)
            self.out.bias.copy_(network.output_bias[:, 0])

    def grads(self) -> list[Tensor]:
        """The gradients in the order of the package's parameters."""
        size = self.options.hidden_size
        weights, biases, features = [], [], []
        input_gate, forget, candidate, output = torch.arange(4 * size).split(size)
        order = torch.cat([input_gate, forget, output, candidate])
        for cell in self.cells:
            weight = torch.cat([cell.weight_ih.grad, cell.weight_hh.grad], dim=1)[order]
            count = NUM_FEATURES * self.options.tensor_features
            weights.append(weight[:, count:])
            features += [weight[:, :count]] if count else []
            biases.append(cell.bias_ih.grad[order, None])
        return [self.out.weight.grad, self.out.bias.grad[:, None], *weights, *biases, *features]


def segments_of(layout: Layout, optimizer: CoordinatewiseLSTM) -> tuple[Segment, ...]:
    """What coordinates have a network, and where something is read of tensors, a tensor, of their own."""
    by_tensor = "scales" in optimizer.inputs or optimizer.spectral or optimizer.agreement != 0.0
    tensors = by_tensor or optimizer.largest_width is not None
    return layout.segments(optimizer.share, tensors=tensors, features=optimizer.tensor_features)


class PaperUnroll:
    """An episode of one problem per row of θ, remembering m, v and the states of every coordinate."""

    def __init__(self, problems: Problems, optimizer: CoordinatewiseLSTM, horizon: int | None = None) -> None:
        self.problems, self.optimizer, self.horizon = problems, optimizer, horizon
        self.segments = segments_of(problems.layout, optimizer)
        self.theta = problems.initial_params
        self.evaluation = problems.evaluate(self.theta)
        self.mean = torch.zeros_like(self.theta)
        self.square = torch.zeros_like(self.theta)
        self.sizes: dict[Segment, Tensor] = {}
        self.count = 0
        self.states: dict[Segment, list[tuple[Tensor, Tensor]]] = {}

    def run(self, num_steps: int, weights: Tensor, meta_loss: str = "sum") -> tuple[Tensor, list[Tensor]]:
        """Meta-loss and meta-gradient of the next ``num_steps`` steps, gradients of f held constant."""
        networks = self.networks()
        theta, values = self.theta.detach(), []
        self.states = {k: [(h.detach(), c.detach()) for h, c in v] for k, v in self.states.items()}
        for _ in range(num_steps):
            grad = self.evaluation.grad.detach()
            update = self._update(networks, grad)
            theta = theta + update
            with torch.no_grad():
                self.evaluation = self.problems.evaluate(theta.detach())
            # f_t as a function of φ through θ_t: its value, and its gradient as computed at θ_t
            values.append(self.evaluation.loss + ((theta - theta.detach()) * self.evaluation.grad).sum(1))
        f = torch.stack(values)  # [T, B]
        parts = {
            "sum": lambda: weights @ f,
            "log_sum": lambda: weights @ f.log(),
            "log_mean": lambda: weights.sum() * (weights @ f / weights.sum()).log(),
        }
        total = parts[meta_loss]().mean()
        total.backward()
        self.theta = theta.detach()
        return total.detach(), [grad for network in networks.values() for grad in network.grads()]

    def networks(self) -> dict[str, PaperNetwork]:
        """One for each name, with the weights of now."""
        return {s.name: PaperNetwork(self.optimizer, s.name.replace(".", "/")) for s in self.segments}

    def _update(self, networks: dict[str, PaperNetwork], grad: Tensor) -> Tensor:
        options = self.optimizer
        beta, p = 0.95, options.p
        self.count += 1
        grad = grad.clamp(-1e15, 1e15)
        if "scales" in options.inputs:  # no tensor's gradient is more than 1,000 times as large as those before
            for segment in self.segments:
                part = grad[:, segment.start : segment.stop]
                before = self.sizes.get(segment, torch.zeros_like(part[:, :1]))
                most = 1000 * (before / (1 - beta ** max(self.count - 1, 1))).sqrt()
                root = part.norm(dim=1, keepdim=True) / max(part.shape[1], 1) ** 0.5
                part *= torch.where((before > 1e-20) & (root > most), most / root, 1)
        self.mean = beta * self.mean + (1 - beta) * grad
        self.square = beta * self.square + (1 - beta) * grad**2
        root = ((self.square + 1e-30) / (1 - beta**self.count)).sqrt() + 1e-8
        adam = self.mean / (1 - beta**self.count) / root
        features = []
        if options.inputs == "none":
            features = [grad]
        if "log_sign" in options.inputs:
            large = grad.abs() >= math.exp(-p)
            features += [
                torch.where(large, grad.abs().log() / p, -torch.ones_like(grad)),
                torch.where(large, grad.sign(), math.exp(p) * grad),
            ]
        if options.inputs == "log_times_sign":
            large = grad.abs() >= math.exp(-p)
            features = [torch.where(large, grad.abs().log() / p * grad.sign(), -math.exp(p) * grad)]
        if "moments" in options.inputs:
            features += [adam, grad / root]
        inputs = torch.stack(features, dim=-1)  # [B, N, F]
        columns, directions = [], []
        for segment in self.segments:
            network = networks[segment.name]
            columns_of = slice(segment.start, segment.stop)
            x = inputs[:, columns_of]
            if "scales" in options.inputs:
                part = grad[:, columns_of]
                size = self.sizes.get(segment, torch.zeros_like(part[:, :1]))
                size = beta * size + (1 - beta) * (part**2).sum(1, keepdim=True) / max(part.shape[1], 1)
                self.sizes[segment] = size
                size = (size / (1 - beta**self.count) + 1e-20).sqrt()
                ratios = torch.stack([self.mean[:, columns_of] / (1 - beta**self.count), part]) / size
                squashed = ratios.sign() * (1 + ratios.abs()).log()
                time = math.log(min(self.count, 1000)) / 4 - 1
                if options.horizon:
                    left = max(self.horizon - self.count + 1, 1) if self.horizon else 1000
                    time = math.log(self.count / left) / 4
                more = [torch.full_like(part, time), (size.log() / 5 + 1).expand_as(part), *squashed]
                x = torch.cat([x, torch.stack(more, dim=-1)], dim=-1)
            directions.append(adam[:, columns_of])
            if "orthogonal" in options.inputs:
                if segment.num_rows:
                    matrices = (self.mean / (1 - beta**self.count) + grad)[:, columns_of]
                    matrices = matrices.unflatten(1, (segment.num_rows, -1))
                    directions[-1] = torch.stack([muon(matrix).flatten() for matrix in matrices])
                x = torch.cat([x, directions[-1].unsqueeze(-1)], dim=-1)
            x = x.reshape(-1, x.shape[-1])
            zero = x.new_zeros(len(x), options.hidden_size)
            states = self.states.get(segment, [(zero, zero)] * options.num_layers)
            self.states[segment] = []
            for cell, state in zip(network.cells, states, strict=True):
                features = x.new_tensor(segment.features).expand(len(x), -1)
                h, c = cell(torch.cat([features, x], dim=1), state)
                self.states[segment].append((h, c))
                x = h
            columns.append(network.out(x).view(len(grad), -1, network.out.out_features))
        outputs = torch.cat(columns, dim=1)
        output = outputs[..., 0]
        if options.output == "tanh":
            output = output.tanh()
        update = options.output_scale * output - options.base_step * torch.cat(directions, dim=1)
        if options.output == "magnitude":
            update = update * outputs[..., 1].clamp(-10, 10).exp()
        if options.base_step != 0.0 or "moments" in options.inputs:
            update = torch.where(grad == 0, update * adam.abs(), update)  # fades as Adam's where gradients have ended
        if options.spectral:
            units = torch.ones_like(grad[0])
            for segment in self.segments:
                unit = 0.15
                if segment.num_rows:  # at once the entries' root mean square of an orthogonal matrix of that norm
                    rows, columns = segment.num_rows, (segment.stop - segment.start) // segment.num_rows
                    unit = max(1, rows / columns) ** 0.5 / max(rows, columns) ** 0.5
                units[segment.start : segment.stop] = unit
            update = update * units
        if options.agreement:
            for segment in self.segments:
                columns_of = slice(segment.start, segment.stop)
                mean = self.mean[:, columns_of] / (1 - beta**self.count)
                square = self.square[:, columns_of] / (1 - beta**self.count)
                noise = (1 - beta) * (1 + beta**self.count) / ((1 + beta) * (1 - beta**self.count))
                agreed = (mean**2).sum(1, keepdim=True) / (square.sum(1, keepdim=True) + 1e-30) / noise
                update[:, columns_of] *= agreed.clamp_min(1) ** options.agreement
        if options.largest_width is not None:
            for segment in self.segments:
                if segment.num_rows:
                    size = min(segment.num_rows, (segment.stop - segment.start) // segment.num_rows)
                    update[:, segment.start : segment.stop] *= min(1.0, options.largest_width / size)
        if options.horizon and self.horizon:
            part = min(1, (self.count - 1) / self.horizon)
            return update * max(0.001, (1 - part) ** 2)
        return update if options.anneal_after is None else update * min(1, options.anneal_after / self.count) ** 0.5


def muon(matrix: Tensor) -> Tensor:
    """M [r, c] orthogonalized as Muon does it (Jordan et al. 2024), scaled to a root mean square of 1."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-12)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    x = x * x.shape[1] ** 0.5
    return x.T if matrix.shape[0] > matrix.shape[1] else x
