"""Which code is chosen where the one that was drawn is not legal."""

import torch

from meshgpt.mesh.grammar import LegalCodes, LegalTable
from meshgpt.transformer.heads import CodeHead
from meshgpt.transformer.sampling import Chooser, Sampling


class Asked(CodeHead):
    """A head that draws code 0 always, and remembers for how many rows it was asked for more."""

    def __init__(self, rows, wide):
        super().__init__(4, 1, 1)
        self.rows, self.wide = rows, wide

    def sample(self, hidden, uniform, may_end):
        return torch.zeros(len(hidden), dtype=torch.long)

    def select(self, rows):
        return Asked(self.rows[rows], self.wide)

    def logits(self, hidden, may_end):
        assert torch.equal(hidden[:, 0].long(), self.rows)
        self.wide.append(len(hidden))
        return torch.zeros(len(hidden), 5).log_softmax(dim=-1)


def choose(legal):
    head, uniform = Asked(torch.arange(4), []), torch.tensor([0.0, 0.0, 0.99]).expand(4, 3)
    hidden = torch.arange(4.0)[:, None]
    return head, Chooser(Sampling())(head, hidden, uniform, torch.ones(4, dtype=torch.bool), legal)


def test_only_rows_whose_code_is_not_legal_draw_again():
    table = torch.ones(4, 5, dtype=torch.bool)
    table[1] = torch.tensor([False, True, True, False, False])
    table[3] = torch.tensor([False, True, False, False, False])
    head, codes = choose(LegalTable(table))
    assert codes.tolist() == [0, 2, 0, 1] and head.wide == [2]
    head, codes = choose(LegalTable(torch.ones_like(table)))
    assert codes.tolist() == [0] * 4 and head.wide == []


def test_codes_of_an_order_are_drawn_again_in_the_same_way():
    legal = LegalCodes(torch.tensor([0, 0, 2, 0]), torch.tensor([[-1], [-1], [3], [0]]))
    head, codes = choose(legal)
    assert codes[[0, 1]].tolist() == [0, 0] and bool((codes[[2, 3]] == 4).all()) and head.wide == [2]
