"""The site: `make docs` builds it into build/docs; warnings are errors."""

from importlib.metadata import version as version_of

from docutils import nodes
from sphinx.application import Sphinx

project = "suffice"
copyright = "the suffice developers"
version = release = version_of("suffice")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**.ipynb_checkpoints"]
html_theme = "furo"
html_title = f"suffice {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False

# Notebooks come with their outputs, which the tests make again.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
# Docstrings are written for people who read the source: what stands between single backticks is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
# What is outside of the site is not asked for when it is built.
linkcheck_ignore = [r"https?://.*"]
suppress_warnings = ["myst.header", "config.cache"]


def mark_wide_pictures(app: Sphinx, page: nodes.document) -> None:
    """Rows of pictures, which site.css lets a narrow screen scroll."""
    for image in page.findall(nodes.image):
        if "pictures/" in image["uri"]:
            image["classes"].append("wide")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("doctree-read", mark_wide_pictures)
