"""Draw boxes on a frame with the mouse, in a window of tkinter: headless OpenCV has none."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sightline.errors import GeometryError, MissingExtra, SightlineError
from sightline.geometry.boxes import Box
from sightline.imaging.draw import colour_of

if TYPE_CHECKING:
    import tkinter

__all__ = ["pick_boxes"]

SCREEN_SHARE = 0.85  # of the screen's sides, for the frame; the rest is for title bars
MIN_DRAG_PX = 3  # on the screen and along both sides; less is a click
HOW = "Drag a box around each target.   Return: done   Backspace: remove the last   Esc: give up"
OTHERWISE = "Pass --box X,Y,W,H instead."


def pick_boxes(rgb: NDArray[np.uint8], title: str) -> list[Box]:
    """At least one `xywh`, float pixels of the frame, in the order in which a person draws them; blocks until then.

    The (H, W, 3) uint8 RGB frame is shown as large as the screen allows. Dragging draws a box, clipped to the frame;
    Return or a double click accepts, Backspace takes the last one back. Raises `GeometryError` where the person gives
    up with Esc or closes the window, `SightlineError` without a display, `MissingExtra` without tkinter.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise SightlineError(f"drawing a box: got no display; expected one. {OTHERWISE}")
    try:
        import tkinter
    except ImportError as error:
        raise MissingExtra(
            "drawing a box needs tkinter, which this Python is without. "
            f"Install it (Debian, Ubuntu: apt install python3-tk; macOS: brew install python-tk). {OTHERWISE}"
        ) from error
    try:
        root = tkinter.Tk()
    except tkinter.TclError as error:
        raise SightlineError(f"drawing a box: got '{error}'; expected a display. {OTHERWISE}") from error
    try:
        boxes = _Window(tkinter, root, rgb, title).run()
    finally:
        root.destroy()
    if not boxes:
        raise GeometryError(f"target box: got none before the window was closed; expected at least one. {OTHERWISE}")
    return boxes


class Drawing:
    """Boxes being drawn on a view of a frame; knows no window.

    Points are in pixels of the view, the frame scaled to `view_height` x `view_width`; `boxes` are in its own.
    """

    def __init__(self, height: int, width: int, view_height: int, view_width: int) -> None:
        self.boxes: list[Box] = []
        self._view = view_width, view_height
        self._scale = width / view_width, height / view_height  # frame pixels in one of the view
        self._first: tuple[float, float] | None = None
        self._last = 0.0, 0.0

    def press(self, x: float, y: float) -> None:
        """Begin a box at one of its corners."""
        self._first = self._last = self._clip(x, y)

    def drag(self, x: float, y: float) -> None:
        """Move the opposite corner; what is outside the frame is clipped to it."""
        self._last = self._clip(x, y)

    def release(self, x: float, y: float) -> None:
        """End the box; one too small to be meant is dropped."""
        self.drag(x, y)
        left, top, right, bottom = self.under_way() or (0, 0, 0, 0)
        self._first = None
        if min(right - left, bottom - top) >= MIN_DRAG_PX:
            by_x, by_y = self._scale
            self.boxes.append((left * by_x, top * by_y, (right - left) * by_x, (bottom - top) * by_y))

    def remove_last(self) -> None:
        if self.boxes:
            self.boxes.pop()

    def under_way(self) -> tuple[float, float, float, float] | None:
        """Corners, in view pixels, of the box that is being dragged."""
        if self._first is None:
            return None
        (x1, y1), (x2, y2) = self._first, self._last
        return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)

    def corners(self) -> list[tuple[float, float, float, float]]:
        """Corners, in view pixels, of all boxes, the one under way last."""
        by_x, by_y = self._scale
        done = [(x / by_x, y / by_y, (x + w) / by_x, (y + h) / by_y) for x, y, w, h in self.boxes]
        dragged = self.under_way()
        return [*done, dragged] if dragged else done

    def _clip(self, x: float, y: float) -> tuple[float, float]:
        width, height = self._view
        return min(max(x, 0), width), min(max(y, 0), height)


