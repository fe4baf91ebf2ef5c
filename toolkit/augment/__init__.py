"""Augmentation: a teacher model writes new examples in a person's manner, and filters keep the good ones."""

from toolkit.augment.budget import Budget
from toolkit.augment.privacy import AuditFile
from toolkit.augment.result import Augmentation, read_augmentation, write_augmentation
from toolkit.augment.run import augment, first_requests, request_bodies, shown_to_teachers, write_synthetic
from toolkit.augment.teachers import Completion, Teacher, open_teachers

__all__ = [
    "AuditFile",
    "Augmentation",
    "Budget",
    "Completion",
    "Teacher",
    "augment",
    "first_requests",
    "open_teachers",
    "read_augmentation",
    "request_bodies",
    "shown_to_teachers",
    "write_augmentation",
    "write_synthetic",
]
