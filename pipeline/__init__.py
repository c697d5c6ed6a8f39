"""Neural style transfer over whole image data sets, on Ray.

``stylize`` is for notebooks, ``Stylizer`` for pipelines of one's own on Ray Data,
``StylizeTransform`` and ``StylizedDataset`` for augmentation while a network trains.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.notebook.call import stylize
    from pipeline.notebook.ray_data import Stylizer
    from pipeline.training.dataset import StylizedDataset
    from pipeline.training.transform import StylizeTransform

__all__ = ["StylizeTransform", "StylizedDataset", "Stylizer", "stylize"]


def __getattr__(name: str) -> Any:
    # Not before it is asked for: the rest of the package must load without torch.
    if name == "stylize":
        from pipeline.notebook.call import stylize

        return stylize
    if name == "Stylizer":
        from pipeline.notebook.ray_data import Stylizer

        return Stylizer
    if name == "StylizeTransform":
        from pipeline.training.transform import StylizeTransform

        return StylizeTransform
    if name == "StylizedDataset":
        from pipeline.training.dataset import StylizedDataset

        return StylizedDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
