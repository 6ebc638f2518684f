"""What hostile visitors, pages and files get: a clear answer, and nothing else."""

from __future__ import annotations

import concurrent.futures
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from toys import BASE, Corner, photo, served

from suffice.web.app import make_app
from suffice.web.uploads import LARGEST_UPLOAD, Uploads

NAME = "<img src=x onerror=alert(1)>.png"


def post(client: Any, data: bytes, name: str = "photo.png", request: dict[str, Any] | None = None) -> Any:
    asked = {"do": "explain", "block": 8} if request is None else request
    return client.post("/api/jobs", files={"image": (name, data)}, data={"request": json.dumps(asked)})


def png_of(width: int, height: int) -> bytes:
    """The header of a PNG of that size, and a few bytes for its pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "8.8.8.8"])
def test_a_foreign_host_is_refused(client: Any, host: str) -> None:
    assert client.get("/api/health", headers={"host": host}).status_code == 403
    assert client.get("/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1234", "[::1]:80"])
def test_this_machine_is_answered_by_each_of_its_names(client: Any, host: str) -> None:
    assert client.get("/api/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1"])
def test_a_foreign_origin_is_refused(client: Any, origin: str) -> None:
    files = {"image": ("a.png", photo())}
    answer = client.post("/api/images", files=files, headers={"origin": origin})
    assert answer.status_code == 403
    assert "Origin" in answer.json()["detail"]
    assert client.post("/api/images", files=files, headers={"origin": BASE}).status_code == 200


def test_where_a_token_is_needed_nothing_is_said_without_it(module: Corner) -> None:
    app = make_app([served(module)], hosts=["box"], token="secret")
    with TestClient(app, base_url="http://box") as client:
        for path in ("/", "/api/health", "/static/main.js", "/report/parts/pixels.js", "/api/openapi.json"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/api/health", headers={"authorization": "Bearer secret"}).status_code == 200
        assert client.get("http://8.8.8.8/api/health").status_code == 401  # by its number, but not without the token
        opened = client.get("/?token=secret", follow_redirects=False)
        assert (opened.status_code, opened.headers["location"]) == (303, "/")
        assert "HttpOnly" in opened.headers["set-cookie"]
        assert client.get("/api/health").status_code == 200  # by the cookie


def test_names_are_data(client: Any) -> None:
    job = post(client, photo(), NAME).json()["id"]
    with client.stream("GET", f"/api/jobs/{job}/events") as stream:
        list(stream.iter_lines())
    answer = client.get(f"/api/jobs/{job}")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"]["image"] == NAME
    report = client.get(f"/api/jobs/{job}/files/report.html")
    assert "attachment" in report.headers["content-disposition"]
    assert "<img src=x" not in report.text
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_what_is_no_image_is_said_in_one_line(client: Any) -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    for data in (svg, b"", b"<html>", b"\x93NUMPY" + b"\0" * 99, photo()[:200], png_of(4, 4)):
        answer = post(client, data, "a.svg")
        assert answer.status_code == 422, data[:20]
        assert answer.json()["detail"].startswith("expected")
        assert "\n" not in answer.json()["detail"]


def test_a_decompression_bomb_is_refused(client: Any) -> None:
    answer = post(client, png_of(100_000, 100_000))
    assert answer.status_code == 422
    assert "pixels" in answer.json()["detail"]


def test_a_large_upload_is_refused_with_and_without_its_length(client: Any) -> None:
    large = post(client, b"\0" * (200 * 2**20))
    assert large.status_code == 413
    assert f"{LARGEST_UPLOAD:,}" in large.json()["detail"]

    def chunks() -> Any:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        for _ in range(30):
            yield b"\0" * 2**20

    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/api/jobs", content=chunks(), headers=headers).status_code == 413


def test_fifty_uploads_at_once_are_each_answered(client: Any, module: Corner) -> None:
    module.go.clear()
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda seed: post(client, photo(seed)), range(50)))
    module.go.set()
    states = sorted({answer.status_code for answer in answers})
    assert states == [200, 429]
    assert sum(answer.status_code == 200 for answer in answers) in (4, 5)  # one runs, four wait
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 429)
    assert client.get("/api/health").status_code == 200


@pytest.mark.parametrize(
    "request_",
    [
        {"do": "explain", "occlusion": "image:/etc/passwd"},
        {"do": "explain", "occlusion": "zero,image:../secret.png"},
        {"do": "explain", "method": "lax", "adapter": "/etc/passwd"},
        {"do": "explain", "method": "activation-matching", "network": "../x.safetensors"},
        {"do": "explain", "method": "../../etc/passwd"},
        {"do": "explain", "model": "/etc/passwd"},
        {"do": "explain", "target": "/etc/passwd"},
        {"do": "explain", "certify": 0.9, "over": "images:/etc"},
        {"do": "verify", "over": "images:/etc"},
        {"do": "verify", "mask": "/etc/passwd"},
        {"do": "verify", "explanation": "../../etc/passwd"},
        {"do": "score", "backgrounds": "/etc"},
        {"do": "score", "metrics": "robustness_images"},
        {"do": "score", "occlusion": "image:/etc/passwd"},
        {"do": "circuit", "reference": "/etc"},
        {"do": "circuit", "layers": "/etc/passwd", "occlusion": "image:/etc/passwd"},
    ],
)
def test_no_parameter_opens_a_file(client: Any, request_: dict[str, Any]) -> None:
    answer = post(client, photo(), request=request_)
    assert answer.status_code in (404, 422), answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/%2e%2e%2f%2e%2e%2fapp.py",
        "/api/samples/..%2f..%2fetc%2fpasswd", "/api/samples/%2fetc%2fpasswd", "/..%2f..%2fetc/passwd",
        "/api/jobs/..%2f..%2fetc/files/passwd", "/api/images/%00", "/static/main.js%00.html",
        "/report/parts/../page.py", "/report/parts/..%2fpage.py",
    ],
)  # fmt: skip
def test_no_path_leads_out(client: Any, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (404, 422), answer.status_code
    assert "root:" not in answer.text
    assert "import" not in answer.text


def test_a_files_name_leads_nowhere(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("../../../tmp/evil.png", "..\\..\\evil.png", "/etc/evil.png", "a\nb.png", "\u202egnp.exe.png"):
        kept = client.post("/api/images", files={"image": (name, photo())}).json()
        assert "/" not in kept["name"]
        assert "\n" not in kept["name"]
    assert list(tmp_path.iterdir()) == []


def test_images_are_kept_within_a_limit() -> None:
    uploads = Uploads(most_bytes=3 * len(photo()), most=100)
    kept = [uploads.add(photo(seed), "a.png") for seed in range(8)]
    assert uploads.get(kept[0].id) is None
    assert uploads.get(kept[-1].id) is kept[-1]
    assert uploads.bytes <= 3 * len(photo()) + 1000


def test_a_mask_of_any_bytes_is_a_mask_or_refused(client: Any) -> None:
    for data in (b"", b"\x93NUMPY", b"\x89PNG", io.BytesIO(photo()).getvalue()[:100]):
        files = {"image": ("a.png", photo()), "mask": ("m.npy", data)}
        answer = client.post("/api/jobs", files=files, data={"request": '{"do": "verify"}'})
        assert answer.status_code == 422
