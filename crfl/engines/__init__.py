"""Ways to run the clients' local training."""
