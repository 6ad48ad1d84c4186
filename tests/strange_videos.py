"""A dataset for test_serve.py whose readers hang and crash; they import it, so it is light."""

import os
import signal
import time

from paddlevid.data.dataset import Item, VideoDataset


class StrangeVideos(VideoDataset):
    """Reads videos, but for those that hang or crash their reader."""

    def fetch(self, index: int, epoch: int = 0) -> Item:
        name = self.samples[index].path.name
        if name == "hang.avi":
            time.sleep(1000)
        if name == "crash.avi":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fetch(index, epoch)
