"""Draws merge scales as a tree of text: the root at the left, at the largest scale, and the runs at the right."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_LEAVES = 40
MIN_TREE, MAX_TREE = 12, 56  # columns of the tree, without the names
INFINITE_COLUMNS = 4  # between a scale of infinity and the largest finite one
SAME = 1 + 1e-9  # scales that differ by less are one: they went through arithmetic


@dataclass
class _Leaf:
    """Runs that are drawn as one line; `apart` where they are only lumped together for want of room."""

    members: list[int]
    apart: bool = False


@dataclass
class _Node:
    scale: float
    children: list[_Node | _Leaf]
    size: int
    first: int


def dendrogram(
    merges: Sequence[Sequence[float | None]],
    names: Sequence[str],
    notes: Sequence[str] | None = None,
    *,
    floor: float | None = None,
    width: int = 80,
    max_leaves: int = MAX_LEAVES,
) -> list[str]:
    """Return the lines of a tree, a line of scales first.

    Runs that agree at every scale above `floor` are one line. Where there are too many others, the scales at which the
    fewest runs part are left out from below, and the lowest scale that is drawn stands at the right end.

    Args:
        merges: n − 1 rows (first, second, scale), ascending and numbered as scipy's linkage does; None is infinity.
        names: of the n runs.
        notes: what to say of each run beside its name, such as its class.
        floor: scale below which nothing is told apart.
        width: columns of the terminal.
        max_leaves: the most lines.
    """
    if not names:
        return []
    rows = [(int(row[0] or 0), int(row[1] or 0), math.inf if row[2] is None else float(row[2])) for row in merges]
    lowest = _lowest(sorted(row[2] for row in rows), floor, max_leaves)
    root = _tree(rows, len(names), lowest)
    finite = [row[2] for row in rows if row[2] > lowest and math.isfinite(row[2])]
    labels = _Labels(names, notes or [""] * len(names))
    if isinstance(root, _Leaf):
        return [labels.line(root, width)]
    _lump(root, max_leaves)
    needed = max(labels.needed(leaf) for leaf in _leaves(root))
    columns = min(MAX_TREE, max(MIN_TREE, width - 1 - needed))
    axis = _Axis(max(finite, default=math.inf), lowest, columns, any(row[2] == math.inf for row in rows))
    _merge_columns(root, axis)
    room = max(1, width - columns - 1)
    return [axis.line(), *(f"{stem} {labels.line(leaf, room)}" for stem, leaf in _drawn(root, axis))]


def _lowest(scales: list[float], floor: float | None, max_leaves: int) -> float:
    """Return the scale up to which runs are drawn as one: `floor`, or higher where that leaves too many lines."""
    lowest = 0.0 if floor is None else floor * SAME
    if sum(scale > lowest for scale in scales) < max_leaves:
        return lowest
    # The largest scale always stays, or nothing would be left to draw.
    for scale in sorted({scale for scale in scales if lowest < scale < scales[-1]}):
        lowest = scale
        if sum(scale > lowest for scale in scales) < max_leaves:
            break
    return lowest


def _tree(rows: Sequence[tuple[int, int, float]], count: int, lowest: float) -> _Node | _Leaf:
    nodes: list[_Node | _Leaf] = [_Leaf([number]) for number in range(count)]
    for first, second, scale in rows:
        one, other = nodes[first], nodes[second]
        if scale <= lowest and isinstance(one, _Leaf) and isinstance(other, _Leaf):
            nodes.append(_Leaf(sorted(one.members + other.members)))
        else:
            nodes.append(_Node(scale, [one, other], _size(one) + _size(other), min(_first(one), _first(other))))
    return nodes[-1]


def _size(node: _Node | _Leaf) -> int:
    return len(node.members) if isinstance(node, _Leaf) else node.size


def _first(node: _Node | _Leaf) -> int:
    return node.members[0] if isinstance(node, _Leaf) else node.first


def _leaves(node: _Node | _Leaf) -> Iterator[_Leaf]:
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, _Leaf):
            yield one
        else:
            waiting += one.children


def _lump(root: _Node, most: int) -> None:
    """Put the smallest leaves of a tree that parts at one scale only into one line, where there are too many."""
    if sum(1 for _ in _leaves(root)) <= most:
        return
    leaves = sorted(_leaves(root), key=lambda leaf: (-len(leaf.members), leaf.members[0]))
    rest = sorted(number for leaf in leaves[most - 1 :] for number in leaf.members)
    root.children = [*leaves[: most - 1], _Leaf(rest, apart=True)]


def _merge_columns(root: _Node, axis: _Axis) -> None:
    """Let a node that would stand in its parent's column hand its children to the parent; sort, the largest first."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        column, children, unsettled = axis.column(node.scale), [], list(node.children)
        while unsettled:
            child = unsettled.pop()
            if isinstance(child, _Node) and axis.column(child.scale) <= column:
                unsettled += child.children
            else:
                children.append(child)
        lumped = [child for child in children if isinstance(child, _Leaf) and child.apart]
        whole = [child for child in children if child not in lumped]
        node.children = [*sorted(whole, key=lambda child: (-_size(child), _first(child))), *lumped]
        waiting += [child for child in children if isinstance(child, _Node)]


