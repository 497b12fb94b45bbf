"""The autoencoder: its architecture, its starting point and its parameters as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import torch  # noqa: TID251
from torch import Tensor, nn  # noqa: TID251

if TYPE_CHECKING:
    from datasentinel.training.settings import Activation
    from datasentinel.training.standardise import Scaling
    from datasentinel.types import Float32Array, Float64Array

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


@dataclass(frozen=True)
class DenseLayer:
    """act(x W' + b): `weight` [out, in] and `bias` [out] in float32, and the activation's name."""

    weight: Float32Array
    bias: Float32Array
    activation: Activation


class Autoencoder(nn.Module):
    """Standardised rows in, their reconstruction out.

    Parameters
    ----------
    input_dim : int
        Number of features.
    hidden : tuple of int
        Widths of the encoder's hidden layers; the decoder mirrors them.
    latent : int
        Width of the bottleneck, which is linear, as is the output.
    activation : str
        Activation of the hidden layers.
    """

    def __init__(self, input_dim: int, hidden: tuple[int, ...], latent: int, activation: Activation) -> None:
        super().__init__()
        self.input_dim, self.hidden, self.latent = input_dim, hidden, latent
        self.widths = (input_dim, *hidden, latent, *reversed(hidden), input_dim)
        self.linears = [nn.Linear(a, b) for a, b in pairwise(self.widths)]
        linear_layers = {len(hidden), len(self.linears) - 1}
        self.activations: list[Activation] = [
            "identity" if i in linear_layers else activation for i in range(len(self.linears))
        ]
        functions = [_ACTIVATIONS[name]() for name in self.activations]
        # This registers the parameters; `linears` keeps the layers' own type.
        self.stack = nn.Sequential(*chain.from_iterable(zip(self.linears, functions, strict=True)))

    def forward(self, standardised: Tensor) -> Tensor:
        """Reconstruct rows [N, D]."""
        reconstruction: Tensor = self.stack(standardised)
        return reconstruction

    def layers(self) -> list[DenseLayer]:
        """Copy the parameters out."""
        return [
            DenseLayer(_array(linear.weight), _array(linear.bias), activation)
            for linear, activation in zip(self.linears, self.activations, strict=True)
        ]

    def can_start_from_components(self) -> bool:
        """Whether the network can hold a linear autoencoder exactly; see `start_from_components`."""
        return set(self.activations) <= {"relu", "identity"} and all(
            w >= 2 * self.latent for w in self.hidden
        )

    @torch.no_grad()
    def start_from_components(self, directions: Float64Array) -> None:
        """Start as the linear autoencoder that keeps the first principal components.

        The best linear autoencoder is known in closed form: it projects onto the principal components
        (Baldi and Hornik, "Neural networks and principal component analysis", 1989). A ReLU network holds it
        exactly, since u = relu(u) - relu(-u): two hidden units carry one component. Training from there only
        has to learn what is not linear, so results hardly depend on the seed.

        Parameters
        ----------
        directions : float64 array, shape [D, D]
            Unit directions, one a row, those of the greatest variance first.
        """
        k = self.latent
        eye = torch.eye(k)
        components = torch.tensor(directions[:k].copy(), dtype=torch.float32)
        bottleneck = len(self.hidden)
        for i, linear in enumerate(self.linears):
            half = i if i <= bottleneck else i - bottleneck - 1  # position in the encoder or in the decoder
            core = components if i == 0 else components.T if i == len(self.linears) - 1 else eye
            if half > 0:  # it reads pairs
                core = torch.cat([core, -core], dim=1)
            if half < bottleneck:  # it writes pairs
                core = torch.cat([core, -core], dim=0)
            rows, columns = core.shape
            # Units beyond the pairs keep their random weights, but nothing uses them yet.
            linear.weight[:rows].zero_()
            linear.weight[:rows, :columns] = core
            linear.bias[:rows].zero_()


class ScoringModule(nn.Module):
    """Raw rows in, scores and reconstructions in raw units out: what the exported graph computes."""

    def __init__(self, network: Autoencoder, scaling: Scaling) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("shift", torch.from_numpy(scaling.shift))
        self.register_buffer("scale", torch.from_numpy(scaling.scale))
        self.register_buffer("inverse_scale", torch.from_numpy(scaling.inverse_scale))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores [N] and reconstructions [N, D] of raw rows [N, D]."""
        standardised = (rows - self.get_buffer("shift")) * self.get_buffer("inverse_scale")
        reconstruction = self.network(standardised)
        residual = standardised - reconstruction
        score = (residual * residual).mean(dim=1)
        return score, reconstruction * self.get_buffer("scale") + self.get_buffer("shift")

    @torch.no_grad()
    def score(self, rows: Float32Array, batch_rows: int = 8192) -> Float32Array:
        """Score raw rows, shape [N, D], in batches; float32 [N]."""
        scores = [self(batch)[0] for batch in torch.split(torch.from_numpy(rows), batch_rows)]
        return _array(torch.cat(scores)) if scores else torch.empty(0).numpy()


def _array(tensor: Tensor) -> Float32Array:
    array: Float32Array = tensor.detach().cpu().numpy().copy()
    return array
