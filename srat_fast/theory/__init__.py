"""Section 3 of the paper made checkable: a Gaussian mixture enters, closed forms, simulations and verdicts leave."""
