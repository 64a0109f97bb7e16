"""A pass of moments through one component, with the variances of its weights given by hand."""

from types import SimpleNamespace

from depthwidth.signal import Signal, Site, Spread, Trace


class Given:
    """In place of a recipe: a variance for each tensor, by the end of its role; 1 and 0 for gains, plain residual sums."""

    def __init__(self, skip=1.0, branch=1.0, **variances):
        self.scales = SimpleNamespace(skip=skip, branch=branch)
        self.variances = {name.replace("_weight", ".weight").replace("_bias", ".bias"): v for name, v in variances.items()}

    def tensor(self, role):
        for name, variance in self.variances.items():
            if role.endswith(name):
                return SimpleNamespace(std=variance**0.5, mean=0.0, multiplier=1.0)
        return SimpleNamespace(std=0.0, mean=0.0 if role.endswith("bias") else 1.0, multiplier=1.0)

    def residual(self, role):
        return self.scales

    def along_blocks(self, role, layers):
        return ()


def start(given, length=8, finite_width=True, **options):
    """A place at the root of a tree."""
    return Site(Trace(given, length, length, finite_width=finite_width, **options), "part")


def through(layer, signal, given, gradient=None, **options):
    """Output and gradient at the input of one component."""
    y, pull = layer.moments(signal, start(given, **options))
    return y, pull(Signal(1.0, 0.0) if gradient is None else gradient)


def gaussian(q, c, width):
    """A signal of independent Gaussian features, with its spread."""
    signal = Signal(q, c)
    return signal.spread_as(Spread.of_gaussian(signal, width))
