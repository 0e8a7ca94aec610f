"""The real demo model over HTTP: the two guides that users come from, followed to the letter on one device,
and the same video made by two.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from models.demo.clips import FPS, FRAMES, HEIGHT, WIDTH
from models.demo.grammar import EXAMPLES, Scene
from models.demo.score import score
from serve_app.cli.commands import main as wan_serve
from testbed.chat_endpoint import ENDING, KEY, ChatEndpoint
from testbed.cluster import ROOT, Cluster, demo
from testbed.ranks import assert_gone, rank_pids
from testbed.service import HTTP, Service

RED_BALL = EXAMPLES[0]
GUIDE_HOST = "http://115.190.78.40:30155"
SUBMIT_T2V = """
curl -X POST http://115.190.78.40:30155/v1/tasks/video \\
  -H "Content-Type: application/json" \\
  -d '{
    "prompt": "A beautiful sunset over the ocean",
    "negative_prompt": "blurry, low quality",
    "infer_steps": 4,
    "video_duration": 5,
    "seed": 42
  }'
"""
POLL = "curl http://115.190.78.40:30155/v1/tasks/abc123/status"
DOWNLOAD = """
curl http://115.190.78.40:30155/v1/files/download/outputs/videos/abc123.mp4 \\
  -o output.mp4
"""
SUBMIT_I2V = """
curl -X POST http://115.190.78.40:30155/v1/tasks/video \\
  -H "Content-Type: application/json" \\
  -d '{
    "prompt": "A cat walking on the beach",
    "image_path": "/path/to/input_image.jpg",
    "infer_steps": 4,
    "video_duration": 5,
    "seed": 42
  }'
"""
SUBMIT_FORM = """
curl -X POST http://115.190.78.40:30155/v1/tasks/video/form \\
  -F "prompt=A cat walking on the beach" \\
  -F "image_file=@/local/path/to/image.jpg" \\
  -F "infer_steps=4" \\
  -F "video_duration=5" \\
  -F "seed=42"
"""


ELSEWHERE = {"watch", "doctor", "480p"}
"""Words of commands that have no end, look for GPUs, or need a model that this machine cannot run."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the guide's /path/to and /local/path/to, with a picture of one colour in both."""
    folder = tmp_path_factory.mktemp("guide")
    for place in ("path/to/input_image.jpg", "local/path/to/image.jpg"):
        (folder / place).parent.mkdir(parents=True)
        Image.new("RGB", (320, 240), (200, 40, 40)).save(folder / place)
    return folder


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatEndpoint]:
    with ChatEndpoint() as chat:
        yield chat


@pytest.fixture(scope="module")
def service(cluster: Cluster, folder: Path, chat: ChatEndpoint) -> Iterator[Service]:
    models = [demo(cpus_per_replica=0.5)]
    enhancer = {"url": chat.url, "model": "chat", "key": KEY}
    roots = [str(folder / "path/to")]
    with cluster.deploy(models=models, input_roots=roots, prompt_enhancer=enhancer) as service:
        yield service


def run(command: str, service: Service, folder: Path, task_id: str = "abc123") -> str:
    """Run a command of the guide; only the host, the task id and the folder of the pictures are changed."""
    command = command.replace(GUIDE_HOST, service.url).replace("abc123", task_id)
    command = re.sub(r"(?<=[\"@])(/local)?/path/to", lambda found: f"{folder}{found[0]}", command)
    done = subprocess.run(
        shlex.split(command.replace("\\\n", " ")), cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def frames_of(video: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return all bytes of all frames, uint8 ``[n]``."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(video)]
    decoded = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True
    )
    return np.frombuffer(decoded.stdout, np.uint8)


def follow(submit: str, service: Service, folder: Path) -> Path:
    """Submit, poll until the task succeeds, and download the video, as the guide does."""
    submitted = json.loads(run(submit, service, folder))
    assert submitted["status"] == "submitted"
    task_id = submitted["task_id"]
    service.until(task_id, "succeed", deadline_s=120)
    status = json.loads(run(POLL, service, folder, task_id))
    assert (status["status"], status["progress"], status["seed"]) == ("succeed", 1.0, 42)
    run(DOWNLOAD, service, folder, task_id)
    assert (folder / "output.mp4").read_bytes() == service.result(task_id)
    return folder / "output.mp4"


def test_the_text_to_video_flow_of_the_guide_makes_a_video(service: Service, folder: Path) -> None:
    video = follow(SUBMIT_T2V, service, folder)
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(video))
    assert (frames, round(seconds, 2)) == (FRAMES, round(FRAMES / FPS, 2))
    assert frames_of(video).std() > 1, "something is to be seen"


