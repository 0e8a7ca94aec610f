"""How a replica encodes its videos: on which device, from frames of which format."""

from models.pixel_format import PixelFormat
from serve_app.replica.model_replica import video_encoding
from serve_app.replica.rank_actor import RankProcess


def test_a_group_encodes_on_the_gpu_of_rank_0() -> None:
    ranks = [RankProcess(pid=11, devices="5"), RankProcess(pid=12, devices="2")]
    encoding = video_encoding("cuda", "h264_nvenc", ranks)
    assert encoding.environment == {"CUDA_VISIBLE_DEVICES": "5"}
    assert (encoding.encoder, encoding.pixel_format) == ("h264_nvenc", PixelFormat.YUV420P)


def test_a_replica_that_is_its_own_engine_encodes_where_it_is() -> None:
    encoding = video_encoding("cpu", "libx264", None)
    assert encoding.environment == {}
    assert (encoding.encoder, encoding.pixel_format) == ("libx264", PixelFormat.RGB24)
