"""The addresses of the server, under `/api`, and the page at `/`.

What is wrong with a request is one line, `{"detail": "expected …; got …"}`: 422 for what it says, 413 for its size, 429
where too many wait, 404 for an id that there is not (any more), 401 and 403 as `guard.py` has it.
"""

from __future__ import annotations

import asyncio
import io
import json
import mimetypes
import secrets
import urllib.parse
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Json
from starlette.exceptions import HTTPException as AnyHTTPException

from suffice import report
from suffice.errors import InputError, fault_of, in_one_line
from suffice.explanation import Explanation
from suffice.images import SAMPLES, as_picture, read_photo
from suffice.images.reading import sample_path
from suffice.registry import METHODS, METRICS, OCCLUSIONS
from suffice.report.figures import png_bytes, shrunk
from suffice.web import quick
from suffice.web.asked import (
    Answers,
    AnyRequest,
    Clusters,
    Created,
    Explain,
    Health,
    Part,
    Pasted,
    Score,
    State,
    Uploaded,
)
from suffice.web.audited import Audited
from suffice.web.guard import App, Guard
from suffice.web.jobs import BusyError, Ended, Job, Jobs
from suffice.web.part import Asked, part_of_file, part_of_request
from suffice.web.served import Served, one_of, told_apart
from suffice.web.uploads import LARGEST_UPLOAD, Upload, Uploads
from suffice.web.work import checked, work

STATIC = Path(__file__).parent / "static"
PARTS = Path(report.__file__).parent / "parts"
"""Beside `STATIC` as the page's addresses have it, so that its scripts name them by where they lie."""
_VIEW = 1024  # pixels of the longer side of a photo as the page shows it
_EXACT = 256  # pixels of the longer side of one that is shown without loss
_LOOK = 0.08  # seconds between two looks at a job that somebody listens to
_BEAT = 10.0  # seconds after which a listener hears that the server is still there


def make_app(
    models: Sequence[Served],
    *,
    hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1"),
    token: str | None = None,
    jobs: Jobs | None = None,
    uploads: Uploads | None = None,
    audit: Audited | None = None,
) -> App:
    """The application, for uvicorn or any other ASGI server.

    Args:
        models: at least one; the first is the one that is asked where a request names none.
        hosts: names by which it is called.
        token: that visitors have to know; None: nobody has to.
        jobs, uploads: where they are kept; None: new ones.
        audit: whose evidence can be tested on images; None: none.
    """
    server = _Server(list(models), jobs or Jobs(work), uploads or Uploads(), audit)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(server.jobs.close)

    api = FastAPI(
        title="suffice", version=version("suffice"), docs_url=None, redoc_url=None, openapi_url="/api/openapi.json",
        lifespan=lifespan, description="The smallest part of an image that suffices for a classifier's decision.",
    )  # fmt: skip
    _say_errors_in_one_line(api)
    _add_questions(api, server)
    _add_jobs(api, server)
    _add_facts(api, server)
    _add_page(api)
    if audit is not None:
        _add_audit(api, server, audit)
    return Guard(api, hosts=hosts, token=token, largest=LARGEST_UPLOAD)


