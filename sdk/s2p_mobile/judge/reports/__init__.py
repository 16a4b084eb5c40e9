"""Reports side by side: a table for the terminal and one HTML file that needs no network."""

from s2p_mobile.judge.reports.contributed import contribution_problems
from s2p_mobile.judge.reports.entries import Entry, PlacementComparison, read_entries
from s2p_mobile.judge.reports.fleet import COLUMNS, FleetRow, chip_name, fleet_rows, read_folder, render_fleet
from s2p_mobile.judge.reports.page import render_page
from s2p_mobile.judge.reports.pictures import GoldenPictures, find_golden_pictures
from s2p_mobile.judge.reports.placement import compare_placement
from s2p_mobile.judge.reports.table import compact_rows, comparison_notes, figures, full_rows

__all__ = [
    "COLUMNS",
    "Entry",
    "FleetRow",
    "GoldenPictures",
    "PlacementComparison",
    "chip_name",
    "compact_rows",
    "compare_placement",
    "comparison_notes",
    "contribution_problems",
    "figures",
    "find_golden_pictures",
    "fleet_rows",
    "full_rows",
    "read_entries",
    "read_folder",
    "render_fleet",
    "render_page",
]
