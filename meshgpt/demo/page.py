"""The page as gradio builds it: fields on the left, the viewer on the right, nothing fetched from anywhere else."""

import html
import os
from collections.abc import Iterator, Sequence
from importlib import resources
from threading import Event
from typing import Any, no_type_check

from meshgpt.demo.scenes import Scene
from meshgpt.demo.wish import MOST_CANDIDATES, MOST_GUIDANCE
from meshgpt.errors import MissingExtraError
from meshgpt.mesh.files import UP_TURNS

ASSETS = resources.files("meshgpt.demo") / "assets"
EXAMPLES = ("a wooden table", "a crate", "a round barrel", "a street lamp", "a castle tower", "a small house")
ANY = "any"
IDLE = 0.02  # seconds between two looks for work; gradio's own, 1 ms, keep a core busy for nothing
CANDIDATES = 24  # for words and, as begun meshes at a time, for a shape
WELCOME = "Say what you would like, or drop a shape for a light mesh to follow."
SHAPES = "A mesh or a point cloud (glb obj ply stl off, ply xyz npy csv)"
NOTHING = "Your mesh appears here, face by face."
FONTS = (["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"], ["ui-monospace", "Consolas", "monospace"])

SETTINGS = ("faces", "seed", "candidates")
LETTER = ("meshes", "first", "last")


