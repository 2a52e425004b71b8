"""Read cohorts: tables, annotations, regions, fill-ins, samples, and the store of results."""