def view_size(height: int, width: int, room_height: int, room_width: int) -> tuple[int, int]:
    """Height and width of a frame scaled to touch the room from within, a pixel at least."""
    scale = min(room_height / height, room_width / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


class _Window:
    """What tkinter needs: a picture, the boxes over it, a line that says how."""

    def __init__(self, tk: ModuleType, root: tkinter.Tk, rgb: NDArray[np.uint8], title: str) -> None:
        self.root = root
        height, width = rgb.shape[:2]
        room = (int(SCREEN_SHARE * side_px) for side_px in (root.winfo_screenheight(), root.winfo_screenwidth()))
        view_height, view_width = view_size(height, width, *room)
        self.drawing = Drawing(height, width, view_height, view_width)
        self.error: BaseException | None = None
        smooth = cv2.INTER_AREA if view_width < width else cv2.INTER_LINEAR
        view = np.asarray(cv2.resize(rgb, (view_width, view_height), interpolation=smooth), np.uint8)
        # Kept here, for tkinter forgets a picture that nobody holds.
        self.picture = tk.PhotoImage(master=root, data=b"P6 %d %d 255\n" % (view_width, view_height) + view.tobytes())

        root.title(title)
        root.resizable(False, False)
        self.canvas = tk.Canvas(root, width=view_width, height=view_height, highlightthickness=0, cursor="crosshair")
        self.canvas.create_image(0, 0, anchor="nw", image=self.picture)
        self.canvas.pack()
        self.line = tk.Label(root, text=HOW, anchor="w")
        self.line.pack(fill="x")
        self.canvas.bind("<ButtonPress-1>", self.heeding(self.drawing.press))
        self.canvas.bind("<B1-Motion>", self.heeding(self.drawing.drag))
        self.canvas.bind("<ButtonRelease-1>", self.heeding(self.drawing.release))
        self.canvas.bind("<Double-ButtonPress-1>", lambda event: self.accept())
        for key in ("<Return>", "<KP_Enter>"):
            root.bind(key, lambda event: self.accept())
        root.bind("<BackSpace>", lambda event: self.remove_last())
        root.bind("<Escape>", lambda event: self.give_up())
        root.protocol("WM_DELETE_WINDOW", self.give_up)
        root.report_callback_exception = self.fail  # else it is printed and the window stays

    def run(self) -> list[Box]:
        self.root.lift()
        self.root.focus_force()
        self.keep_awake()
        self.root.mainloop()
        if self.error:
            raise self.error
        return self.drawing.boxes

    def keep_awake(self) -> None:
        """Python heeds Ctrl-C in the terminal only when something happens in the window."""
        self.root.after(200, self.keep_awake)

    def heeding(self, change: Callable[[float, float], None]) -> Callable[[tkinter.Event[Any]], None]:
        """What a movement of the mouse does to the boxes."""

        def heed(event: tkinter.Event[Any]) -> None:
            change(event.x, event.y)
            self.show()

        return heed

    def remove_last(self) -> None:
        self.drawing.remove_last()
        self.show()

    def show(self) -> None:
        """Draw the boxes as they are now."""
        self.canvas.delete("box")
        for number, (left, top, right, bottom) in enumerate(self.drawing.corners(), start=1):
            colour = "#{:02x}{:02x}{:02x}".format(*colour_of(number))
            self.canvas.create_rectangle(left, top, right, bottom, outline="black", width=4, tags="box")
            self.canvas.create_rectangle(left, top, right, bottom, outline=colour, width=2, tags="box")
            for shift, ink in ((1, "black"), (0, colour)):
                at = left + 6 + shift, top + 4 + shift
                self.canvas.create_text(*at, anchor="nw", text=f"#{number}", fill=ink, tags="box")
        self.line["text"] = HOW

    def accept(self) -> None:
        if self.drawing.boxes:
            self.root.quit()
        else:
            self.line["text"] = f"No box yet.   {HOW}"

    def give_up(self) -> None:
        self.drawing.boxes.clear()
        self.root.quit()

    def fail(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        self.error = error
        self.root.quit()
