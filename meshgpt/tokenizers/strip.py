"""Strips: each further face is said by one vertex, and lies beyond the side of the last two."""

from meshgpt.tokenizers.walk_grammar import WalkGrammar
from meshgpt.tokenizers.walks import WalkConfig, WalkTokenizer


class StripTokenizer(WalkTokenizer):
    """A vertex a face, 10 tokens for the first face of a strip: adjacent mesh tokenization (arXiv:2408.02555).

    A strip turns left and right in turn, and so does the order in which its vertices wind a face; the mark of its start
    says for the first. Other marks take the other side (the swap of that paper) or flip the winding of the next face,
    which keeps every mesh as it is. A swap is made where the strip would end, and before a flip.
    """

    alternating = True
    marks = ("start", "start, reversed", "swap", "flip", "swap and flip")

    def __init__(self, config: WalkConfig | None = None, **fields):
        super().__init__(config, **fields)
        self.grammar = WalkGrammar(self.num_discrete_coors, alternating=True)
