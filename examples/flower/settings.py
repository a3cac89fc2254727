"""What server and clients have agreed on."""

import os

import crfl

EXP = crfl.Experiment().override(
    {
        "data.clients": int(os.environ.get("CRFL_CLIENTS", "20")),
        "local.batch_size": 10,
        "local.learning_rate": 0.15,
        "server.rounds": int(os.environ.get("CRFL_ROUNDS", "5")),
        "attack.round": 3,  # the attack that is certified against, and that client 0 carries out
        "attack.clients": 1,
        "attack.scale": 2.0,
    }
)
MAX_FEATURE_NORM = 5.0
"""No client's sample has a larger norm."""
