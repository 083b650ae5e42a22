"""Makes the golden files: what transformers' and Keras's ResNet-50 give for weights that both sides can make.

pip install .[parity] && python -m tests.golden.make
"""

import pathlib

import numpy as np

from tests.golden import peers, weights

FOLDER = pathlib.Path(__file__).parent


def main():
  """Writes torch.npz and keras.npz."""
  for name, peer_class in peers.PEERS.items():
    peer = peer_class(weights.random_arrays(peer_class.naming))
    values = {key: weights.sample(value) for key, value in peer(weights.images()).items()}
    peer(weights.images(count=4), train=True)
    table = peer_class.naming.targets()
    for key, array in peer.arrays().items():
      if key in table and table[key].path[0] == "batch_stats":
        values["/".join(table[key].path)] = weights.sample(array)[:8]
    np.savez_compressed(FOLDER / f"{name}.npz", **values)
    print(FOLDER / f"{name}.npz")


if __name__ == "__main__":
  main()
