"""Settings of a run: what they are (``schema``), how they are read (``parsing``), which go together (``checks``).

What a resumed run may change of them stands in ``changes``.
"""

from pipeline.config.changes import Change, changes
from pipeline.config.parsing import config_to_yaml, load_config, parse_command_line
from pipeline.config.schema import (
    AdaptiveConfig,
    ColumnsConfig,
    Config,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    FormatConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    RemovalConfig,
    RunConfig,
    ScheduleConfig,
    TrackerName,
)

__all__ = [
    "AdaptiveConfig",
    "Change",
    "ColumnsConfig",
    "Config",
    "DataConfig",
    "EngineConfig",
    "EvaluationConfig",
    "FormatConfig",
    "LoraConfig",
    "ModelConfig",
    "OptimConfig",
    "RemovalConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrackerName",
    "changes",
    "config_to_yaml",
    "load_config",
    "parse_command_line",
]
