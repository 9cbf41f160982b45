"""The one place that knows DeepSpeed: build, train step, optimizer reset, gathering, save and load.

One path serves all: a single CPU process (ZeRO-0) and a cluster (ZeRO-3) run the same code.
"""

from pipeline.engine.build import build_engine
from pipeline.engine.engine import Engine, StepMetrics
from pipeline.engine.process_group import init_distributed
from pipeline.engine.saved_state import consolidated_weights

__all__ = ["Engine", "StepMetrics", "build_engine", "consolidated_weights", "init_distributed"]
