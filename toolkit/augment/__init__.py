"""Augmentation: a teacher model writes new examples in a person's manner, and filters keep the good ones."""

from toolkit.augment.result import Augmentation, read_augmentation, write_augmentation
from toolkit.augment.run import augment, first_requests
from toolkit.augment.teachers import Completion, Teacher, open_teacher

__all__ = [
    "Augmentation",
    "Completion",
    "Teacher",
    "augment",
    "first_requests",
    "open_teacher",
    "read_augmentation",
    "write_augmentation",
]