@no_type_check
def load_gradio() -> Any:
    """The package, told to report nothing to anybody. Raises `MissingExtraError` where it is not installed."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "False" if name.startswith("GRADIO") else "1"
    try:
        import gradio  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        command = "pip install 'meshgpt[demo]'; or write meshes without a page: meshgpt demo --out DIR"
        raise MissingExtraError("gradio", "demo", "the page of `meshgpt demo`", command) from error
    return gradio


class Page:
    """The fields and buttons, and what each visitor is doing: `blocks` is what gradio serves."""

    @no_type_check
    def __init__(self, studio):
        self.gradio, self.studio = load_gradio(), studio
        self._stops: dict[str, Event] = {}
        self.blocks = self._built()

    @property
    def look(self) -> dict[str, Any]:
        """Keywords of gradio for the style, without fonts or pictures of others."""
        colors = self.gradio.themes.colors
        fonts = [[self.gradio.themes.Font(name) for name in names] for names in FONTS]
        hues = {"primary_hue": colors.indigo, "secondary_hue": colors.slate, "neutral_hue": colors.slate}
        theme = self.gradio.themes.Base(**hues, font=fonts[0], font_mono=fonts[1])
        return {"theme": theme, "css": (ASSETS / "page.css").read_text(encoding="utf-8")}

    # What happens

    def write(self, fields: dict[str, Any], visitor: str) -> Iterator[Scene]:
        """Scenes of the mesh that the visitor asked for; whatever the same visitor began before is stopped."""
        self.stop(visitor)
        stop = self._stops[visitor] = Event()
        try:
            yield from self.studio.write(fields, stop)
        finally:
            stop.set()
            if self._stops.get(visitor) is stop:
                del self._stops[visitor]

    def stop(self, visitor: str) -> None:
        """Ends what the visitor began, if anything."""
        if visitor in self._stops:
            self._stops[visitor].set()

    def _shown(self, scene: Scene) -> list[Any]:
        """What the outputs of the buttons become: the viewer's letter, the message, and which button can be pressed."""
        letter = self.gradio.skip() if scene.meshes is None else {key: getattr(scene, key) for key in LETTER}
        write, stop = (self.gradio.Button(interactive=here) for here in (scene.is_over, not scene.is_over))
        return [letter, status(scene.kind, scene.message), write, stop]

    # How it looks

    def _built(self) -> Any:
        gradio = self.gradio
        with gradio.Blocks(title="meshgpt", analytics_enabled=False, fill_width=True) as blocks:
            gradio.HTML(_header(self.studio.name), elem_id="head")
            with gradio.Row(elem_id="desk"):
                with gradio.Column(scale=0, min_width=370, elem_id="fields"):
                    fields = self._fields()
                with gradio.Column(scale=1, min_width=480, elem_id="stage"):
                    gradio.HTML('<iframe id="viewer" src="viewer" title="The mesh"></iframe>', js_on_load=None)
            script = (ASSETS / "page.js").read_text(encoding="utf-8")
            letter = gradio.HTML(None, html_template="<i></i>", js_on_load=script, visible="hidden", elem_id="letter")
            self._wire(blocks, fields, letter)
        blocks._queue.sleep_when_free = IDLE
        return blocks

    def _fields(self) -> dict[str, Any]:
        gradio, studio = self.gradio, self.studio
        fields: dict[str, Any] = {"mode": gradio.State("describe" if studio.writer else "follow")}
        with gradio.Tabs(elem_id="modes"):
            if studio.writer is not None:
                with gradio.Tab("Describe it", id="describe") as fields["describe"]:
                    self._describe(fields)
            with gradio.Tab("Follow a shape", id="follow") as fields["follow"]:
                # Any file may come: what cannot be read is told in our own words.
                fields["shape"] = gradio.File(label=SHAPES, type="filepath", height=170, elem_id="shape")
                fields["up"] = gradio.Dropdown(list(UP_TURNS), value="y", label="Up in the file", elem_id="up")
        with gradio.Row():
            # Texts, since a field for numbers cannot be empty.
            quiet = {"max_lines": 1, "min_width": 120}
            free = {"faces": ("Face budget", "free"), "seed": ("Seed", "a new one")}
            for name, (label, hint) in free.items():
                fields[name] = gradio.Textbox("", label=label, placeholder=hint, elem_id=name, **quiet)
        fields["candidates"] = gradio.Slider(
            1, MOST_CANDIDATES, CANDIDATES, step=1, label="Candidates, the best first", elem_id="candidates"
        )
        with gradio.Column(elem_id="foot"):
            with gradio.Row():
                fields["write"] = gradio.Button("Write the mesh", variant="primary", elem_id="write", scale=3)
                fields["stop"] = gradio.Button("Stop", elem_id="stop", interactive=False, scale=1, min_width=80)
            fields["status"] = gradio.HTML(status("done", WELCOME), elem_id="status")
        return fields

    def _describe(self, fields: dict[str, Any]) -> None:
        gradio, studio = self.gradio, self.studio
        if studio.takes_text:
            fields["text"] = gradio.Textbox(
                label="Prompt", placeholder="a wooden table", lines=1, max_lines=3, autofocus=True, elem_id="prompt"
            )
            gradio.Examples([[text] for text in EXAMPLES], fields["text"], label="", elem_id="examples")
        with gradio.Row():
            if studio.categories:
                names = [ANY, *studio.categories]
                fields["category"] = gradio.Dropdown(
                    names, value=ANY, label="Category", elem_id="category", min_width=120
                )
            fields["guidance"] = gradio.Slider(
                0.5, MOST_GUIDANCE / 2, studio.guidance, step=0.1, label="Guidance", elem_id="guidance", min_width=120
            )

    def _wire(self, blocks: Any, fields: dict[str, Any], letter: Any) -> None:
        gradio = self.gradio
        names = [name for name in ("text", "category", "guidance", "shape", "up", *SETTINGS) if name in fields]
        outputs = [letter, fields["status"], fields["write"], fields["stop"]]

        def told(session: str, mode: str, values: Sequence[Any]) -> Iterator[list[Any]]:
            for scene in self.write(_asked(mode, dict(zip(names, values, strict=True))), session):
                yield self._shown(scene)

        # Not a def: where types are checked it would be wrapped, and gradio would not see that it is a generator.
        write: Any = lambda request, mode, *values: (  # noqa: E731
            yield from told(str(request.session_hash), mode, values)  # pyright: ignore[reportReturnType]
        )
        write.__annotations__ = {"request": gradio.Request}

        def stop(request: gradio.Request) -> None:  # pyright: ignore[reportInvalidTypeForm]
            self.stop(str(request.session_hash))

        def look(path: str | None, up: str) -> list[Any]:
            if path is None:
                return [{"meshes": [], "first": True, "last": True}, status("done", WELCOME)]
            return self._shown(self.studio.look(path, up))[:2]

        def switch(mode: str, text: str) -> Any:
            return lambda: (mode, gradio.Button(text))

        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        begins = [fields["write"].click] + ([fields["text"].submit] if "text" in fields else [])
        sources = [fields["mode"], *(fields[name] for name in names)]
        gradio.on(begins, write, sources, outputs, trigger_mode="once", concurrency_limit=None, **quiet)
        fields["stop"].click(stop, queue=False, **quiet)
        for change in (fields["shape"].change, fields["up"].input):
            change(look, [fields["shape"], fields["up"]], outputs[:2], concurrency_limit=None, **quiet)
        shown = [fields["mode"], fields["write"]]
        fields["follow"].select(switch("follow", "Make a light mesh"), None, shown, **quiet)
        if "describe" in fields:
            fields["describe"].select(switch("describe", "Write the mesh"), None, shown, **quiet)
        blocks.unload(stop)


def _asked(mode: str, values: dict[str, Any]) -> dict[str, Any]:
    """What `Wish.checked` takes of what the fields hold: those that belong to the tab in front."""
    own = ("shape", "up") if mode == "follow" else ("text", "category", "guidance")
    asked = {name: value for name, value in values.items() if name in (*own, *SETTINGS)}
    if asked.get("category") == ANY:
        del asked["category"]
    return {**asked, "follow": mode == "follow"}


def status(kind: str, message: str) -> str:
    """The line that tells how it goes; read aloud where it is trouble."""
    role = "alert" if kind == "trouble" else "status"
    return f'<p class="{kind}" role="{role}">{html.escape(message)}</p>'


def _header(model: str) -> str:
    return f"<h1>meshgpt</h1><p>Low-poly meshes, written face by face. Model: <b>{html.escape(model)}</b></p>"
