"""The benchmarks, tried on models that a CPU runs at once."""

import torch

# These models are too small for a second thread to pay, and a busy machine makes it wait at every barrier.
torch.set_num_threads(1)
