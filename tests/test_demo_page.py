"""The page as gradio builds and serves it; skipped where the extra [demo] is not installed."""

import asyncio
import inspect
import re
from typing import get_type_hints

import pytest
from conditioned_toys import conditioned_pipeline

gradio = pytest.importorskip("gradio", reason="the extra [demo] is not installed", exc_type=ImportError)

from meshgpt.demo import page as page_module  # noqa: E402
from meshgpt.demo.page import ANY, Page, load_gradio  # noqa: E402
from meshgpt.demo.server import POLICY, application  # noqa: E402
from meshgpt.demo.studio import Studio  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")


def made(build, *arguments):
    """What it builds where there is an event loop already; gradio makes and leaves open its own where there is none."""

    async def inside():
        return build(*arguments)

    return asyncio.run(inside())


@pytest.fixture(scope="module")
def studio():
    pipe = conditioned_pipeline()
    return Studio(pipe, pipe, "toy")


@pytest.fixture(scope="module")
def page(studio):
    return made(Page, studio)


@pytest.fixture(scope="module")
def visitor(studio):
    from starlette.testclient import TestClient

    with TestClient(made(application, studio)) as client:
        yield client


def test_gradio_is_told_to_report_nothing(page, monkeypatch):
    monkeypatch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
    load_gradio()
    from gradio import analytics

    assert not analytics.analytics_enabled() and not page.blocks.analytics_enabled


def test_gradio_sees_that_writing_goes_on_for_a_while_and_is_told_who_asks(page):
    [write] = [each.fn for each in page.blocks.fns.values() if inspect.isgeneratorfunction(each.fn)]
    assert get_type_hints(write)["request"] is gradio.Request


def test_the_fields_are_those_of_the_model(page):
    names = {item["props"].get("elem_id") for item in page.blocks.config["components"]}
    assert {"prompt", "category", "guidance", "shape", "up", "faces", "seed", "candidates", "write", "stop"} <= names
    follower = made(Page, Studio(None, page.studio.follower))
    names = {item["props"].get("elem_id") for item in follower.blocks.config["components"]}
    assert "shape" in names and not {"prompt", "category", "guidance"} & names


def test_of_the_fields_those_of_the_tab_in_front_count():
    values = {"text": "a chair", "category": ANY, "guidance": 2, "shape": "x.glb", "up": "z", "faces": "9", "seed": ""}
    described = page_module._asked("describe", values)
    assert described == {"text": "a chair", "guidance": 2, "faces": "9", "seed": "", "follow": False}
    followed = page_module._asked("follow", values)
    assert followed == {"shape": "x.glb", "up": "z", "faces": "9", "seed": "", "follow": True}


def test_buttons_follow_what_happens_and_a_visitor_has_one_mesh_at_a_time(page):
    fields = {"text": "a chair", "candidates": 1}
    begun = page.write(fields, "me")
    letter, message, write, stop = page._shown(next(begun))
    assert "writing" in message and not write.interactive and stop.interactive
    page.stop("someone else")
    page.stop("me")
    last = list(begun)[-1]
    assert last.kind == "stopped" and not page._stops
    _, _, write, stop = page._shown(last)
    assert write.interactive and not stop.interactive


def test_what_is_served_asks_nobody_else_for_anything(visitor):
    answer = visitor.get("/")
    assert answer.status_code == 200 and answer.headers["content-security-policy"] == POLICY
    assert "http" not in POLICY and "default-src 'self'" in POLICY
    fetched = re.findall(r"""(?:src|href)=["'](https?:[^"']*)""", answer.text)
    assert not fetched and "fonts.googleapis" not in answer.text
    style = visitor.get("/theme.css").text
    assert "googleapis" not in style and "@import" not in style
    viewer = visitor.get("/viewer")
    assert viewer.status_code == 200 and page_module.NOTHING in viewer.text and "default-src" in viewer.text
