"""A run's page, its tables and figures, and the summary for the terminal.

`page.write_report` writes the report of a run's folder, finished or not; `console.console_table` is the short form.
`tables` and `figures` have one file for each table and figure, `sentences` the page's sentences.
"""
