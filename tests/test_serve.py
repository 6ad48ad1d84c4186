import contextlib
import http.client
import importlib.util
import io
import json
import logging
import os
import pickle
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import paddle
import pytest
import yaml
from conftest import frames_of, write_video
from strange_videos import StrangeVideos

import infer
from paddlevid import build
from paddlevid.config import load_config
from paddlevid.data.encode import write_mp4
from paddlevid.serve import __main__ as command
from paddlevid.serve.readers import Readers
from paddlevid.weights import describe, write_weights

ROOT = Path(__file__).parents[1]
CLASSES = ["run & jump", "<b>sit</b>", "跑", "walk", "wave", "clap"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny TSN with random weights, which says quite different things of different videos."""
    folder = tmp_path_factory.mktemp("weights")
    model = {
        "name": "tsn_r18", "num_classes": len(CLASSES), "seg_num": 2, "arguments": {"width": 8},
    }  # fmt: skip
    text = yaml.safe_dump({"MODEL": model, "INFER": {"short_size": 32, "target_size": 32}})
    (folder / "config.yaml").write_text(text)
    config = load_config(folder / "config.yaml")
    network, _ = build.build_model(config, fresh=True)
    (weight,) = [p for name, p in network.named_parameters() if name == "fc.weight"]
    rng = np.random.default_rng(0)
    weight.set_value(paddle.to_tensor(rng.normal(0, 0.02, weight.shape).astype("float32")))
    write_weights(folder / "tiny.safetensors", network, describe(config.to_dict(), CLASSES))
    return folder / "tiny.safetensors"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Sixteen videos that differ, and where they are."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(16):
        frames = np.random.default_rng(number).integers(0, 256, (6, 36, 48, 3), np.uint8)
        frames[:, :, : 3 * number] //= 4
        write_video(folder / f"clip {number}.avi", frames)
    return sorted(folder.iterdir())


class Served:
    """A service that runs in a thread."""

    def __init__(self, service, address, folder):
        self.service, self.address, self.folder = service, address, folder

    def send(self, content, name="clip.avi", query=""):
        files = {"file": (name, content)}
        return httpx.post(f"{self.address}predict{query}", files=files, timeout=60)

    def name(self, path):
        return httpx.post(f"{self.address}predict", json={"path": str(path)}, timeout=60)

    def count(self, outcome):
        return self.figure(f'paddlevid_requests_total{{outcome="{outcome}"}}')

    def figure(self, name):
        text = httpx.get(f"{self.address}metrics").text
        return float(re.search(rf"^{re.escape(name)} (.*)$", text, re.MULTILINE)[1])


@contextlib.contextmanager
def serving(weights, folder, *words, change=None, load=True):
    """The service with these flags, in a thread of its own."""
    args = command.parse_args(["--weights", str(weights), "--workers", "2", *map(str, words)])
    service = command.build_service(args, load_config(args.config, args.overrides))
    if change:
        change(service)
    folder.mkdir()
    server = command.build_server(args, service, folder)
    listener = command.listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        service.start()
        if load:
            service.loaded.result(timeout=120)
        yield Served(service, command.url(listener), folder)
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        service.close()
        listener.close()
        assert not thread.is_alive() and list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def served(weights, videos, tmp_path_factory):
    """A service that lets batches form; its root has a link that leads out of it."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "secret.avi").write_bytes(videos[0].read_bytes())
    (videos[0].parent / "out.avi").symlink_to(folder / "secret.avi")
    words = ("--wait-ms", 150, "--path-root", videos[0].parent)
    with serving(weights, folder / "uploads", *words) as served:
        yield served


def expected_answers(weights, videos, output):
    words = ["--weights", weights, *videos, "--output", output, "--top-k", len(CLASSES)]
    assert infer.main([str(word) for word in words]) == 0
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return [dict(zip(row["classes"], row["probabilities"], strict=True)) for row in rows]


def in_order(answer):
    return dict(zip(answer["classes"], answer["probabilities"], strict=True))


def test_sixteen_parallel_clients_get_their_own_answers_in_batches(
    served, weights, videos, tmp_path
):
    expected = expected_answers(weights, videos, tmp_path / "p.jsonl")
    clips, batches = (served.figure(f"paddlevid_batch_size_{what}") for what in ("sum", "count"))
    with ThreadPoolExecutor(16) as clients:
        replies = list(
            clients.map(lambda path: served.send(path.read_bytes(), path.name, "?top_k=99"), videos)
        )
    assert [reply.status_code for reply in replies] == [200] * 16
    found = [in_order(reply.json()) for reply in replies]
    for ours, theirs in zip(found, expected, strict=True):
        assert list(ours) == list(theirs)  # most probable first
        assert ours == pytest.approx(theirs, abs=1e-5)
    values = np.array([[answer[name] for name in CLASSES] for answer in found])
    gaps = np.abs(values[:, None] - values).max(axis=2) + np.eye(16)
    assert gaps.min() > 1e-3  # so that no answer can be taken for another one
    clips = served.figure("paddlevid_batch_size_sum") - clips
    assert clips == 16 > 2 * (served.figure("paddlevid_batch_size_count") - batches)


def test_the_answer_says_classes_probabilities_frames_and_seconds(served, videos):
    reply = served.send(videos[0].read_bytes(), query="?top_k=2")
    answer = reply.json()
    assert answer.keys() == {"classes", "probabilities", "frames", "seconds"}
    assert len(answer["classes"]) == len(answer["probabilities"]) == 2
    assert set(answer["classes"]) < set(CLASSES)
    assert answer["probabilities"][0] >= answer["probabilities"][1]
    assert answer["frames"] == 2 and 0 < answer["seconds"] < 30
    assert len(served.send(videos[0].read_bytes()).json()["classes"]) == 5


def test_a_video_named_by_its_path_gets_the_answer_of_its_upload(served, videos):
    uploaded = served.send(videos[3].read_bytes()).json()
    for path in (videos[3].name, videos[3]):
        named = served.name(path)
        assert named.status_code == 200
        assert in_order(named.json()) == pytest.approx(in_order(uploaded), abs=1e-6)
    assert videos[3].exists()


def test_what_a_video_is_called_does_not_matter(served, videos):
    expected = in_order(served.send(videos[1].read_bytes()).json())
    for name in ("notes.txt", "../../../etc/x.avi", 'a"b;c.mp4', "跑" * 300, "x\x00y.avi"):
        reply = served.send(videos[1].read_bytes(), name)
        assert reply.status_code == 200, name
        assert in_order(reply.json()) == pytest.approx(expected, abs=1e-6)


# --- broken uploads -------------------------------------------------------------------------------


def truncated_mp4(tmp_path):
    write_mp4(tmp_path / "x.mp4", frames_of(20))
    return (tmp_path / "x.mp4").read_bytes()[:600]


def huge_avi(tmp_path):
    """An .avi of a few kB whose headers and pictures claim 60,000 x 60,000 pixels."""
    content = write_video(tmp_path / "x.avi", frames_of(3)).read_bytes()
    small = struct.pack("<ii", 64, 48), b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 48, 64)
    huge = struct.pack("<ii", 60_000, 60_000), small[1][:5] + struct.pack(">HH", 60_000, 60_000)
    for old, new in zip(small, huge, strict=True):
        assert old in content
        content = content.replace(old, new)
    return content


