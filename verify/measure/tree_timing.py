# mypy: disable-error-code="untyped-decorator"
"""Times of tree attention and of a fused kernel of full attention, and of the steps of which the tree's time is made up."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from ..models.tree_attention import imbalance, leaves, sorted_leaf_attention, summed_path_attention


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch with one thread on a processor, whose time is then that of the computation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def seconds(call: Callable[[], object], device: str, repeats: int) -> float:
    """The least time of a call: of this thread on a processor, however busy the machine, by the clock on a GPU."""
    cuda = device.startswith("cuda")
    clock = time.perf_counter if cuda else time.thread_time
    best = math.inf
    call()  # not counted
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        start = clock()
        call()
        if cuda:
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return best


class Heads(NamedTuple):
    """Queries, keys and values (1, heads, length, dim), and a tree for each head."""

    q: Tensor
    k: Tensor
    v: Tensor
    planes: Tensor
    thresholds: Tensor

    @classmethod
    def drawn(cls, length: int, heads: int, head_dim: int, height: int, seed: int, device: str) -> Heads:
        """Gaussian vectors around zero, and Gaussian hyperplanes through it: leaves are even but for chance."""
        generator = torch.Generator().manual_seed(seed)
        q, k, v = (torch.randn(1, heads, length, head_dim, generator=generator).to(device) for _ in range(3))
        planes = torch.randn(heads, 2**height - 1, head_dim, generator=generator).to(device)
        return cls(q, k, v, planes, torch.zeros(planes.shape[:2], device=device))

    @property
    def height(self) -> int:
        """Levels of the trees."""
        return round(math.log2(self.planes.shape[1] + 1))

    def places(self) -> tuple[Tensor, Tensor]:
        """The leaves of queries and keys."""
        query, key = (leaves(x, self.planes, self.thresholds) for x in (self.q, self.k))
        return query, key

    def leaf_attention(self) -> Tensor:
        """TF-attention in its sorted form, routing included."""
        scale = self.q.shape[-1] ** -0.5
        return sorted_leaf_attention(self.q, self.k, self.v, *self.places(), self.height, scale=scale)

    def path_attention(self) -> Tensor:
        """TC-attention in its summed form, routing included."""
        levels = self.height + 1
        return summed_path_attention(self.v, *self.places(), self.q.new_full((self.q.shape[1], levels), 1 / levels))

    def full_attention(self) -> Tensor:
        """Full attention by torch's fused kernel."""
        return F.scaled_dot_product_attention(self.q, self.k, self.v)


class Times(NamedTuple):
    """Seconds of one layer and sequence, and what the counter of operations finds."""

    full: float
    leaf: float
    path: float
    leaf_flops: int
    imbalance: float


@torch.no_grad()
def attention_times(length: int, heads: int, head_dim: int, height: int, seed: int, repeats: int, device: str) -> Times:
    """Times of full attention and of both trees at one length."""
    with one_thread():
        made = Heads.drawn(length, heads, head_dim, height, seed, device)
        forms = (made.full_attention, made.leaf_attention, made.path_attention)
        full, leaf, path = (seconds(form, device, repeats) for form in forms)
        counter = FlopCounterMode(display=False)
        with counter:
            made.leaf_attention()
        return Times(full, leaf, path, counter.get_total_flops(), imbalance(*made.places(), made.height))


class Steps(NamedTuple):
    """Seconds of single steps, each timed alone, per head."""

    pair: float
    """full attention, per query-key pair"""
    level: float
    """a decision of one query or key"""
    token: float
    """sorting and gathering a token's query, key, value and output"""
    leaf: float
    """softmax attention within one leaf of as many queries and keys as were asked for"""
    node_token: float
    """a token's share in sums, means and the weighted sum of one level of TC-attention"""


@torch.no_grad()
def step_times(length: int, heads: int, head_dim: int, leaf: int, seed: int, repeats: int, device: str) -> Steps:
    """Times of the steps: full attention at one length, decisions at two heights, and the rest of the tree without them."""
    with one_thread():
        height = max(1, round(math.log2(length / leaf)))
        made = Heads.drawn(length, heads, head_dim, height, seed, device)
        tokens = heads * length
        pair = seconds(made.full_attention, device, repeats) / (tokens * length)
        level = seconds(made.places, device, repeats) / (2 * tokens * height)
        places = made.places()

        def move() -> None:
            for place, tensors in zip(places, ((made.q, made.k, made.v), (made.k, made.v)), strict=True):
                order = place.flatten().argsort(stable=True)
                for one in tensors:
                    one.reshape(-1, head_dim)[order]
            moved = torch.empty_like(made.v).view(-1, head_dim)
            moved[order] = made.v.view(-1, head_dim)

        q, k, v = (x[0, 0, :leaf].contiguous() for x in (made.q, made.k, made.v))
        own, mixed = q[:, :1], torch.empty_like(v)

        def attend() -> None:
            for _ in range(64):
                weights = torch.cat((q @ k.mT, own), dim=-1).softmax(-1)
                torch.mm(weights[:, :-1], v, out=mixed)

        weights = made.q.new_full((heads, height + 1), 1 / (height + 1))
        sums = seconds(lambda: summed_path_attention(made.v, *places, weights), device, repeats)
        return Steps(
            pair, level, seconds(move, device, repeats) / tokens, seconds(attend, device, repeats) / 64,
            sums / (tokens * (height + 1)),
        )  # fmt: skip