def test_the_image_to_video_flows_make_of_the_same_image_the_same_video(
    service: Service, folder: Path
) -> None:
    from_path, from_upload = (
        follow(submit, service, folder).read_bytes() for submit in (SUBMIT_I2V, SUBMIT_FORM)
    )
    assert from_path == from_upload
    Image.new("RGB", (320, 240), (40, 200, 40)).save(folder / "path/to/input_image.jpg")
    assert follow(SUBMIT_I2V, service, folder).read_bytes() != from_path, "the image matters"


def test_the_conversation_of_the_readme_downloads_its_video(service: Service, folder: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^curl (?:.*\\\n)*.*$", readme, re.MULTILINE)
    assert len(commands) == 3
    submit, status, result = (c.replace("http://127.0.0.1:8000", GUIDE_HOST) for c in commands)
    assert json.loads(run(submit, service, folder))["task_id"] == "ball"
    service.until("ball", "succeed")
    assert json.loads(run(status, service, folder))["status"] == "succeed"
    run(result, service, folder)
    assert (folder / "ball.mp4").read_bytes() == service.result("ball")
    shown = frames_of(folder / "ball.mp4").reshape(-1, HEIGHT, WIDTH, 3)
    assert score(shown, Scene("ball", "red", "blue", "right")).everything, "it is what was asked for"


def test_the_commands_of_the_quick_starts_do_what_they_say(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran: dict[str, str] = {}
    for page in ("README.md", "docs/quick-starts.md"):
        text = (ROOT / page).read_text().replace("http://video.example.com:8000", service.url)
        for source, target in re.findall(r"^cp (\S+) (\S+)", text, re.MULTILINE):
            (tmp_path / target).write_text((ROOT / source).read_text())
        for settings, line in re.findall(r"^((?:[A-Z_]+=\S+ )*)wan-serve (.*)$", text, re.MULTILINE):
            command = shlex.split(line, comments=True)
            if set(command) & ELSEWHERE:
                continue
            with monkeypatch.context() as environment:
                environment.setenv("WAN_SERVE_URL", service.url)
                for name, _, value in (setting.partition("=") for setting in settings.split()):
                    environment.setenv(name, value)
                status = wan_serve(command)
            said = capsys.readouterr()
            assert status == 0, (line, said.err)
            ran[command[0]] = said.out
    assert ran.keys() == {"submit", "status", "keys", "list"}
    assert (tmp_path / "ball.mp4").read_bytes()[4:8] == b"ftyp"
    assert service.status(ran["submit"].strip())["prompt"] == "a red fox", "the last one, which waits"
    assert service.status(ran["submit"].strip())["status"] == "succeed"
    assert "demo" in ran["status"] and "a red ball moving" in ran["list"]


def test_two_ranks_make_the_video_of_one(cluster: Cluster, service: Service, folder: Path) -> None:
    others = rank_pids()
    with cluster.deploy(models=[demo(devices_per_replica=2, cpus_per_replica=0.9)]) as pair:
        made = video_of_the_ball(pair, folder / "pair.mp4")
        ranks = rank_pids() - others
    assert len(ranks) == 2
    assert_gone(ranks)
    alone = video_of_the_ball(service, folder / "alone.mp4")
    assert made.shape == alone.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert np.abs(made.astype(int) - alone).max() <= 8, "more than the encoder makes of a level"
    assert score(alone, RED_BALL).everything, "a red ball moving left to right on a blue background"


def video_of_the_ball(service: Service, file: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    task_id = service.submit(prompt=RED_BALL.prompt, seed=7)
    service.until(task_id, "succeed")
    file.write_bytes(service.result(task_id))
    return frames_of(file).reshape(-1, HEIGHT, WIDTH, 3)


def test_the_same_seed_gives_the_same_video_and_another_seed_another(service: Service) -> None:
    fields = {"width": 64, "height": 64, "num_frames": 5, "infer_steps": 2}
    ids = [service.submit(**fields, seed=seed) for seed in (1, 1, 2)]
    for task_id in ids:
        service.until(task_id, "succeed")
    one, again, other = (service.result(task_id) for task_id in ids)
    assert one == again != other


def test_a_prompt_is_written_out_by_a_chat_model_and_left_as_it_is_without_one(
    service: Service, chat: ChatEndpoint
) -> None:
    fields = {"width": 64, "height": 64, "num_frames": 5, "infer_steps": 2, "seed": 1}
    plain = "a red ball"
    enhanced = service.submit(prompt=plain, enhance_prompt=True, **fields)
    written_out = service.submit(prompt=plain + ENDING, **fields)
    as_it_is = service.submit(prompt=plain, **fields)
    assert service.until(enhanced, "succeed")["revised_prompt"] == plain + ENDING
    chat.stop()
    alone = service.submit(prompt=plain, enhance_prompt=True, **fields)
    ended = [service.until(task_id, "succeed") for task_id in (enhanced, written_out, as_it_is, alone)]
    assert [status["revised_prompt"] for status in ended] == [plain + ENDING, None, None, None]
    (note,) = ended[-1]["notes"]
    assert note == "The prompt was not enhanced: the prompt enhancer could not be reached."
    by_chat, same, other, by_itself = (frames_of(service.data_dir / found["video_path"]) for found in ended)
    assert np.array_equal(by_chat, same) and np.array_equal(by_itself, other)
    assert not np.array_equal(same, other), "the prompt matters"


def test_a_request_larger_than_the_model_is_shrunk_and_said_so(service: Service) -> None:
    task_id = service.submit(width=1280, height=720, num_frames=5, infer_steps=1)
    ended = service.until(task_id, "succeed")
    assert ended["width"] * ended["height"] <= 192 * 96
    assert "shrunk from 1280x720" in ended["message"]
    frames = frames_of(service.data_dir / ended["video_path"])
    assert frames.size == 5 * ended["width"] * ended["height"] * 3


def script(service: Service, *command: str) -> str:
    """Run a client script of the guide against this service."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / command[0]), "--url", service.url, *command[1:]],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": ""},
        check=True,
    )
    return done.stdout


def local(service: Service, route: str, body: dict[str, Any] | None = None) -> Any:
    url = f"{service.url}/v1/local/video/generate{route}"
    answer = HTTP.get(url) if body is None else HTTP.post(url, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_local_guide_with_its_own_scripts(service: Service) -> None:
    assert local(service, "/service_status") == {"service_status": "idle"}
    posted = script(service, "post.py")
    task_id = re.search(r'"task_id": "([^"]+)"', posted)
    assert task_id is not None and '"task_status": "processing"' in posted
    assert local(service, "/service_status") == {"service_status": "busy", "task_id": task_id[1]}
    assert local(service, "", {"prompt": "x", "task_id": "y", "save_video_path": "y.mp4"}) == {
        "error": "Service busy"
    }
    stopped = script(service, "stop_running_task.py")
    assert '"stop_status": "success"' in stopped and "Task stopped successfully." in stopped
    ended = local(service, "/task_status", {"task_id": task_id[1]})
    assert (ended["task_status"], ended["success"], ended["error"]) == (
        "completed",
        False,
        "Task stopped by user",
    )
    assert task_id[1] in script(service, "check_status.py")
    assert local(service, "/stop_running_task")["stop_status"] == "do_nothing"


def test_one_service_takes_the_tasks_of_many_servers(service: Service) -> None:
    (replica,) = service.replica_pids("model-demo")
    table = script(service, "post_multi_servers.py", "--count", "2")
    assert table.count(replica) == 2 and "succeed" in table


def test_an_uploaded_picture_of_another_shape_is_cropped_and_said_so(service: Service) -> None:
    picture = BytesIO()
    Image.new("RGBA", (100, 200), (0, 0, 255, 255)).save(picture, "PNG")
    answer = HTTP.post(
        f"{service.url}/v1/tasks/video/form/",
        data={"prompt": "a wave", "width": "96", "height": "64", "num_frames": "5", "infer_steps": "2"},
        files={"image_file": ("wave.png", picture.getvalue(), "image/png")},
    )
    assert answer.status_code == 200 and "centre-cropped" in answer.json()["message"]
    assert service.until(answer.json()["task_id"], "succeed")["num_frames"] == 5
