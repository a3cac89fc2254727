"""Training records made by hand."""

from dataclasses import replace

from crfl.record import AttackerRecord, RoundRecord, TrainingRecord


def attacker(client=0, **changes):
    plain = AttackerRecord(
        client=client,
        weight=0.25,
        potential_weight=0.25,
        scale=5.0,
        learning_rate=0.02,
        poison_ratios=(0.2, 0.2, 0.2),
        magnitude=0.1,
        label_flip=True,
    )
    return replace(plain, **changes)


def make_round(number, attackers=(), **changes):
    plain = RoundRecord(
        round=number,
        start_norm=2.0,
        start_spectral_norm=1.5,
        pre_clip_norm=2.5,
        clip_norm=3.0,
        noise_std=0.01,
        weights=(0.25,) * 4,
        potential_weights=(0.25,) * 4,
        attackers=tuple(attackers),
    )
    return replace(plain, **changes)


def make_record(rounds, **changes):
    """Four clients of 15 samples, batches of 5: three steps a round. B = 5."""
    plain = TrainingRecord(
        model="softmax regression",
        num_features=6,
        num_classes=3,
        aggregation="mean",
        data_independent_weights=True,
        bias=True,
        optimizer="sgd",
        precision="float64",
        learning_rates=(0.02,) * 4,
        weight_decay=0.0,
        batch_size=5,
        epochs=1,
        keep_last_batch=False,
        client_names=("a", "b", "c", "d"),
        client_sizes=(15,) * 4,
        smoothness=(12.5,) * 4,
        max_feature_norm=24**0.5,
        domain=None,
        norm_bound=None,
        feature_map=None,
        lipschitz=1.0,
        public_samples=0,
        attackers=(0, 1, 2, 3),
        benign=False,
        seed=0,
        rounds=tuple(rounds),
    )
    return replace(plain, **changes)
