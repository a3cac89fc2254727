"""Settings that every command's tests begin with."""

SMALL = ["--set", "server.rounds=4", "--set", "attack.round=2", "--set", "smoothing.samples=100"]
DEFENCE = ["--set", "server.update_clip=1", "--set", "server.decay=0.1", "--set", "local.precision=float64"]