class _Server:
    """What all addresses share."""

    def __init__(self, models: list[Served], jobs: Jobs, uploads: Uploads, audit: Audited | None) -> None:
        self.models, self.jobs, self.uploads, self.audit = models, jobs, uploads, audit
        self.started = secrets.token_hex(8)

    def upload(self, id: str) -> Upload:
        if (found := self.uploads.get(id)) is None:
            raise HTTPException(404, "expected the id of an image; there is none with this one, or none any more")
        return found

    def job(self, id: str) -> Job:
        if (found := self.jobs.get(id)) is None:
            raise HTTPException(404, "expected the id of a job; there is none with this one, or none any more")
        return found

    def add(self, request: Any, image: UploadFile | None, mask: UploadFile | None) -> Job:
        """Check what a request asks for and queue it; called in a thread, as images are decoded."""
        served = one_of(self.models, request.model)
        if (image is None) == (request.image is None):
            raise InputError("expected an image, in the part image or by its id in request; got none or both")
        upload = self.kept(image) if image is not None else self.upload(request.image)
        asked = Asked(request, upload, served, None, self._explanations(request, served))
        part = part_of_request(asked)
        if mask is not None:
            part = part_of_file(mask.file.read(), _file_name(mask), asked)
        asked = checked(asked._replace(part=part))
        upload.pixels_for(served.classifier)  # what cannot be explained is said at once
        return self.jobs.add(request.do, str(served.classifier.device), asked)

    def kept(self, image: UploadFile) -> Upload:
        """Keep an image for a while; called in a thread, as it is decoded."""
        return self.uploads.add(image.file.read(), _file_name(image))

    def _explanations(self, request: Any, served: Served) -> dict[str, Explanation]:
        if isinstance(request, Explain):
            return {}
        ids = [request.explanation] if request.explanation else []
        ids += request.explanations if isinstance(request, Score) else []
        found: dict[str, Explanation] = {}
        for id in ids:
            explanation = self.job(id).kept.get("explanation")
            if explanation is None:
                raise InputError("expected the id of a job that has found an explanation; got one that has none (yet)")
            size = served.classifier.preprocessing.input_size
            if tuple(explanation.mask.shape) != size:
                raise InputError(f"expected an explanation for an input of {size}; got {tuple(explanation.mask.shape)}")
            found[told_apart(explanation.method, found)] = explanation
        return found


def _file_name(file: UploadFile) -> str:
    """The last part of the name that a browser gives; it is shown, and never a path here."""
    return in_one_line((file.filename or "image").replace("\\", "/").rpartition("/")[2])[:200] or "image"


