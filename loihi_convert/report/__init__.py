"""Run folders -> one page: read, sections with tables and charts, HTML and Markdown."""
