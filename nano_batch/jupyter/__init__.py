"""Notebooks as files and as pages: the reader's working copy, JupyterLab, the browser, the refresh tool."""