def picklish(tmp_path):
    """A clip as avi2jpg.py and jpg2pkl.py make it, which names a picture on this machine."""
    cv2.imwrite(str(tmp_path / "secret.jpg"), np.zeros((40, 40, 3), np.uint8))
    return pickle.dumps(("clip", 0, [str(tmp_path / "secret.jpg")] * 4))


BROKEN = {
    "empty": (lambda _: b"", "x.mp4", "x.mp4: the file is empty"),
    "truncated": (truncated_mp4, "x.mp4", "x.mp4: cannot be decoded"),
    "text": (lambda _: b"no video " * 1000, "x.mp4", "x.mp4: cannot be decoded"),
    "huge": (huge_avi, "x.avi", "x.avi: cannot be decoded"),
    "pickle": (picklish, "x.pkl", "x.pkl: cannot be decoded"),
    "playlist": (
        lambda tmp_path: f"ffconcat version 1.0\nfile {tmp_path}/x.avi\n".encode(),
        "x.avi", "x.avi: cannot be decoded",
    ),
    "picture": (
        lambda _: cv2.imencode(".png", np.zeros((40, 40, 3), np.uint8))[1].tobytes(),
        "x.mp4", "x.mp4: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_upload_is_refused_with_the_reason(served, kind, tmp_path):
    make, name, words = BROKEN[kind]
    before = served.count("broken")
    reply = served.send(make(tmp_path), name)
    assert reply.status_code == 400
    assert words in reply.json()["error"] and str(served.folder) not in reply.text
    assert served.count("broken") == before + 1
    assert list(served.folder.iterdir()) == []


def form(*parts, end=True):
    """A form of (header, content), with the boundary X."""
    lines = [f"--X\r\n{header}\r\n\r\n".encode() + content for header, content in parts]
    return b"\r\n".join(lines) + (b"\r\n--X--\r\n" if end else b"")


FILE = 'Content-Disposition: form-data; name="file"; filename="a.avi"'
FIELD = 'Content-Disposition: form-data; name="note"'
NOT_CHOSEN = 'Content-Disposition: form-data; name="file"; filename=""'


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (form((FIELD, b"text")), 400, "the form has no file"),
        (form((NOT_CHOSEN, b"")), 400, "the form has no file"),
        (b"", 400, "the form is not complete"),
        (form((FILE, b"abc"), end=False), 400, "the form is not complete"),
        (form((FILE, b"abc"), (FILE, b"abc")), 400, "the form has several files"),
        (b"nonsense", 400, "the form cannot be read"),
        (form((f"{FILE}\r\nX-Y: {'z' * 20_000}", b"abc")), 400, "the form cannot be read"),
        (form((FIELD, b"z" * 100_000), (FILE, b"abc")), 413, "larger than the limit"),
    ],
)
def test_a_form_that_is_wrong_is_refused(served, body, status, words):
    headers = {"Content-Type": "multipart/form-data; boundary=X"}
    reply = httpx.post(f"{served.address}predict", content=body, headers=headers)
    assert reply.status_code == status and words in reply.json()["error"]


