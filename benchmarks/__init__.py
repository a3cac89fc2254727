"""Speed and memory claims, as ratios against something run side by side: `make bench`."""
