"""Label flips on MNIST: the certified accuracy of abstract gradient training's own example beside the coupling bound's."""

from crfl.benchmark.agt_example import AgtExample

if __name__ == "__main__":
    print(AgtExample.load().table().round(3).to_string())
