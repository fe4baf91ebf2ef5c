"""Adapters for many people: planned into batches, trained by Ray's workers, kept where fsspec reaches."""
