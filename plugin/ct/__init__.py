"""From the slices of a series to a volume in HU, or the sentence why not."""
