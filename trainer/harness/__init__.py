"""The class-incremental benchmark: material, methods, runs, measures, reports."""