def _drawn(node: _Node, axis: _Axis) -> Iterator[tuple[str, _Leaf]]:
    """Yield the branches and the leaf of each line, from the node's own column on."""
    here, last = axis.column(node.scale), len(node.children) - 1
    for number, child in enumerate(node.children):
        joint = "┬" if number == 0 else "└" if number == last else "├"
        if isinstance(child, _Leaf):
            yield joint + "─" * (axis.columns - here - 1), child
            continue
        gap = axis.column(child.scale) - here - 1
        for line, (stem, leaf) in enumerate(_drawn(child, axis)):
            start = joint + "─" * gap if line == 0 else (" " if number == last else "│") + " " * gap
            yield start + stem, leaf


class _Axis:
    """Where a scale stands: the largest in column 0, the lowest in the last."""

    def __init__(self, highest: float, lowest: float, columns: int, infinite: bool) -> None:
        self.columns = columns
        self._highest, self._lowest = highest, lowest
        self._left = INFINITE_COLUMNS if infinite and math.isfinite(highest) else 0

    def column(self, scale: float) -> int:
        if math.isinf(scale):
            return 0
        span = self._highest - self._lowest
        share = (self._highest - scale) / span if span > 0 else 0.0
        return min(self.columns - 3, self._left + round(share * (self.columns - 1 - self._left)))

    def line(self) -> str:
        """Write the scales over their columns."""
        cells = [" "] * self.columns
        middle = (self._left + self.columns - 1) // 2
        marks = [(0, "∞")] if self._left or math.isinf(self._highest) else []
        if math.isfinite(self._highest):
            marks.append((self._left, f"{self._highest:.3g}"))
            marks.append((middle - 2, f"{(self._highest + self._lowest) / 2:.3g}"))
        right = f"{self._lowest:.3g}"
        marks.append((self.columns - len(right), right))
        end = 0
        for column, text in marks:
            if column >= end and (text is right or column + len(text) < self.columns - len(right)):
                cells[column : column + len(text)] = text
                end = column + len(text) + 1
        return "".join(cells)


class _Labels:
    """What is written at the end of a line."""

    def __init__(self, names: Sequence[str], notes: Sequence[str]) -> None:
        self._names = names
        self._notes = notes

    def needed(self, leaf: _Leaf) -> int:
        """Columns that the label should have."""
        return cell_len(self._joined(*self._parts(leaf)))

    def line(self, leaf: _Leaf, room: int) -> str:
        """Write a leaf into at most `room` columns; the name gives way before the note does."""
        name, note = self._parts(leaf)
        text = self._joined(_cut(name, max(8, room - (2 + cell_len(note) if note else 0))), note)
        if len(leaf.members) > 1:
            text = self._with_names(text, leaf, room)
        return _cut(text, room)

    def _with_names(self, text: str, leaf: _Leaf, room: int) -> str:
        """Add as many of the runs' names as there is room for, all or with an ellipsis."""
        shown = text
        for count in range(1, len(leaf.members) + 1):
            more = ", …" if count < len(leaf.members) else ""
            longer = f"{text}  {', '.join(self._names[number] for number in leaf.members[:count])}{more}"
            if cell_len(longer) > room:
                break
            shown = longer
        return shown

    def _parts(self, leaf: _Leaf) -> tuple[str, str]:
        counts = Counter(self._notes[number] for number in leaf.members)
        notes = [note if len(counts) == 1 else f"{note} ×{times}" for note, times in counts.most_common() if note]
        if len(leaf.members) == 1:
            return self._names[leaf.members[0]], ", ".join(notes)
        if leaf.apart:
            return f"×{len(leaf.members)} more runs that part here", ""
        return f"×{len(leaf.members)} runs", ", ".join(notes[:3]) + (", …" if len(notes) > 3 else "")

    @staticmethod
    def _joined(name: str, note: str) -> str:
        return f"{name}  {note}" if note else name


def _cut(text: str, room: int) -> str:
    """Leave the middle out of what is too long: names of a sweep often differ at the end only."""
    if cell_len(text) <= room:
        return text
    head, tail = (room - 1 + 1) // 2, (room - 1) // 2
    start = (chop_cells(text, head) or [""])[0] if head else ""
    end = (chop_cells(text[::-1], tail) or [""])[0][::-1] if tail else ""
    return f"{start}…{end}"
