"""The classes of a list as numbers from 0: named by a label file, in order of their names, or counted from 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from apt_edge.errors import AptEdgeError, ConfigError
from apt_edge.video.formats.rows import (
    Listing,
    Request,
    Row,
    folder_names,
    in_order,
    may_be_list,
    other_parts,
    part_of,
)
from apt_edge.video.labels import counts_from, find_labels, key, numbers_by_name, read_labels

ReadFile = Callable[[Path, Request], Listing]
FORCE = "a label file of lines `1 name`, as classInd.txt has them, makes them count from 1 (--labels)"


class _Names(NamedTuple):
    """Class names, where they come from, and the label file if it is one."""

    names: list[str] | None
    where: str
    file: Path | None


def number(path: Path, listing: Listing, labels: str | Path | None, read_file: ReadFile) -> tuple[list[Row], list[str]]:
    """Rows whose labels are class numbers from 0, and the names of the classes; notes go into the listing's.

    Args:
        path: the list or the root as it was given, for messages.
        listing: what a format found there.
        labels: file of class names; None looks beside the list and one folder up.
        read_file: reads a list file of any format; the other parts say where class numbers begin.

    Raises:
        ConfigError: classes and names do not fit.
    """
    rows, notes = listing.rows, listing.notes
    given = [row.label for row in rows if row.label is not None]
    file = Path(labels) if labels else None
    names = read_labels(file) if file else listing.names
    if names is None and (found := find_labels(listing.folder, set(given))):
        names, file = found
        notes.append(f"class names are those of {file}")
    where = str(file or path)
    if any(isinstance(label, int) for label in given):
        return _from_zero(path, listing, _Names(names, where, file), read_file)
    own = listing.fallback or in_order({str(label) for label in given})
    if names is None:
        names = own
        if names:
            order = (
                "in the order of their numbers" if all(name.isdecimal() for name in names) else "in alphabetical order"
            )
            notes.append(f"no file names the classes: they are numbered {order}")
    by_name = numbers_by_name(names)
    if _count_on(own) and len(own) == len(names) and not set(own) & set(names):
        by_name = {text: i for i, text in enumerate(own)}
        notes.append(f"classes are called by their numbers: {own[0]} is {names[0]!r} of {where}")
    unknown = sorted({str(label) for label in given if number_of(str(label), by_name) is None})
    if unknown:
        raise ConfigError(
            f"{path} has {len(unknown)} classes that {where} does not name",
            found=f"{quoted(unknown)}; named are {quoted(names)}",
            fix="correct the list, or give the label file that belongs to it (--labels)",
        )
    return [row if row.label is None else row._replace(label=number_of(str(row.label), by_name)) for row in rows], names


def number_of(name: str, numbers: Mapping[str, int]) -> int | None:
    """The number of a class by its name, or by a spelling of it; None where there is none."""
    return numbers.get(name, numbers.get(key(name)))


def quoted(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def _from_zero(path: Path, listing: Listing, named: _Names, read_file: ReadFile) -> tuple[list[Row], list[str]]:
    rows, notes = listing.rows, listing.notes
    own = {row.label for row in rows if isinstance(row.label, int)}
    names = named.names
    count = None if names is None else len(names)
    numbers = own if 0 in own else own | _numbers_beside(listing, count, read_file)
    low, high = min(numbers), max(numbers)
    if names is None:
        names = [str(i) for i in range(max(own) + 1)]
        if low:
            notes.append(
                f"no class 0 and no class names: {len(names)} classes are trained, and class 0"
                f"{f' to {low - 1} stay' if low > 1 else ' stays'} empty; if classes count from 1, {FORCE}"
            )
        elif 0 not in own:
            notes.append("this part has no video of class 0, another has: classes count from 0")
        return rows, names
    from_one = low == 1 and high == len(names)
    if low and not from_one and max(own) < len(names) and named.file:
        from_one = counts_from(named.file) == 1
    if from_one:
        notes.append("classes count from 1: 1 is taken off")
        return [row if row.label is None else row._replace(label=int(row.label) - 1) for row in rows], names
    if max(own) >= len(names):
        worst = next(row for row in rows if row.label == max(own))
        raise ConfigError(
            f"{path} uses class {max(own)} ({worst.paths[0]}), and there are {len(names)} class names",
            found=f"the names of {named.where}",
            fix="classes count from 0: correct the list or the label file",
        )
    if low:
        notes.append(
            f"no video of class 0, and none of class {len(names)}: classes are taken to count from 0, so that "
            f"{min(own)} is {names[min(own)]!r}; if they count from 1, {FORCE}"
        )
    elif 0 not in own:
        notes.append(f"this part has no video of class 0, {names[0]!r}, another has: classes count from 0")
    return rows, names


def _numbers_beside(listing: Listing, count: int | None, read_file: ReadFile) -> set[int]:
    """Class numbers of the other parts, in the same file or in the lists beside it.

    Lists that bear the name of this one but for the part belong to it for sure; others only where none does, their
    numbers fit the class names, and this list does not say by itself where classes begin.
    """
    if listing.file is None:
        return listing.numbers
    if paired := _numbers_of(list(other_parts(listing.file).values()), read_file):
        return listing.numbers.union(*paired)
    own = {row.label for row in listing.rows if isinstance(row.label, int)} | listing.numbers
    if (min(own), max(own)) == (1, count):
        return own
    folder = listing.file.parent
    others = [path for name in folder_names(folder) if name != listing.file.name and may_be_list(path := folder / name)]
    return listing.numbers.union(
        *(numbers for numbers in _numbers_of(others, read_file) if count is None or max(numbers) <= count)
    )


def _numbers_of(paths: Sequence[Path], read_file: ReadFile) -> list[set[int]]:
    found = []
    for path in paths:
        try:
            listing = read_file(path, Request(part_of(path.name) or "train"))
        except AptEdgeError:  # it is not this list's business
            continue
        numbers = listing.numbers | {row.label for row in listing.rows if isinstance(row.label, int)}
        if numbers:
            found.append(numbers)
    return found


def _count_on(names: Sequence[str]) -> bool:
    """Whether names are the numbers from 0, or from 1."""
    numbers = [int(name) for name in names if name.isdecimal()]
    return (
        bool(numbers)
        and len(numbers) == len(names)
        and numbers[0] in (0, 1)
        and numbers == list(range(numbers[0], numbers[0] + len(names)))
    )
