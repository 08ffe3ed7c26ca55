"""The machine under the pipeline: Ray, processes, cores, storage, progress."""
