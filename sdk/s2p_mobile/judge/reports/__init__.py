"""Reports side by side: a table for the terminal and one HTML file that needs no network."""

from s2p_mobile.judge.reports.entries import Entry, PlacementComparison, read_entries
from s2p_mobile.judge.reports.page import render_page
from s2p_mobile.judge.reports.pictures import GoldenPictures, find_golden_pictures
from s2p_mobile.judge.reports.placement import compare_placement
from s2p_mobile.judge.reports.table import compact_rows, comparison_notes, figures, full_rows

__all__ = [
    "Entry",
    "GoldenPictures",
    "PlacementComparison",
    "compact_rows",
    "compare_placement",
    "comparison_notes",
    "figures",
    "find_golden_pictures",
    "full_rows",
    "read_entries",
    "render_page",
]
