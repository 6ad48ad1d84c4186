"""An HTTP service: videos in, class probabilities out, and a page to try it."""
