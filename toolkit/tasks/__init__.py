"""Tasks: how a person's examples become prompts, and how answers are read and scored."""

from toolkit.tasks.loading import builtin_name, builtin_tasks, load_task
from toolkit.tasks.task import Retrieval, Task

__all__ = ["Retrieval", "Task", "builtin_name", "builtin_tasks", "load_task"]
