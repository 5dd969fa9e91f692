"""Charts, tables, widgets and the report of a study."""

from typing import TYPE_CHECKING

from mixkit._common import lazy_imports

if TYPE_CHECKING:
    from mixkit.notebook.blind_test import BlindTest as BlindTest
    from mixkit.notebook.charts import against_coefficient as against_coefficient
    from mixkit.notebook.charts import frontier as frontier
    from mixkit.notebook.charts import measured_metrics as measured_metrics
    from mixkit.notebook.charts import parallel_coordinates as parallel_coordinates
    from mixkit.notebook.charts import training_curve as training_curve
    from mixkit.notebook.labels import metric_label as metric_label
    from mixkit.notebook.labels import number as number
    from mixkit.notebook.report import write_report as write_report
    from mixkit.notebook.runs import show_warnings_once as show_warnings_once
    from mixkit.notebook.runs import with_first_reader as with_first_reader
    from mixkit.notebook.sweep_panel import sweep as sweep
    from mixkit.notebook.tables import controls_table as controls_table
    from mixkit.notebook.tables import frame_table as frame_table
    from mixkit.notebook.tables import prose as prose
    from mixkit.notebook.tables import report_link as report_link
    from mixkit.notebook.tables import results_table as results_table
    from mixkit.notebook.widgets import check_metrics as check_metrics
    from mixkit.notebook.widgets import choose_axes as choose_axes
    from mixkit.notebook.widgets import compare_samples as compare_samples
    from mixkit.notebook.widgets import explore as explore
    from mixkit.notebook.widgets import show_continuations as show_continuations
    from mixkit.notebook.widgets import show_samples as show_samples
    from mixkit.notebook.widgets import sortable_table as sortable_table
    from mixkit.studies.store import finished_runs as finished_runs

__getattr__, __all__ = lazy_imports(__name__)
