"""Which pairs get thumbnails first, and which thumbnail belongs to which pair."""

from pipeline.data.storage import uris
from pipeline.report.facts import Facts
from pipeline.report.grid import Grid
from pipeline.report.pairs import Pairs
from pipeline.report.sample import extreme_keys
from pipeline.report.thumbnails import Thumbnails, Wanted


def wanted_pictures(pairs: Pairs, facts: Facts, grid: Grid | None, output: str) -> list[Wanted]:
    """Return the ok pairs' pictures in order of importance.

    First come the pairs of the table, then those with the lowest and highest losses, then the
    others at random.
    """
    in_grid = {place for row in grid.cells for place in row} if grid else set()
    first = {key: place for place, key in enumerate(extreme_keys(facts))}
    places = [place for place, row in enumerate(pairs.rows) if row["file"]]
    places.sort(
        key=lambda place: (
            place not in in_grid,
            first.get(pairs.keys[place], len(first)),
            pairs.keys[place],
        )
    )
    contents, styles = pairs.contents.listed(), pairs.styles.listed()
    wanted = []
    for row in (pairs.rows[place] for place in places):
        content = [contents[row["content"]]] if row["content"] >= 0 else []
        inputs = (*content, *(styles[number] for number in row["styles"]))
        wanted.append(Wanted(uris.join(output, row["file"]), inputs))
    return wanted


def number_pictures(pairs: Pairs, output: str, made: Thumbnails) -> dict[str, list[int]]:
    """Return the thumbnail's number for each pair's result, each content and style; -1 for none."""
    numbers = {uri: number for number, uri in enumerate(made.pictures)}
    results = [
        numbers.get(uris.join(output, row["file"]), -1) if row["file"] else -1 for row in pairs.rows
    ]
    return {
        "resultPictures": results,
        "contentPictures": [numbers.get(uri, -1) for uri in pairs.contents.listed()],
        "stylePictures": [numbers.get(uri, -1) for uri in pairs.styles.listed()],
    }
