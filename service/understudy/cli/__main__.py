"""`python -m understudy.cli`."""

from understudy.cli import app

app(prog_name="understudy")
