"""Records for readers: a self-contained page, its figures, and the table that the command prints."""

from equiframe.report import notebook
from equiframe.report.page import comparison_page, run_page, study_page
from equiframe.report.study import study_tables
from equiframe.report.tables import comparison_table, left_out

__all__ = ["comparison_page", "comparison_table", "left_out", "notebook", "run_page", "study_page", "study_tables"]
