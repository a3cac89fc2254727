"""Label flips on MNIST: the certified accuracy of abstract gradient training's own example beside the coupling bound's."""

from crfl.benchmark.agt_example import AgtExample

if __name__ == "__main__":
    example = AgtExample.load()
    print(example.table().round(3).to_string())
    print("steps and rate of the coupling bound, chosen on held-out training images:", *example.choose())
