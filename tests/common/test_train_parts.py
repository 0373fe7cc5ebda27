"""What the loop is made of: order of the data, noise, learning rate, averages."""

import pytest
import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from tiny_training import Points, Tiny
from torch import nn
from trifold.common.train import (
    EMA,
    DataOrder,
    SampleNoise,
    TrainConfig,
    training_batches,
)
from trifold.common.train.data_order import keyed_permutation, mix

# ------------------------------------------------------------------------------------------------ data and noise


def read_indices(order_of, **settings):
    class Index:
        def __len__(self):
            return order_of

        def __getitem__(self, index):
            return index

    return [batch.tolist() for _, batch in training_batches(Index(), **settings)]


def test_every_epoch_is_a_permutation_and_they_differ():
    order = DataOrder(11, seed=3)
    epochs = [[order[p] for p in range(e * 11, e * 11 + 11)] for e in range(5)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert [order[p] for p in range(11, 22)] == epochs[1]  # no history
    assert [DataOrder(11, seed=4)[p] for p in range(11)] != epochs[0]


def test_any_split_into_processes_and_batches_reads_the_same_samples():
    [whole] = read_indices(11, seed=1, start=5, steps=1, batch_size=24)
    parts = [read_indices(11, seed=1, start=5, steps=3, batch_size=4, rank=r, world_size=2) for r in range(2)]
    assert [i for step in zip(*parts, strict=True) for rank in step for i in rank] == whole
    assert [p for ps, _ in training_batches(Points(), seed=1, start=5, steps=2, batch_size=4) for p in ps] == list(
        range(5, 13)
    )


@pytest.mark.parametrize("length", [1, 2, 5, 64, 1000])
def test_keyed_permutation_is_a_permutation(length):
    image = [keyed_permutation(i, length, key=7) for i in range(length)]
    assert sorted(image) == list(range(length))
    assert length < 64 or image != [keyed_permutation(i, length, key=8) for i in range(length)]


def test_endless_dataset_needs_no_table():
    [indices] = read_indices(2**31, seed=0, start=0, steps=1, batch_size=2000)
    assert len(set(indices)) == 2000
    assert sum(indices) / 2000 == pytest.approx(2**30, rel=0.1)  # spread evenly: 10 % is seven standard errors


def test_augmentation_depends_on_the_position_only():
    class Jitter(Points):
        def __getitem__(self, index):
            return torch.rand(())

    def draw(start, steps, workers):
        loader = training_batches(Jitter(), seed=0, start=start, steps=steps, batch_size=2, num_workers=workers)
        return torch.cat([batch for _, batch in loader])

    torch.manual_seed(5)
    state = torch.get_rng_state()
    values = draw(0, 3, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(values.tolist())) == 6
    assert torch.equal(values[2:], draw(2, 2, 1))


@pytest.mark.parametrize(("dataset", "error"), [(iter([1]), TypeError), ([], ValueError)])
def test_unusable_datasets_are_named(dataset, error):
    with pytest.raises(error, match=type(dataset).__name__):
        training_batches(dataset, seed=0, start=0, steps=1, batch_size=1)


def test_noise_belongs_to_the_sample():
    together, alone = SampleNoise(0, [3, 4, 5]), SampleNoise(0, [5])
    assert torch.equal(together.randn(2, 7)[2], alone.randn(2, 7)[0])
    assert torch.equal(together.randint(0, 1000)[2], alone.randint(0, 1000)[0])
    assert torch.equal(together.rand(3)[2], alone.rand(3)[0])
    assert torch.equal(together.randn_packed([5, 1, 20], 2)[6:], alone.randn_packed([20], 2))
    assert torch.equal(together.randn_like(torch.zeros(3, 2))[2], alone.randn_like(torch.zeros(1, 2))[0])
    assert not torch.equal(alone.randn(2), alone.randn(2))
    assert not torch.equal(SampleNoise(1, [5]).rand(3), SampleNoise(0, [5]).rand(3))
    assert together.randn_like(torch.zeros(3, dtype=torch.bfloat16)).dtype is torch.bfloat16
    assert together.randn_like(torch.zeros(3, dtype=torch.float64)).dtype is torch.float64
    assert torch.rand((), generator=SampleNoise(0, [3]).generator) == torch.rand((), generator=together.generator)


def test_noise_has_the_right_distribution():
    noise = SampleNoise(0, range(500))
    normal, uniform, whole = noise.randn(16), noise.rand(16), noise.randint(2, 6, 16)
    assert abs(normal.mean()) < 0.05
    assert normal.std() == pytest.approx(1, abs=0.03)
    assert normal.mean(1).std() == pytest.approx(0.25, abs=0.03)  # samples are independent of each other
    assert uniform.mean() == pytest.approx(0.5, abs=0.02)
    assert 0 <= uniform.min() <= uniform.max() < 1
    assert torch.bincount(whole.flatten()).tolist()[2:] == pytest.approx([2000] * 4, rel=0.1)


def test_noise_refuses_a_batch_of_another_size():
    with pytest.raises(ValueError, match="first axis to be 2"):
        SampleNoise(0, [0, 1]).randn_like(torch.zeros(3))
    with pytest.raises(ValueError, match="1 lengths for 2 samples"):
        SampleNoise(0, [0, 1]).randn_packed([4])


def test_hash_spreads_neighbours():
    low = [mix(0, stream, n) & 0xFFFFFFFF for stream in range(4) for n in range(1000)]  # all that mt19937 reads
    assert len(set(low)) == 4000
    assert sum(bin(word).count("1") for word in low) / 4000 == pytest.approx(16, abs=0.3)
    assert mix(1, 2) != mix(2, 1)


# ------------------------------------------------------------------------------------------------ learning rate


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "linear", "cosine", "polynomial"])
def test_schedule_equals_diffusers(name):
    warmup = 0 if name == "constant" else 3
    extra = {"lr_end": 1e-7} if name == "polynomial" else {}  # their hard-wired end
    config = TrainConfig(lr_scheduler=name, lr_warmup_steps=warmup, max_train_steps=20, learning_rate=2e-3, **extra)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2e-3)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=20)
    for step in range(20):
        assert config.learning_rate_at(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=1e-18)
        optimizer.step()
        theirs.step()


