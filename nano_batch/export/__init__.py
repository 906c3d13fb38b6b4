"""Static pages of notebooks: every view plays, scrubs and selects in them without a kernel or a network."""

from nano_batch.export.site import export

__all__ = ["export"]
