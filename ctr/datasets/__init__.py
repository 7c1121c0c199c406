"""Raw logs -> typed columns -> ids -> prepared rows on disk -> batches."""
