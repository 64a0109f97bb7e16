# mypy: disable-error-code="untyped-decorator"
"""Times of tree attention and of a fused kernel of full attention, and of the single steps of tree attention."""

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

from depthwidth.progress import announced

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
    for _ in announced("repetition", range(repeats)):
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
    """Seconds of one layer and sequence, and the counted operations."""

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
        full, leaf, path = (seconds(form, device, repeats) for form in announced("form", forms))
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
    level_start: float
    """starting the kernels of one level's decisions, of queries or of keys"""
    leaf_token: float
    """a token's share in TF-attention within leaves of the size asked for: sorting, gathering, and its leaf's attention"""
    leaf_start: float
    """starting it, once"""
    node_token: float
    """a token's share in sums, means and the weighted sum of one level of TC-attention"""
    node_start: float
    """starting those kernels, once a level"""


def split_time(times: tuple[float, float], sizes: tuple[int, int]) -> tuple[float, float]:
    """Time for each token, and of the start, from the times of a step at two numbers of tokens.

    Times that give a share below 0, by noise or cache, are not split: all of the longer one is its tokens'.

    Examples
    --------
    >>> split_time((3.0, 5.0), (1, 2))
    (2.0, 1.0)
    >>> split_time((3.0, 9.0), (1, 2))
    (4.5, 0.0)
    >>> split_time((3.0, 2.0), (1, 2))
    (1.0, 0.0)
    """
    each = (times[1] - times[0]) / (sizes[1] - sizes[0])
    start = times[0] - sizes[0] * each
    return (each, start) if each > 0 and start > 0 else (times[1] / sizes[1], 0.0)


@torch.no_grad()
def step_times(lengths: tuple[int, int], heads: int, head_dim: int, leaf: int, seed: int, repeats: int, device: str) -> Steps:
    """Times of the steps: each at two lengths, which tells the tokens' share from that of the start.

    On a short sequence half of a step's time is spent on starting its kernels, whatever the number of tokens.
    """
    with one_thread():
        heights = [max(1, round(math.log2(length / leaf))) for length in lengths]
        # Leaves of one size at both lengths; and trees of one height, for what costs time at every level.
        short, long = (
            Heads.drawn(length, heads, head_dim, height, seed, device) for length, height in zip(lengths, heights, strict=True)
        )
        deep = Heads.drawn(lengths[0], heads, head_dim, heights[1], seed, device)
        tokens, height = (heads * lengths[0], heads * lengths[1]), heights[1]

        def split(of_short: Callable[[], object], of_long: Callable[[], object], calls: int = 1) -> tuple[float, float]:
            """Seconds of a token, and of a start per head; one step has `calls` starts."""
            times = seconds(of_short, device, repeats), seconds(of_long, device, repeats)
            each, start = split_time(times, tokens)
            return each / calls, start / calls / heads

        def leaf_step(made: Heads) -> Callable[[], Tensor]:
            places, scale = made.places(), head_dim**-0.5
            return lambda: sorted_leaf_attention(made.q, made.k, made.v, *places, made.height, scale=scale)

        def node_step(made: Heads) -> Callable[[], Tensor]:
            places, weights = made.places(), made.q.new_full((heads, height + 1), 1 / (height + 1))
            return lambda: summed_path_attention(made.v, *places, weights)

        pair = seconds(long.full_attention, device, repeats) / (tokens[1] * lengths[1])
        level = split(deep.places, long.places, 2 * height)
        leaf_token = split(leaf_step(short), leaf_step(long))
        return Steps(pair, *level, *leaf_token, *split(node_step(deep), node_step(long), height + 1))
