"""What `python -m train clean` hears by, and by which limits it leaves segments out."""

from __future__ import annotations

from dataclasses import dataclass

SPEAKERS = ("auto", "resemblyzer", "none")


@dataclass(frozen=True)
class Hearing:
    """How recordings are cut and measured. Another value means that all of them are heard anew.

    Attributes:
        voice_threshold: probability from which a frame of 32 ms counts as speech.
        pause: seconds of silence from which a recording may be cut.
        longest_pause: seconds of silence that a segment may hold at most.
        min_seconds: shortest segment.
        max_seconds: longest segment; longer speech is cut where it is quietest.
        padding: seconds of silence to keep at each end, where the recording has them.
        same_speaker: cosine of two voices from which they count as one speaker.
        speakers: "resemblyzer" tells speakers apart, "none" does not, "auto" does where the package is there.
    """

    voice_threshold: float = 0.5
    pause: float = 0.3
    longest_pause: float = 1.0
    min_seconds: float = 1.0
    max_seconds: float = 15.0
    padding: float = 0.1
    same_speaker: float = 0.7
    speakers: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.voice_threshold < 1:
            raise ValueError(f"voice_threshold={self.voice_threshold}: expected a probability between 0 and 1")
        if not 0 < self.pause <= self.longest_pause:
            raise ValueError(f"pause={self.pause}: expected more than 0 and at most longest_pause={self.longest_pause}")
        if not 0 < self.min_seconds <= self.max_seconds / 2:
            raise ValueError(
                f"min_seconds={self.min_seconds}: expected more than 0 and at most half of "
                f"max_seconds={self.max_seconds}"
            )
        if not 0 <= self.padding <= 1:
            raise ValueError(f"padding={self.padding}: expected 0 to 1 seconds")
        if not -1 <= self.same_speaker <= 1:
            raise ValueError(f"same_speaker={self.same_speaker}: expected a cosine between -1 and 1")
        if self.speakers not in SPEAKERS:
            raise ValueError(f"speakers={self.speakers!r}: expected one of {', '.join(SPEAKERS)}")


@dataclass(frozen=True)
class Limits:
    """Which segments are left out. Other values need no hearing: the same command applies them at once.

    Attributes:
        min_snr: dB.
        max_clipping: share of samples.
        min_bandwidth: Hz.
        min_consistency: lowest cosine of a window of speech with the whole segment's voice.
        duplicate: cosine of two segments' spectrograms from which the later one is a duplicate.
    """

    min_snr: float = 15.0
    max_clipping: float = 0.001
    min_bandwidth: float = 7000.0
    min_consistency: float = 0.6
    duplicate: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.max_clipping <= 1:
            raise ValueError(f"max_clipping={self.max_clipping}: expected a share between 0 and 1")
        if not 0 < self.duplicate <= 1:
            raise ValueError(f"duplicate={self.duplicate}: expected a cosine above 0 and at most 1")