@pytest.mark.parametrize(
    ("headers", "body", "query", "status", "words"),
    [
        ({}, b"abc", "", 415, "send the video as a form"),
        ({"Content-Type": "text/plain"}, b'{"path": "clip 1.avi"}', "", 415, "send the video as"),
        ({"Content-Type": "multipart/form-data"}, b"abc", "", 415, "send the video as a form"),
        ({"Content-Type": f"multipart/form-data; boundary={'x' * 999}"}, b"", "", 400, "the form"),
        ({"Content-Type": "application/json"}, b"{", "", 422, "needs JSON of the form"),
        ({"Content-Type": "application/json"}, b'{"path": 3}', "", 422, "needs JSON of the form"),
        ({"Content-Type": "application/json"}, b"[" * 60_000, "", 422, "needs JSON of the form"),
        ({"Content-Type": "application/json"}, b" " * 70_000, "", 413, "JSON of more than"),
        ({}, b"", "?top_k=0", 422, "top_k = '0': needs a whole number from 1 up"),
        ({}, b"", "?top_k=many", 422, "top_k = 'many': needs a whole number"),
    ],
)
def test_a_wrong_request_says_what_it_needs(served, headers, body, query, status, words):
    reply = httpx.post(f"{served.address}predict{query}", content=body, headers=headers)
    assert reply.status_code == status and words in reply.json()["error"]


