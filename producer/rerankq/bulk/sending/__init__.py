"""From rows to answers: requests cut into packs, sent, waited for, sent again."""
