"""How many synthetic examples to train on: adapters on none and on ever more of them, compared.

    from toolkit.sweep import sweep
    found = sweep(read_recipe(Path("recipe.yaml")), [0.5, 1, 2, 4], Path("sweeps/maud"))
    print(found.chosen.ratio, found.chosen.reason)

One set is written for the largest ratio; every adapter is trained on all real examples and on the first few
of that set, with the same seed. What is compared is the slice of the history that neither the teacher nor any
adapter saw (`finetune.validation`).
"""

from toolkit.sweep.result import Arm, Choice, Sweep
from toolkit.sweep.run import checked_ratios, for_largest, read_dataset, sweep

__all__ = ["Arm", "Choice", "Sweep", "checked_ratios", "for_largest", "read_dataset", "sweep"]
