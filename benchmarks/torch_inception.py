"""The PyTorch half of against_fidelity.py: torch-fidelity's Inception, on demand."""

import json
import pathlib
import sys
import time

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "golden"))
import make_inception  # noqa: E402


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    network = make_inception.extractor()
    images = np.load(folder / "images.npy")
    np.savez(folder / "outputs.npz", **make_inception.run(network, images))
    print(torch.__version__, flush=True)
    for line in sys.stdin:
        _, calls = json.loads(line)
        start = time.perf_counter()
        for _ in range(calls):
            make_inception.run(network, images)
        print((time.perf_counter() - start) / calls, flush=True)


if __name__ == "__main__":
    main()
