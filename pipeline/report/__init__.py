"""Metrics of runs -> one page that needs no network, and its figures as PNG files."""

from pipeline.report.frontier_figure import draw_frontier
from pipeline.report.report import Report, watch, write_report

__all__ = ["Report", "draw_frontier", "watch", "write_report"]
