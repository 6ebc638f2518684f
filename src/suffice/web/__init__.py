"""The page that people explore in, and the HTTP interface behind it: `suffice web`, extra `web`.

| | |
|---|---|
| `app.py` | the addresses, as FastAPI has them |
| `asked.py` | what a request may say, and an answer, with their types |
| `guard.py` | who is answered: Host, Origin, token, size; what a browser may do with an answer |
| `served.py` | models that the server was started with, and what each of them can be asked |
| `uploads.py` | images of visitors, within a limit of memory |
| `jobs.py` | one worker a device, a bounded queue, cancellation between batches, results within a limit of memory |
| `work.py` | what each job does |
| `part.py` | the part that a job is about: from the request, of an explanation, or to be found |
| `against.py` | why A, not B |
| `quick.py` | what the model says of a part at once: for the slider and the brush |
| `wording.py` | how a result is made again |
| `serving.py` | the process that answers |
| `static/` | the page: plain HTML, CSS and ES modules; what it shares with reports is in `suffice/report/parts` |
"""
