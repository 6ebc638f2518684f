"""The notebooks of the docs, run from top to bottom, with what they show stored in them: `make notebooks`.

python experiments/notebooks.py [NAME …]
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


def main() -> None:
    for name in sys.argv[1:] or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")):
        path = NOTEBOOKS / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        # Of times and versions a notebook says nothing: where no output differs, neither does the file.
        about = notebook.metadata.copy()
        NotebookClient(notebook, timeout=600, record_timing=False).execute()
        notebook.metadata = about
        for cell in notebook.cells:
            if cell.cell_type == "code":  # bars of progress, and warnings of packages that are installed here
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        nbformat.write(notebook, path)
        print(path)


if __name__ == "__main__":
    main()
