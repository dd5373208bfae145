"""report.html, report.md and report.json of a run: what happened, in one page that opens from disk."""

from r1pipe.run.report.write import LiveReport, write_config_view, write_report

__all__ = ["LiveReport", "write_config_view", "write_report"]
