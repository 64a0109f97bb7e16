"""Receivers of the numbers of a training: TensorBoard, Weights and Biases, or any object of this form."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from depthwidth.errors import InputError


class Logger(Protocol):
    """Receives named numbers during training: made by :func:`tensorboard` or :func:`wandb`, or any object of this form."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record the numbers of one step."""

    def close(self) -> None:
        """Close the logger; called once at the end, also after an error."""


def tensorboard(folder: str | os.PathLike[str]) -> Logger:
    """A logger that writes TensorBoard files (needs ``pip install tensorboard``)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("logging to TensorBoard needs the tensorboard library: pip install tensorboard") from None

    class TensorBoard:
        writer = SummaryWriter(str(folder))

        def log(self, step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

        def close(self) -> None:
            self.writer.close()

    return TensorBoard()


def wandb(**options: Any) -> Logger:
    """A logger that writes to Weights and Biases (needs ``pip install wandb``); `options` go to ``wandb.init``."""
    try:
        import wandb as library
    except ImportError:
        raise InputError("logging to Weights and Biases needs the wandb library: pip install wandb") from None

    class WandB:
        run = library.init(**options)

        def log(self, step: int, values: Mapping[str, float]) -> None:
            self.run.log(dict(values), step=step)

        def close(self) -> None:
            self.run.finish()

    return WandB()
