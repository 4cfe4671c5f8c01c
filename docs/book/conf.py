"""Sphinx configuration of the book; build.py assembles its pages in build/book/source/."""

import covidxr

project, author, release = "covidxr", "the covidxr authors", covidxr.__version__
project_copyright = "the covidxr authors, MIT licence"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

nb_execution_mode = "off"  # the stored outputs are the book's
nb_code_prompt_show, nb_code_prompt_hide = "Show the solution", "Hide the solution"
nb_ipywidgets_js = {}  # would be fetched from elsewhere
myst_heading_anchors = 4  # links to headings, as GitHub numbers them
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"covidxr {release}"
html_static_path = ["_static"]
html_css_files, html_js_files = ["book.css"], ["book.js"]
html_favicon = "_static/favicon.svg"
html_domain_indices = False  # the reference has a page a module
html_copy_source = html_show_sourcelink = html_show_sphinx = False
# Styles whose every colour has enough contrast.
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_theme_options = {
    "navigation_with_keys": True,
    "announcement": "A teaching and research tool. Not a medical device.",
}
