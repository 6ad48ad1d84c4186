"""Live sources: files, addresses that end, break off or stall, and frames that come too fast."""

import contextlib
import io
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
import pytest
from conftest import frames_of, write_sounding_video, write_video

from paddlevid.data.live import LiveSource


def frames_as_ts(num: int, size: tuple[int, int] = (48, 64)) -> bytes:
    """An MPEG transport stream, as cameras in networks send it: it does not say how long it is."""
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for image in np.random.default_rng(0).integers(0, 256, (num, *size, 3)).astype(np.uint8):
            for packet in stream.encode(av.VideoFrame.from_ndarray(image)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return file.getvalue()


@contextlib.contextmanager
def server(content: bytes, stall: bool = False, times: int = 100, length: bool = False):
    """Sends the content to whoever connects, so many times, and closes or says no more."""
    connections, over = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            connections.append(self.client_address)
            if len(connections) > times:
                self.send_error(404)
                return
            self.send_response(200)
            if length:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(content)
                self.wfile.flush()
                if stall:
                    over.wait(20)

        def log_message(self, *_):
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving.daemon_threads = True
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{serving.server_port}/live.ts", connections
    finally:
        over.set()
        serving.shutdown()
        serving.server_close()


def read_all(source: LiveSource, limit: float = 30.0) -> list[tuple]:
    """All moments until the source ends."""
    moments, end = [], time.monotonic() + limit
    while not source.ended:
        moment = source.take(wait=0.2)
        moments += [] if moment is None else [moment]
        assert time.monotonic() < end, "the source does not end"
    return moments


def test_a_file_gives_all_its_frames_however_slowly_they_are_taken(tmp_path):
    frames = frames_of(40)
    path = write_video(tmp_path / "a.avi", frames)
    with LiveSource(str(path), ahead=4) as source:
        time.sleep(0.3)
        moments = read_all(source)
    assert [number for number, _, _ in moments] == list(range(40))
    np.testing.assert_allclose(
        [seconds for _, seconds, _ in moments], np.arange(40) / 25, atol=0.01
    )
    assert np.abs(moments[7][2].astype(float) - frames[7]).mean() < 12
    assert (source.num_read, source.num_dropped, source.problem) == (40, 0, "")


def test_every_so_many_th_frame(tmp_path):
    path = write_video(tmp_path / "a.avi", frames_of(10))
    with LiveSource(str(path), stride=4) as source:
        assert [number for number, _, _ in read_all(source)] == [0, 4, 8]
    assert source.num_read == 10


def test_a_file_that_is_no_video_says_so(tmp_path):
    (tmp_path / "a.avi").write_bytes(b"nothing")
    with LiveSource(str(tmp_path / "a.avi")) as source:
        assert read_all(source) == []
    assert source.problem


def test_a_file_on_a_server_ends_with_its_last_frame(tmp_path):
    path = write_video(tmp_path / "a.avi", frames_of(12))
    with server(path.read_bytes(), length=True) as (address, _):
        with LiveSource(address, ahead=2) as source:
            time.sleep(0.3)
            assert len(read_all(source)) == 12  # none is dropped
        assert (source.problem, source.num_dropped) == ("", 0)


def test_a_file_on_a_server_that_does_not_say_its_duration_is_read_once(tmp_path):
    """As recordings of browsers."""
    path = tmp_path / "a.webm"
    write_sounding_video(path, ("libvpx", ""), num_frames=30, live="1")
    with server(path.read_bytes(), length=True) as (address, connections):
        with LiveSource(address, attempts=2, pause=0.05) as source:
            assert len(read_all(source)) == 30
        assert (source.problem, source.num_dropped, len(connections)) == ("", 0, 1)


def test_a_line_that_breaks_off_is_opened_again_and_then_given_up():
    content = frames_as_ts(15)
    with server(content, times=2) as (address, connections):
        with LiveSource(address, ahead=50, attempts=2, pause=0.05) as source:
            moments = read_all(source)
        assert len(connections) == 3  # the first, and two attempts
    # What a decoder still holds back when the line breaks is lost.
    assert 2 * 13 <= source.num_read <= 2 * 15
    assert [number for number, _, _ in moments] == list(range(source.num_read))
    assert "404" in source.problem


def test_a_line_that_stalls_is_noticed():
    with server(frames_as_ts(15), stall=True) as (address, _):
        started = time.monotonic()
        with LiveSource(address, timeout=1.0, attempts=0) as source:
            moments = read_all(source)
        assert time.monotonic() - started < 10
    assert len(moments) > 5
    assert "no data for 1 s" in source.problem


def test_a_line_that_stalls_again_and_again_is_given_up(capsys):
    with server(b"", stall=True) as (address, connections):
        with LiveSource(address, timeout=0.3, attempts=2, pause=0.05) as source:
            assert read_all(source) == []
        assert len(connections) == 3
    assert capsys.readouterr().err.count("no data for 0.3 s; it is opened again") == 2


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/x"
    with LiveSource(address, attempts=1, pause=0.05) as source:
        assert read_all(source) == []
    assert "refused" in source.problem


def test_frames_of_a_line_that_are_not_taken_in_time_are_dropped_and_counted():
    content = frames_as_ts(40)
    with server(content) as (address, _), LiveSource(address, ahead=4, attempts=0) as source:
        deadline = time.monotonic() + 20
        while source.num_read < 38 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        moments = read_all(source)
    assert source.num_dropped == source.num_read - len(moments) > 30
    assert moments[-1][0] == source.num_read - 1  # the newest are kept


def test_leaving_early_ends_the_thread(tmp_path):
    path = write_video(tmp_path / "a.avi", frames_of(60))
    before = threading.active_count()
    with LiveSource(str(path), ahead=2) as source:
        assert source.take(wait=5)[0] == 0
    assert threading.active_count() == before


def test_a_camera_that_is_not_there_says_so(monkeypatch):
    with LiveSource("97") as source:
        assert read_all(source) == []
    assert "no camera 97" in source.problem


@pytest.mark.parametrize("address", ["rtsp://x/y", "http://x/y", "0"])
def test_what_is_live(address):
    assert LiveSource(address).is_live
    assert not LiveSource("clip.mp4").is_live


def test_frames_of_an_avi_with_b_frames_come_at_even_times(tmp_path):
    path = write_sounding_video(tmp_path / "a.avi", ("mpeg4", ""), num_frames=30, b_frames=2)
    with LiveSource(str(path)) as source:
        seconds = [seconds for _, seconds, _ in read_all(source)]
    np.testing.assert_allclose(seconds, np.arange(30) / 25, atol=1e-9)
