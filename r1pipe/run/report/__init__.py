"""report.html, report.md and report.json of a run: what happened, in one page that opens from disk."""

from r1pipe.run.report.write import report_or_say, write_config_view, write_report

__all__ = ["report_or_say", "write_config_view", "write_report"]
