"""The evaluation summary of Luo & Hu's code (from PointFlow's), key by key, for comparison with recorded numbers."""

from __future__ import annotations

import numpy as np

from .generation import SetDistances, minimum_matching_distance, original_votes, sample_matching_distance


def original_knn(distances: SetDistances, k: int = 1) -> dict[str, float]:
    """Counts and rates of the leave-one-out classifier, references being the positive class.

    Keys tp, fp, fn, tn, precision, recall, acc_t (references), acc_f (samples), acc. Ties go by `torch.topk`.
    """
    matrix = distances.merged()
    is_ref = np.arange(len(matrix)) < len(distances.ref_ref)
    says_ref = original_votes(matrix, is_ref, k) >= k / 2
    tp, fp = float((says_ref & is_ref).sum()), float((says_ref & ~is_ref).sum())
    fn, tn = float((~says_ref & is_ref).sum()), float((~says_ref & ~is_ref).sum())
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": tn,
        "precision": tp / (tp + fp + 1e-10),
        "recall": tp / (tp + fn + 1e-10),
        "acc_t": tp / (tp + fn + 1e-10),
        "acc_f": tn / (tn + fp + 1e-10),
        "acc": (tp + tn) / len(matrix),
    }


def original_summary(distances: SetDistances, name: str = "CD") -> dict[str, float]:
    """`lgan_mmd-<name>`, `lgan_cov-<name>`, `lgan_mmd_smp-<name>`, `1-NN-<name>-acc_t`, `-acc_f` and `-acc`."""
    matched = distances.ref_sample.argmin(0)
    neighbours = original_knn(distances)
    return {
        f"lgan_mmd-{name}": minimum_matching_distance(distances),
        f"lgan_cov-{name}": len(np.unique(matched)) / len(distances.ref_ref),
        f"lgan_mmd_smp-{name}": sample_matching_distance(distances),
        f"1-NN-{name}-acc_t": neighbours["acc_t"],
        f"1-NN-{name}-acc_f": neighbours["acc_f"],
        f"1-NN-{name}-acc": neighbours["acc"],
    }
