"""Which of Flower's nodes is which client: asked once, before the first round."""

from __future__ import annotations

import time

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from crfl.errors import TrainingError
from crfl.flower import messages

PAUSE = 1.0
"""Seconds between two looks at who is connected."""


def find_clients(grid: Grid, clients: int, timeout: float) -> dict[int, int]:
    """The node of each client: every node is asked for its partition-id. Replies are told apart by their node.

    Args:
        grid: Flower's connection to the nodes.
        clients: N: the numbers 0 to N - 1 are waited for.
        timeout: Seconds to wait.

    Raises:
        TrainingError: if some are missing when time is up, two nodes have the same number, or one has another.
    """
    number_of: dict[int, int] = {}
    end = time.monotonic() + timeout
    while True:
        new = sorted(set(grid.get_node_ids()) - set(number_of))
        content = RecordDict({messages.CONFIG: ConfigRecord({})})
        asked = [Message(content, node, MessageType.QUERY) for node in new]
        for reply in grid.send_and_receive(asked, timeout=max(1.0, end - time.monotonic())) if asked else ():
            number = messages.read_number(reply, messages.NUMBER)
            if number is None:
                continue
            if not 0 <= number < clients or number in number_of.values():
                raise TrainingError(
                    f"partition-id: got {number}, expected every number from 0 to {clients - 1} from one node"
                )
            number_of[reply.metadata.src_node_id] = number
        if len(number_of) == clients:
            return {number: node for node, number in number_of.items()}
        if time.monotonic() >= end:
            missing = sorted(set(range(clients)) - set(number_of.values()))
            raise TrainingError(
                f"clients: {len(missing)} of {clients} did not connect in {timeout:g} s: {missing[:20]}"
            )
        time.sleep(PAUSE)