def test_unknown_pages_and_methods_are_said_in_json(served):
    assert httpx.get(f"{served.address}docs").json() == {"error": "Not Found"}
    assert httpx.get(f"{served.address}predict").status_code == 405


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("../{folder}/../secret.avi", 403, "is outside the folder"),
        ("/etc/passwd", 403, "is outside the folder"),
        ("/etc/no_such_file", 403, "is outside the folder"),
        ("out.avi", 403, "is outside the folder"),
        ("none.avi", 404, "there is no file 'none.avi'"),
        (".", 404, "there is no file"),
        ("notes.txt", 400, "is not named as a video"),
        ("a\0b.avi", 400, "is no path"),
        ("x" * 5000 + ".avi", 400, "is no path"),
        ("circle.avi", 400, "is no path"),
    ],
)
def test_only_videos_inside_the_root_are_read(served, videos, path, status, words):
    root = videos[0].parent
    with contextlib.suppress(FileExistsError):
        (root / "notes.txt").write_text("a note")
        (root / "circle.avi").symlink_to(root / "circle.avi")
    reply = served.name(path.replace("{folder}", root.name))
    assert reply.status_code in (status, 404 if "circle" in path else status)
    assert words in reply.json()["error"] or "circle" in path


# --- limits ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict(weights, videos, tmp_path_factory):
    """A service with tight limits, and two files that are hard on their reader."""
    folder = tmp_path_factory.mktemp("strict")
    for name in ("hang.avi", "crash.avi", "fine.avi"):
        (folder / name).write_bytes(videos[0].read_bytes())

    def change(service):
        readers = service._readers
        dataset = pickle.loads(readers._pickled_dataset)
        strange = StrangeVideos(dataset.samples, dataset.sampler, dataset.transform)
        service._readers = Readers(strange, 2, service._note_read)

    words = ("--max-upload-mb", 1, "--timeout", 3, "--queue", 3, "--path-root", folder)
    with serving(weights, folder / "uploads", *words, change=change) as served:
        yield served


def test_a_file_that_blocks_its_reader_is_given_up_while_others_are_answered(strict):
    with ThreadPoolExecutor(2) as clients:
        start = time.monotonic()
        hanging = clients.submit(strict.name, "hang.avi")
        fine = strict.name("fine.avi")
        assert fine.status_code == 200 and not hanging.done()
        reply = hanging.result()
    assert reply.status_code == 408
    assert reply.json() == {"error": "hang.avi: was not read in time, so it was given up"}
    assert 2.5 < time.monotonic() - start < 20
    assert strict.name("fine.avi").status_code == 200
    assert strict.count("late") >= 1


def test_a_file_that_crashes_its_reader_costs_only_itself(strict):
    reply = strict.name("crash.avi")
    assert reply.status_code == 400
    assert reply.json() == {"error": "crash.avi: crashes its decoder (exit code -9)"}
    assert strict.name("fine.avi").status_code == 200


def test_more_requests_than_the_queue_takes_are_sent_away(strict):
    with ThreadPoolExecutor(3) as clients:
        hanging = [clients.submit(strict.name, "hang.avi") for _ in range(3)]
        while strict.figure("paddlevid_under_way") < 3:
            time.sleep(0.02)
        assert strict.figure("paddlevid_queue_length") == 1  # two are being read
        reply = strict.name("fine.avi")
        assert reply.status_code == 503 and reply.headers["Retry-After"] == "1"
        assert reply.json() == {"error": "3 requests are under way: try again later"}
        statuses = sorted(future.result().status_code for future in hanging)
    assert statuses in ([408, 408, 503], [408, 408, 408])
    assert strict.figure("paddlevid_under_way") == strict.figure("paddlevid_queue_length") == 0


