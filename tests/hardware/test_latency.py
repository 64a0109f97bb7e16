"""The proxy of decode latency: its work counted by hand, its time against one published measurement, its refusals."""

import numpy as np
import pytest

from depthwidth import Transformer
from depthwidth.coefficients import reference
from depthwidth.errors import InputError
from depthwidth.formulas.serving import touched_experts
from depthwidth.hardware.accelerators import Accelerator, accelerator, accelerators
from depthwidth.hardware.latency import DecodeWork, Overheads, decode_time, decode_work, serving_rows
from depthwidth.hardware.parallelism import Parallelism

LLAMA = {"positions": "rotary", "norm": "rmsnorm", "bias": False, "gated": True, "activation": "silu", "tied": False}
NO_OVERHEADS = Overheads(0.0, 0.0)


def small(**choices):
    return Transformer(**{"depth": 4, "width": 64, "heads": 4, "vocab": 96, "context": 16, **choices})


@pytest.mark.parametrize("tied", [True, False])
def test_a_step_reads_every_weight_but_the_rows_of_tables(tied):
    tree = small(**LLAMA | {"tied": tied})
    work = decode_work(tree, batch=3)
    assert work.weight_bytes == 2 * (tree.parameters - (0 if tied else 96 * 64))
    assert work.cache_bytes == 3 * tree.kv_cache_bytes()
    assert work.flops == 3 * tree.flops_per_token()
    assert (work.branches, work.calls) == (8, 0)
    small_cache = decode_work(tree, batch=3, cache_dtype="fp8")
    assert small_cache.cache_bytes == work.cache_bytes / 2
    assert small_cache.weight_bytes == work.weight_bytes


def test_devices_divide_the_work_and_call_each_other():
    tree = small(**LLAMA)
    whole, two = decode_work(tree), decode_work(tree, Parallelism(tensor=2))
    assert whole.weight_bytes / 2 < two.weight_bytes < whole.weight_bytes / 2 + 2 * 64 * 9 + 1  # norms are on both
    assert two.cache_bytes == whole.cache_bytes / 2
    assert two.calls == 8 + 2
    stages = decode_work(tree, Parallelism(pipeline=2))
    assert stages._replace(calls=0) == whole
    assert stages.calls == 1
    assert decode_work(small(parallel=True), Parallelism(tensor=2)).calls == 4 + 2
    assert decode_work(small(), Parallelism(pipeline=2)).weight_bytes == decode_work(small()).weight_bytes  # a tied table once


def test_a_batch_reads_more_experts():
    tree = small(**LLAMA, experts=8, top_k=2, ffn=64)
    expert, rest = 3 * 64 * 64, tree.parameters - 96 * 64 - 4 * 8 * 3 * 64 * 64
    for batch in (1, 5, 1000):
        touched = touched_experts(8, 2, batch)
        assert decode_work(tree, batch=batch).weight_bytes == pytest.approx(2 * (rest + 4 * touched * expert))
    spread = decode_work(tree, Parallelism(data=4, expert=4), batch=5)
    assert spread.weight_bytes == pytest.approx(2 * (rest + 4 * touched_experts(8, 2, 20) / 4 * expert))
    assert spread.calls == 8


def test_touched_experts_are_those_of_random_choices():
    rng = np.random.default_rng(0)
    draws = [len({e for _ in range(6) for e in rng.choice(8, 2, replace=False)}) for _ in range(4000)]
    error = np.std(draws) / 4000**0.5
    assert abs(np.mean(draws) - touched_experts(8, 2, 6)) < 4 * error
    assert abs(np.mean(draws) - touched_experts(8, 2, 5)) > 20 * error


def test_a_step_is_bound_by_memory_until_the_batch_is_large():
    tree, device = small(**LLAMA), accelerator("H100")
    one = decode_time(decode_work(tree), device, overheads=NO_OVERHEADS)
    work = decode_work(tree)
    assert one.total == work.moved / 3.35e12
    large = decode_work(tree, context=1, batch=10**6)
    assert decode_time(large, device, overheads=NO_OVERHEADS).total == large.flops / 989.4e12
    bounds = [serving_rows(tree, [device], context=1, batch=batch)[0]["bound"] for batch in (1, 10**6)]
    assert bounds == ["memory", "arithmetic"]


def test_times_are_those_of_arrays():
    device = accelerator("A100")
    trees = [small(depth=depth, width=64 * depth) for depth in (2, 3, 5)]
    works = [decode_work(tree, batch=7) for tree in trees]
    stacked = DecodeWork(*(np.array(column) for column in zip(*works, strict=True)))
    assert decode_time(stacked, device).total == pytest.approx([decode_time(work, device).total for work in works])


def test_the_proxy_is_a_lower_bound_within_a_factor_of_a_measured_system():
    """QwQ-32B in vLLM on eight H200: 6.49 ms a token, median (vllm-project/vllm#18725).

    The report does not say how the devices divide the work; one alone could not read the weights in that time.
    """
    qwq = Transformer.from_config({
        "model_type": "qwen2", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40,
        "num_key_value_heads": 8, "intermediate_size": 27648, "vocab_size": 152064, "max_position_embeddings": 40960,
    })  # fmt: skip
    assert qwq.parameters == 32_763_876_352
    work = decode_work(qwq, Parallelism(tensor=8), context=4096)
    predicted = decode_time(work, accelerator("H200")).total
    assert 1 < 6.49e-3 / predicted < 2
    assert not 6.49e-3 / decode_time(decode_work(qwq, context=4096), accelerator("H200")).total > 1  # one device alone


def test_accelerators_are_those_of_the_table():
    assert set(accelerators()) == {row["name"] for row in reference("accelerators")}
    assert {"H100", "H200", "B200", "MI300X", "A100", "L4"} <= set(accelerators())
    for one in accelerators().values():
        assert one.source
        assert one.fp8 is None or one.fp8 == pytest.approx(2 * one.bf16, rel=0.01)
        assert one.tf32 == pytest.approx(one.bf16 / 2, rel=0.01)
        assert one.peak("int4") == one.bf16
    assert accelerator("L4").peak("fp8") > accelerator("L4").peak("bf16") > accelerator("L4").peak("fp32")


REFUSED = [
    (lambda: accelerator("H1000"), r"no accelerator 'H1000' \(did you mean 'h100'\?\)"),
    (lambda: accelerator("H100", bandwidth=-1.0), "bandwidth=-1.0 is not a positive number"),
    (lambda: Accelerator("mine", 1.0, 1.0, float("nan"), None, 1.0, 1.0), "bf16=nan is not a positive number"),
    (lambda: accelerator("H100", bf16=5e-324), "bf16=5e-324 is below 1"),
    (lambda: decode_work(small(kind="encoder")), "give a decoder"),
    (lambda: Overheads(branch=-1e-6), "not a number of seconds"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_wrong_is_one_sentence(make, words):
    with pytest.raises(InputError, match=words):
        make()
