"""BM25 over pieces, in whole numbers: the same pieces and the same words give the same scores on every machine.

What lives here: counting words and adding up. What must not: whose pieces they are (the caller strikes out what may not
be seen, by number).

A word's weight in a piece is rounded to a whole number once, when the index is loaded; sums of whole numbers do not
depend on the order in which they are added, as those of floats do.
"""

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from batchmill.streams.indexing import Ranking, words

__all__ = ["QUERY_WORDS_MAX", "Lexical"]

#: different words of one query that are looked up, the first ones
QUERY_WORDS_MAX = 200
_IDF_ONE = 10**4
_WEIGHT_ONE = 10**4

Numbers = Any  #: an array of numpy, which mypy is told nothing about


class Lexical:
    """The words of all pieces, by piece number."""

    def __init__(self, texts: Iterable[str], ranking: Ranking) -> None:
        numbers: dict[str, array[int]] = defaultdict(lambda: array("i"))
        counts: dict[str, array[int]] = defaultdict(lambda: array("i"))
        lengths = array("i")
        for number, text in enumerate(texts):
            found = Counter(words(text))
            lengths.append(found.total())
            for word, count in found.items():
                numbers[word].append(number)
                counts[word].append(count)
        self.pieces = len(lengths)
        self._words = {}
        shares = self._shares(np.asarray(lengths, dtype=np.int64), ranking)
        for word, where in numbers.items():
            places = np.asarray(where, dtype=np.int32)
            self._words[word] = (places, self._weights(np.asarray(counts[word], np.int64), shares[places], ranking))

    def scores(self, query: str) -> Numbers:
        """One whole number for each piece; 0 where no word of the query occurs."""
        total = np.zeros(self.pieces, dtype=np.int64)
        asked = list(dict.fromkeys(words(query)))[:QUERY_WORDS_MAX]
        for word in asked:
            if word in self._words:
                places, weights = self._words[word]
                total[places] += weights
        return total

    def _shares(self, lengths: Numbers, ranking: Ranking) -> Numbers:
        """What of a count a piece of that length needs more to be worth the same."""
        k1, b = ranking.k1_thousandths / 1_000, ranking.b_thousandths / 1_000
        total = int(lengths.sum())
        return k1 * (1 - b + b * (lengths * self.pieces / total)) if total else lengths * 0.0

    def _weights(self, counts: Numbers, shares: Numbers, ranking: Ranking) -> Numbers:
        k1 = ranking.k1_thousandths / 1_000
        holding = len(counts)
        # Rounded before it is used: the last digit of a logarithm is the machine's own.
        idf = max(1, round(math.log(1 + (self.pieces - holding + 0.5) / (holding + 0.5)) * _IDF_ONE))
        return np.rint(idf * (_WEIGHT_ONE * (counts * (k1 + 1)) / (counts + shares))).astype(np.int64)