def test_an_upload_beyond_the_limit_is_refused_and_not_kept(strict):
    before = strict.count("too_large")
    most = max_size = 0

    def pieces():
        nonlocal most, max_size
        yield form((FILE, b""), end=False)
        for _ in range(60):
            max_size += 1 << 16
            yield b"z" * (1 << 16)
            for path in strict.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # the upload before is just removed
                    most = max(most, path.stat().st_size)

    headers = {"Content-Type": "multipart/form-data; boundary=X"}
    for content in (b"z" * 3_000_000, pieces()):  # with a Content-Length, and without
        reply = httpx.post(f"{strict.address}predict", content=content, headers=headers, timeout=60)
        assert reply.status_code == 413
        assert reply.json() == {"error": "the upload is larger than the limit of 1 MB"}
    assert max_size > 3_000_000 and most <= 1_000_000
    assert strict.count("too_large") == before + 2


def test_curl_is_refused_before_it_sends(strict):
    """With Expect: 100-continue a client waits to be asked for the body."""
    with connection(strict) as line:
        line.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            b"Content-Type: multipart/form-data; boundary=X\r\nContent-Length: 9000000\r\n\r\n"
        )
        assert line.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_folder_of_uploads_that_was_cleared_away_is_made_again(strict, videos):
    strict.folder.rmdir()
    assert strict.send(videos[0].read_bytes()).status_code == 200
    assert strict.folder.stat().st_mode & 0o777 == 0o700


def test_clips_of_many_views_are_predicted_in_smaller_batches(weights):
    words = ["-o", "INFER.seg_num=25", "-o", "INFER.crops=10", "-o", "INFER.short_size=256"]
    words += ["-o", "INFER.target_size=224", "--batch", "8"]
    args = command.parse_args(["--weights", str(weights), *words])
    service = command.build_service(args, load_config(args.config, args.overrides))
    assert service._batcher._batch_size == 1


def test_a_file_of_just_the_limit_is_taken(strict, videos):
    content = videos[0].read_bytes()
    content += b"JUNK" + struct.pack("<I", 1_000_000 - len(content) - 8)
    content = content.ljust(1_000_000, b"\0")
    assert strict.send(content).status_code == 200
    assert strict.send(content + b"\0").status_code == 413


@contextlib.contextmanager
def connection(served):
    host, port = re.fullmatch(r"http://(.*):(\d+)/", served.address).groups()
    with socket.create_connection((host, int(port)), timeout=60) as line:
        yield line


START = (
    b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=X"
    b"\r\nContent-Length: 90000\r\n\r\n" + form((FILE, b"abc"), end=False)
)


def test_an_upload_that_does_not_end_is_given_up(strict):
    with connection(strict) as line:
        line.sendall(START)
        reply = http.client.HTTPResponse(line)
        reply.begin()
        assert reply.status == 408
        assert json.load(reply) == {"error": "the upload was not complete within 3 s"}
    wait_for(lambda: not list(strict.folder.iterdir()))


def test_a_client_that_leaves_in_mid_upload_leaves_nothing_behind(strict):
    before = strict.count("gone")
    with connection(strict) as line:
        line.sendall(START)
        wait_for(lambda: list(strict.folder.iterdir()))
    wait_for(lambda: strict.count("gone") == before + 1)
    wait_for(lambda: not list(strict.folder.iterdir()))


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_full_disk_is_said(strict, videos, monkeypatch):
    from paddlevid.serve import upload

    async def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(upload, "_receive", full)
    reply = strict.send(videos[0].read_bytes())
    assert reply.status_code == 507
    assert "no room for uploads" in reply.json()["error"]


