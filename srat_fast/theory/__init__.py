"""Section 3 of the paper, checked: the lemma and both theorems on a Gaussian mixture."""
