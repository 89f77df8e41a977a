"""What waits before a job among its member's jobs of one class: images and work, in O(log n).

A Fenwick tree over the jobs in order of arrival. Pure.
"""

from __future__ import annotations

_FIRST = 64


class Ahead:
    """Jobs by arrival; each with a number of waiting images and their work (GPU-seconds or any
    other unit that adds up)."""

    def __init__(self) -> None:
        self.images = 0
        self.work = 0.0
        self._places: dict[str, int] = {}  # job_id -> 1-based place, ascending
        self._held: list[tuple[int, float]] = [(0, 0.0)]  # by place
        self._next = 1
        self._size = _FIRST
        self._tree_images = [0] * (_FIRST + 1)
        self._tree_work = [0.0] * (_FIRST + 1)

    def add(self, job_id: str, images: int, work: float) -> None:
        """So many more (or, negative, fewer) wait. A new job goes behind all others."""
        place = self._places.get(job_id)
        if place is None:
            if self._next > self._size:
                self._rebuild()
            place = self._places[job_id] = self._next
            self._next += 1
            self._held.append((0, 0.0))
        had_images, had_work = self._held[place]
        self._held[place] = (had_images + images, had_work + work)
        self._add(place, images, work)
        self.images += images
        self.work += work

    def remove(self, job_id: str) -> None:
        """The job is over."""
        place = self._places.pop(job_id, None)
        if place is None:
            return
        images, work = self._held[place]
        self._held[place] = (0, 0.0)
        if images or work:
            self._add(place, -images, -work)
        self.images -= images
        self.work = self.work - work if self.images else 0.0

    def before(self, job_id: str) -> tuple[int, float]:
        """(images, work) of the jobs that came before this one."""
        place = self._places.get(job_id, 1) - 1
        images, work = 0, 0.0
        while place > 0:
            images += self._tree_images[place]
            work += self._tree_work[place]
            place &= place - 1
        return images, max(0.0, work)

    def __len__(self) -> int:
        return len(self._places)

    def _add(self, place: int, images: int, work: float) -> None:
        while place <= self._size:
            self._tree_images[place] += images
            self._tree_work[place] += work
            place += place & -place

    def _rebuild(self) -> None:
        """Number the jobs anew, with room for as many again: amortised O(log n) each."""
        live = [(job_id, self._held[place]) for job_id, place in self._places.items()]
        self._size = max(_FIRST, 2 * len(live))
        self._tree_images = [0] * (self._size + 1)
        self._tree_work = [0.0] * (self._size + 1)
        self._held = [(0, 0.0)]
        self._places = {}
        for place, (job_id, (images, work)) in enumerate(live, 1):
            self._places[job_id] = place
            self._held.append((images, work))
            self._add(place, images, work)
        self._next = len(live) + 1
