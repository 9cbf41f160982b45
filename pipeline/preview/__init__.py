"""What the model will see: rows at chosen stages, and the batches they come in."""

from pipeline.preview.preview import Preview, make_preview

__all__ = ["Preview", "make_preview"]
