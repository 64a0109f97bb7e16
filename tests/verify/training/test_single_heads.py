"""Heads trained on synthetic tasks reach the predicted errors, and a killed training resumes with bitwise equal results."""

import pytest

from depthwidth.errors import InputError
from depthwidth.formulas import heads as laws

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow

from killing import Killed, killing  # noqa: E402

from verify.training import single_heads  # noqa: E402
from verify.training.single_heads import lag_floor, train_diffuse, train_lag_split, train_retrieval  # noqa: E402


def test_a_trained_head_reaches_the_predicted_error():
    """n = 16, below and above the critical dimension; predictions for one dimension fewer or more are rejected."""
    for d in (3, 7):
        error, stderr = train_retrieval(16, d, steps=300)
        assert stderr < 0.004
        assert error == pytest.approx(laws.best_retrieval_error(16, d), abs=0.02)
        for wrong in (d - 1, d + 1):
            assert abs(error - laws.best_retrieval_error(16, wrong)) > 0.02


def test_training_is_repeatable():
    one, again, other = (train_retrieval(16, 4, steps=5, seed=seed) for seed in (3, 3, 4))
    assert one == again != other


@pytest.mark.parametrize("at", [1, 4, 12, 30])
def test_a_killed_look_up_training_goes_on_bit_for_bit(monkeypatch, tmp_path, at):
    """Kills before the first checkpoint, between checkpoints and at the last update; checkpoints are three updates apart."""
    whole = train_retrieval(16, 4, steps=30)
    with monkeypatch.context() as patch:
        killing(patch, torch.optim.Adam, "step", at)
        with pytest.raises(Killed):
            train_retrieval(16, 4, steps=30, folder=tmp_path)
    calls = killing(monkeypatch, torch.optim.Adam, "step", 0)
    assert train_retrieval(16, 4, steps=30, folder=tmp_path) == whole
    assert len(calls) == 30 - 3 * ((at - 1) // 3)
    calls.clear()
    assert train_retrieval(16, 4, steps=30, folder=tmp_path) == whole
    assert not calls
    with pytest.raises(InputError, match="contains checkpoints of another fit"):
        train_retrieval(16, 4, steps=31, folder=tmp_path)


def test_a_full_disk_costs_a_checkpoint_not_the_training(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(single_heads, "save_checkpoint", full)
    assert train_retrieval(16, 4, steps=5, folder=tmp_path) == train_retrieval(16, 4, steps=5)


def test_a_look_up_training_lies_on_its_device(monkeypatch):
    """All tensors are on the device `meta`, which accepts no tensors of other devices, has no values and no generator."""
    asked, real = [], torch.Generator

    class Generator(real):
        def __new__(cls, device="cpu"):
            asked.append(device)
            return real.__new__(cls)

    monkeypatch.setattr(torch, "Generator", Generator)
    steps = killing(monkeypatch, torch.optim.Adam, "step", 0)
    with pytest.raises(RuntimeError, match="item"):  # reading the final error, a value, fails on this device
        train_retrieval(16, 4, steps=2, device="meta")
    assert (asked, len(steps)) == (["meta"], 2)
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *size, **more: randn(*size, **(more | {"device": None})))
    with pytest.raises((RuntimeError, NotImplementedError), match="device"):  # negative control: tokens drawn on the host
        train_retrieval(16, 4, steps=2, device="meta")


def test_a_diffuse_student_lies_below_the_law_of_long_rows():
    """For rows of 64 tokens the error of a trained student is below the law for long rows, but not by a factor of two."""
    spectrum = laws.power_spectrum(16, 1.0, 1.0)
    error, stderr = train_diffuse(64, 4, spectrum, steps=60)
    assert 0 < stderr < 0.1 * error
    assert 0.5 < error / laws.diffuse_errors(spectrum, 64)[4] < 1.05


@pytest.mark.parametrize("at", [4, 12])
def test_killed_trainings_of_other_tasks_go_on_bit_for_bit(monkeypatch, tmp_path, at):
    spectrum = laws.power_spectrum(8, 1.0, 1.0)

    def students(folder=None):
        return train_diffuse(16, 2, spectrum, steps=20, folder=folder)

    def splits(folder=None):
        return train_lag_split(2, size=4, budget=8, steps=20, folder=folder)

    for number, train in enumerate((students, splits)):
        whole, folder = train(), tmp_path / str(number)
        with monkeypatch.context() as patch:
            killing(patch, torch.optim.Adam, "step", at)
            with pytest.raises(Killed):
                train(folder)
        with monkeypatch.context() as patch:
            calls = killing(patch, torch.optim.Adam, "step", 0)
            assert train(folder) == whole
            assert len(calls) == 20 - 2 * ((at - 1) // 2)


def test_heads_that_serve_several_lags():
    """With fewer heads than lags the loss reaches the floor; with as many it is near the bound for dedicated heads."""
    loss, floor = train_lag_split(2, size=6, budget=12, steps=300), lag_floor(2, size=6)
    assert 0 < floor <= loss < 1.03 * floor
    loss, bound = train_lag_split(4, size=6, budget=12, steps=400), laws.dedicated_lag_loss(3, 6, 1)
    assert laws.dedicated_lag_loss(4, 6, 1) < loss < 1.02 * bound
