"""The page in a real browser, as a visitor has it; skipped where there is no browser, playwright or extra [demo]."""

import asyncio
import shutil
import time
from threading import Thread
from urllib.parse import urlsplit

import pytest
from conditioned_toys import CUBE, conditioned_pipeline

pytest.importorskip("gradio", reason="the extra [demo] is not installed", exc_type=ImportError)
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed", exc_type=ImportError)

from meshgpt.demo.page import CANDIDATES  # noqa: E402
from meshgpt.demo.server import application, bound  # noqa: E402
from meshgpt.demo.studio import Studio  # noqa: E402
from meshgpt.mesh.files import read_mesh, write_mesh  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
PATIENCE = 120_000  # milliseconds, for a machine that has other things to do

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"no browser here: none of {', '.join(BROWSERS)}"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def address():
    """Of a server in a thread, with models that know little and are quick."""
    import uvicorn

    pipe, servers = conditioned_pipeline(), []

    async def serve(listener):
        """Gradio makes and leaves open event loops of its own where there is none: here there is one."""
        app = application(Studio(pipe, pipe, "toy"))
        servers.append(uvicorn.Server(uvicorn.Config(app, log_level="warning")))
        await servers[0].serve(sockets=[listener])

    with bound("127.0.0.1", 0) as listener:
        thread = Thread(target=lambda: asyncio.run(serve(listener)), daemon=True)
        thread.start()
        while thread.is_alive() and not (servers and servers[0].started):
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        servers[0].should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def browser():
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page; at the end, nothing was asked of another host, and no script failed."""
    asked, failed = [], []

    def opened():
        page = browser.new_page(viewport={"width": 1280, "height": 800}, accept_downloads=True)
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#write")
        page.frame_locator("#viewer").locator("#trouble").wait_for()
        return page

    yield opened
    hosts = {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(address).netloc}, hosts
    assert not failed


def told(page, kind, words=""):
    page.locator(f"#status p.{kind}", has_text=words).wait_for()
    return page.locator("#status p").inner_text()


def test_a_visitor_writes_a_mesh_looks_at_its_edges_and_takes_it_home(visit, tmp_path):
    page = visit()
    viewer = page.frame_locator("#viewer")
    page.fill("#prompt textarea", "a chair")
    page.fill("#seed input", "3")
    page.click("#write")
    assert "Seed" in told(page, "done", "Seed")
    viewer.locator("#title", has_text="a chair").wait_for()
    api.expect(viewer.locator(".card")).to_have_count(CANDIDATES)
    toggle = viewer.locator("#wireframe")
    assert toggle.get_attribute("aria-pressed") == "true"
    toggle.click()
    assert toggle.get_attribute("aria-pressed") == "false"
    with page.expect_download() as caught:
        viewer.locator("#glb").click()
    caught.value.save_as(tmp_path / "chair.glb")
    assert caught.value.suggested_filename.startswith("a-chair-seed-")
    faces = viewer.locator("#facts li").first.inner_text()
    assert faces == f"{read_mesh(tmp_path / 'chair.glb').num_faces} faces"
    page.close()


def test_a_dropped_shape_is_shown_and_followed(visit, tmp_path):
    page = visit()
    write_mesh(CUBE, tmp_path / "cube.glb")
    page.locator("button[role=tab]:visible", has_text="Follow a shape").click()
    page.set_input_files("#shape input[type=file]", tmp_path / "cube.glb")
    assert "12 faces" in told(page, "done", "A mesh of")
    page.frame_locator("#viewer").locator("#title", has_text="cube").wait_for()
    page.get_by_role("button", name="Make a light mesh").click()
    assert "longest side" in told(page, "done", "Seed")
    assert page.frame_locator("#viewer").locator(".card").count() == 2
    page.close()


def test_mistakes_are_told_in_words(visit, tmp_path):
    page = visit()
    page.click("#write")
    assert "nothing to write yet" in told(page, "trouble")
    page.fill("#prompt textarea", "a chair")
    page.fill("#faces input", "0")
    page.click("#write")
    assert "face budget" in told(page, "trouble", "budget")
    page.locator("button[role=tab]:visible", has_text="Follow a shape").click()
    page.get_by_role("button", name="Make a light mesh").click()
    told(page, "trouble", "no shape yet")
    (tmp_path / "broken.glb").write_bytes(b"not a mesh")
    page.set_input_files("#shape input[type=file]", tmp_path / "broken.glb")
    assert "broken.glb" in told(page, "trouble", "broken.glb")
    assert "Traceback" not in page.content()
    page.close()