def test_other_schedules():
    drops = TrainConfig(lr_scheduler="multistep", lr_decay_steps=10, learning_rate=1.0)
    assert [drops.learning_rate_at(s) for s in (0, 9, 10, 29)] == pytest.approx([1, 1, 0.1, 0.01])
    linear = TrainConfig(lr_scheduler="linear", max_train_steps=10, learning_rate=1.0, lr_end=0.5)
    assert [linear.learning_rate_at(s) for s in (0, 5, 10, 15)] == pytest.approx([1, 0.75, 0.5, 0.5])
    square = TrainConfig(lr_scheduler="polynomial", lr_power=2, max_train_steps=10, learning_rate=1.0)
    assert square.learning_rate_at(5) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "changes",
    [
        {"train_batch_size": 0},
        {"checkpointing_steps": 0},
        {"learning_rate": -1.0},
        {"max_grad_norm": 0.0},
        {"ema_decay": 1.5},
        {"lr_warmup_steps": 5},
        {"push_to_hub": True},
    ],
)
def test_config_names_the_bad_field(changes):
    field = "hub_model_id" if "push_to_hub" in changes else next(iter(changes))
    with pytest.raises(ValueError, match=f"^{field}"):
        TrainConfig(**changes)


# ------------------------------------------------------------------------------------------------------- averages


def test_average_equals_diffusers_with_warmup():
    model = nn.Linear(3, 2)
    ours, theirs = EMA(model, 0.6), EMAModel(model.parameters(), decay=0.6, use_ema_warmup=True)
    for _ in range(5):
        with torch.no_grad():
            model.weight.normal_()
        ours.update(model)
        theirs.step(model.parameters())
        torch.testing.assert_close(ours.shadow["weight"], theirs.shadow_params[0], rtol=1e-6, atol=1e-7)


def test_average_without_warmup_by_hand():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.fill_(1.0)
    ema = EMA(model, 0.75, power=None)
    for value, expected in ((2.0, 1.25), (3.0, 1.6875)):
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update(model)
        assert ema.shadow["weight"].item() == expected
    assert ema.shadow["weight"].dtype is torch.float32


def test_applied_gives_the_own_weights_back_even_after_an_error():
    model = Tiny()
    ema = EMA(model)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for tensor in ema.shadow.values():
        tensor.zero_()
    with pytest.raises(KeyError), ema.applied(model):  # noqa: PT012
        assert model.inner.weight.abs().max() == 0
        assert torch.equal(model.frozen.weight, own["frozen.weight"])
        raise KeyError
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())
