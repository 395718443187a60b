"""Half-edges: each further face is said by the side, left or right, over which it lies, and by one vertex."""

from meshgpt.tokenizers.walk_grammar import WalkGrammar
from meshgpt.tokenizers.walks import WalkConfig, WalkTokenizer


class HalfEdgeTokenizer(WalkTokenizer):
    """A mark and a vertex a face, 10 tokens for the first face of a walk, as EdgeRunner (arXiv:2409.18114) writes them.

    Where that changes the winding of surfaces that cannot be oriented, or takes third faces of an edge for borders,
    marks that flip the winding keep every mesh as it is. A walk goes left where it can.
    """

    alternating = False
    marks = ("start", "left", "right", "left, flipped", "right, flipped")

    def __init__(self, config: WalkConfig | None = None, **fields):
        super().__init__(config, **fields)
        self.grammar = WalkGrammar(self.num_discrete_coors, alternating=False)
