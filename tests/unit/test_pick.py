"""Boxes drawn by hand: the mapping from the screen to the frame, the keys, and where there is no window to draw in.

No window is opened: tkinter is played by `Fake`, which calls what was bound, as the real one does for events.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sightline.cli.pick import Drawing, pick_boxes, view_size
from sightline.errors import GeometryError, MissingExtra, SightlineError

# The drawing


def drag(drawing: Drawing, *points: tuple[float, float]) -> None:
    drawing.press(*points[0])
    for point in points[1:-1]:
        drawing.drag(*point)
    drawing.release(*points[-1])


@pytest.mark.parametrize(
    ("view", "points", "box"),
    [
        ((480, 640), [(100, 50), (140, 140)], (100, 50, 40, 90)),  # as large as the frame
        ((240, 320), [(100, 50), (140, 140)], (200, 100, 80, 180)),  # half
        ((960, 1280), [(100, 50), (141, 140)], (50, 25, 20.5, 45)),  # twice
        ((480, 640), [(140, 140), (100, 50)], (100, 50, 40, 90)),  # from any corner
        ((480, 640), [(100, 140), (0, 0), (140, 50)], (100, 50, 40, 90)),  # on any way
        ((240, 320), [(-5, -9), (20, 30)], (0, 0, 40, 60)),  # clipped
        ((240, 320), [(300, 230), (999, 999)], (600, 460, 40, 20)),
    ],
)
def test_a_dragged_box_is_in_pixels_of_the_frame(view, points, box):
    drawing = Drawing(480, 640, *view)
    drag(drawing, *points)
    assert drawing.boxes == [box]


def test_a_click_is_no_box():
    drawing = Drawing(480, 640, 480, 640)
    for end in ((100, 50), (102, 90), (140, 52)):
        drag(drawing, (100, 50), end)
    drawing.release(400, 400)  # pressed elsewhere
    assert drawing.boxes == []
    drag(drawing, (100, 50), (103, 53))
    assert drawing.boxes == [(100, 50, 3, 3)]


def test_the_last_box_can_be_taken_back():
    drawing = Drawing(480, 640, 480, 640)
    drag(drawing, (0, 0), (10, 10))
    drag(drawing, (20, 20), (40, 50))
    drawing.remove_last()
    assert drawing.boxes == [(0, 0, 10, 10)]
    drawing.remove_last()
    drawing.remove_last()
    assert drawing.boxes == []


def test_what_is_shown_are_the_boxes_and_the_one_under_way():
    drawing = Drawing(480, 640, 240, 320)
    drag(drawing, (100, 50), (140, 140))
    drawing.press(200, 100)
    drawing.drag(190, 400)
    assert drawing.corners() == [(100, 50, 140, 140), (190, 100, 200, 240)]
    drawing.release(190, 400)
    assert drawing.corners() == [(100, 50, 140, 140), (190, 100, 200, 240)]
    assert drawing.under_way() is None


@given(
    frame=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    room=st.tuples(st.integers(100, 3000), st.integers(100, 3000)),
    corners=st.lists(st.floats(-50, 3100), min_size=4, max_size=4),
)
def test_boxes_stay_in_the_frame_and_come_back_to_the_screen(frame, room, corners):
    view = view_size(*frame, *room)
    assert all(1 <= side_px <= most for side_px, most in zip(view, room, strict=True))
    assert any(side_px == most for side_px, most in zip(view, room, strict=True))
    drawing = Drawing(*frame, *view)
    drag(drawing, tuple(corners[:2]), tuple(corners[2:]))
    for x, y, w, h in drawing.boxes:
        assert x >= 0 and y >= 0 and w > 0 and h > 0
        assert x + w <= frame[1] * (1 + 1e-12) and y + h <= frame[0] * (1 + 1e-12)
        shown = [sorted(np.clip(corners[axis::2], 0, view[1 - axis])) for axis in (0, 1)]
        back = drawing.corners()[0]
        np.testing.assert_allclose([back[0::2], back[1::2]], shown, atol=1e-9 * max(view))


# The window


class Line(dict[str, Any]):
    """A label: its options, and a place that nobody asks for."""

    def pack(self, **_: Any) -> None: ...


class Fake(ModuleType):
    """A tkinter whose `mainloop` plays `events`: ("<Return>",) or ("<B1-Motion>", x, y), until one calls `quit`."""

    TclError = type("TclError", (Exception,), {})

    def __init__(self, *events: tuple[Any, ...], screen: tuple[int, int] = (400, 1000)) -> None:
        super().__init__("tkinter")
        self.events, self.screen = list(events), screen
        self.bound: dict[str, Any] = {}
        self.drawn: list[tuple[Any, ...]] = []
        self.is_over = self.is_destroyed = False
        self.root = SimpleNamespace(
            winfo_screenheight=lambda: screen[0],
            winfo_screenwidth=lambda: screen[1],
            bind=self.bound.__setitem__,
            protocol=self.bound.__setitem__,
            mainloop=self.play,
            quit=lambda: setattr(self, "is_over", True),
            destroy=lambda: setattr(self, "is_destroyed", True),
            **dict.fromkeys(("title", "resizable", "lift", "focus_force", "after"), lambda *_: None),
        )

    def Tk(self) -> Any:
        return self.root

    def PhotoImage(self, master: Any, data: bytes) -> bytes:
        self.picture = data
        return data

    def Label(self, root: Any, **options: Any) -> Any:
        self.line = Line(options)
        return self.line

    def Canvas(self, root: Any, width: int, height: int, **_: Any) -> Any:
        self.size = height, width
        return SimpleNamespace(
            bind=self.bound.__setitem__,
            create_image=lambda *_, **__: None,
            pack=lambda: None,
            delete=lambda tag: self.drawn.clear(),
            create_rectangle=lambda *corners, **_: self.drawn.append(corners),
            create_text=lambda *_, **__: None,
        )

    def play(self) -> None:
        for name, *at in self.events:
            if name == "WM_DELETE_WINDOW":
                self.bound[name]()
            else:
                self.bound[name](SimpleNamespace(**dict(zip("xy", at, strict=False))))
            if self.is_over:
                return
        raise AssertionError("the events are over and the window is still there")


def dragging(x1: float, y1: float, x2: float, y2: float) -> list[tuple[Any, ...]]:
    return [("<ButtonPress-1>", x1, y1), ("<B1-Motion>", x2 - 1, y2), ("<ButtonRelease-1>", x2, y2)]


@pytest.fixture
def pick(monkeypatch: pytest.MonkeyPatch):
    """`pick(*events)` plays them on a frame of 100 x 200 pixels that the screen shows at 3.4 times its size."""

    def play(*events: tuple[Any, ...]) -> tuple[list[Any], Fake]:
        fake = Fake(*events)
        monkeypatch.setitem(sys.modules, "tkinter", fake)
        monkeypatch.setenv("DISPLAY", ":0")
        play.fake = fake
        return pick_boxes(FRAME, "clip.mp4"), fake

    return play


FRAME = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8), (0, 0), 2)


def test_boxes_are_accepted_with_return(pick):
    boxes, fake = pick(*dragging(34, 68, 170, 136), *dragging(340, 0, 680, 340), ("<Return>",))
    np.testing.assert_allclose(boxes, [(10, 20, 40, 20), (100, 0, 100, 100)])
    assert fake.size == (340, 680)
    assert fake.is_destroyed
    assert len(fake.drawn) == 4  # a dark and a coloured outline for each
    np.testing.assert_allclose(fake.drawn[0], (34, 68, 170, 136))


@pytest.mark.parametrize("accept", ["<Return>", "<KP_Enter>", "<Double-ButtonPress-1>"])
def test_a_box_can_be_taken_back_and_none_is_not_accepted(pick, accept: str):
    first, second = dragging(34, 34, 68, 68), dragging(68, 68, 340, 340)
    boxes, _ = pick((accept, 5, 5), *first, ("<BackSpace>",), (accept, 5, 5), *second, (accept, 5, 5))
    np.testing.assert_allclose(boxes, [(20, 20, 80, 80)])


def test_the_line_says_how_and_that_a_box_is_missing(pick):
    with pytest.raises(GeometryError):
        pick(("<Return>",), ("<Escape>",))
    assert pick.fake.line["text"].startswith("No box yet.")
    _, fake = pick(("<Return>",), *dragging(34, 34, 68, 68), ("<Return>",))
    assert fake.line["text"].startswith("Drag a box around each target.")


@pytest.mark.parametrize("end", ["<Escape>", "WM_DELETE_WINDOW"])
def test_giving_up_is_a_sentence(pick, end: str):
    with pytest.raises(GeometryError, match=r"target box: got none before .* Pass --box X,Y,W,H instead"):
        pick(*dragging(34, 34, 68, 68), (end,))
    assert pick.fake.is_destroyed


def test_the_picture_is_the_frame_as_a_netpbm_file(pick):
    _, fake = pick(*dragging(34, 34, 68, 68), ("<Return>",))
    shown = cv2.imdecode(np.frombuffer(fake.picture, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert shown.shape == (340, 680, 3)
    back = cv2.resize(shown, (200, 100), interpolation=cv2.INTER_AREA)
    off, mirrored = (np.abs(picture.astype(int) - FRAME).mean() for picture in (back, back[:, ::-1]))
    assert off < 2 and mirrored > 10


def test_an_error_in_the_window_ends_it(pick, monkeypatch: pytest.MonkeyPatch):
    def interrupt(fake: Fake) -> None:
        fake.root.report_callback_exception(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert fake.is_over

    monkeypatch.setattr(Fake, "play", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pick()
    assert pick.fake.is_destroyed


# Where there is no window


def test_without_a_display_it_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setitem(sys.modules, "tkinter", Fake())
    with pytest.raises(SightlineError, match="got no display; expected one. Pass --box X,Y,W,H instead"):
        pick_boxes(FRAME, "clip.mp4")


def test_a_display_that_cannot_be_reached_is_refused(monkeypatch: pytest.MonkeyPatch):
    fake = Fake()

    def refuse() -> None:
        raise fake.TclError('couldn\'t connect to display ":9"')

    fake.Tk = refuse
    monkeypatch.setitem(sys.modules, "tkinter", fake)
    monkeypatch.setenv("DISPLAY", ":9")
    with pytest.raises(SightlineError, match='couldn\'t connect to display ":9".*Pass --box'):
        pick_boxes(FRAME, "clip.mp4")


def test_without_tkinter_the_package_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tkinter", None)
    monkeypatch.setenv("DISPLAY", ":0")
    with pytest.raises(MissingExtra, match="apt install python3-tk"):
        pick_boxes(FRAME, "clip.mp4")
