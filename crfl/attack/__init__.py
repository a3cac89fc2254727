"""Who attacks when, with which trigger, sending which update."""