def _say_errors_in_one_line(api: FastAPI) -> None:
    @api.exception_handler(InputError)
    async def wrong(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @api.exception_handler(BusyError)
    async def busy(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 429, headers={"retry-after": "5"})

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return JSONResponse({"detail": in_one_line(f"{where}: {first['msg']}")}, 422)

    @api.exception_handler(AnyHTTPException)
    async def known(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, AnyHTTPException)
        return JSONResponse({"detail": str(error.detail)}, error.status_code, headers=error.headers)

    @api.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": fault_of(error)}, 500)


def _add_jobs(api: FastAPI, server: _Server) -> None:
    @api.post("/api/jobs")
    async def add_job(
        request: Annotated[Json[AnyRequest], Form(description="What to do, as JSON.")],
        image: Annotated[UploadFile | None, File(description="A photo.")] = None,
        mask: Annotated[UploadFile | None, File(description="A part or a map: .npy or an image.")] = None,
    ) -> Created:
        """Queue a job: explain, score, verify or circuit."""
        job = await run_in_threadpool(server.add, request.root, image, mask)
        return Created(id=job.id)

    @api.get("/api/jobs/{id}")
    async def get_job(id: str) -> State:
        """What a job does, and its result."""
        job = server.job(id)
        return job.told(server.jobs.ahead_of(job))

    @api.delete("/api/jobs/{id}")
    async def cancel_job(id: str) -> State:
        """End a job, before its next batch."""
        job = server.job(id)
        server.jobs.cancel(job)
        return job.told()

    @api.get("/api/jobs/{id}/events", response_class=StreamingResponse)
    async def listen(id: str, request: Request) -> StreamingResponse:
        """What happens, as server-sent events: `progress` with the best part so far, at last `done`."""
        job = server.job(id)
        return StreamingResponse(
            _events(server, job, request), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    @api.get("/api/jobs/{id}/ranking", response_class=Response)
    async def get_ranking(id: str) -> Response:
        """The order of all pixels and what the model says along it, as one buffer; see `report/ranking.py`."""
        buffer = server.job(id).kept.get("ranking")
        if buffer is None:
            raise HTTPException(404, "expected a job that has found an explanation; this one has none (yet)")
        return Response(buffer, media_type="application/octet-stream", headers={"cache-control": "no-store"})

    @api.get("/api/jobs/{id}/files.zip", response_class=Response)
    async def get_everything(id: str) -> Response:
        """All files of a job."""
        job = server.job(id)
        if not job.files:
            raise HTTPException(404, "expected a job that made files; this one has none (yet)")
        return _download(await run_in_threadpool(_zipped, job.files), "suffice.zip", "application/zip")

    @api.get("/api/jobs/{id}/files/{name}", response_class=Response)
    async def get_file(id: str, name: str) -> Response:
        """One file of a job."""
        data = server.job(id).files.get(name)
        if data is None:
            raise HTTPException(404, "expected the name of a file of this job; there is none of this one")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        shown = kind.startswith("image/")
        return _download(data, name, kind, attached=not shown)


def _add_questions(api: FastAPI, server: _Server) -> None:
    @api.post("/api/images")
    async def add_image(
        image: Annotated[UploadFile, File(description="A photo.")], model: Annotated[str | None, Form()] = None
    ) -> Uploaded:
        """Keep an image for a while, so that questions about it need not carry it."""

        def add() -> Uploaded:
            served = one_of(server.models, model)
            upload = server.kept(image)
            return server.jobs.quickly(lambda: _uploaded(served, upload))

        return await run_in_threadpool(add)

    @api.get("/api/images/{id}", response_class=Response)
    async def get_image(id: str) -> Response:
        """The photo as the page shows it: upright, of a moderate size, without metadata."""

        def make() -> tuple[bytes, str]:
            view = shrunk(server.upload(id).photo().pixels, _VIEW)
            if max(view.size) <= _EXACT:
                return png_bytes(view), "image/png"
            file = io.BytesIO()
            view.save(file, "JPEG", quality=92)
            return file.getvalue(), "image/jpeg"

        data, kind = await run_in_threadpool(make)
        return Response(data, media_type=kind, headers={"cache-control": "private, max-age=600"})

    @api.post("/api/images/{id}/answers")
    async def answer(id: str, part: Part) -> Answers:
        """What the model says of parts of an image: at once, between the steps of the jobs."""
        upload = server.upload(id)
        served = one_of(server.models, part.model)
        return await run_in_threadpool(server.jobs.quickly, lambda: quick.answers(served, upload, part))

    @api.get("/api/images/{id}/background", response_class=Response)
    async def get_background(id: str, occlusion: str, model: str | None = None) -> Response:
        """What an occlusion paints where nothing of the image is, as PNG in the size that the model sees."""

        def make() -> bytes:
            return png_bytes(as_picture(quick.background(one_of(server.models, model), server.upload(id), occlusion)))

        data = await run_in_threadpool(make)
        return Response(data, media_type="image/png", headers={"cache-control": "private, max-age=600"})


def _add_audit(api: FastAPI, server: _Server, audit: Audited) -> None:
    @api.get("/audit", include_in_schema=False)
    async def page() -> Response:
        return _page(STATIC / "audit.html")

    @api.get("/api/audit")
    async def clusters() -> Clusters:
        """The evidence of the audit that the server was started with."""
        return Clusters(model=audit.served.name, clusters=[*audit.clusters], left_out=audit.left_out)

    @api.post("/api/audit/{number}/images/{id}")
    async def paste(number: int, id: str) -> Pasted:
        """What the model says of an image on which members of a cluster are pasted."""
        upload = server.upload(id)
        return await run_in_threadpool(server.jobs.quickly, lambda: audit.pasted(number, upload))


def _uploaded(served: Served, upload: Upload) -> Uploaded:
    classifier = served.classifier
    whole = quick.whole_logits(served, upload)
    confidences = classifier.confidences(whole)
    best = confidences.topk(min(10, len(confidences))).indices.tolist()
    left, top, right, bottom = upload.frame(classifier).box
    width, height = upload.size
    return Uploaded(
        id=upload.id, name=upload.name, sha256=upload.sha256, size=upload.size, notes=list(upload.notes),
        box=(left / width, top / height, right / width, bottom / height),
        classes=[(index, classifier.class_name(index), float(confidences[index])) for index in best],
    )  # fmt: skip


def _add_facts(api: FastAPI, server: _Server) -> None:
    @api.get("/api/health")
    async def health() -> Health:
        """That the server is there."""
        return Health(
            status="ok",
            version=version("suffice"),
            started=server.started,
            models=[each.name for each in server.models],
        )

    @api.get("/api/models")
    async def models() -> dict[str, Any]:
        """The models that the server was started with, and what the names of methods and the like mean."""
        return {
            "models": [each.facts() for each in server.models],
            "methods": METHODS.summaries(),
            "occlusions": OCCLUSIONS.summaries(),
            "metrics": list(METRICS),
            "audit": server.audit is not None,
        }

    @api.get("/api/classes")
    async def classes(model: str | None = None) -> list[str]:
        """The names of a model's classes, in the order of their numbers."""
        classifier = one_of(server.models, model).classifier
        return [classifier.class_name(index) for index in range(classifier.num_classes or 0)]

    @api.get("/api/samples")
    async def samples() -> list[dict[str, str]]:
        """Sample photos: name and SHA-256, as links name them."""
        return await run_in_threadpool(_samples)

    @api.get("/api/samples/{name}", response_class=Response)
    async def sample(name: str) -> Response:
        """The file of a sample photo."""
        path = sample_path(f"sample:{name}")
        data = await run_in_threadpool(path.read_bytes)
        return Response(data, media_type=mimetypes.guess_type(path.name)[0])


def _samples() -> list[dict[str, str]]:
    found = []
    for name in SAMPLES:
        try:
            photo = read_photo(f"sample:{name}")
        except InputError:  # scikit-image is not installed
            return []
        found.append({"name": name, "file": SAMPLES[name], "sha256": str(photo.sha256)})
    return found


def _add_page(api: FastAPI) -> None:
    static, parts = (
        {path.name: path for path in sorted(folder.iterdir()) if path.is_file()} for folder in (STATIC, PARTS)
    )

    @api.get("/", include_in_schema=False)
    async def index() -> Response:
        return _page(static["index.html"])

    @api.get("/static/{name}", include_in_schema=False)
    async def of_the_page(name: str) -> Response:
        return _one_of(static, name)

    @api.get("/report/parts/{name}", include_in_schema=False)
    async def of_the_report(name: str) -> Response:
        return _one_of(parts, name)


def _one_of(files: dict[str, Path], name: str) -> Response:
    if name not in files:  # a name in the list, never a path
        raise HTTPException(404, "expected a file of the page; there is none of this name")
    return _page(files[name])


_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def _page(path: Path) -> Response:
    kind = _KINDS.get(path.suffix, "application/octet-stream")
    return Response(path.read_bytes(), media_type=f"{kind}; charset=utf-8", headers={"cache-control": "no-cache"})


def _download(data: bytes, name: str, kind: str, attached: bool = True) -> Response:
    quoted = urllib.parse.quote(name, safe="")
    how = f"attachment; filename*=UTF-8''{quoted}" if attached else "inline"
    headers = {"content-disposition": how, "cache-control": "no-store"}
    if kind == "image/svg+xml":
        headers["content-security-policy"] = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
    return Response(data, media_type=kind, headers=headers)


def _zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


async def _events(server: _Server, job: Job, request: Request) -> AsyncIterator[str]:
    """What is new about a job, until it has ended or nobody listens."""
    told, quiet = -1, 0.0
    yield "retry: 1000\n\n"
    while True:
        ended, version = job.state in Ended, job.version
        if version != told:
            told, quiet = version, 0.0
            content = json.dumps(job.event(server.jobs.ahead_of(job)), allow_nan=False)
            yield f"event: {'done' if ended else 'progress'}\ndata: {content}\n\n"
        if ended:
            return
        await asyncio.sleep(_LOOK)
        quiet += _LOOK
        if quiet > _BEAT:
            quiet = 0.0
            yield ": still there\n\n"
        if await request.is_disconnected():
            return