def test_a_network_that_fails_is_said_and_survived(strict, videos, monkeypatch):
    log = io.StringIO()
    logging.getLogger("uvicorn.error").addHandler(logging.StreamHandler(log))
    run = strict.service._batcher._run

    def fails(_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(strict.service._batcher, "_run", fails)
    reply = strict.send(videos[0].read_bytes())
    assert (
        reply.status_code == 500 and reply.json()["error"] == "the service failed; its log says why"
    )
    wait_for(lambda: "out of memory" in log.getvalue())
    monkeypatch.setattr(strict.service._batcher, "_run", lambda batch: run(batch) * np.nan)
    assert strict.send(videos[0].read_bytes()).status_code == 500
    wait_for(lambda: "tsn_r18 said nan: its weights may be damaged" in log.getvalue())
    monkeypatch.undo()
    assert strict.send(videos[0].read_bytes()).status_code == 200


def test_a_network_that_is_too_slow_is_said(strict, videos, monkeypatch):
    run = strict.service._batcher._run
    monkeypatch.setattr(strict.service._batcher, "_run", lambda b: time.sleep(4) or run(b))
    reply = strict.send(videos[0].read_bytes())
    assert reply.status_code == 503 and "no answer within 3 s" in reply.json()["error"]


def test_one_clip_of_a_batch_that_fails_does_not_fail_the_others(served, videos, monkeypatch):
    run = served.service._batcher._run

    def fails_for_several(batch):
        if len(batch.labels) > 1:
            raise RuntimeError("out of memory")
        return run(batch)

    monkeypatch.setattr(served.service._batcher, "_run", fails_for_several)
    with ThreadPoolExecutor(4) as clients:
        replies = list(clients.map(lambda path: served.send(path.read_bytes()), videos[:4]))
    assert [reply.status_code for reply in replies] == [200] * 4


# --- what else it says ----------------------------------------------------------------------------


def test_while_the_network_is_loaded_requests_are_told_to_wait(weights, tmp_path, monkeypatch):
    go_on = threading.Event()
    load = command.load_network
    monkeypatch.setattr(command, "load_network", lambda *a: go_on.wait(60) and load(*a))
    words = ("--engine", "eager")
    with serving(weights, tmp_path / "uploads", *words, load=False) as served:
        health = httpx.get(f"{served.address}healthz")
        assert health.status_code == 503 and health.json()["status"] == "loading"
        reply = served.send(b"abc")
        assert reply.status_code == 503
        assert reply.json()["error"] == "the network is being loaded: try again in a moment"
        go_on.set()
        served.service.loaded.result(timeout=120)
        health = httpx.get(f"{served.address}healthz")
        assert health.status_code == 200
        assert health.json() == {
            "status": "ready", "network": "tsn_r18", "classes": 6, "max_upload_mb": 200.0,
        }  # fmt: skip
        assert served.name("x.avi").status_code == 403  # there is no --path-root
        assert "started without --path-root" in served.name("x.avi").json()["error"]


def test_metrics_are_in_the_form_of_prometheus(served, videos):
    before = served.count("answered"), served.figure("paddlevid_decoding_seconds_count")
    served.send(videos[0].read_bytes())
    served.send(b"abc")
    reply = httpx.get(f"{served.address}metrics")
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE paddlevid_requests_total counter" in reply.text
    assert served.count("answered") == before[0] + 1
    assert served.figure("paddlevid_decoding_seconds_count") == before[1] + 2
    assert served.figure("paddlevid_network_seconds_sum") > 0
    assert served.figure("paddlevid_under_way") == 0


def test_the_page_needs_nothing_from_elsewhere(served):
    reply = httpx.get(served.address)
    assert reply.headers["Content-Type"].startswith("text/html")
    policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert re.findall(r"""(?:src|href)\s*=\s*"([^"]*)""", reply.text) == ["data:,"]
    assert "http:" not in reply.text and "https:" not in reply.text
    assert "innerHTML" not in reply.text
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


def test_pages_of_other_sites_may_not_send_videos(served, videos):
    for site, status in (("cross-site", 403), ("same-origin", 200)):
        reply = httpx.post(
            f"{served.address}predict", files={"file": ("a.avi", videos[0].read_bytes())},
            headers={"Sec-Fetch-Site": site},
        )  # fmt: skip
        assert reply.status_code == status
    assert httpx.get(served.address, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_other_names_of_this_machine_are_refused(served):
    """So a page of the web cannot get at the service by a name that leads to 127.0.0.1."""
    for host in ("localhost:80", "127.0.0.1", "LOCALHOST", "[::1]:8000"):
        assert httpx.get(f"{served.address}healthz", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "localhost.evil.example:8000", "[", ""):
        reply = httpx.get(f"{served.address}healthz", headers={"Host": host})
        assert reply.status_code == 400
        assert f"Host: {host}: the service answers to 127.0.0.1, loc" in reply.json()["error"]


# --- the command ----------------------------------------------------------------------------------


@contextlib.contextmanager
def started(weights, folder, *words):
    """The command in a process of its own, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "paddlevid.serve", "--weights", weights, "--port", "0",
         "--workers", "1", "--engine", "eager", *words],
        cwd=ROOT, env={**os.environ, "TMPDIR": str(folder)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        lines = iter(process.stdout.readline, "")
        assert next(lines) == "tsn_r18, 6 classes: loading\n"
        yield process, re.fullmatch(r"ready: (http://127\.0\.0\.1:\d+/)\n", next(lines))[1]
    finally:
        process.kill()
        process.communicate()


def test_a_signal_lets_it_finish_what_is_under_way(weights, videos, tmp_path):
    with (
        started(weights, tmp_path, "--wait-ms", "1500") as (process, address),
        ThreadPoolExecutor(1) as client,
    ):
        served = Served(None, address, tmp_path)
        under_way = client.submit(served.send, videos[0].read_bytes())
        wait_for(lambda: served.figure("paddlevid_decoding_seconds_count") == 1)
        process.terminate()
        assert under_way.result().status_code == 200
        assert process.wait(timeout=60) == 0
        assert process.stdout.read() == "stopped\n"
        assert "Traceback" not in process.stderr.read()
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_it_even_while_the_network_is_loaded(weights, monkeypatch, capsys):
    load = command.load_network

    def press(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return load(*arguments)

    monkeypatch.setattr(command, "load_network", press)
    before = signal.getsignal(signal.SIGINT)
    assert command.main(["--weights", str(weights), "--port", "0", "--workers", "1"]) == 0
    assert capsys.readouterr().out.endswith("stopped\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_weights_that_do_not_fit_end_it_with_the_reason(weights, tmp_path, capsys):
    config = ["--config", str(weights.parent / "config.yaml")]
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(weights.read_bytes())
    words = ["--weights", str(wrong), *config, "--port", "0", "--workers", "1"]
    assert command.main([*words, "-o", "MODEL.num_classes=7", "-o", "MODEL.seg_num=3"]) == 1
    output = capsys.readouterr()
    assert "paddlevid.serve: " in output.err and "fc.weight" in output.err
    assert "ready" not in output.out and "Traceback" not in output.err


def test_a_host_that_others_reach_is_warned_of(weights, monkeypatch, capsys):
    def fails(*_):
        raise ValueError("enough is seen")

    monkeypatch.setattr(command, "load_network", fails)
    words = ["--weights", str(weights), "--port", "0", "--host", "0.0.0.0", "--workers", "1"]
    assert command.main(words) == 1
    output = capsys.readouterr().err
    assert "warning: with --host 0.0.0.0 everybody who reaches the port can use" in output
    assert "paddlevid.serve: enough is seen" in output


def test_a_port_in_use_is_said(weights, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert command.main(["--weights", str(weights), "--port", port]) == 1
    assert (
        f"cannot listen on 127.0.0.1, port {port} (Address already in use): choose"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port 70000: needs a number up to 65535"),
        (["--path-root", "nowhere"], "--path-root nowhere: there is no such folder"),
        (["--batch", "0"], "needs a whole number from 1 up"),
        (["--weights", "nowhere/x.pdparams"], "weights nowhere/x.pdparams: there is no such file"),
        (["--weights", "nowhere.safetensors"], "cannot read the weights nowhere.safetensors"),
        (["--config", "configs/demo/convlstm.yaml"], "convlstm predicts frames: the service is"),
        (["--trunk", "resnet50"], "--trunk is for networks of features, not tsn_r18"),
        (["--host", "no such host"], "cannot listen on no such host, port 8000"),
    ],
)
def test_wrong_flags_get_one_line(weights, words, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    try:
        assert command.main(["--weights", str(weights), *words]) == 1
    except SystemExit as ended:
        assert ended.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_it_does_not_run_under_the_launcher(weights, monkeypatch, capsys):
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    assert command.main(["--weights", str(weights)]) == 1
    assert "the service runs in one process" in capsys.readouterr().err


def test_packages_that_are_missing_are_named(weights, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    with pytest.raises(SystemExit):
        command.main(["--weights", str(weights)])
    assert "needs uvicorn: pip install uvicorn" in capsys.readouterr().err


def test_help_answers_without_paddle_or_a_web_framework():
    code = (
        "import sys; from paddlevid.serve.__main__ import main\ntry: main(['--help'])\n"
        "except SystemExit: print(sorted({'paddle', 'starlette', 'uvicorn'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "--path-root" in out and out.splitlines()[-1] == "[]"


# --- the page in a browser ------------------------------------------------------------------------

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def page(served, tmp_path):
    """The service's page in Chromium, and what the console says."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}: apt-get install chromium")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing: pip install playwright"
    )
    with playwright.sync_playwright() as started:
        context = started.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=str(CHROMIUM), args=CHROMIUM_FLAGS
        )
        page = context.pages[0]
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(served.address)
        yield page
        context.close()


