"""The server: it knows its test samples, how many samples each client has, and a bound on their norm."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from settings import EXP, MAX_FEATURE_NORM

import crfl
from crfl.flower import CRFL, DeclaredData

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and write the run folder."""
    digits = crfl.load_data(EXP)  # for its test split; of the clients' samples the server uses the numbers alone
    data = DeclaredData.of(
        digits.test,
        digits.sizes,
        max_feature_norm=MAX_FEATURE_NORM,
        num_classes=digits.num_classes,
        name=digits.name,
        domain=digits.domain,
        input_shape=digits.input_shape,
    )
    strategy = CRFL(EXP, data)
    strategy.start(grid)
    crfl.save_run(str(context.run_config["out"]), strategy.run)
