from __future__ import annotations

import re

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

from golemp2p import errors, limits
from golemp2p.api.app import make_app, status_of
from golemp2p.api.auth import AppKey, AppKeys
from golemp2p.api.presence import Presence, session_key
from golemp2p.core.ids import Address

from .conftest import PAGE

ME = Address("0x" + "ab" * 20)


def make_client(*, allowed_hosts: frozenset[str] = frozenset()) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=make_app_for_tests(allowed_hosts), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7465")


def make_app_for_tests(allowed_hosts: frozenset[str] = frozenset()) -> FastAPI:
    router = APIRouter()

    @router.get("/me")
    @router.get("/healthz")
    @router.get("/version/get")
    async def me() -> str:
        return "here"

    @router.post("/echo")
    async def echo(body: dict[str, str]) -> int:
        return len(str(body))

    @router.put("/golemp2p/v1/files")
    async def files(request: Request) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    @router.get("/fail/{kind}")
    async def fail(kind: str) -> Response:
        raise getattr(errors, kind)("it went wrong", hint="do this")

    @router.get("/bug")
    async def bug() -> Response:
        raise ZeroDivisionError("secret detail")

    keys = AppKeys([AppKey("plain", "secret-1"), AppKey("browser", "secret-2", (PAGE,)), AppKey("b", "any", ("*",))])
    return make_app([router], keys=keys, address=ME, allowed_hosts=allowed_hosts)


def bearer(secret: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}", **more}


async def test_who_has_no_key_or_a_wrong_one_is_told_so_in_the_shape_of_all_errors() -> None:
    async with make_client() as http:
        none = await http.get("/me")
        wrong = await http.get("/me", headers=bearer("wrong"))
    assert (none.status_code, wrong.status_code) == (401, 401)
    assert "no app-key" in none.json()["message"]
    assert "unknown" in wrong.json()["message"]
    assert none.json()["code"] == "unauthorized"


@pytest.mark.parametrize("headers", [bearer("secret-1"), {"AUTHORIZATION": "bearer secret-1"}])
async def test_the_right_key_opens(headers: dict[str, str]) -> None:
    async with make_client() as http:
        assert (await http.get("/me", headers=headers)).json() == "here"


@pytest.mark.parametrize(("role", "noticed"), [({}, True), ({"Golemp2p-Role": "provider"}, False)])
async def test_events_asked_for_a_provider_keep_no_requestors_agreement(role: dict[str, str], noticed: bool) -> None:
    now, router = [100.0], APIRouter()

    @router.get("/market-api/v1/agreementEvents")
    async def events() -> list[str]:
        now[0] += 50
        return []

    presence = Presence(lambda: now[0])
    app = make_app([router], keys=AppKeys([AppKey("k", "secret")]), address=ME, presence=presence)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1") as http:
        assert (await http.get("/market-api/v1/agreementEvents", headers=bearer("secret", **role))).json() == []
    assert presence.silent_s([session_key(None)]) == (0.0 if noticed else 50.0)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 404),  # a program
        ({"Sec-Fetch-Site": "none"}, 404),  # typed in
        ({"Sec-Fetch-Site": "same-origin"}, 404),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": PAGE}, 404),  # allowed by the settings
        ({"Sec-Fetch-Site": "cross-site", "Origin": "null"}, 404),  # of the key for all origins
    ],
)
@pytest.mark.parametrize("path", ["/v1/image/info?tag=secret/project", "/image.ab.link"])
async def test_pages_do_not_learn_which_images_are_here(path: str, headers: dict[str, str], status: int) -> None:
    async with make_client() as http:
        assert (await http.get(path, headers=headers)).status_code == status


async def test_the_key_may_come_in_the_query() -> None:
    async with make_client() as http:
        assert (await http.get("/me?authToken=secret-1")).status_code == 200
        assert (await http.get("/me?authToken=nope")).status_code == 401