@pytest.mark.browser
def test_a_person_gets_bars_for_a_video_and_words_for_what_is_none(page, served, videos, tmp_path):
    page.wait_for_selector("text=tsn_r18, 6 classes. Videos of up to 200 MB.")
    page.set_input_files("#file", videos[2])
    page.wait_for_selector("#bars li")
    answer = served.send(videos[2].read_bytes()).json()
    assert page.locator("#bars span").all_inner_texts() == answer["classes"]  # as text, no tags
    percent = [f"{100 * value:.1f} %" for value in answer["probabilities"]]
    assert page.locator("#bars b").all_inner_texts() == percent
    widths = page.locator(".bar").evaluate_all("bars => bars.map(bar => bar.offsetWidth)")
    assert widths == sorted(widths, reverse=True) and widths[0] > 50
    assert page.is_visible("#unseen") and not page.is_visible("#preview")  # it plays no .avi
    assert not page.is_visible("#progress") and page.said == []

    write_mp4(tmp_path / "seen.mp4", frames_of(12))
    page.set_input_files("#file", tmp_path / "seen.mp4")
    page.wait_for_selector("#facts")
    page.wait_for_function("document.getElementById('preview').videoWidth === 64")
    assert page.is_visible("#preview") and not page.is_visible("#unseen") and page.said == []

    (tmp_path / "<i>text.mp4").write_text("no video")
    page.set_input_files("#file", tmp_path / "<i>text.mp4")
    page.wait_for_selector("#error")
    assert page.inner_text("#error").startswith("No answer: <i>text.mp4: cannot be decoded")
    assert not page.is_visible("#answer")
    assert page.said == [
        "Failed to load resource: the server responded with a status of 400 (Bad Request)"
    ]


@pytest.mark.browser
def test_a_video_that_is_dropped_is_predicted(page, videos):
    content = list(videos[0].read_bytes())
    page.evaluate(
        """content => {
          const files = new DataTransfer();
          files.items.add(new File([new Uint8Array(content)], "dropped.avi"));
          const event = new DragEvent("drop", {dataTransfer: files, cancelable: true});
          window.dispatchEvent(event);
        }""",
        content,
    )
    page.wait_for_selector("#bars li")
    assert page.inner_text("#name") == "dropped.avi" and page.said == []
