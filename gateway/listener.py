"""A simulated listener: plays a stream at once, at the speed of speech, and counts its gaps."""


class Listener:
    """Starts with the first audio. Where that has been played before more has come, there is a gap;
    it goes on as soon as more is there.

    Attributes:
        gaps_s: Seconds of silence of each gap so far.
    """

    def __init__(self) -> None:
        self.gaps_s: list[float] = []
        self._played_out_s: float | None = None  # when all that has come will have been played

    def hears(self, at_s: float, audio_s: float) -> None:
        """Take audio that comes now.

        Args:
            at_s: Now, by any clock.
            audio_s: Seconds of audio; none changes nothing.
        """
        if audio_s <= 0:
            return
        if self._played_out_s is None:
            self._played_out_s = at_s
        elif at_s > self._played_out_s:
            self.gaps_s.append(at_s - self._played_out_s)
            self._played_out_s = at_s
        self._played_out_s += audio_s

    @property
    def underrun_s(self) -> float:
        """Seconds of all gaps."""
        return sum(self.gaps_s)
