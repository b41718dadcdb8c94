"""The objects of the zygote, which its children share as long as nobody writes to their pages."""

import gc
import logging

from ..ipc.messages.base import IMMORTAL_HEAP_ON
from .host import immortal
from .host.linux import give_memory_back

log = logging.getLogger(__name__)


class Heap:
    """What a process that forks others holds in memory. `state` is `on` where its objects are made
    immortal, or the reason why not."""

    def __init__(self, *, wanted: bool) -> None:
        self._word: int | None = None
        if not wanted:
            self.state = "off: immortal_heap is false"
            return
        try:
            self._word = immortal.check()
        except immortal.MortalError as error:
            self.state = f"off: {error}"
            log.log(
                logging.WARNING if error.surprising else logging.DEBUG,
                "References are counted in all processes: %s",
                error,
                extra={"event": "no-immortal-heap"},
            )
        else:
            self.state = IMMORTAL_HEAP_ON

    def settle(self) -> None:
        """Keep for good what there is now: no collection looks at it again, and where that can be
        done nobody counts its references."""
        gc.collect()
        if self._word is not None:
            immortal.make_immortal(self._word)
        gc.freeze()
        give_memory_back()  # what that has taken meanwhile: each child would have a share of it
