"""Writes the files of speach, lhotse, whisperx, batchalign, pandas, polars, ESPnet and SCTK again, each with that tool's own writer.

    python write.py FOLDER

In an environment with speach 0.1a15.post1, lhotse 1.33.0, whisperx 3.8.6, batchalign 0.10.7, pandas 3.1.1, polars 2.1.0 and espnet 202511
(`pip install --no-deps`, and what they ask for), and with Debian's sctk 2.4.10 as `sctk`. whisperx's writers are in its module `utils`,
which needs none of its models.
"""

import subprocess
import sys
import wave
from pathlib import Path

SAID = (("anna", 1.0, 2.5, "He said hi"), ("ben", 2.75, 3.5, "five equals three"), ("anna", 4.0, 5.25, "Café naïve"))


def elan(place: Path) -> None:
    from speach import elan as speach

    document = speach.create(media_file="talk.wav", author="speach")
    document.new_linguistic_type("utterance")
    for name in ("anna", "ben"):
        tier = document.new_tier(f"{name}_utterance", "utterance", participant=name.title())
        for who, start_s, end_s, text in SAID:
            if who == name:
                tier.new_annotation(text, int(1000 * start_s), int(1000 * end_s))
    document.save(place / "speach.eaf")


def of_lhotse(place: Path) -> None:
    from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet
    from lhotse.kaldi import export_to_kaldi
    from lhotse.supervision import AlignmentItem

    with wave.open("talk.wav", "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(12 * 16_000))
    said = []
    for number, (who, start_s, end_s, text) in enumerate(SAID):
        words = text.split()
        share_s = (end_s - start_s) / len(words)
        items = [AlignmentItem(word, round(start_s + at * share_s, 3), round(share_s, 3), 0.9) for at, word in enumerate(words)]
        one = SupervisionSegment(f"{who}-{number}", "talk", start_s, round(end_s - start_s, 3), 0, text, "English", who)
        said.append(one.with_alignment("word", items))
    supervisions = SupervisionSet.from_segments(said)
    supervisions.write_alignment_to_ctm(place / "lhotse.ctm")
    export_to_kaldi(RecordingSet.from_recordings([Recording.from_file("talk.wav", "talk")]), supervisions, place / "lhotse-kaldi")


def of_whisperx(place: Path) -> None:
    from whisperx.utils import WriteAudacity, WriteSRT, WriteVTT

    said = {
        "segments": [{"start": start_s, "end": end_s, "text": text, "speaker": who} for who, start_s, end_s, text in SAID],
        "language": "en",
    }
    options = {"max_line_width": None, "max_line_count": None, "highlight_words": False}
    for writer, name in ((WriteAudacity, "whisperx-audacity.txt"), (WriteSRT, "whisperx.srt"), (WriteVTT, "whisperx.vtt")):
        with (place / name).open("w", encoding="utf-8") as file:
            writer(str(place)).write_result(said, file, options)


def chat(place: Path) -> None:
    from batchalign.chat import CHATFile, Media, Speaker, Utterance

    speakers = {
        "anna": Speaker("ANN", language="eng", corpus="team", role="Adult", name="Anna"),
        "ben": Speaker("BEN", language="eng", corpus="team"),
    }
    document = CHATFile.new()
    document.media = Media(filename="talk")
    for who, start_s, end_s, text in SAID:
        document.utterances.append(Utterance(speakers[who], f"{text} .", timing=(int(1000 * start_s), int(1000 * end_s))))
    with (place / "batchalign.cha").open("w", encoding="utf-8") as file:
        document.write(file)


def tables(place: Path) -> None:
    import csv

    import pandas

    said = pandas.DataFrame(SAID, columns=["speaker", "offset", "end", "text"])
    said["audio_filepath"], said["duration"] = "talk.wav", said["end"] - said["offset"]
    said.drop(columns="end").to_json(place / "pandas-nemo.jsonl", orient="records", lines=True, force_ascii=False)
    voices = pandas.DataFrame({"client_id": said["speaker"], "path": [f"cv_{n}.mp3" for n in range(3)], "sentence": said["text"]})
    voices.loc[0, "sentence"] = 'He said "hi"'
    voices.to_csv(place / "pandas-common-voice.tsv", sep="\t", index=False)
    speech = pandas.DataFrame({"id": [f"LJ{n}" for n in range(3)], "text": voices["sentence"], "said": voices["sentence"].str.lower()})
    speech.to_csv(place / "pandas-ljspeech.csv", sep="|", index=False, header=False, quoting=csv.QUOTE_NONE)


def of_polars(place: Path) -> None:
    import polars

    said = polars.DataFrame(SAID, schema=["speaker", "offset", "end", "text"], orient="row")
    rows = said.with_columns(audio_filepath=polars.lit("talk.wav"), duration=polars.col("end") - polars.col("offset")).drop("end")
    rows.write_ndjson(place / "polars-nemo.jsonl")
    texts = ['He said "hi"', *said["text"][1:]]
    voices = polars.DataFrame({"client_id": said["speaker"], "path": [f"cv_{n}.mp3" for n in range(3)], "sentence": texts})
    voices.write_csv(place / "polars-common-voice.tsv", separator="\t", quote_style="always")
    speech = polars.DataFrame({"id": [f"LJ{n}" for n in range(3)], "text": texts, "said": [text.lower() for text in texts]})
    speech.write_csv(place / "polars-ljspeech.csv", separator="|", include_header=False, quote_style="never")


def of_espnet(place: Path) -> None:
    from espnet2.fileio.datadir_writer import DatadirWriter

    with DatadirWriter(place / "espnet-kaldi") as writer:
        writer["wav.scp"]["talk"] = "talk.wav"
        for number, (who, start_s, end_s, text) in enumerate(SAID):
            name = f"{who}-{number}"
            writer["segments"][name] = f"talk {start_s:.2f} {end_s:.2f}"
            writer["text"][name], writer["utt2spk"][name] = text, who


def of_sctk(place: Path) -> None:
    here = Path(__file__).parent
    with (place / "sctk.stm").open("w") as file:
        subprocess.run(["sctk", "hamzaNorm.pl", "-i", "stm", str(here / "meeteval.stm"), "-"], stdout=file, check=True)
    one = str(here / "meeteval.ctm")
    subprocess.run(["sctk", "rover", "-h", one, "ctm", "-h", one, "ctm", "-o", str(place / "sctk-rover.ctm"), "-m", "avgconf"], check=True)


if __name__ == "__main__":
    for write in (elan, of_lhotse, of_whisperx, chat, tables, of_polars, of_espnet, of_sctk):
        write(Path(sys.argv[1]))
