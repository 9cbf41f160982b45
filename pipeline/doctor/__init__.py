"""Is this machine, and this recipe on it, fit to run? Each check tries the real thing where trying is quick."""

from pipeline.doctor.examination import examine
from pipeline.doctor.finding import Finding

__all__ = ["Finding", "examine"]
