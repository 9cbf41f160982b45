"""The recipes that are shipped, and which of them are the paper's."""

import re

from tests.tiny import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PAPER_RECIPES = [path for path in RECIPES if re.match(r"(multiplication|gsm8k)_(?!smollm2|.*_cpu)", path.name)]
