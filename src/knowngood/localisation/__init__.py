"""From anomaly maps to regions: thresholds, connected regions, regions to ignore, and tiles of large images.

Everything here is NumPy (and SciPy, pandas inside functions); nothing imports torch.
"""

from knowngood.localisation.ignore import IgnoreRegions
from knowngood.localisation.regions import Region, find_regions, label_regions, regions_table
from knowngood.localisation.thresholds import MapCalibration
from knowngood.localisation.tiles import Tile, Tiled, TileMerger, merge, plan_tiles, reader_of, score_tiles

__all__ = [
    "IgnoreRegions",
    "MapCalibration",
    "Region",
    "Tile",
    "TileMerger",
    "Tiled",
    "find_regions",
    "label_regions",
    "merge",
    "plan_tiles",
    "reader_of",
    "regions_table",
    "score_tiles",
]
