"""``depthwidth serve``: the command and its page."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ..quantities import format_bytes, parse_bytes
from .inputs import say_source
from .options import COUNT, DTYPES, NUMBER, formats, option
from .output import emit, print_facts, print_table, say

if TYPE_CHECKING:
    from ..hardware.accelerators import Accelerator
    from ..hardware.latency import DecodeWork


@click.command()
@click.argument("config")
@option("--accelerator", "names", multiple=True, metavar="NAME", help="Accelerator; may be repeated.", show_default="all known")
@option("--memory", metavar="BYTES", help="Memory of an accelerator of your own.", show_default="from its data sheet")
@option("--bandwidth", metavar="BYTES", help="Its memory bandwidth in bytes per second, e.g. 3.35TB.", show_default="as above")
@option("--peak", type=NUMBER, metavar="FLOPS", help="Its peak operations per second.", show_default="as above")
@option("--link", metavar="BYTES", help="Its bandwidth to other devices, in bytes per second.", show_default="as above")
@option("--context", type=COUNT, help="Tokens of each sequence so far.", show_default="the model's context")
@option("--batch", type=COUNT, default=1, help="Sequences on each replica.")
@option("--dtype", metavar="NAME", default="bf16", help=f"Number format of the weights: {DTYPES}.")
@option("--cache-dtype", metavar="NAME", help="Number format of keys and values.", show_default="as --dtype")
@option("--tensor-parallel", "--tp", type=COUNT, default=1, help="Devices that divide heads and hidden features.")
@option("--pipeline-parallel", "--pp", type=COUNT, default=1, help="Pipeline stages.")
@option("--expert-parallel", "--ep", type=COUNT, default=1, help="Replicas that divide the experts.")
@option(
    "--branch-time",
    type=NUMBER,
    metavar="S",
    help="Seconds of each residual branch beyond the roofline.",
    show_default="5e-06, a guess",
)
@option("--call-time", type=NUMBER, metavar="S", help="Seconds of a small collective call.", show_default="1e-05, a guess")
@formats
def serve(
    config: str,
    names: tuple[str, ...],
    context: int | None,
    batch: int,
    dtype: str,
    cache_dtype: str | None,
    tensor_parallel: int,
    pipeline_parallel: int,
    expert_parallel: int,
    branch_time: float | None,
    call_time: float | None,
    form: str | None,
    **own: Any,
) -> None:
    """Estimate the time to generate one token with the model in a Hugging Face CONFIG, for each accelerator.

    The time is that of a roofline: the bytes of weights and cache that a step reads divided by the bandwidth, or its operations
    divided by the peak, whichever is longer. Each residual branch and each collective call adds a fixed time, which is a guess.
    The result is a proxy for comparing shapes; a real system is slower.
    """
    from ..architecture import Transformer
    from ..architecture.hf import read_source
    from ..hardware.latency import GUESSES, Overheads, decode_work, serving_rows
    from ..hardware.parallelism import Parallelism

    fields = read_source(config)
    tree = Transformer.from_config(fields)
    devices = _chosen(names, own)
    parallelism = Parallelism(data=expert_parallel, tensor=tensor_parallel, pipeline=pipeline_parallel, expert=expert_parallel)
    conventions: dict[str, Any] = {"context": context, "batch": batch, "dtype": dtype, "cache_dtype": cache_dtype}
    work = decode_work(tree, parallelism, **conventions)
    given = {"branch_seconds": branch_time, "call_seconds": call_time}
    guesses = {name: GUESSES[name] for name, seconds in given.items() if seconds is None}
    overheads = Overheads(*(GUESSES[name] if seconds is None else seconds for name, seconds in given.items()))
    rows = [
        {**row, "guessed_seconds": _guessed_seconds(work, guesses)}
        for row in serving_rows(tree, devices, parallelism, overheads, **conventions)
    ]
    data = {
        "work": work._asdict(), "context": context or tree.context, "batch": batch, "guesses": guesses, "accelerators": rows,
    }  # fmt: skip

    def page() -> None:
        say_source(fields)
        _print(work, rows, context or tree.context, batch, dtype, guesses)

    emit(form, data, rows, page)


def _chosen(names: tuple[str, ...], own: dict[str, Any]) -> list[Accelerator]:
    """The requested accelerators, with the user's own numbers in each."""
    from ..hardware.accelerators import accelerator, accelerators

    changes: dict[str, Any] = {
        name: float(parse_bytes(own[name], name)) for name in ("memory", "bandwidth", "link") if own[name] is not None
    }
    if own["peak"] is not None:
        changes |= {"bf16": own["peak"], "fp8": own["peak"], "tf32": own["peak"]}
    found = [accelerator(name) for name in names] or list(accelerators().values())
    if not changes:
        return found
    base = found[0] if names else accelerator("H100")
    return [replace(base, name=f"{base.name}, changed", source="", **changes)]


def _guessed_seconds(work: DecodeWork, guesses: dict[str, float]) -> float:
    """Seconds of a step that rest on guesses."""
    return float(guesses.get("branch_seconds", 0.0) * work.branches + guesses.get("call_seconds", 0.0) * work.calls)


def _print(
    work: DecodeWork, rows: list[dict[str, Any]], context: int, batch: int, dtype: str, guesses: dict[str, float]
) -> None:
    say(f"One step of generation after {context:,} tokens, batch {batch:,}, weights in {dtype}, per tensor-parallel device:")
    print_facts(
        {
            "weights read": format_bytes(work.weight_bytes),
            "cache read": format_bytes(work.cache_bytes),
            "operations": f"{work.flops:.4g}",
            "branches in sequence": f"{work.branches:,}",
            "collective calls": f"{work.calls:,}" + (f" of {format_bytes(work.call_bytes)}" if work.calls else ""),
        }
    )
    print_table(
        ("accelerator", "ms per step", "roofline", "branches", "calls", "bound", "tokens/s", "memory", "fits"),
        (
            (
                row["accelerator"], f"{row['seconds'] * 1e3:.3g}", f"{row['roofline'] * 1e3:.3g}",
                f"{row['branches'] * 1e3:.3g}", f"{row['calls'] * 1e3:.3g}", row["bound"], f"{row['tokens_per_second']:,.0f}",
                format_bytes(row["memory"]), "yes" if row["fits"] else "no",
            )
            for row in rows
        ),
        title="Estimated time of a step, and memory of weights and cache on a device",
        words=("bound", "fits"),
    )  # fmt: skip
    names = {"branch_seconds": "branches (--branch-time)", "call_seconds": "calls (--call-time)"}
    rest = f"; the times of {' and '.join(names[name] for name in guesses)} are guesses" if guesses else ""
    say(f"The roofline is a lower bound{rest}.")
