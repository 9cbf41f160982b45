"""To be imported before DeepSpeed: what is imported after it computes on the CPU, with a thread."""

import os

os.environ.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
