"""A page in the browser that asks the stages of a run, served on this machine."""

from pipeline.web.page import build_page
from pipeline.web.server import bind, serve, url_of
from pipeline.web.stages import Stages

__all__ = ["Stages", "bind", "build_page", "serve", "url_of"]
