"""Neural style transfer over whole image data sets, on Ray.

``stylize`` is for notebooks, ``Stylizer`` for pipelines of one's own on Ray Data.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.notebook.call import stylize
    from pipeline.notebook.ray_data import Stylizer

__all__ = ["Stylizer", "stylize"]


def __getattr__(name: str) -> Any:
    # Not before it is asked for: the rest of the package must load without torch.
    if name == "stylize":
        from pipeline.notebook.call import stylize

        return stylize
    if name == "Stylizer":
        from pipeline.notebook.ray_data import Stylizer

        return Stylizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
