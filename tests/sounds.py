"""Sound files of many kinds for tests, written by libsndfile and FFmpeg; and an independent decoder."""

import io
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile

Samples = npt.NDArray[np.float32]


def written(samples: Samples, rate: int, container: str, subtype: str) -> bytes:
    """By libsndfile. `samples` are `[frames]` or `[frames, channels]`."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=container, subtype=subtype)
    return stream.getvalue()


def muxed(tracks: list[Samples], rate: int, container: str, codec: str, **options: str) -> bytes:
    """By FFmpeg: each of `tracks`, `[frames, channels]`, as an audio track."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=container, options=options) as file:
        layouts = ["mono" if track.shape[1] == 1 else "stereo" for track in tracks]
        streams = [file.add_stream(codec, rate=rate, layout=layout) for layout in layouts]
        for one, track in zip(streams, tracks, strict=True):
            for piece in _pieces(one, track, rate):
                file.mux(one.encode(piece))
            file.mux(one.encode(None))
    return stream.getvalue()


def _pieces(stream: Any, track: Samples, rate: int) -> list[Any]:
    layout = stream.codec_context.layout.name
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(track.T), format="fltp", layout=layout)
    frame.sample_rate = rate
    size = stream.codec_context.frame_size
    resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=stream.codec_context.rate, frame_size=size)
    return [*resampler.resample(frame), *resampler.resample(None)]


def second_decoder_seconds(data: bytes, container: str | None) -> float:
    """How long FFmpeg finds the sound; of containers without a name for it, libsndfile."""
    if container is None:
        samples, rate = soundfile.read(io.BytesIO(data))
        return len(samples) / float(rate)
    with av.open(io.BytesIO(data), format=container) as file:
        stream = file.streams.audio[0]
        return sum(frame.samples for frame in file.decode(stream)) / float(stream.rate)


@dataclass(frozen=True)
class Form:
    """A way to write sound."""

    name: str
    container: str
    codec: str
    options: tuple[tuple[str, str], ...] = ()
    rates: tuple[int, ...] = (8_000, 16_000, 22_050, 44_100, 48_000)
    channels: tuple[int, ...] = (1, 2)
    by_ffmpeg: bool = False
    second: str | None = None
    """FFmpeg's name of the container, where it is the second decoder."""
    apart_s: float = 0.03
    """How far apart the decoders may be: libsndfile fills GSM with a block of 40 ms more, and FFmpeg hears Vorbis to the end of a block."""
    block_s: float = 0.02
    """How much longer than the sound the file may be: codecs fill their last block."""
    bare: bool = False
    """Frames and nothing else, each beginning with eleven ones: what ends before a frame is a whole file."""

    def make(self, samples: Samples, rate: int) -> bytes:
        if self.by_ffmpeg:
            return muxed([samples], rate, self.container, self.codec, **dict(self.options))
        return written(samples, rate, self.container, self.codec)


BLOCK_S = 0.3
"""An ADPCM block of 1024 bytes at 8 kHz."""

PLAIN = [("WAV", "wav"), ("AIFF", "aiff"), ("AU", "au"), ("CAF", "caf"), ("W64", "w64"), ("RF64", "wav")]
FORMS = [
    *(
        Form(f"{name} {codec}", name, codec, second=second)
        for name, second in PLAIN
        for codec in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW")
    ),
    *(Form(f"WAV {codec}", "WAV", codec, second="wav") for codec in ("PCM_U8", "PCM_32", "DOUBLE")),
    *(Form(f"WAV {codec}", "WAV", codec, second="wav", block_s=BLOCK_S) for codec in ("IMA_ADPCM", "MS_ADPCM")),
    Form("WAV GSM610", "WAV", "GSM610", rates=(8_000,), channels=(1,), second="wav", apart_s=0.041, block_s=0.09),
    *(Form(f"AU {codec}", "AU", codec, rates=(8_000,), channels=(1,), block_s=0.05) for codec in ("G721_32", "G723_24", "G723_40")),
    Form("FLAC", "FLAC", "PCM_16", second="flac"),
    Form("FLAC 24", "FLAC", "PCM_24", second="flac"),
    Form("Vorbis", "OGG", "VORBIS", second="ogg", apart_s=0.07),
    Form("Opus", "OGG", "OPUS", rates=(8_000, 16_000, 48_000), second="ogg"),
    Form("MP3", "MP3", "MPEG_LAYER_III", second=None, block_s=0.06),
    Form("MP3 CBR without header", "mp3", "libmp3lame", (("write_xing", "0"),), by_ffmpeg=True, second="mp3", block_s=0.25, bare=True),
    Form("AAC in MP4", "mp4", "aac", by_ffmpeg=True, second="mov", block_s=0.3),
    Form("AAC", "adts", "aac", by_ffmpeg=True, second="aac", block_s=0.3, bare=True),
    Form("ALAC in MP4", "ipod", "alac", by_ffmpeg=True, second="mov"),
    Form("Opus in WebM", "webm", "libopus", rates=(16_000, 48_000), by_ffmpeg=True, second="matroska", block_s=0.05),
    Form("PCM in QuickTime", "mov", "pcm_s16le", by_ffmpeg=True, second="mov"),
    Form("MP2", "mp2", "mp2", rates=(16_000, 44_100, 48_000), by_ffmpeg=True, second="mp3", block_s=0.15, bare=True),
]