async def test_health_and_version_need_no_key() -> None:
    async with make_client() as http:
        for path in ("/healthz", "/version/get"):
            assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7465", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:7465", 200),
        ("node.lan", 200),
        ("evil.example:7465", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
async def test_only_names_of_this_node_are_served(host: str, status: int) -> None:
    """A web page that re-bound its own name to 127.0.0.1 is sent away, key or not."""
    async with make_client(allowed_hosts=frozenset({"node.lan"})) as http:
        answer = await http.get("/me", headers=bearer("secret-1", Host=host))
        assert answer.status_code == status
        open_path = await http.get("/healthz", headers={"Host": host})
        assert open_path.status_code == status


@pytest.mark.parametrize(
    ("secret", "origin", "status", "allowed"),
    [
        ("secret-1", "http://127.0.0.1:7465", 200, None),  # our own pages
        ("secret-1", PAGE, 403, None),
        ("secret-2", PAGE, 200, PAGE),
        ("secret-2", "https://other.example", 403, None),
        ("secret-2", "null", 403, None),
        ("secret-2", "http://[::1", 403, None),
        ("any", "https://other.example", 200, "https://other.example"),
        ("nope", PAGE, 403, None),
    ],
)
async def test_pages_of_other_origins_need_a_key_that_lists_them(
    secret: str, origin: str, status: int, allowed: str | None
) -> None:
    async with make_client() as http:
        answer = await http.get("/me", headers=bearer(secret, Origin=origin))
    assert answer.status_code == status
    assert answer.headers.get("access-control-allow-origin") == allowed
    if allowed:
        assert answer.headers["vary"] == "Origin"


async def test_a_page_that_some_key_allows_sees_what_is_open_to_all() -> None:
    async with make_client() as http:
        ours = await http.get("/version/get", headers={"Origin": PAGE})
    assert (ours.status_code, ours.headers["access-control-allow-origin"]) == (200, PAGE)


async def test_errors_too_can_be_read_by_an_allowed_page() -> None:
    async with make_client() as http:
        answer = await http.get("/fail/NotFoundError", headers=bearer("secret-2", Origin=PAGE))
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (404, PAGE)


async def test_a_preflight_is_answered_without_a_key() -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    async with make_client() as http:
        answer = await http.options("/echo", headers={"Origin": PAGE, **asked})
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "authorization,content-type"


async def test_a_preflight_of_a_foreign_page_is_refused() -> None:
    router_keys = AppKeys([AppKey("browser", "secret-2", (PAGE,))])
    app = make_app([], keys=router_keys, address=ME)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as http:
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        answer = await http.options("/echo", headers=headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


async def test_a_body_beyond_the_limit_is_refused_by_its_announcement() -> None:
    async with make_client() as http:
        body = b" " * (limits.MAX_REST_BODY_BYTES + 1)
        answer = await http.post("/echo", content=body, headers=bearer("secret-1"))
    assert answer.status_code == 413


async def raw_status(method: str, path: str, headers: list[tuple[bytes, bytes]], receive: Receive) -> int:
    """What httpx would not send."""
    statuses: list[int] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {"type": "http", "method": method, "path": path, "headers": [(b"host", b"localhost"), *headers]}
    await make_app_for_tests()({**scope, "query_string": b"", "http_version": "1.1", "scheme": "http"}, receive, send)
    return statuses[0]


async def test_a_body_beyond_the_limit_is_refused_while_it_comes() -> None:
    sent = 0

    async def endless() -> Message:
        nonlocal sent
        sent += 1_000_000
        return {"type": "http.request", "body": b" " * 1_000_000, "more_body": True}

    headers = [(b"authorization", b"Bearer secret-1"), (b"content-type", b"application/json")]
    assert await raw_status("POST", "/echo", headers, endless) == 413
    assert sent <= limits.MAX_REST_BODY_BYTES + 1_000_000


async def test_a_key_that_is_no_text_is_unknown() -> None:
    async def nothing() -> Message:
        return {"type": "http.request"}

    assert await raw_status("GET", "/me", [(b"authorization", b"Bearer \xff\xfe")], nothing) == 401


async def test_a_wrong_content_length_is_refused() -> None:
    async with make_client() as http:
        answer = await http.post("/echo", content=b"{}", headers=bearer("secret-1") | {"content-length": "-1"})
    assert answer.status_code == 413


async def test_files_may_be_larger() -> None:
    body = b"x" * (limits.MAX_REST_BODY_BYTES + 1)
    async with make_client() as http:
        answer = await http.put("/golemp2p/v1/files", content=body, headers=bearer("secret-1"))
    assert answer.json() == len(body)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("NotFoundError", 404),
        ("GoneError", 410),
        ("ConflictError", 409),
        ("UsageError", 400),
        ("LocalProtocolError", 400),
        ("PolicyError", 403),
        ("DeadlineError", 408),
        ("NetworkError", 500),
        ("RemoteError", 500),
        ("RemoteProtocolError", 502),
        ("InternalError", 500),
    ],
)
async def test_an_error_has_its_status_its_words_and_its_code(kind: str, status: int) -> None:
    async with make_client() as http:
        answer = await http.get(f"/fail/{kind}", headers=bearer("secret-1"))
    error = getattr(errors, kind)("x")
    assert answer.status_code == status == status_of(error)
    assert answer.json() == {"message": "it went wrong (do this)", "code": error.code}


async def test_a_bug_tells_nothing_to_the_caller() -> None:
    async with make_client() as http:
        answer = await http.get("/bug", headers=bearer("secret-1"))
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["code"] == "internal"


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/no/such/path", None, 404),
        ("DELETE", "/echo", None, 405),
        ("POST", "/echo", b"{not json", 400),
        ("POST", "/echo", b'{"a": 1}', 400),
        ("POST", "/echo", b"[" * 100_000, 400),
        ("POST", "/echo", b"\xff\xfe", 400),
    ],
)
async def test_what_the_framework_refuses_has_the_same_shape(
    method: str, path: str, content: bytes | None, status: int
) -> None:
    headers = bearer("secret-1") | {"content-type": "application/json"}
    async with make_client() as http:
        answer = await http.request(method, path, content=content, headers=headers)
    assert answer.status_code == status
    assert set(answer.json()) == {"message", "code"}


async def test_the_api_page_opens_without_a_key_and_loads_nothing_from_elsewhere() -> None:
    async with make_client() as http:
        page = (await http.get("/docs")).text
        sources = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert sources
        assert all(source.startswith("/") for source in sources)
        assert [(await http.get(source)).status_code for source in sources] == [200] * len(sources)
        schema = (await http.get("/openapi.json")).json()
    assert schema["components"]["securitySchemes"]["appKey"]["scheme"] == "bearer"


async def test_origins_of_the_settings_may_use_any_key() -> None:
    keys = AppKeys([AppKey("plain", "secret-1")], origins=[PAGE])
    app = make_app([], keys=keys, address=Address("0x" + "1" * 40))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7465") as http:
        allowed = await http.get("/nothing", headers=bearer("secret-1", Origin=PAGE))
        keyless = await http.get("/nothing", headers={"Origin": PAGE})
        foreign = await http.get("/nothing", headers=bearer("secret-1", Origin="http://other.example"))
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (404, PAGE)
    assert (keyless.status_code, foreign.status_code) == (403, 403)
