"""Settings of a short run on the digits."""

import crfl

BASE = crfl.Experiment().override({"server.rounds": 4, "attack.round": 3, "attack.clients": 2, "attack.magnitude": 2.0})
