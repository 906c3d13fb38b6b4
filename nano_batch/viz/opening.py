"""The opening view: a block table with six buttons, each of which goes to a moment worth looking at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import traitlets

from nano_batch.errors import ViewError
from nano_batch.scenes import SCENES, Scene, Stage
from nano_batch.viz.block_table import BlockTableView, controls, whole_blocks
from nano_batch.viz.run_view import event_log
from nano_batch.viz.selection import Selection

if TYPE_CHECKING:
    from nano_batch.records import EventLog
    from nano_batch.viz.usage import Usage

SETTINGS = {
    "max_num_seqs": 256,
    "policy": "fcfs",
    "preemption": "recompute",
    "max_num_batched_tokens": 8192,
    "watermark": 0.01,
    "eviction": "lru",
    "enable_prefix_caching": True,
}


class OpeningView(BlockTableView):
    """The live block table of a scene (`nano_batch.scenes`); `scene` and the buttons go to another.

    A scene sets the controls, shows its run at its moment, and says what to look at.

    Raises:
        ViewError: for a number that is no scene's.
    """

    scene = traitlets.Int(1).tag(sync=True)
    _scenes: traitlets.List[Any] = traitlets.List().tag(sync=True)
    _sentence = traitlets.Unicode("").tag(sync=True)

    def __init__(self, scene: int = 1, *, requests: Iterable[str] = (), **changed: Any) -> None:
        first = _scene(scene)
        step = changed.pop("step", None)
        self._stage = first.stage
        super().__init__(
            first.stage.run(),
            rerun=lambda **settings: self._stage.serve(**settings),
            settings=_settings(first.stage),
            about=_about(first.stage),
            recreate="lab.opening(scene=1, ...)",
            selection=Selection(),  # its run changes under it, and is another view's too
            scene=scene,
            _scenes=_buttons(first.stage),
        )
        self._go(first)
        self.observe(lambda change: self._change_scene(change["old"]), names="scene")
        with self.hold_trait_notifications():
            for name, value in changed.items():
                setattr(self, name, value)
        if step is not None:
            self.step = step
        self.selected.requests = list(requests)

    def _change_scene(self, old: int) -> None:
        try:
            self._go(_scene(self.scene))
        except ViewError as error:
            self.scene = old
            self._refuse(f"{type(error).__name__}: {error}")
            if not self._from_page:
                raise

    def _go(self, scene: Scene) -> None:
        """Set the controls to those of the scene, show its run at its moment, say what to look at."""
        log, own = event_log(scene.stage.run()), _settings(scene.stage)
        defaults = {"block_size": scene.stage.block_size, **own}
        changed = scene.stage is not self._stage
        with self.hold_sync():
            self._shown = defaults  # before the traits: the run that they ask for is the one shown next
            self._homes, self._stage = defaults, scene.stage
            self._scenes = _buttons(scene.stage)
            with self.hold_trait_notifications():
                for name, value in defaults.items():
                    setattr(self, name, value)
            if changed:
                self._controls = [vars(each) for each in controls(defaults, whole_blocks(log))]
                self._about, self.pinned = _about(scene.stage), False
                self.selected.clear()
                self.selected.known = tuple(log.request_ids.values())
            self._before = None
            if log is not self._log:
                self._show(log)
            self._recreate = f"lab.opening(scene={scene.number}, ...)"
            self._sentence = scene.sentence
            self.step = scene.moment(log)
            self._write_code()

    def _opens_at(self, log: EventLog, use: Usage) -> int:
        own = log is event_log(self._stage.run())
        return _scene(self.scene).moment(log) if own else use.opening_step

    def _answer(self, content: Any) -> None:
        if "scene" not in content:
            return super()._answer(content)
        number, self._from_page = content["scene"], True
        try:
            if number == self.scene:
                self._go(_scene(number))
            self.scene = number
        finally:
            self._from_page = False
        self._answers += 1
        return None

    def _note_settings(self) -> None:
        super()._note_settings()
        moved = ", ".join(f"{name} {value}" for name, value in self._moved().items())
        scene = _scene(self.scene)
        self._sentence = f"The run of scene {scene.number} with {moved}." if moved else scene.sentence

    def caption(self) -> str:
        """As of any block table, with what to look at."""
        lines = super().caption().splitlines()
        return "\n".join([lines[0], f"scene {self.scene}: {self._sentence}", *lines[2:]])


def _scene(number: int) -> Scene:
    for scene in SCENES:
        if scene.number == number:
            return scene
    raise ViewError(f"scene is {number}; it must be from 1 to {len(SCENES)}")


def _buttons(stage: Stage) -> list[dict[str, Any]]:
    """What the page knows of each scene: of those in the run of `stage` also the step."""
    log = event_log(stage.run())
    return [
        {"number": each.number, "label": each.label}
        | ({"step": each.moment(log), "sentence": each.sentence} if each.stage is stage else {})
        for each in SCENES
    ]


def _settings(stage: Stage) -> dict[str, Any]:
    return {**SETTINGS, **stage.settings}


def _about(stage: Stage) -> str:
    workload = stage.workload()
    return f"{len(workload):,} requests of {workload.name}"
