"""Raw samples in; typed results, statistics and reports out."""
